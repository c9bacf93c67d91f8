"""Bilateral reference (BiRefNet, section 3.3): the image as inward, its gradient as outward reference."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.modules.norm import BatchNorm2d


def image_to_tiles(image: Tensor, height: int, width: int, order: str = 'row') -> Tensor:
    """Cuts `image` (B, C, H, W) into tiles stacked on channels: (B, C*rows*columns, height, width).

    `order` names the channels' order, slowest first: 'row' is channel, row, column; 'column' is column, row, channel.
    H and W must be multiples of `height` and `width`.
    """
    b, c, h, w = image.shape
    tiles = image.reshape(b, c, h // height, height, w // width, width)
    permutation = {'row': (0, 1, 2, 4, 3, 5), 'column': (0, 4, 2, 1, 3, 5)}[order]
    return tiles.permute(permutation).reshape(b, -1, height, width)


def laplacian(image: Tensor) -> Tensor:
    """Laplacian of the channel-mean of `image` (B, C, H, W): (B, 1, H, W).

    The 5x5 kernel is all 1 with -24 in the centre, divided by 48; borders are reflected.
    """
    mean = image.mean(1, keepdim=True)
    kernel = mean.new_ones(1, 1, 5, 5)
    kernel[..., 2, 2] = -24
    return F.conv2d(F.pad(mean, (2, 2, 2, 2), mode='reflect'), kernel / 48)


class InwardReference(nn.Module):
    """Two 3x3 convolutions, with nothing between them, of the image's tiles."""

    def __init__(self, in_channels: int, out_channels: int, inner: int = 64) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, inner, 3, padding=1)
        self.conv_out = nn.Conv2d(inner, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        return self.conv_out(self.conv_in(x))


class OutwardReference(nn.Module):
    """Gradient features of a decoder map: their attention on the map and, in training, a prediction of the gradient."""

    def __init__(self, in_channels: int, inner: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(in_channels, inner, 3, padding=1), BatchNorm2d(inner),
                                      nn.ReLU(inplace=True))
        self.attention = nn.Conv2d(inner, 1, 1)
        self.prediction = nn.Conv2d(inner, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, C, h, w) -> x weighted by the attention, and the gradient logit (B, 1, h, w), None in eval mode."""
        features = self.features(x)
        prediction = self.prediction(features) if self.training else None
        return x * torch.sigmoid(self.attention(features)), prediction
