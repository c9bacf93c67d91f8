"""What every backbone is to the encoder."""

from typing import NamedTuple

from torch import nn


class Backbone(NamedTuple):
    """`net` maps an image (B, 3, H, W) to a list of maps, of which `outputs` are x1..x4 with `channels`."""

    net: nn.Module
    channels: tuple[int, ...]
    outputs: tuple[int, ...] = (0, 1, 2, 3)
