"""What the writers of pages in docs/ share: tables in Markdown, and their command line."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from utils import atomic_write


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table in Markdown."""
    ruler = ['---'] * len(header)
    lines = []
    for cells in (header, ruler, *rows):
        escaped = [cell.replace('|', '\\|') for cell in cells]
        joined = ' | '.join(escaped)
        lines.append(f'| {joined} |\n')
    return ''.join(lines)


def run(description: str | None, page: Path, render: Callable[[], str]) -> None:
    """Writes the page `page`, as a command whose only option is `--help`."""
    argparse.ArgumentParser(description=description).parse_args()
    with atomic_write(page, 'w') as file:
        file.write(render())
