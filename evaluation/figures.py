"""Pictures of scores, as SVG and JPEG bytes: score over epochs, curves, and strips of images with their errors."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator

from evaluation.inputs import read_prediction
from evaluation.metrics import higher_is_better
from evaluation.tables import NAMES
from utils import read_image, read_mask

# Okabe and Ito's colours, told apart by the colour-blind too
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
STYLE = {'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True, 'grid.alpha': 0.25,
         'svg.hashsalt': 'birefnet', 'legend.frameon': False, 'axes.prop_cycle': matplotlib.cycler(color=COLORS)}
BEST = '#1b1f24'
LINES = ('-', '--', ':')
PANEL_WIDTH = 320
TICKS = 12  # so many epochs are marked one by one
LEGEND_WIDTH = 130  # characters


def scores_over_epochs(score: str, runs: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
                       best: tuple[str, int] | None) -> bytes:
    """SVG of a score over epochs; `runs`: (epoch, score) by set, by run; `best`: the run and epoch to mark.

    A run is a thick line, the mean of its sets; of one or two runs these are drawn too, as thin lines.
    """
    epochs = sorted({epoch for sets in runs.values() for points in sets.values() for epoch, _ in points})
    few = len(epochs) <= TICKS
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.3), layout='constrained')
        axes = figure.subplots()
        for (run, sets), color in zip(runs.items(), _cycle(len(runs)), strict=True):
            if len(sets) > 1 and len(runs) < 3:
                for number, (dataset, points) in enumerate(sets.items()):
                    style = {'color': color, 'alpha': 0.45, 'lw': 1, 'ls': ('-', '--', ':', '-.')[number % 4]}
                    axes.plot(*zip(*points, strict=True), label=f'{run} {dataset}', **style)
            mean = _mean_over_sets(sets)
            axes.plot(*zip(*mean, strict=True), color=color, lw=2.2, marker='o' if few else '', ms=3.5,
                      label=f'{run} mean' if len(sets) > 1 else run)
            if best and best[0] == run:
                _mark_best(axes, best[1], dict(mean)[best[1]], epochs, higher_is_better(score))
        direction = 'higher' if higher_is_better(score) else 'lower'
        axes.set(xlabel='epoch', ylabel=f'{NAMES[score]} ({direction} is better)')
        axes.margins(y=0.18)
        axes.xaxis.set_major_locator(FixedLocator(epochs) if few else MaxNLocator(integer=True))
        axes.legend(fontsize=7.5, loc='best')
        return _svg(figure)


def _mark_best(axes: Axes, epoch: int, height: float, epochs: Sequence[int], higher: bool) -> None:
    """A star, and its name on the side where no line should be: above the highest, below the lowest, inwards."""
    axes.plot(epoch, height, '*', color=BEST, ms=14, mec='white', zorder=5)
    left = 2 * epoch < epochs[0] + epochs[-1]
    axes.annotate(f'best: epoch {epoch}', (epoch, height), xytext=(-4 if left else 4, 9 if higher else -17),
                  textcoords='offset points', ha='left' if left else 'right', color=BEST, weight='bold', zorder=6,
                  path_effects=[withStroke(linewidth=3, foreground='white')])


def _mean_over_sets(sets: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Means at the epochs that all sets have."""
    by_epoch = [dict(points) for points in sets.values()]
    common = sorted(set.intersection(*(set(points) for points in by_epoch)))
    return [(epoch, float(np.mean([points[epoch] for points in by_epoch]))) for epoch in common]


def curve_panels(curves: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """SVG of precision over recall and of F and E over the threshold, by method."""
    with matplotlib.rc_context(STYLE):
        columns = legend_columns(curves)
        figure = Figure(figsize=(9.6, 3 + 0.17 * math.ceil(len(curves) / columns)), layout='constrained')
        left, middle, right = figure.subplots(1, 3)
        thresholds = np.arange(255, -1, -1)
        for (method, found), (style, color) in zip(curves.items(), product(LINES, COLORS), strict=False):
            # The first point without positives has precision 0 by definition, and would draw a spike.
            drawn = found['recall'] > 0
            left.plot(found['recall'][drawn], found['precision'][drawn], style, color=color, label=method)
            middle.plot(thresholds, found['fm'], style, color=color)
            right.plot(thresholds, found['em'], style, color=color)
        left.set(xlabel='recall', ylabel='precision', title='Precision and recall')
        middle.set(xlabel='threshold', title='F-measure')
        right.set(xlabel='threshold', title='E-measure')
        for axes in (left, middle, right):
            _fit_unit(axes)
        figure.legend(loc='outside lower center', ncols=columns, fontsize=8)
        return _svg(figure)


def legend_columns(names: Collection[str]) -> int:
    """How many names fit side by side below the curves."""
    return max(1, min(len(names), 3, LEGEND_WIDTH // (max(map(len, names)) + 8)))


def _fit_unit(axes: Axes) -> None:
    low, _ = axes.get_ylim()
    axes.set_ylim(max(min(low, 0.9), 0), 1.005)


def _cycle(number: int) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(number)]


def _svg(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format='svg', metadata={'Date': None})
    return data.getvalue()


def strip(image: Path | None, mask: Path, predictions: Sequence[Path]) -> list[bytes]:
    """JPEGs of an image, its mask, and of each prediction with its error map; all of one size.

    In an error map what is found wrongly is red, what is missed is blue, over the mask in grey.
    """
    truth = read_mask(mask)
    shape = truth.shape
    panels = [cv2.resize(read_image(image), shape[::-1], interpolation=cv2.INTER_AREA)] if image else []
    panels.append(truth)
    for path in predictions:
        prediction = read_prediction(path, shape)
        panels += [prediction, error_map(prediction, truth)]
    return [_jpeg(panel) for panel in panels]


def error_map(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) of what is found wrongly (red) and missed (blue), over the mask in light grey; all uint8."""
    found, wanted = prediction.astype(np.float32) / 255, (truth > 128).astype(np.float32)
    excess, missing = np.maximum(found - wanted, 0)[..., None], np.maximum(wanted - found, 0)[..., None]
    base = np.where(wanted[..., None] > 0, np.float32(205), np.float32(250))
    red, blue = np.array([213, 40, 30], np.float32), np.array([0, 90, 200], np.float32)
    return (base * (1 - excess - missing) + red * excess + blue * missing).round().astype(np.uint8)


def _jpeg(panel: np.ndarray) -> bytes:
    scale = PANEL_WIDTH * 2 / max(panel.shape[:2])  # twice the width on the page: sharp on dense screens and in print
    size = [max(1, math.ceil(side * scale)) for side in panel.shape[1::-1]]
    small = cv2.resize(panel, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    ok, data = cv2.imencode('.jpg', small if small.ndim == 2 else small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert ok
    return data.tobytes()
