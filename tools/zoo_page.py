"""Writes docs/zoo.md from models/zoo.toml: `python -m tools.zoo_page`."""

import html
from collections.abc import Sequence
from pathlib import Path

from exporting.catalogue import COLUMNS, facts, row
from models import zoo
from tools.pages import run, table

PAGE = Path(__file__).parents[1] / 'docs' / 'zoo.md'
HEADER = """# Which weights?

<!-- Written by `python -m tools.zoo_page` from models/zoo.toml: change it there. -->

`-m NAME` and `load_model('NAME')` take these names;
[Deployment](deployment.md#published-weights-by-name) says where files are searched for.
`python export.py zoo` prints this table, `python export.py zoo NAME` all facts of one entry, and
`--json` the same for programs.

- Start with **general**. Take **lite** where it is too slow, and **hr** or **dynamic** where fine
  structures of large images are lost.
- For soft edges, such as hair, fur and glass, take **matting**, or **hr-matting** for large images.
- For scores that compare with the paper's, take **dis5k**, **hrsod** or **cod**.

To see which are best on your own images, [compare them](predict.md#comparing-weights).

NC: non-commercial use only. ?: not checked against its source. The weights have a licence, and the
sets that they were trained on have terms of their own: read both before you sell results.

"""


def render() -> str:
    """The page's text."""
    entries = zoo.zoo().values()

    # The table, whose names lead to the sections.
    rows = []
    for entry in entries:
        name, *others = without_backbone(row(entry))
        link = f'[`{name}`](#{anchor(name)})'
        rows.append([link, *map(escaped, others)])
    titles = without_backbone(COLUMNS)
    parts = [HEADER, table(titles, rows)]

    # A section for each entry.
    for entry in entries:
        parts.append(f'\n## {entry.name} {{ #{anchor(entry.name)} }}\n\n')
        for name, text in facts(entry).items():
            parts.append(f'- {name}: {escaped(text)}\n')
    return ''.join(parts)


def without_backbone(cells: Sequence[str]) -> list[str]:
    """A row of the page, which is narrower than a terminal; the sections name the backbones."""
    position = COLUMNS.index('backbone')
    return [*cells[:position], *cells[position + 1:]]


def anchor(name: str) -> str:
    """What links to an entry name."""
    return name.replace('.', '-')


def escaped(text: str) -> str:
    """`text` as Markdown that shows it as it is."""
    return html.escape(text, quote=False).replace('*', '\\*').replace('_', '\\_')


if __name__ == '__main__':
    run(__doc__, PAGE, render)
