"""Draws the network that a Config describes.

`python -m tools.architecture [-o docs/architecture.svg] [key=value ...]`. Nothing is drawn from
memory: the network is built without storage, an image of the config's size goes through it, and
every number in the figure is a shape that a module received or returned, or a count of its
parameters.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from config import Config
from models import BiRefNet, build_birefnet
from models.decoder import DecoderLevel
from utils import atomic_write

Shape = tuple[int, ...]  # channels, height, width

ENCODER_COLOUR = '#dbe7f5'
DECODER_COLOUR = '#fde3c8'
INWARD_COLOUR = '#d9efd7'
OUTWARD_COLOUR = '#f3d9e6'
PLAIN_COLOUR = '#eeeeee'
EDGE_COLOUR = '#37474f'
TEXT_COLOUR = '#1b2327'
STRIDE_COLOUR = '#607d8b'


@dataclass(frozen=True)
class Level:
    """One level of the decoder, from what went through it. Shapes are (channels, height, width)."""

    stride: int
    features: Shape  # in, before the reference joins them
    reference: tuple[int, int] | None  # channels of the image's tiles, and of the reference
    block: tuple[str, int, int]  # kind, channels in and out
    attention: str
    lateral: bool
    side: bool
    outward: int | None  # channels of the gradient features


@dataclass(frozen=True)
class Figures:
    """What is drawn."""

    backbone: str
    image: Shape
    pyramid: str
    millions: dict[str, float]  # parameters of the backbone, of squeeze and neck, of the decoder
    maps: list[Shape]  # x1..x4 of the encoder, after the pyramid
    squeeze: list[str]
    squeezed: tuple[int, Shape]  # channels in (x4 with its context), and the map out
    neck: list[Shape] | None
    levels: list[Level]  # the coarsest first
    reference: int  # channels of the full-resolution reference; 0 for none
    head: tuple[int, Shape]  # channels in, and the map out


# --- Measuring ------------------------------------------------------------------------------------


class _Shapes:
    """Shapes (C, H, W) of each module's first input and its output, while an image goes through."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[nn.Module, Shape] = {}
        self.outputs: dict[nn.Module, Any] = {}
        for module in model.modules():
            module.register_forward_hook(self._record)

    def _record(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            first = inputs[0]
            self.inputs[module] = tuple(first.shape[1:])
        self.outputs[module] = _shapes_in(output)


def _shapes_in(output: Any) -> Any:
    if isinstance(output, Tensor):
        return tuple(output.shape[1:])
    if isinstance(output, list | tuple):
        return [_shapes_in(part) for part in output]
    return None


def describe(config: Config) -> Figures:
    """Builds the network of `config` on the meta device and follows an image through it."""
    # The meta device has shapes without values, so nothing is computed.
    with torch.device('meta'):
        model = build_birefnet(config)
        shapes = _Shapes(model)
        width, height = config.size
        image = torch.zeros(1, 3, height, width)
        logits = model(image)[-1]

    # What depends on the config: without squeeze blocks x4 goes on as it is.
    maps = shapes.outputs[model.encoder]
    squeezed = shapes.outputs[model.squeeze] if len(model.squeeze) else maps[3]
    decoder = model.decoder
    reference = 0
    if decoder.reference is not None:
        reference = shapes.outputs[decoder.reference][0]
    levels = []
    for level in decoder.levels:
        levels.append(_describe_level(cast(DecoderLevel, level), shapes, height))

    return Figures(
        backbone=config.bb,
        image=(3, height, width),
        pyramid=model.encoder.pyramid,
        millions=_count_parameters(model),
        maps=maps,
        squeeze=[type(block).__name__ for block in model.squeeze],
        squeezed=(shapes.outputs[model.context][0], squeezed),
        neck=shapes.outputs[model.neck] if model.neck is not None else None,
        levels=levels,
        reference=reference,
        head=(decoder.head.in_channels, tuple(logits.shape[1:])),
    )


def _count_parameters(model: BiRefNet) -> dict[str, float]:
    """Millions of parameters of each part."""
    def count(modules: Iterable[nn.Module | None]) -> float:
        total = 0
        for module in modules:
            if module is not None:
                total += sum(parameter.numel() for parameter in module.parameters())
        return total / 1e6

    return {
        'backbone': count([model.encoder]),
        'squeeze': count([model.squeeze, model.neck]),
        'decoder': count([model.decoder]),
    }


def _describe_level(level: DecoderLevel, shapes: _Shapes, height: int) -> Level:
    # References, where the level has them.
    features = shapes.inputs[level]
    reference = None
    if level.reference is not None:
        tiles, *_ = shapes.inputs[level.reference]
        width, *_ = shapes.outputs[level.reference]
        reference = (tiles, width)
    outward = None
    if level.outward is not None:
        convolution = level.outward.features[0]
        assert isinstance(convolution, nn.Conv2d)
        outward = convolution.out_channels

    block = level.block
    assert isinstance(block.attention, nn.Module)
    channels_in, *_ = shapes.inputs[block]
    channels_out, *_ = shapes.outputs[block]
    return Level(
        stride=height // features[1],
        features=features,
        reference=reference,
        block=(type(block).__name__, channels_in, channels_out),
        attention=_attention_text(block.attention),
        lateral=level.lateral is not None,
        side=level.side is not None,
        outward=outward,
    )


def _attention_text(attention: nn.Module) -> str:
    """Its kind, with the kernels of a deformable one; '' for none."""
    if isinstance(attention, nn.Identity):
        return ''
    text = type(attention).__name__
    branches = getattr(attention, 'deformable', ())
    kernels = [str(branch.conv.regular_conv.kernel_size[0]) for branch in branches]
    if kernels:
        text += f' {", ".join(kernels)}'
    return text


# --- Drawing --------------------------------------------------------------------------------------

ROWS = {1: 8.9, 4: 6.9, 8: 5.0, 16: 3.1, 32: 1.2}  # y of what has this stride
ENCODER_X, DECODER_X, REFERENCE_X, STRIDE_X = .2, 5.0, 9.6, 13.2
ENCODER_WIDTH, DECODER_WIDTH, REFERENCE_WIDTH = 3.3, 3.9, 3.3
ENCODER_CENTRE = ENCODER_X + ENCODER_WIDTH / 2
DECODER_CENTRE = DECODER_X + DECODER_WIDTH / 2
HALF = .38  # of a box's height
SQUEEZE_Y, SQUEEZE_HALF = -.02, .28
OUTWARD_HALF = .2


def draw(figures: Figures) -> Figure:
    """The encoder at the left, the decoder rising from its coarsest level, references right."""
    figure = Figure(figsize=(12.4, 8.9), facecolor='white')
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 14.4), ylim=(-.45, 9.9))
    axes.set_axis_off()

    # Arrows lead from each level to the row of the next, the last one's to the head at stride 1.
    _draw_encoder(axes, figures)
    _draw_squeeze(axes, figures)
    strides = [level.stride for level in figures.levels]
    strides_above = [*strides[1:], 1]
    for i, (level, stride_above) in enumerate(zip(figures.levels, strides_above, strict=True)):
        number = len(strides) - i
        _draw_level(axes, level, number, stride_above)
    _draw_head(axes, figures)

    for stride, y in ROWS.items():
        _text(axes, STRIDE_X, y, f'stride {stride}', 10, STRIDE_COLOUR, ha='left')
    return figure


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    size: float = 9,
    colour: str = TEXT_COLOUR,
    ha: str = 'center',
) -> None:
    axes.text(x, y, text, ha=ha, va='center', fontsize=size, color=colour, linespacing=1.35)


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    colour: str,
    text: str,
    half: float = HALF,
) -> None:
    axes.add_patch(FancyBboxPatch(
        (x, y - half),
        width,
        2 * half,
        boxstyle='round,pad=0,rounding_size=.1',
        facecolor=colour,
        edgecolor=EDGE_COLOUR,
        linewidth=.9,
    ))
    _text(axes, x + width / 2, y, text)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {
        'arrowstyle': '-|>',
        'color': EDGE_COLOUR,
        'linewidth': 1.1,
        'shrinkA': 0,
        'shrinkB': 0,
    }
    axes.annotate('', end, start, arrowprops=style)


def _size(shape: Shape) -> str:
    return ' × '.join(map(str, shape))


def _draw_encoder(axes: Axes, figures: Figures) -> None:
    """The image, and x1..x4 below it."""
    # Boxes from the top downwards, each joined to the one above.
    above = ROWS[1]
    _box(axes, ENCODER_X, above, ENCODER_WIDTH, PLAIN_COLOUR, f'image\n{_size(figures.image)}')
    for i, (shape, stride) in enumerate(zip(figures.maps, (4, 8, 16, 32), strict=True)):
        y = ROWS[stride]
        bottom_above = (ENCODER_CENTRE, above - HALF)
        top = (ENCODER_CENTRE, y + HALF)
        _arrow(axes, bottom_above, top)
        _box(axes, ENCODER_X, y, ENCODER_WIDTH, ENCODER_COLOUR, f'x{i + 1}   {_size(shape)}')
        above = y

    # What lies between, in words beside the arrow.
    pyramid = {
        'cat': 'sees the image and its half: concatenated',
        'add': 'sees the image and its half: added',
        '': 'sees the image',
    }[figures.pyramid]
    backbone = f'{figures.backbone}, {figures.millions["backbone"]:.1f} M parameters'
    middle = (ROWS[1] + ROWS[4]) / 2
    _text(axes, ENCODER_CENTRE + .15, middle, f'{backbone},\n{pyramid}', ha='left')


def _draw_squeeze(axes: Axes, figures: Figures) -> None:
    """What leads from x4 to the decoder, at the bottom."""
    # The text of the box.
    channels, squeezed = figures.squeezed
    squeeze = 'no squeeze'
    if figures.squeeze:
        squeeze = f'squeeze ({" → ".join(figures.squeeze)}) → {_size(squeezed)}'
    neck = ''
    if figures.neck:
        widths = ', '.join(str(shape[0]) for shape in figures.neck)
        neck = f'; neck → {widths} channels'
    parameters = f'{figures.millions["squeeze"]:.1f} M parameters'
    text = f'x4 and its context: {channels} channels → {squeeze}{neck}, {parameters}'

    # A wide box beneath encoder and decoder, an arrow into it and one out of it.
    width = DECODER_X + DECODER_WIDTH - ENCODER_X
    top = SQUEEZE_Y + SQUEEZE_HALF
    _box(axes, ENCODER_X, SQUEEZE_Y, width, ENCODER_COLOUR, text, SQUEEZE_HALF)
    bottom_above = ROWS[32] - HALF
    _arrow(axes, (ENCODER_CENTRE, bottom_above), (ENCODER_CENTRE, top))
    _arrow(axes, (DECODER_CENTRE, top), (DECODER_CENTRE, bottom_above))
    decoder = f'decoder: {figures.millions["decoder"]:.1f} M parameters'
    _text(axes, REFERENCE_X, SQUEEZE_Y, decoder, ha='left')


def _draw_level(axes: Axes, level: Level, number: int, stride_above: int) -> None:
    """A block with its references, and the way up to the next row."""
    # The block, and on top of it its outward reference.
    y = ROWS[level.stride]
    above = ROWS[stride_above]
    kind, channels, out = level.block
    attention = f', {level.attention}' if level.attention else ''
    text = f'block {number}:  {channels} → {out}\n{kind}{attention}'
    _box(axes, DECODER_X, y, DECODER_WIDTH, DECODER_COLOUR, text)

    top = y + HALF
    if level.outward is not None:
        top += .5
        text = f'outward reference: gradient attention ({level.outward})'
        _box(axes, DECODER_X, top - .22, DECODER_WIDTH, OUTWARD_COLOUR, text, OUTWARD_HALF)

    # The way up.
    bottom_above = above - HALF
    _arrow(axes, (DECODER_CENTRE, top), (DECODER_CENTRE, bottom_above))
    factor = level.stride // stride_above
    middle = (top + bottom_above) / 2
    _text(axes, DECODER_CENTRE + .15, middle, f'resized × {factor}', 8, ha='left')

    # What comes in from the sides, and what leaves in training.
    if level.lateral:
        start = ENCODER_X + ENCODER_WIDTH
        middle = (start + DECODER_X) / 2
        _arrow(axes, (start, above), (DECODER_X, above))
        _text(axes, middle, above + .2, '+ 1 × 1', 8)
    if level.reference is not None:
        _draw_reference(axes, y, *level.reference)
    if level.side:
        gradient = f' and its gradient {number}' if level.outward is not None else ''
        _text(axes, REFERENCE_X, top - .22, f'→ in training: m{number}{gradient}', 8.5, ha='left')


def _draw_reference(axes: Axes, y: float, channels: int, out: int) -> None:
    """An inward reference, to the right of the decoder at height `y`."""
    text = f'inward reference:\nimage as {channels} channels → {out}'
    _box(axes, REFERENCE_X, y, REFERENCE_WIDTH, INWARD_COLOUR, text)
    decoder_edge = DECODER_X + DECODER_WIDTH
    _arrow(axes, (REFERENCE_X, y), (decoder_edge, y))


def _draw_head(axes: Axes, figures: Figures) -> None:
    """The head on top of the decoder, with the reference at full resolution."""
    y = ROWS[1]
    channels, out = figures.head
    text = f'head:  {channels} → {out[0]}\nlogits {_size(out)}'
    _box(axes, DECODER_X, y, DECODER_WIDTH, DECODER_COLOUR, text)
    top = y + HALF
    _arrow(axes, (DECODER_CENTRE, top), (DECODER_CENTRE, y + .7))
    _text(axes, DECODER_CENTRE + .15, y + .62, 'sigmoid: the mask', ha='left')
    if figures.reference:
        _draw_reference(axes, y, figures.image[0], figures.reference)


def main(arguments: list[str] | None = None) -> None:
    """Writes the figure; its format follows from the file's name."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='fields of config.py')
    parser.add_argument('-o', '--output', type=Path, default=Path('docs/architecture.svg'))
    options = parser.parse_args(arguments)

    config = Config.from_overrides(options.overrides)
    figure = draw(describe(config))
    kind = options.output.suffix[1:] or 'svg'
    # A fixed salt and no date: the same network gives the same bytes.
    metadata = {'Date': None} if kind == 'svg' else None
    with mpl.rc_context({'svg.hashsalt': 'birefnet'}), atomic_write(options.output) as file:
        figure.savefig(file, format=kind, metadata=metadata)


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'architecture: {error}')
