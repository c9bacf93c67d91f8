"""A picture of a run: losses by term, learning rate, validation."""

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils import atomic_write

HIDDEN = {'epoch', 'batch', 'step', 'lr', 'gradient_norm'}


def draw_curves(folder: Path) -> Path:
    """Draws `folder`/curves.png from its log.jsonl; returns its path."""
    lines = [json.loads(line) for line in (folder / 'log.jsonl').read_text(encoding='utf-8').splitlines()]
    steps = [line for line in lines if 'batch' in line]
    validations = [line for line in lines if 'validation' in line]
    figure = Figure(figsize=(5 * (2 + bool(validations)), 4), layout='constrained')
    FigureCanvasAgg(figure)
    losses, rate, *rest = figure.subplots(1, 2 + bool(validations))
    for name in dict.fromkeys(key for line in steps for key in line if key not in HIDDEN):
        points = [(line['step'], line[name]) for line in steps if line.get(name, 0) > 0]
        losses.plot(*zip(*points, strict=True) if points else ([], []), label=name, lw=2.5 if name == 'loss' else 1)
    losses.set(title='Losses, weighted', xlabel='step', yscale='log')
    losses.legend(fontsize='small')
    rate.plot([line['step'] for line in steps], [line['lr'] for line in steps])
    rate.set(title='Learning rate', xlabel='step')
    epochs = [v['epoch'] for v in validations]
    for axes in rest:
        for name in validations[0]['validation']:
            if name != 'loss':
                axes.plot(epochs, [v['validation'][name] for v in validations], 'o-', label=name)
        axes.set(title='Validation', xlabel='epoch', ylim=(0, 1))
        axes.legend(fontsize='small')
    path = folder / 'curves.png'
    with atomic_write(path) as file:
        figure.savefig(file, format='png', dpi=120)
    return path
