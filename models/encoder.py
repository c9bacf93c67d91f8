"""The encoder: backbone, image pyramid, context, neck."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone
from models.modules.resize import resize


class Encoder(nn.Module):
    """Runs the backbone on the image and, by `pyramid` ('cat' or 'add'), on its half-size copy.

    `channels` are those of x1..x4, after the pyramid.
    """

    def __init__(self, backbone: Backbone, pyramid: str = 'cat') -> None:
        super().__init__()
        factor = 2 if pyramid == 'cat' else 1
        self.backbone = backbone
        self.pyramid = pyramid
        self.frozen = False
        self.channels = tuple(factor * channels for channels in backbone.channels)

    def freeze(self) -> None:
        """Takes the backbone out of training, its statistics and its dropout included."""
        self.frozen = True
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but a frozen backbone, which stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, 3, H, W) -> x1..x4, (B, channels[i], H / 2^(i+2), W / 2^(i+2)) for i = 0..3."""
        needs_gradients = torch.is_grad_enabled() and not self.frozen
        with torch.set_grad_enabled(needs_gradients):
            if not self.pyramid:
                return self.backbone(image)
            full, half = self.forward_pyramid(image)
            maps = []
            for x, small in zip(full, half, strict=True):
                maps.append(self._join(x, small))
            return maps

    def forward_pyramid(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """image (B, 3, H, W) -> the backbone's four maps of it, and those of its half-size copy."""
        height, width = image.shape[-2:]
        smallest = self.backbone.smallest
        # Not smaller than the backbone can take.
        half_height = max(height // 2, smallest)
        half_width = max(width // 2, smallest)
        half_image = resize(image, (half_height, half_width))
        return self.backbone(image), self.backbone(half_image)

    def _join(self, x: Tensor, small: Tensor) -> Tensor:
        """Joins a map of the image with that of its half-size copy."""
        small = resize(small, x.shape[-2:])
        if self.pyramid == 'add':
            return x + small
        return torch.cat((x, small), 1)


class Context(nn.Module):
    """Concatenates the last `count` of x1..x3, resized to x4, in front of x4."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """x1..x4 -> (B, sum of channels, h4, w4)."""
        x4 = maps[3]
        finer = maps[3 - self.count:3]
        resized = [resize(x, x4.shape[-2:]) for x in finer]
        return torch.cat((*resized, x4), 1)


class PyramidNeck(nn.Module):
    """Makes a pyramid of the four maps of a plain vision transformer, which are all at one stride.

    Each is resized to its stride, 4, 8, 16 or 32; a 1x1 convolution brings it to `out_channels`.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for before, after in zip(in_channels, out_channels, strict=True):
            self.convs.append(nn.Conv2d(before, after, 1))

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> list[Tensor]:
        """Maps (B, in[i], *, *) -> (B, out[i], height / 2^(i+2), width / 2^(i+2)), i = 0..3."""
        pyramid = []
        for i, (conv, x) in enumerate(zip(self.convs, maps, strict=True)):
            size = (height >> (i + 2), width >> (i + 2))
            pyramid.append(conv(resize(x, size)))
        return pyramid
