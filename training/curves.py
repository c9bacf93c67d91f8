"""Draws the curves of a run: losses by term, validation scores, learning rates, gradient norm."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.metrics import COLUMNS, higher_is_better
from evaluation.style import STYLE
from utils import atomic_write

Lines = Sequence[Mapping[str, Any]]
Points = tuple[list[float], list[float]]  # x and y

FADED: dict[str, Any] = {'lw': .8, 'alpha': .25}
BEST_MARK: dict[str, Any] = {'color': '#D55E00', 'ms': 14, 'mec': 'white', 'zorder': 5}
NOT_TERMS = {'epoch', 'batch', 'step', 'lr', 'lr_backbone', 'gradient_norm', 'loss'}
COLUMN_WIDTH = 5.2  # inches, as is the height
HEIGHT = 6.4
DOTS_PER_INCH = 110


def draw_curves(folder: Path, best: tuple[str, int] | None = None) -> Path:
    """Draws curves.png of a run from its log.jsonl.

    Args:
        folder: the run's.
        best: metric and epoch of best.pth, if there is one.

    Returns:
        The path of the image.
    """
    text = (folder / 'log.jsonl').read_text(encoding='utf-8')
    lines = [json.loads(line) for line in text.splitlines()]
    path = folder / 'curves.png'
    with matplotlib.rc_context(STYLE):
        figure = _draw_figure(lines, best)
        with atomic_write(path) as file:
            figure.savefig(file, format='png', dpi=DOTS_PER_INCH)
    return path


def _draw_figure(lines: Lines, best: tuple[str, int] | None) -> Figure:
    # The three kinds of lines in the log.
    steps = [line for line in lines if 'batch' in line]
    means = _by_epoch(lines, 'mean')
    validations = _by_epoch(lines, 'validation')

    # Losses on the left, rates and gradient on the right, scores between them.
    columns = 3 if validations else 2
    figure = Figure(figsize=(COLUMN_WIDTH * columns, HEIGHT), layout='constrained')
    grid = figure.subplots(2, columns)
    _draw_losses(grid[0, 0], steps, means, validations)
    _draw_terms(grid[1, 0], steps, means)

    rates = {'lr': 'decoder', 'lr_backbone': 'backbone'}
    _draw_over_epochs(grid[0, -1], steps, rates, 'Learning rate')
    grid[0, -1].set_ylim(0)
    norms = {'gradient_norm': 'norm before clipping'}
    _draw_over_epochs(grid[1, -1], steps, norms, 'Gradient')
    grid[1, -1].set_yscale('log')

    # Scores that are better when higher above, the others below.
    if validations:
        scores = [name for name in validations[0] if name not in ('epoch', 'loss')]
        higher = [name for name in scores if higher_is_better(name)]
        lower = [name for name in scores if not higher_is_better(name)]
        _draw_scores(grid[0, 1], validations, higher, best, 'higher')
        _draw_scores(grid[1, 1], validations, lower, best, 'lower')

    for axes in grid.flat:
        axes.set_xlabel('epoch')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _by_epoch(lines: Lines, key: str) -> list[dict[str, Any]]:
    """The values under `key`, with their epoch, of the lines that have it."""
    return [{'epoch': line['epoch'], **line[key]} for line in lines if key in line]


def _epochs(lines: Lines) -> list[int]:
    return [line['epoch'] for line in lines]


def _positions(steps: Lines) -> list[float]:
    """Where steps lie on an axis of epochs, on which an epoch's mean lies at its end."""
    # The last line of an epoch is that of its last batch.
    num_batches = {line['epoch']: line['batch'] for line in steps}
    positions = []
    for line in steps:
        epoch = line['epoch']
        progress = line['batch'] / num_batches[epoch]
        positions.append(epoch - 1 + progress)
    return positions


def _series(positions: Iterable[float], lines: Lines, name: str) -> Points:
    """The positive values of a term; a logarithmic axis has no place for 0."""
    xs, ys = [], []
    for x, line in zip(positions, lines, strict=True):
        value = line.get(name, 0)
        if value > 0:
            xs.append(x)
            ys.append(value)
    return xs, ys


def _draw_losses(axes: Axes, steps: Lines, means: Lines, validations: Lines) -> None:
    axes.plot(*_series(_positions(steps), steps, 'loss'), **FADED)
    training = _series(_epochs(means), means, 'loss')
    axes.plot(*training, 'o-', c='C0', ms=3, lw=2, label='training')
    if validations:
        validation = _series(_epochs(validations), validations, 'loss')
        label = 'validation, pixel terms of the final map'
        axes.plot(*validation, 's--', c='C1', ms=3, label=label)
    axes.set(title='Loss', yscale='log')
    axes.legend()


def _draw_terms(axes: Axes, steps: Lines, means: Lines) -> None:
    positions = _positions(steps)
    epochs = _epochs(means)
    for number, name in enumerate(_term_names(steps)):
        color = f'C{number}'
        in_steps = _series(positions, steps, name)
        in_epochs = _series(epochs, means, name)
        axes.plot(*in_steps, c=color, **FADED)
        axes.plot(*in_epochs, 'o-', c=color, ms=3, label=name)
    axes.set(title='Terms of the loss, weighted', yscale='log')
    axes.legend(ncols=2)


def _term_names(steps: Lines) -> list[str]:
    """The terms of the loss, in the order in which they first appear."""
    names: dict[str, None] = {}
    for line in steps:
        names |= dict.fromkeys(line)
    return [name for name in names if name not in NOT_TERMS]


def _draw_over_epochs(axes: Axes, steps: Lines, labels: Mapping[str, str], title: str) -> None:
    positions = _positions(steps)
    for name, label in labels.items():
        if name in steps[0]:
            axes.plot(*_series(positions, steps, name), label=label)
    axes.set_title(title)
    axes.legend()


def _draw_scores(
    axes: Axes,
    validations: Lines,
    names: Sequence[str],
    best: tuple[str, int] | None,
    direction: str,
) -> None:
    epochs = _epochs(validations)
    for name in names:
        values = [line[name] for line in validations]
        axes.plot(epochs, values, 'o-', ms=3, label=COLUMNS[name])
        for epoch, value in zip(epochs, values, strict=True):
            if best == (name, epoch):
                label = f'best.pth: epoch {epoch}, {value:.3f}'
                axes.plot(epoch, value, '*', label=label, **BEST_MARK)
    axes.set(title=f'Validation ({direction} is better)')
    axes.legend(ncols=5, loc='upper center', bbox_to_anchor=(.5, -.16), fontsize='small',
                columnspacing=1)
