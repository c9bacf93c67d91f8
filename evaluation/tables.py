"""Tables of scores as text that pastes into LaTeX, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence

from evaluation.metrics import COLUMNS, higher_is_better, metric_of

ARROWS = {True: r'$\uparrow$', False: r'$\downarrow$'}
RANK_MARKS = (r'\textbf{{{}}}', r'\underline{{{}}}', r'\textit{{{}}}')
MISSING = '-'
LABELS = ('Dataset', 'Method')

Entry = tuple[str, str, Mapping[str, float]]


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


def latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns, joined by ' & ', with a rule below the header."""
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


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a GitHub table with right-aligned scores."""
    numbers = len(header) - len(LABELS)
    alignment = ['---'] * len(LABELS) + ['---:'] * numbers
    lines = []
    for row in (header, alignment, *rows):
        cells = [cell.replace('|', r'\|') for cell in row]
        joined = ' | '.join(cells)
        lines.append(f'| {joined} |\n')
    return ''.join(lines)


def to_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Makes comma-separated values, numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def score_table(columns: Sequence[str], entries: Sequence[Entry]) -> dict[str, str]:
    """Formats a table in all formats.

    Args:
        columns: The task's columns.
        entries: (dataset, method, scores), a row each.

    Returns:
        The text by file suffix: txt, md, csv.
    """
    available = all_scores([scores for _, _, scores in entries])
    shown = shown_scores(columns, available)
    header = [*LABELS, *(COLUMNS[score] for score in shown)]

    # Rounded numbers for people, exact ones for programs.
    formatted = []
    exact = []
    for dataset, method, scores in entries:
        values = [scores.get(score, math.nan) for score in shown]
        texts = [format_score(score, value) for score, value in zip(shown, values, strict=True)]
        formatted.append([dataset, method, *texts])
        exact.append([dataset, method, *values])
    return {
        'txt': latex(header, formatted),
        'md': markdown(header, formatted),
        'csv': to_csv(header, exact),
    }


def comparison(
    columns: Sequence[str], results: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> str:
    """Makes a LaTeX table of all methods (rows) by all sets and scores (columns).

    The three best of each column are bold, underlined and italic; values that print alike are
    marked alike.

    Args:
        columns: The task's columns.
        results: Scores by set and method.
    """
    # The scores and the methods that any set has.
    every: list[Mapping[str, float]] = []
    methods: list[str] = []
    for found in results.values():
        every += found.values()
        methods += [method for method in found if method not in methods]
    shown = shown_scores(columns, all_scores(every))

    # A row for each method; the best of a column are marked.
    rows = {method: [_escape(method)] for method in methods}
    for found in results.values():
        for score in shown:
            values = [found.get(method, {}).get(score, math.nan) for method in methods]
            texts = [format_score(score, value) for value in values]
            marked = _mark_best(texts, higher_is_better(score))
            for method, text in zip(methods, marked, strict=True):
                rows[method].append(text)

    # The heads: a set over its scores.
    number = len(shown)
    sets = [rf'\multicolumn{{{number}}}{{c}}{{{_escape(dataset)}}}' for dataset in results]
    scores = []
    for score in shown:
        arrow = ARROWS[higher_is_better(score)]
        scores.append(f'{COLUMNS[score]} {arrow}')
    alignment = 'l' + 'c' * number * len(results)
    lines = [
        r'% \usepackage{booktabs}',
        rf'\begin{{tabular}}{{{alignment}}}',
        r'\toprule',
        ' & '.join(['', *sets]) + r' \\',
        ' & '.join(['Method', *scores * len(results)]) + r' \\',
        r'\midrule',
    ]
    for cells in rows.values():
        lines.append(' & '.join(cells) + r' \\')
    lines += [r'\bottomrule', r'\end{tabular}']
    return '\n'.join(lines) + '\n'


def _mark_best(texts: list[str], higher: bool) -> list[str]:
    """Marks the three best of formatted scores."""
    present = {text for text in texts if text != MISSING}
    ranked = sorted(present, key=float, reverse=higher)
    marks = dict(zip(ranked, RANK_MARKS, strict=False))
    return [marks.get(text, '{}').format(text) for text in texts]


def _escape(text: str) -> str:
    for character in '&%$#_{}':
        text = text.replace(character, f'\\{character}')
    return text
