"""Writes the table of fields in docs/published.md: `python -m tools.published_page`."""

import argparse
import html
import re
from pathlib import Path

from published import FIELDS
from utils import atomic_write

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
        value = foreign.only or "''"
        return f'always `{value}`: {note}'
    return f'none: {note}'


def table() -> str:
    """The published names of fields, and what stands for each."""
    lines = ['| Published | Here |\n', '|---|---|\n']
    for name in FIELDS:
        lines.append(f'| `{name}` | {describe(name)} |\n')
    return ''.join(lines)


def render(page: str) -> str:
    """The page's text with its table renewed."""
    return PLACE.sub(lambda found: f'{found[1]}\n{table()}\n{found[2]}', page)


def main() -> None:
    """Writes the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    page = render(PAGE.read_text(encoding='utf-8'))
    with atomic_write(PAGE, 'w') as file:
        file.write(page)


if __name__ == '__main__':
    main()
