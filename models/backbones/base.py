"""What every backbone is to the encoder."""

from typing import NamedTuple

from torch import nn

SMALLEST = 32


class Backbone(NamedTuple):
    """`net` maps an image (B, 3, H, W) to a list of maps, of which `outputs` are x1..x4 with `channels`.

    `smallest` is the shortest side of an image that it takes; its maps are (B, H, W, C) if `channels_last`.
    """

    net: nn.Module
    channels: tuple[int, ...]
    outputs: tuple[int, ...] = (0, 1, 2, 3)
    smallest: int = SMALLEST
    channels_last: bool = False
