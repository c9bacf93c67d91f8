"""Figures of scores as SVG: scores over epochs, curves of methods."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator

from evaluation.display import Shown
from evaluation.formats import clean_name
from evaluation.lines import Line
from evaluation.metrics import COLUMNS, higher_is_better
from evaluation.style import drawing

BEST_COLOR = '#1b1f24'
SET_STYLES = ('-', '--', ':', '-.')
MAX_MARKED_EPOCHS = 12
THICKER = .9  # points by which the mean's line is thicker than a curve's
LEGEND_WIDTH = 130  # characters
FULL_RECALL = .98
TITLES = {'pr': 'Precision and recall', 'f': 'F-measure', 'e': 'E-measure'}

# (epoch, score) in the order of epochs.
Points = Sequence[tuple[int, float]]


def scores_over_epochs(
    score: str,
    runs: Mapping[str, Mapping[str, Points]],
    shown: Sequence[Shown],
    best: tuple[str, int] | None,
) -> bytes:
    """Draws a score over epochs: a thick line for each run, the mean of its sets.

    Of one or two runs each set is drawn too, as a thin line.

    Args:
        score: Name of the score.
        runs: Points by set, by run.
        shown: The runs, in the order of the legend.
        best: Run and epoch to mark.

    Returns:
        SVG.
    """
    # Few epochs are marked one by one.
    epochs = _all_epochs(runs)
    marks_epochs = len(epochs) <= MAX_MARKED_EPOCHS
    higher = higher_is_better(score)

    texts = [run.name for run in shown]
    for sets in runs.values():
        texts += sets
    with drawing(texts):
        figure = Figure(figsize=(5.6, 3.3), layout='constrained')
        axes = figure.subplots()
        names: list[str] = []
        lines: list[Line2D] = []

        # Each run: the thin lines of its sets, their mean, and a star if it is the best.
        for run in shown:
            sets = runs[run.folder]
            color, dashes, width = run.line
            if len(sets) > 1 and len(shown) < 3:
                lines += _draw_sets(axes, sets, color)
                names += [f'{run.name} {dataset}' for dataset in sets]
            mean = mean_over_sets(sets)
            x, y = zip(*mean, strict=True)
            names.append(f'{run.name} mean' if len(sets) > 1 else run.name)
            marker = 'o' if marks_epochs else ''
            thickness = width + THICKER
            lines += axes.plot(
                x, y, dashes, color=color, lw=thickness, marker=marker, ms=3.5)
            if best and best[0] == run.folder:
                epoch = best[1]
                height = dict(mean)[epoch]
                left = 2 * epoch < min(epochs) + max(epochs)
                _mark_best(axes, epoch, height, left, higher)

        # Axes, with room for the star's label.
        direction = 'higher' if higher else 'lower'
        axes.set(xlabel='epoch', ylabel=f'{COLUMNS[score]} ({direction} is better)')
        axes.margins(y=0.18)
        locator = FixedLocator(sorted(epochs)) if marks_epochs else MaxNLocator(integer=True)
        axes.xaxis.set_major_locator(locator)
        name_legend(axes, lines, names, fontsize=7.5, loc='best')
        return _svg(figure)


def _all_epochs(runs: Mapping[str, Mapping[str, Points]]) -> set[int]:
    epochs: set[int] = set()
    for sets in runs.values():
        for points in sets.values():
            epochs.update(epoch for epoch, _ in points)
    return epochs


def name_legend(
    place: Axes | Figure, handles: Sequence[Artist], names: Sequence[str], **options: Any,
) -> None:
    """Adds a legend that shows names as they are; matplotlib leaves out those that begin with _."""
    numbers = [str(number) for number in range(len(names))]
    legend = place.legend(handles, numbers, **options)
    texts = legend.get_texts()
    for text, name in zip(texts, names, strict=True):
        text.set_text(clean_name(name))


def _draw_sets(axes: Axes, sets: Mapping[str, Points], color: str) -> list[Line2D]:
    lines = []
    for points, dashes in zip(sets.values(), cycle(SET_STYLES), strict=False):
        x, y = zip(*points, strict=True)
        lines += axes.plot(x, y, color=color, alpha=0.45, lw=1, ls=dashes)
    return lines


def _mark_best(axes: Axes, epoch: int, height: float, left: bool, higher: bool) -> None:
    """Draws a star, with a label beyond the extremum and towards the middle, where no line is."""
    axes.plot(epoch, height, '*', color=BEST_COLOR, ms=14, mec='white', zorder=5)
    across = -4 if left else 4
    up = 9 if higher else -17
    outline = withStroke(linewidth=3, foreground='white')
    axes.annotate(
        f'best: epoch {epoch}',
        (epoch, height),
        xytext=(across, up),
        textcoords='offset points',
        ha='left' if left else 'right',
        color=BEST_COLOR,
        weight='bold',
        zorder=6,
        path_effects=[outline])


def mean_over_sets(sets: Mapping[str, Points]) -> list[tuple[int, float]]:
    """Averages at the epochs that all sets have."""
    by_epoch = [dict(points) for points in sets.values()]
    common = set.intersection(*(set(points) for points in by_epoch))
    means = []
    for epoch in sorted(common):
        values = [points[epoch] for points in by_epoch]
        means.append((epoch, float(np.mean(values))))
    return means


def curve_panels(
    curves: Mapping[str, Mapping[str, np.ndarray]], shown: Sequence[Shown],
) -> bytes:
    """Draws precision over recall, and F and E over the threshold, of each method.

    Args:
        curves: Mean curves (256,) 'precision', 'recall', 'fm' and 'em' by method.
        shown: The methods, in the order of the legend.

    Returns:
        SVG.
    """
    names = [method.name for method in shown]
    with drawing(names):
        # The legend lies below the three panels, which it must not make smaller.
        columns = legend_columns(names)
        legend_rows = math.ceil(len(names) / columns)
        height = 3 + 0.17 * legend_rows
        figure = Figure(figsize=(9.6, height), layout='constrained')
        panels = figure.subplots(1, 3)

        # Each method in all three.
        for axes, (kind, title) in zip(panels, TITLES.items(), strict=True):
            for method in shown:
                draw_curve(axes, kind, curves[method.folder], method.line)
            axes.set(title=title)
            if kind != 'pr':
                axes.set(ylabel='')
        name_legend(
            figure, panels[0].lines, names, loc='outside lower center', ncols=columns, fontsize=8)
        return _svg(figure)


def draw_curve(axes: Axes, kind: str, found: Mapping[str, np.ndarray], line: Line) -> None:
    """Draws a method's curve, and names the axes.

    Args:
        axes: Where to.
        kind: 'pr' (precision over recall), 'f' or 'e' (over the threshold).
        found: The method's mean curves (256,) 'precision', 'recall', 'fm' and 'em'.
        line: The look of the curve.
    """
    if kind == 'pr':
        # Without positives precision is 0 by definition, which would draw a spike.
        is_drawn = found['recall'] > 0
        x = found['recall'][is_drawn]
        y = found['precision'][is_drawn]
        axes.set(xlabel='Recall', ylabel='Precision')
    else:
        x = np.arange(255, -1, -1)
        y = found[f'{kind}m']
        axes.set(xlabel='Threshold', ylabel=TITLES[kind])
    axes.plot(x, y, line.dashes, color=line.color, lw=line.width)

    # From a little below the lowest curve, at least the upper tenth.
    lowest = min(_lowest_shown(kind, curve) for curve in axes.lines)
    bottom = min(lowest - .02, 0.9)
    axes.set_ylim(max(bottom, 0), 1.005)


def _lowest_shown(kind: str, curve: Line2D) -> float:
    """What of a curve has to be seen: not the fall at its ends, which would flatten the rest."""
    x, y = np.asarray(curve.get_data())
    before_end = y[x < FULL_RECALL]
    if kind == 'pr' and len(before_end):
        return float(before_end.min())
    return float(np.quantile(y, .04))


def legend_columns(names: Collection[str]) -> int:
    """Returns how many names fit side by side below the curves, at most three."""
    lengths = [len(name) for name in names]
    longest = max(lengths)
    fitting = LEGEND_WIDTH // (longest + 8)
    columns = min(len(names), 3, fitting)
    return max(1, columns)


def _svg(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format='svg', metadata={'Date': None})
    return data.getvalue()
