"""Draws the network that a Config describes: `python -m tools.architecture [-o docs/architecture.svg] [key=value ...]`.

Nothing is drawn from memory: the network is built without storage, an image of the config's size goes through it, and
every number in the figure is a shape that a module received or gave, or a count of its parameters.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from config import Config
from models import BiRefNet
from models.decoder import DecoderLevel
from utils import atomic_write

Shape = tuple[int, ...]  # channels, height, width

ENCODER, DECODER, INWARD, OUTWARD, PLAIN = '#dbe7f5', '#fde3c8', '#d9efd7', '#f3d9e6', '#eeeeee'
EDGE, TEXT = '#37474f', '#1b2327'


@dataclass(frozen=True)
class Level:
    """One level of the decoder, from what went through it. Shapes are (channels, height, width)."""

    stride: int
    features: Shape  # in, before the reference joins them
    reference: tuple[int, int] | None  # channels of the image's tiles, and of the reference made of them
    block: tuple[str, int, int]  # kind, channels in and out
    attention: str
    lateral: bool
    side: bool
    outward: int | None  # channels of the gradient features


@dataclass(frozen=True)
class Architecture:
    """What the figure shows."""

    backbone: str
    image: Shape
    pyramid: str
    millions: dict[str, float]  # parameters of the backbone, of all before the decoder, of the decoder
    maps: list[Shape]  # x1..x4 of the encoder, after the pyramid
    squeeze: list[str]
    squeezed: tuple[int, Shape]  # channels in (x4 with its context), and the map out
    neck: list[Shape] | None
    levels: list[Level]  # the coarsest first
    reference: int  # channels of the full-resolution reference; 0 for none
    head: tuple[int, Shape]  # channels in, and the map out


class _Shapes:
    """Shapes (C, H, W) of what each module of a network gets first and gives, while an image goes through it."""

    def __init__(self, model: nn.Module) -> None:
        self.given: dict[nn.Module, Shape] = {}
        self.made: dict[nn.Module, Any] = {}
        for module in model.modules():
            module.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            self.given[module] = tuple(inputs[0].shape[1:])
        self.made[module] = _shapes_in(output)


def _shapes_in(output: Any) -> Any:
    if isinstance(output, Tensor):
        return tuple(output.shape[1:])
    return [_shapes_in(part) for part in output] if isinstance(output, list | tuple) else None


def describe(config: Config) -> Architecture:
    """Builds the network of `config` on the meta device and reads its shapes off an image that goes through it."""
    with torch.device('meta'):
        model = BiRefNet(config).train()
        shapes = _Shapes(model)
        width, height = config.size
        image = torch.zeros(1, 3, height, width)
        logits = model(image).logits[-1]
    maps = shapes.made[model.encoder]
    squeezed = shapes.made[model.squeeze] if len(model.squeeze) else maps[3]
    return Architecture(
        config.bb, (3, height, width), model.encoder.pyramid, _millions(model), maps,
        [type(block).__name__ for block in model.squeeze], (shapes.made[model.context][0], squeezed),
        shapes.made[model.neck] if model.neck is not None else None,
        [_level(level, shapes, height) for level in model.decoder.levels],
        shapes.made[model.decoder.reference][0] if model.decoder.reference is not None else 0,
        (model.decoder.head.in_channels, tuple(logits.shape[1:])))


def _millions(model: BiRefNet) -> dict[str, float]:
    def count(modules: Iterable[nn.Module | None]) -> float:
        return sum(p.numel() for module in modules if module is not None for p in module.parameters()) / 1e6

    return {'backbone': count([model.encoder]), 'squeeze': count([model.squeeze, model.neck]),
            'decoder': count([model.decoder])}


def _level(level: DecoderLevel, shapes: _Shapes, height: int) -> Level:
    reference = None
    if level.reference is not None:
        reference = shapes.given[level.reference][0], shapes.made[level.reference][0]
    features, block = shapes.given[level], level.block
    attention = type(block.attention).__name__
    kernels = [branch.conv.regular_conv.kernel_size[0] for branch in getattr(block.attention, 'deformable', ())]
    return Level(
        height // features[1], features, reference,
        (type(block).__name__, shapes.given[block][0], shapes.made[block][0]),
        '' if attention == 'Identity' else attention + (f' {", ".join(map(str, kernels))}' if kernels else ''),
        level.lateral is not None, level.side is not None,
        level.outward.features[0].out_channels if level.outward is not None else None)


# --- Drawing ----------------------------------------------------------------------------------------------------------

ROWS = {1: 8.9, 4: 6.9, 8: 5.0, 16: 3.1, 32: 1.2}  # y of what has this stride
ENCODER_X, DECODER_X, REFERENCE_X, STRIDE_X = .2, 5.0, 9.6, 13.2
ENCODER_WIDTH, DECODER_WIDTH, REFERENCE_WIDTH = 3.3, 3.9, 3.3
HALF = .38  # of a box's height


def draw(architecture: Architecture) -> Figure:
    """The figure: the encoder at the left, the decoder rising from the coarsest level, the references at the right."""
    figure = Figure(figsize=(12.4, 8.9), facecolor='white')
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 14.4), ylim=(-.45, 9.9))
    axes.set_axis_off()
    _draw_encoder(axes, architecture)
    for i, level in enumerate(architecture.levels):
        above = architecture.levels[i + 1].stride if i < len(architecture.levels) - 1 else 1
        _draw_level(axes, level, len(architecture.levels) - i, above)
    _draw_head(axes, architecture)
    for stride, y in ROWS.items():
        _text(axes, STRIDE_X, y, f'stride {stride}', 10, '#607d8b', ha='left')
    return figure


def _text(axes: Axes, x: float, y: float, text: str, size: float = 9, colour: str = TEXT, ha: str = 'center') -> None:
    axes.text(x, y, text, ha=ha, va='center', fontsize=size, color=colour, linespacing=1.35)


def _box(axes: Axes, x: float, y: float, width: float, colour: str, text: str, half: float = HALF) -> None:
    axes.add_patch(FancyBboxPatch((x, y - half), width, 2 * half, boxstyle='round,pad=0,rounding_size=.1',
                                  facecolor=colour, edgecolor=EDGE, linewidth=.9))
    _text(axes, x + width / 2, y, text)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate('', end, start, arrowprops={'arrowstyle': '-|>', 'color': EDGE, 'linewidth': 1.1, 'shrinkA': 0,
                                              'shrinkB': 0})


def _size(shape: Shape) -> str:
    return ' × '.join(map(str, shape))


def _draw_encoder(axes: Axes, a: Architecture) -> None:
    """The image, x1..x4 below it, and at the bottom what leads from x4 to the decoder."""
    centre, start = ENCODER_X + ENCODER_WIDTH / 2, ROWS[1]
    _box(axes, ENCODER_X, start, ENCODER_WIDTH, PLAIN, f'image\n{_size(a.image)}')
    for i, (shape, stride) in enumerate(zip(a.maps, (4, 8, 16, 32), strict=True)):
        _arrow(axes, (centre, start - HALF), (centre, ROWS[stride] + HALF))
        start = ROWS[stride]
        _box(axes, ENCODER_X, start, ENCODER_WIDTH, ENCODER, f'x{i + 1}   {_size(shape)}')
    pyramid = {'cat': 'sees the image and its half: concatenated', 'add': 'sees the image and its half: added',
               '': 'sees the image'}[a.pyramid]
    _text(axes, centre + .15, (ROWS[1] + ROWS[4]) / 2, f'{a.backbone}, {a.millions["backbone"]:.1f} M parameters,\n'
          f'{pyramid}', ha='left')
    squeeze = f'squeeze ({" → ".join(a.squeeze)}) → {_size(a.squeezed[1])}' if a.squeeze else 'no squeeze'
    neck = f'; neck → {", ".join(str(shape[0]) for shape in a.neck)} channels' if a.neck else ''
    _box(axes, ENCODER_X, -.02, DECODER_X + DECODER_WIDTH - ENCODER_X, ENCODER,
         f'x4 and its context: {a.squeezed[0]} channels → {squeeze}{neck}, {a.millions["squeeze"]:.1f} M parameters',
         .28)
    _arrow(axes, (centre, ROWS[32] - HALF), (centre, .26))
    _arrow(axes, (DECODER_X + DECODER_WIDTH / 2, .26), (DECODER_X + DECODER_WIDTH / 2, ROWS[32] - HALF))
    _text(axes, REFERENCE_X, -.02, f'decoder: {a.millions["decoder"]:.1f} M parameters', ha='left')


def _draw_level(axes: Axes, level: Level, number: int, above: int) -> None:
    """A block with its references, and the way up to the row of stride `above`."""
    y, centre, (kind, channels, out) = ROWS[level.stride], DECODER_X + DECODER_WIDTH / 2, level.block
    attention = f', {level.attention}' if level.attention else ''
    _box(axes, DECODER_X, y, DECODER_WIDTH, DECODER, f'block {number}:  {channels} → {out}\n{kind}{attention}')
    top = y + HALF
    if level.outward is not None:
        top += .5
        _box(axes, DECODER_X, top - .22, DECODER_WIDTH, OUTWARD,
             f'outward reference: gradient attention ({level.outward})', .2)
    _arrow(axes, (centre, top), (centre, ROWS[above] - HALF))
    _text(axes, centre + .15, (top + ROWS[above] - HALF) / 2, f'resized × {level.stride // above}', 8, ha='left')
    if level.lateral:
        _arrow(axes, (ENCODER_X + ENCODER_WIDTH, ROWS[above]), (DECODER_X, ROWS[above]))
        _text(axes, (ENCODER_X + ENCODER_WIDTH + DECODER_X) / 2, ROWS[above] + .2, '+ 1 × 1', 8)
    if level.reference is not None:
        _draw_reference(axes, y, *level.reference)
    if level.side:
        gradient = f' and its gradient {number}' if level.outward is not None else ''
        _text(axes, REFERENCE_X, top - .22, f'→ in training: m{number}{gradient}', 8.5, ha='left')


def _draw_reference(axes: Axes, y: float, channels: int, made: int) -> None:
    _box(axes, REFERENCE_X, y, REFERENCE_WIDTH, INWARD, f'inward reference:\nimage as {channels} channels → {made}')
    _arrow(axes, (REFERENCE_X, y), (DECODER_X + DECODER_WIDTH, y))


def _draw_head(axes: Axes, a: Architecture) -> None:
    y, centre, (channels, out) = ROWS[1], DECODER_X + DECODER_WIDTH / 2, a.head
    _box(axes, DECODER_X, y, DECODER_WIDTH, DECODER, f'head:  {channels} → {out[0]}\nlogits {_size(out)}')
    _arrow(axes, (centre, y + HALF), (centre, y + .7))
    _text(axes, centre + .15, y + .62, 'sigmoid: the mask', ha='left')
    if a.reference:
        _draw_reference(axes, y, a.image[0], a.reference)


def main(arguments: list[str] | None = None) -> None:
    """Writes the figure; its format follows from the file's name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='fields of config.py')
    parser.add_argument('-o', '--output', type=Path, default=Path('docs/architecture.svg'))
    options = parser.parse_args(arguments)
    figure = draw(describe(Config.from_overrides(options.overrides)))
    # A fixed salt and no date: the same network gives the same bytes.
    with mpl.rc_context({'svg.hashsalt': 'birefnet'}), atomic_write(options.output) as file:
        kind = options.output.suffix[1:] or 'svg'
        figure.savefig(file, format=kind, metadata={'Date': None} if kind == 'svg' else None)


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'architecture: {error}')
