"""The tables of a paper: methods by sets, by category, by image, and tests of all pairs."""

import math
from collections.abc import Mapping, Sequence

from evaluation.display import Shown
from evaluation.formats import MISSING, Cell, Column, Table, label, places
from evaluation.metrics import COLUMNS, higher_is_better
from evaluation.results import Results
from evaluation.significance import PairTest
from evaluation.summary import MethodScores
from evaluation.tables import format_difference, format_score

SMALLEST_P = 0.001  # smaller ones print as such


def comparison(results: Results, shown: Sequence[Shown], scores: Sequence[str]) -> Table:
    """Makes a table of methods (rows) by sets and scores (columns), the best three marked.

    Args:
        results: Scores by set and method.
        shown: The methods, in order.
        scores: Names of the scores, in order.
    """
    columns = [Column('Method', is_label=True)]
    rows = [[method.label] for method in shown]
    for dataset, found in results.items():
        for score in scores:
            columns.append(_score_column(score, dataset))
            values = []
            for method in shown:
                of_method = found.get(method.folder, {})
                values.append(of_method.get(score, math.nan))
            cells = marked_cells(score, values)
            for row, cell in zip(rows, cells, strict=True):
                row.append(cell)
    return Table('Methods by test sets', columns, rows)


def _score_column(score: str, group: str = '') -> Column:
    return Column(COLUMNS[score], group, higher_is_better(score))


def marked_cells(score: str, values: Sequence[float]) -> list[Cell]:
    """Makes cells of a score's values, the best three marked."""
    texts = [format_score(score, value) for value in values]
    ranks = places(texts, higher_is_better(score))
    cells = []
    for text, value, place in zip(texts, values, ranks, strict=True):
        cells.append(Cell(text, value, place))
    return cells


def by_image(
    dataset: str,
    scored: Mapping[str, MethodScores],
    shown: Sequence[Shown],
    scores: Sequence[str],
) -> Table:
    """Makes a table of the scores of each image of a set by each method."""
    columns = [Column('Image', is_label=True), Column('Method', is_label=True)]
    columns += [_score_column(score) for score in scores]
    names = scored[shown[0].folder].names
    rows = []
    for index, name in enumerate(names):
        for method in shown:
            values = scored[method.folder].values
            cells = [label(name), method.label]
            for score in scores:
                value = math.nan
                if score in values:
                    value = float(values[score][index])
                cells.append(Cell(format_score(score, value), value))
            rows.append(cells)
    return Table(f'Images of {dataset}', columns, rows)


def by_category(
    title: str,
    heading: str,
    score: str,
    results: Results,
    images: Mapping[str, int],
    shown: Sequence[Shown],
) -> Table:
    """Makes a table of categories (rows) by methods (columns), the best three of a row marked.

    Args:
        title: The table's title.
        heading: What the categories are, e.g. 'Class'.
        score: Name of the score.
        results: Scores by category and method.
        images: Number of images of each category.
        shown: The methods, in order.
    """
    # The headings.
    capitalised = heading[:1].upper() + heading[1:]
    columns = [Column(capitalised, is_label=True), Column('Images')]
    direction = higher_is_better(score)
    for method in shown:
        column = Column(method.name, COLUMNS[score], direction, ours=method.ours)
        columns.append(column)

    # A row for each category.
    rows = []
    for category, found in results.items():
        values = []
        for method in shown:
            scores = found[method.folder]
            values.append(scores.get(score, math.nan))
        number = images[category]
        cells = [label(category), Cell(str(number), number)]
        cells += marked_cells(score, values)
        rows.append(cells)
    return Table(title, columns, rows)


def pair_tests(
    score: str, tests: Mapping[str, Sequence[PairTest]], shown: Sequence[Shown],
) -> Table:
    """Makes a table of the tests of all pairs.

    Args:
        score: Name of the score.
        tests: The tests by what they are of: a set, or the mean of all sets.
        shown: The methods.
    """
    columns = [Column(head, is_label=True) for head in ('Test set', 'Better', 'Worse')]
    columns += [
        Column('Lead'),
        Column('from', '95% interval'),
        Column('to', '95% interval'),
        Column('single', 'p (Wilcoxon)'),
        Column('Holm', 'p (Wilcoxon)'),
        Column('Rank-biserial'),
    ]
    methods = {method.folder: method for method in shown}
    rows = []
    for dataset, pairs in tests.items():
        for pair in pairs:
            rows.append([
                label(dataset),
                methods[pair.better].label,
                methods[pair.worse].label,
                _difference(score, pair.lead),
                _difference(score, pair.low),
                _difference(score, pair.high),
                Cell(write_p(pair.p), pair.p),
                Cell(write_p(pair.corrected), pair.corrected),
                Cell(f'{pair.effect:.2f}', pair.effect),
            ])
    return Table(f'Pairs of methods by {COLUMNS[score]}', columns, rows)


def _difference(score: str, value: float) -> Cell:
    if math.isnan(value):
        return Cell(MISSING, value)
    text = format_difference(score, value)
    return Cell(text, value)


def write_p(p: float) -> str:
    """Writes a p-value; the smallest ones as a bound."""
    if p < SMALLEST_P:
        return f'< {SMALLEST_P:.3f}'.replace('0.', '.')
    text = f'{p:.3f}'
    return text.removeprefix('0') if text.startswith('0.') else text
