"""A picture of a run: losses by term, validation, learning rates and gradient."""

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
FADED = {'lw': .8, 'alpha': .25}
NO_LOSSES = {'epoch', 'batch', 'step', 'lr', 'lr_backbone', 'gradient_norm'}
COLUMN = 5.2  # inches


def draw_curves(folder: Path, best: tuple[str, int] | None = None) -> Path:
    """Draws `folder`/curves.png from its log.jsonl; returns its path. `best`: metric and epoch of best.pth, if any."""
    lines = [json.loads(line) for line in (folder / 'log.jsonl').read_text(encoding='utf-8').splitlines()]
    steps = [line for line in lines if 'batch' in line]
    means = [{'epoch': line['epoch'], **line['mean']} for line in lines if 'mean' in line]
    validations = [{'epoch': line['epoch'], **line['validation']} for line in lines if 'validation' in line]
    with matplotlib.rc_context(STYLE):
        columns = 3 if validations else 2
        figure = Figure(figsize=(COLUMN * columns, 6.4), layout='constrained')
        grid = figure.subplots(2, columns)
        _draw_losses(grid[0, 0], steps, means, validations)
        _draw_terms(grid[1, 0], steps, means)
        _draw_over_epochs(grid[0, -1], steps, {'lr': 'decoder', 'lr_backbone': 'backbone'}, 'Learning rate')
        grid[0, -1].set_ylim(0)
        _draw_over_epochs(grid[1, -1], steps, {'gradient_norm': 'norm before clipping'}, 'Gradient')
        grid[1, -1].set_yscale('log')
        if validations:
            scores = [name for name in validations[0] if name not in ('epoch', 'loss')]
            _draw_scores(grid[0, 1], validations, [n for n in scores if higher_is_better(n)], best, 'higher')
            _draw_scores(grid[1, 1], validations, [n for n in scores if not higher_is_better(n)], best, 'lower')
        for axes in grid.flat:
            axes.set_xlabel('epoch')
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        path = folder / 'curves.png'
        with atomic_write(path) as file:
            figure.savefig(file, format='png', dpi=110)
    return path


def _positions(steps: Lines) -> list[float]:
    """Where log lines lie on an axis of epochs: a mean over an epoch lies at its end."""
    last: dict[int, int] = {}
    for line in steps:
        last[line['epoch']] = line['batch']  # an epoch's last line is that of its last batch
    return [line['epoch'] - 1 + line['batch'] / last[line['epoch']] for line in steps]


def _series(xs: Iterable[float], lines: Lines, name: str) -> tuple[list[float], list[float]]:
    """Positions and values of a term where it has one; a logarithmic axis has no place for 0."""
    points = [(x, line[name]) for x, line in zip(xs, lines, strict=True) if line.get(name, 0) > 0]
    return [x for x, _ in points], [y for _, y in points]


def _draw_losses(axes: Axes, steps: Lines, means: Lines, validations: Lines) -> None:
    axes.plot(*_series(_positions(steps), steps, 'loss'), **FADED)
    axes.plot(*_series((line['epoch'] for line in means), means, 'loss'), 'o-', c='C0', ms=3, lw=2, label='training')
    axes.set(title='Loss', yscale='log')
    if validations:
        axes.plot(*_series((line['epoch'] for line in validations), validations, 'loss'), 's--', c='C1', ms=3,
                  label='validation, pixel terms of the final map')
    axes.legend()


def _draw_terms(axes: Axes, steps: Lines, means: Lines) -> None:
    names = dict.fromkeys(name for line in steps for name in line if name not in NO_LOSSES | {'loss'})
    for number, name in enumerate(names):
        color = f'C{number}'
        axes.plot(*_series(_positions(steps), steps, name), c=color, **FADED)
        axes.plot(*_series((line['epoch'] for line in means), means, name), 'o-', c=color, ms=3, label=name)
    axes.set(title='Terms of the loss, weighted', yscale='log')
    axes.legend(ncols=2)


def _draw_over_epochs(axes: Axes, steps: Lines, labels: Mapping[str, str], title: str) -> None:
    for name, label in labels.items():
        if name in steps[0]:
            axes.plot(*_series(_positions(steps), steps, name), label=label)
    axes.set_title(title)
    axes.legend()


def _draw_scores(axes: Axes, validations: Lines, names: Sequence[str], best: tuple[str, int] | None,
                 direction: str) -> None:
    for name in names:
        axes.plot([v['epoch'] for v in validations], [v[name] for v in validations], 'o-', ms=3, label=COLUMNS[name])
        value = next((v[name] for v in validations if best == (name, v['epoch'])), None)
        if value is not None:
            axes.plot(best[1], value, '*', color='#D55E00', ms=14, mec='white', zorder=5,
                      label=f'best.pth: epoch {best[1]}, {value:.3f}')
    axes.set(title=f'Validation ({direction} is better)')
    axes.legend(ncols=5, loc='upper center', bbox_to_anchor=(.5, -.16), fontsize='small', columnspacing=1)
