"""Decoder blocks: two 3x3 convolutions with attention between them, plain and residual."""

from collections.abc import Callable

from torch import Tensor, nn

from models.modules.norm import BatchNorm2d

AttentionFactory = Callable[[int, int], nn.Module]


class BasicDecBlk(nn.Module):
    """3x3 convolution to the inner width, BatchNorm, ReLU, attention, 3x3 convolution, BatchNorm.

    `inner` is the inner width (None: a quarter of the input). `attention` builds a module from
    (in, out) channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        inner: int | None = 64,
        attention: AttentionFactory | None = None,
    ) -> None:
        super().__init__()
        inner = inner or in_channels // 4
        self.conv_in = nn.Conv2d(in_channels, inner, 3, padding=1)
        self.bn_in = BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.attention = attention(inner, inner) if attention else nn.Identity()
        self.conv_out = nn.Conv2d(inner, out_channels, 3, padding=1)
        self.bn_out = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        x = self.conv_in(x)
        x = self.relu(self.bn_in(x))
        x = self.attention(x)
        return self.bn_out(self.conv_out(x))


class ResBlk(BasicDecBlk):
    """BasicDecBlk plus a 1x1 convolution of its input."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        inner: int | None = 64,
        attention: AttentionFactory | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, inner, attention)
        self.residual = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        return super().forward(x) + self.residual(x)
