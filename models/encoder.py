"""The encoder: backbone, image pyramid, context, squeeze, neck."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone
from models.modules.resize import resize


class Encoder(nn.Module):
    """Backbone on the image and, by `pyramid` ('cat' or 'add'), on its half-size copy.

    `channels` of x1..x4 are published after the pyramid.
    """

    def __init__(self, backbone: Backbone, pyramid: str = 'cat', frozen: bool = False) -> None:
        super().__init__()
        self.backbone, self.outputs, self.channels_last = backbone.net, backbone.outputs, backbone.channels_last
        self.smallest, self.pyramid, self.frozen = backbone.smallest, pyramid, frozen
        self.channels = tuple(c * (2 if pyramid == 'cat' else 1) for c in backbone.channels)
        if frozen:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> 'Encoder':
        """A frozen backbone stays in eval mode: neither its statistics nor its dropout may move."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, 3, H, W) -> x1..x4, (B, channels[i], H / 2^(i+2), W / 2^(i+2)) for i = 0..3."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if not self.pyramid:
                return self._features(image)
            maps, half = self.both(image)
            half = [resize(small, x.shape[-2:]) for small, x in zip(half, maps, strict=True)]
            if self.pyramid == 'add':
                return [x + small for x, small in zip(maps, half, strict=True)]
            return [torch.cat(pair, 1) for pair in zip(maps, half, strict=True)]

    def both(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The backbone's four maps of the image, and those of its half-size copy."""
        half = resize(image, [max(side // 2, self.smallest) for side in image.shape[-2:]])
        return self._features(image), self._features(half)

    def _features(self, image: Tensor) -> list[Tensor]:
        maps = self.backbone(image)
        return [maps[i].permute(0, 3, 1, 2) if self.channels_last else maps[i] for i in self.outputs]


class Context(nn.Module):
    """The last `count` of x1..x3, resized to x4 and concatenated in front of it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """x1..x4 -> (B, sum of channels, h4, w4)."""
        x4 = maps[3]
        return torch.cat([*(resize(x, x4.shape[-2:]) for x in maps[3 - self.count:3]), x4], 1)


class PyramidNeck(nn.Module):
    """Brings the four maps of a plain vision transformer to strides 4, 8, 16, 32 and to `out_channels`."""

    def __init__(self, in_channels: Sequence[int], out_channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(in_channels, out_channels, strict=True))

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> list[Tensor]:
        """Four maps (B, in[i], *, *) -> (B, out[i], height / 2^(i+2), width / 2^(i+2)) for i = 0..3."""
        sizes = [(height >> i, width >> i) for i in (2, 3, 4, 5)]
        return [conv(resize(x, size)) for conv, x, size in zip(self.convs, maps, sizes, strict=True)]
