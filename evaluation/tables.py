"""Formats scores, and writes each set's table: aligned text, LaTeX, Markdown and CSV."""

import math
from collections.abc import Collection, Mapping, Sequence

from evaluation.formats import (
    MISSING,
    Cell,
    Column,
    Table,
    flat_head,
    label,
    to_csv,
    to_latex,
    to_markdown,
)
from evaluation.metrics import COLUMNS, higher_is_better, metric_of

LABELS = ('Dataset', 'Method')

# A row: the test set, the method as it is shown, and its scores.
Entry = tuple[str, Cell, Mapping[str, float]]


def shown_scores(columns: Sequence[str], available: Collection[str]) -> list[str]:
    """Selects the scores that a table shows.

    Args:
        columns: The task's columns in their order, e.g. 'Smeasure'.
        available: Scores that were computed.

    Returns:
        The available scores among the task's columns. If there is none, all available ones, so
        that a metric that no column of the task has (MSE) can still be asked for.
    """
    by_column = {column: score for score, column in COLUMNS.items()}
    order = [by_column[column] for column in columns]
    shown = [score for score in order if score in available]
    if shown:
        return shown
    return [score for score in COLUMNS if score in available]


def all_scores(results: Collection[Mapping[str, float]]) -> set[str]:
    """Returns the names of the scores that any of the results has."""
    return set().union(*results)


def format_score(score: str, value: float) -> str:
    """Formats a score with its metric's digits; `-` for NaN.

    Scores in 0..1 have no 0 before the point, and print at most 1: E-measure exceeds it slightly.
    """
    if math.isnan(value):
        return MISSING
    metric = metric_of(score)
    if not metric.unit_interval:
        return f'{value:.{metric.digits}f}'
    text = f'{min(value, 1):.{metric.digits}f}'
    return text.removeprefix('0') if text.startswith('0.') else text


def format_difference(score: str, value: float) -> str:
    """Formats a difference of two scores, with one digit more than the scores have."""
    metric = metric_of(score)
    text = f'{value:.{metric.digits + 1}f}'
    return text.replace('0.', '.', 1) if metric.unit_interval else text


def aligned(table: Table) -> str:
    """Aligns columns, joined by ' & ', with a rule below the headings.

    A name with `&` in it would look like two cells, and is written with a backslash.
    """
    header = [flat_head(column) for column in table.columns]
    rows = [[cell.text.replace('&', r'\&') for cell in row] for row in table.rows]
    widths = []
    for column in zip(header, *rows, strict=True):
        widest = max(len(cell) for cell in column)
        widths.append(widest)
    lines = []
    for row in (header, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        line = ' & '.join(cells)
        lines.append(line.rstrip())
    rule = '-' * len(lines[0])
    lines.insert(1, rule)
    return '\n'.join(lines) + '\n'


def score_table(columns: Sequence[str], entries: Sequence[Entry]) -> dict[str, str]:
    """Formats a table in all formats.

    Args:
        columns: The task's columns.
        entries: (dataset, method, scores), a row each.

    Returns:
        The text by file suffix: txt, tex, md, csv.
    """
    available = all_scores([scores for _, _, scores in entries])
    shown = shown_scores(columns, available)
    # The headings.
    heads = [Column(head, is_label=True) for head in LABELS]
    for score in shown:
        direction = higher_is_better(score)
        heads.append(Column(COLUMNS[score], higher=direction))

    # A row for each entry.
    rows = []
    for dataset, method, scores in entries:
        cells = [label(dataset), method]
        for score in shown:
            value = scores.get(score, math.nan)
            cells.append(Cell(format_score(score, value), value))
        rows.append(cells)
    return in_text_formats(Table('', heads, rows))


def in_text_formats(table: Table) -> dict[str, str]:
    """Formats a table as text, LaTeX, Markdown and CSV, by file suffix."""
    return {
        'txt': aligned(table),
        'tex': to_latex(table),
        'md': to_markdown(table),
        'csv': to_csv(table),
    }
