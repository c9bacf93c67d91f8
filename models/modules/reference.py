"""Bilateral reference (BiRefNet, section 3.3): inward the image, outward its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.modules.norm import BatchNorm2d
from models.modules.resize import resize


def image_to_tiles(image: Tensor, height: int, width: int) -> Tensor:
    """Cuts `image` (B, C, H, W) into tiles stacked on channels: (B, C*rows*columns, height, width).

    Channels count by (channel of the image, row, column), slowest first. H and W must be multiples
    of `height` and `width`. Weights of another order: `models.checkpoints.tile_order`.
    """
    batch, channels, full_height, full_width = image.shape
    rows = full_height // height
    columns = full_width // width
    grid = image.reshape(batch, channels, rows, height, columns, width)
    tiles = grid.transpose(3, 4)  # (B, C, rows, columns, height, width)
    return tiles.reshape(batch, -1, height, width)


@dataclass(frozen=True)
class ImageView:
    """What a decoder level sees of the image: all of it in tiles, or resized."""

    split: bool = True

    def channels_at(self, stride: int) -> int:
        """Channels of the view for a level of this stride."""
        return 3 * stride * stride if self.split else 3

    def __call__(self, image: Tensor, size: Sequence[int]) -> Tensor:
        """image (B, 3, H, W) -> (B, channels, *size)."""
        if not self.split:
            return resize(image, size)
        height, width = size
        return image_to_tiles(image, height, width)


def laplacian(image: Tensor) -> Tensor:
    """Laplacian of the channel-mean of `image` (B, C, H, W): (B, 1, H, W).

    The 5x5 kernel is all 1 with -24 in the centre, divided by 48; borders are reflected.
    """
    # The kernel sums to 0, so that a flat image has no edges.
    mean = image.mean(1, keepdim=True)
    kernel = mean.new_ones(1, 1, 5, 5)
    kernel[..., 2, 2] = -24
    padded = F.pad(mean, (2, 2, 2, 2), mode='reflect')
    return F.conv2d(padded, kernel / 48)


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
    """Weights a decoder map by attention from its edge features, and predicts the edges."""

    def __init__(self, in_channels: int, inner: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, inner, 3, padding=1),
            BatchNorm2d(inner),
            nn.ReLU(inplace=True),
        )
        self.attention = nn.Conv2d(inner, 1, 1)
        self.prediction = nn.Conv2d(inner, 1, 1)

    def forward(self, x: Tensor, side_outputs: bool = False) -> tuple[Tensor, Tensor | None]:
        """x (B, C, h, w) -> x weighted by the attention, and the edge logit (B, 1, h, w).

        The logit is None without `side_outputs`.
        """
        features = self.features(x)
        prediction = self.prediction(features) if side_outputs else None
        attention = torch.sigmoid(self.attention(features))
        return x * attention, prediction
