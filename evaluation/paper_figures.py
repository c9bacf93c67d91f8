"""The figures of a paper as PDF and PNG: curves, scores over epochs, and scores by category."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from evaluation.display import Shown
from evaluation.figures import (
    MAX_MARKED_EPOCHS,
    Points,
    draw_curve,
    mean_over_sets,
    name_legend,
)
from evaluation.lines import COLORS
from evaluation.metrics import COLUMNS, higher_is_better
from evaluation.results import Results
from evaluation.style import drawing

MM = 1 / 25.4  # inches
POINT = 25.4 / 72  # mm
PNG_DPI = 300
CURVES = ('pr', 'f', 'e')
LEGEND_INSIDE = 6  # more names would hide the curves
LEGEND_LINE = 4  # what a legend needs beside a name, in sizes of its font
RADAR_CATEGORIES = range(3, 13)
BAR_HEIGHT = 2.6  # mm
ROW_HEIGHT = 4.5  # mm of a row of dots
PAGE_HEIGHT = 220  # mm
MARKERS = 'osD^vP'
FIRST_WIDE = 0x2e80  # the first of Chinese, Japanese and Korean characters
LINE_HEIGHT = 1.35  # of a text, in sizes of its font


class Size(NamedTuple):
    """Of figures in print.

    Attributes:
        column: Width of a column in mm.
        page: Width of the text in mm.
        height: Height of a figure of one column in mm, without a legend below.
        font: Size of the texts in points.
    """

    column: float = 84
    page: float = 174
    height: float = 63
    font: float = 8

    @property
    def line(self) -> float:
        """Height of a line of text in mm."""
        return self.font * LINE_HEIGHT * POINT

    @property
    def style(self) -> dict[str, float]:
        """The settings of matplotlib for this size."""
        return {
            'font.size': self.font,
            'axes.labelsize': self.font,
            'xtick.labelsize': self.font - 1,
            'ytick.labelsize': self.font - 1,
            'legend.fontsize': self.font - 1,
            'axes.linewidth': 0.6,
            'grid.linewidth': 0.5,
        }


def encode(figure: Figure, suffixes: Sequence[str] = ('pdf', 'png')) -> dict[str, bytes]:
    """Encodes a figure; by suffix. The same figure gives the same bytes."""
    files = {}
    for suffix in suffixes:
        data = io.BytesIO()
        undated = {'CreationDate': None} if suffix == 'pdf' else {}
        figure.savefig(data, format=suffix, dpi=PNG_DPI, metadata=undated)
        files[suffix] = data.getvalue()
    return files


def curves(
    kind: str,
    found: Mapping[str, Mapping[str, np.ndarray]],
    shown: Sequence[Shown],
    size: Size,
) -> dict[str, bytes]:
    """Draws one kind of curve of all methods in the width of a column.

    Args:
        kind: Of CURVES: precision over recall, or F or E over the threshold.
        found: Mean curves (256,) 'precision', 'recall', 'fm' and 'em' by method.
        shown: The methods, in the order of the legend.
        size: Of the figure.

    Returns:
        The figure by suffix.
    """
    names = [method.name for method in shown]
    with drawing(names, size.style):
        figure, axes, place_legend = _column_figure(names, size)
        # Ours lies above the others.
        for method in sorted(shown, key=lambda method: method.ours):
            draw_curve(axes, kind, found[method.folder], method.line)
        place_legend([_handle(method) for method in shown])
        return encode(figure)


def _handle(method: Shown) -> Line2D:
    line = method.line
    return Line2D([], [], color=line.color, ls=line.dashes, lw=line.width)


def _column_figure(
    names: Sequence[str], size: Size,
) -> tuple[Figure, Axes, Callable[[Sequence[Line2D]], None]]:
    """Makes a figure of one column, and what adds its legend: inside, or of many names below."""
    if len(names) <= LEGEND_INSIDE:
        figure = _figure(size.column, size.height)
        axes = figure.subplots()
        return figure, axes, lambda handles: name_legend(axes, handles, names)

    # The legend must not make the curves smaller.
    columns = _legend_columns(names, size, size.column)
    legend_height = _legend_height(names, columns, size)
    figure = _figure(size.column, size.height + legend_height)
    axes = figure.subplots()
    return figure, axes, lambda handles: _legend_below(figure, handles, names, columns)


def _figure(width: float, height: float) -> Figure:
    """A figure of some mm."""
    inches = (width * MM, height * MM)
    return Figure(inches, layout='constrained')


def _legend_below(
    figure: Figure, handles: Sequence[Artist], names: Sequence[str], columns: int,
) -> None:
    """Adds a legend of some columns below a figure."""
    name_legend(figure, handles, names, loc='outside lower center', ncols=columns)


def _legend_columns(names: Sequence[str], size: Size, width: float) -> int:
    """How many names of the longest one's length fit side by side."""
    widths = map(_text_width, names)
    widest = max(widths)
    font = (size.font - 1) * POINT
    column = (widest + LEGEND_LINE) * font
    fitting = int(width / column)
    return max(1, min(len(names), fitting))


def _text_width(text: str) -> float:
    """About how wide a text is, in sizes of its font: Chinese characters are as wide as high."""
    wide = sum(ord(character) >= FIRST_WIDE for character in text)
    return wide + .6 * (len(text) - wide)


def _legend_height(names: Sequence[str], columns: int, size: Size) -> float:
    rows = math.ceil(len(names) / columns)
    return (rows + 1) * size.line


def epochs(
    score: str, runs: Mapping[str, Mapping[str, Points]], shown: Sequence[Shown], size: Size,
) -> dict[str, bytes]:
    """Draws a score over epochs, the mean of the sets, in the width of a column.

    Args:
        score: Name of the score.
        runs: Points by set, by run.
        shown: The runs, in the order of the legend.
        size: Of the figure.

    Returns:
        The figure by suffix.
    """
    names = [run.name for run in shown]
    higher = higher_is_better(score)
    with drawing(names, size.style):
        figure, axes, place_legend = _column_figure(names, size)
        for run in shown:
            points = mean_over_sets(runs[run.folder])
            x, y = zip(*points, strict=True)
            color, dashes, width = run.line
            marker = '.' if len(x) <= MAX_MARKED_EPOCHS else ''
            axes.plot(x, y, dashes, marker=marker, color=color, lw=width)

            # The best epoch.
            best = np.argmax(y) if higher else np.argmin(y)
            axes.plot(x[best], y[best], 'o', color=color, ms=5, mec='white')
        axes.set(xlabel='Epoch', ylabel=_score_label(score))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        place_legend([_handle(run) for run in shown])
        return encode(figure)


def _score_label(score: str) -> str:
    arrow = '↑' if higher_is_better(score) else '↓'
    return f'{COLUMNS[score]} {arrow}'


def categories(
    score: str, results: Results, shown: Sequence[Shown], size: Size, chart: str = 'auto',
) -> dict[str, bytes]:
    """Draws a score by category.

    Args:
        score: Name of the score.
        results: Scores by category and method.
        shown: The methods, in the order of the legend.
        size: Of the figure.
        chart: 'radar', 'bar', or 'auto': a radar for a few categories by a score of which more is
            better.

    Returns:
        The figure by suffix.
    """
    if chart == 'auto':
        suits_radar = len(results) in RADAR_CATEGORIES and higher_is_better(score)
        chart = 'radar' if suits_radar else 'bar'
    draw = _radar if chart == 'radar' else _bars
    texts = [*results, *(method.name for method in shown)]
    with drawing(texts, size.style):
        return encode(draw(score, results, shown, size))


def _radar(score: str, results: Results, shown: Sequence[Shown], size: Size) -> Figure:
    """A closed line of each method around the centre."""
    names = [method.name for method in shown]
    columns = _legend_columns(names, size, size.column)
    legend_height = _legend_height(names, columns, size)
    figure = _figure(size.column, size.column * .92 + legend_height)
    axes = figure.add_subplot(projection='polar')
    assert isinstance(axes, PolarAxes)

    # A line of each method; ours lies above the others.
    angles = np.linspace(0, 2 * np.pi, len(results), endpoint=False)
    closed = np.append(angles, 0)
    for method in sorted(shown, key=lambda method: method.ours):
        values = _values_of(method, score, results)
        closed_values = np.append(values, values[0])
        color, dashes, width = method.line
        axes.plot(closed, closed_values, dashes, color=color, lw=width)
        if method.ours:
            axes.fill(angles, values, color=color, alpha=.1)

    # The first category on top, then clockwise; the best outside. The centre is not 0.
    axes.set_theta_offset(np.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, list(results))
    axes.tick_params(axis='x', pad=2)
    _align_around(axes, angles)
    _limit_radius(axes, higher_is_better(score))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_rlabel_position(180 / len(results))
    axes.set_axisbelow(False)  # the labels of circles lie above the lines
    for label in axes.get_yticklabels():
        label.set_path_effects([withStroke(linewidth=2, foreground='white')])
    axes.spines['polar'].set_visible(False)
    axes.set_title(_score_label(score), fontsize=size.font)
    handles = [_handle(method) for method in shown]
    _legend_below(figure, handles, names, columns)
    return figure


def _values_of(method: Shown, score: str, results: Results) -> np.ndarray:
    """A method's score in each category; NaN where there is none."""
    values = []
    for found in results.values():
        scores = found[method.folder]
        values.append(scores.get(score, math.nan))
    return np.array(values)


def _limit_radius(axes: Axes, higher: bool) -> None:
    """Uses the circle for the range of the values."""
    drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    values = np.concatenate(drawn)
    low = np.nanmin(values)
    high = np.nanmax(values)

    # The worst lies a little off the centre, the best at the circle.
    spread = max(high - low, 1e-3)
    inner = .35 * spread
    outer = .05 * spread
    if higher:
        axes.set_ylim(low - inner, high + outer)
    else:
        axes.set_ylim(high + inner, low - outer)


def _align_around(axes: Axes, angles: np.ndarray) -> None:
    """Lets labels at the right begin, and those at the left end, at the circle."""
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        across = math.sin(angle)
        if across > .1:
            label.set_horizontalalignment('left')
        elif across < -.1:
            label.set_horizontalalignment('right')


def _bars(score: str, results: Results, shown: Sequence[Shown], size: Size) -> Figure:
    """A group of horizontal bars of each category; dots in a row where bars would fill a page."""
    height = len(results) * (len(shown) + 1) * BAR_HEIGHT
    draw = _draw_bars
    if height > PAGE_HEIGHT:
        height = len(results) * ROW_HEIGHT
        draw = _draw_dots
    names = [method.name for method in shown]
    columns = _legend_columns(names, size, size.column)
    legend_height = _legend_height(names, columns, size)
    axis_height = 3 * size.line
    figure = _figure(size.column, height + axis_height + legend_height)
    axes = figure.subplots()

    # A row for each category, the first on top.
    by_method = [_values_of(method, score, results) for method in shown]
    handles = draw(axes, by_method, shown)
    axes.set_yticks(np.arange(len(results)), list(results))
    axes.set_ylim(len(results) - .5, -.5)
    axes.tick_params(axis='y', length=0)
    axes.set_axisbelow(True)
    axes.set_xlabel(_score_label(score))
    _legend_below(figure, handles, names, columns)
    return figure


def _draw_bars(
    axes: Axes, by_method: Sequence[np.ndarray], shown: Sequence[Shown],
) -> list[Artist]:
    """Draws each method's values (categories,) as bars; returns the legend's handles."""
    # Bars lie about the middle of their row, which has room for one more.
    thickness = 1 / (len(shown) + 1)
    middle = (len(shown) - 1) / 2
    handles: list[Artist] = []
    for index, (values, method) in enumerate(zip(by_method, shown, strict=True)):
        color = method.line.color
        offset = (index - middle) * thickness
        rows = np.arange(len(values)) + offset
        axes.barh(rows, values, thickness * .86, color=color)
        handles.append(Patch(color=color))
    axes.grid(axis='y', visible=False)
    return handles


def _draw_dots(
    axes: Axes, by_method: Sequence[np.ndarray], shown: Sequence[Shown],
) -> list[Artist]:
    """Draws each method's values (categories,) as dots; returns the legend's handles."""
    handles: list[Artist] = []
    for index, (values, method) in enumerate(zip(by_method, shown, strict=True)):
        marker = MARKERS[index // len(COLORS) % len(MARKERS)]
        points = 5 if method.ours else 3.5
        layer = 4 if method.ours else 3
        rows = np.arange(len(values))
        handles += axes.plot(
            values, rows, marker, color=method.line.color, ms=points, zorder=layer)
    return handles
