"""Writes the table of fields in docs/published.md: `python -m tools.published_page`."""

import html
import re
from pathlib import Path

from published import FIELDS
from tools.pages import run, table

PAGE = Path(__file__).parents[1] / 'docs' / 'published.md'
# What stands between these comments is written here.
PLACE = re.compile(r'(<!-- fields: .*? -->\n).*?(<!-- end of fields -->)', re.DOTALL)


def describe(name: str) -> str:
    """What stands for a published field here, in Markdown."""
    foreign = FIELDS[name]
    note = html.escape(foreign.note, quote=False).replace('*', '\\*')
    note = note.replace('{', '&#123;')  # which would begin attributes
    if foreign.field:
        return f'`{foreign.field}`: {note}' if note else f'`{foreign.field}`'
    if foreign.only is not None:
        value = str(foreign.only) or "''"
        return f'always `{value}`: {note}'
    return f'{"ignored" if foreign.ignored else "none"}: {note}'


def table_of_fields() -> str:
    """The published names of fields, and what stands for each."""
    rows = [[f'`{name}`', describe(name)] for name in FIELDS]
    return table(['Published', 'Here'], rows)


def render() -> str:
    """The page's text with its table renewed."""
    page = PAGE.read_text(encoding='utf-8')
    return PLACE.sub(lambda found: f'{found[1]}\n{table_of_fields()}\n{found[2]}', page)


if __name__ == '__main__':
    run(__doc__, PAGE, render)
