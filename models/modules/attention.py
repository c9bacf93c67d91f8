"""Attention inside the decoder blocks: atrous spatial pyramid pooling, plain and deformable (BiRefNet, section 3.2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.modules.deform_conv import DeformableConv2d
from models.modules.norm import BatchNorm2d
from models.modules.recompute import recomputed

BRANCH_CHANNELS = 256


class Branch(nn.Module):
    """Convolution, BatchNorm, ReLU, and the branch's share of the projection."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = BatchNorm2d(BRANCH_CHANNELS)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        """x (B, C, H, W), weights of the share (O, 256, 1, 1) -> (B, O, H, W).

        Only the convolution's output is kept for the backward pass: these maps are the widest of the decoder.
        """
        return recomputed(self, self._project, self.conv(x), share)

    def _project(self, x: Tensor, share: Tensor) -> Tensor:
        return F.conv2d(self.relu(self.bn(x)), share)


class PooledBranch(Branch):
    """Branch on the global average."""

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        """x (B, C, H, W), weights of the share (O, 256, 1, 1) -> (B, O, 1, 1)."""
        return super().forward(x.mean((2, 3), keepdim=True), share)


class _PyramidPooling(nn.Module):
    """A pointwise branch, `branches` more, and the pooled one, concatenated in that order and projected.

    The projection is summed branch by branch, so that the concatenation is never built.
    """

    def __init__(self, in_channels: int, out_channels: int, pointwise: nn.Module, branches: int) -> None:
        super().__init__()
        self.pointwise = Branch(pointwise)
        self.pooled = PooledBranch(nn.Conv2d(in_channels, BRANCH_CHANNELS, 1, bias=False))
        self.project = nn.Conv2d(BRANCH_CHANNELS * (branches + 2), out_channels, 1, bias=False)
        self.project_bn = BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(.5)

    def _fuse(self, x: Tensor, branches: nn.ModuleList) -> Tensor:
        shares = self.project.weight.split(BRANCH_CHANNELS, 1)
        projected = [branch(x, share)
                     for branch, share in zip((self.pointwise, *branches, self.pooled), shares, strict=True)]
        return self.dropout(self.relu(self.project_bn(sum(projected[1:], projected[0]))))


class ASPP(_PyramidPooling):
    """Atrous spatial pyramid pooling (Chen 2017): a 1x1 and dilated 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int] = (6, 12, 18)) -> None:
        super().__init__(in_channels, out_channels, nn.Conv2d(in_channels, BRANCH_CHANNELS, 1, bias=False),
                         len(dilations))
        self.atrous = nn.ModuleList(
            Branch(nn.Conv2d(in_channels, BRANCH_CHANNELS, 3, padding=d, dilation=d, bias=False)) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        return self._fuse(x, self.atrous)


class ASPPDeformable(_PyramidPooling):
    """ASPP whose branches are modulated deformable convolutions: one of kernel 1, then one for each of `kernels`."""

    def __init__(self, in_channels: int, out_channels: int, kernels: Sequence[int] = (1, 3, 7)) -> None:
        super().__init__(in_channels, out_channels, DeformableConv2d(in_channels, BRANCH_CHANNELS, 1), len(kernels))
        self.deformable = nn.ModuleList(Branch(DeformableConv2d(in_channels, BRANCH_CHANNELS, k)) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        return self._fuse(x, self.deformable)
