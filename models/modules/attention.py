"""Attention in the decoder blocks: ASPP, plain and deformable (BiRefNet, section 3.2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.modules.checkpointing import checkpointed_part
from models.modules.deform_conv import DeformableConv2d
from models.modules.norm import BatchNorm2d

BRANCH_CHANNELS = 256


class Branch(nn.Module):
    """Convolution, BatchNorm, ReLU; then the part of ASPP's projection that reads this branch."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = BatchNorm2d(BRANCH_CHANNELS)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, projection_weight: Tensor) -> Tensor:
        """x (B, C, H, W), projection_weight (O, 256, 1, 1) -> (B, O, H, W).

        Only the convolution's map is kept for the backward pass, which computes the others again.
        """
        return checkpointed_part(self, self._project, self.conv(x), projection_weight)

    def _project(self, x: Tensor, projection_weight: Tensor) -> Tensor:
        x = self.relu(self.bn(x))
        return F.conv2d(x, projection_weight)


class PooledBranch(Branch):
    """Branch on the global average."""

    def forward(self, x: Tensor, projection_weight: Tensor) -> Tensor:
        """x (B, C, H, W), projection_weight (O, 256, 1, 1) -> (B, O, 1, 1)."""
        average = x.mean((2, 3), keepdim=True)
        return super().forward(average, projection_weight)


def concatenate_and_project(branches: Sequence[Branch], x: Tensor, projection: nn.Conv2d) -> Tensor:
    """Projects the concatenated maps of all branches by a 1x1 convolution.

    With `map_of(branch)` for a branch's map of x after its ReLU, this is

        projection(torch.cat([map_of(branch) for branch in branches], 1))

    The maps are the widest of the decoder, five times 256 channels. So that they are neither
    concatenated nor kept for the backward pass, each branch is projected by its own part of the
    weight, and the projections are added. Of the 890 MB that training kept for the backward pass
    (pvt_v2_b0, batch 4 at 256x256), this saves 198 (benchmarks/LOG.md).
    """
    weights = projection.weight.split(BRANCH_CHANNELS, 1)

    # One after the other, so that no more than one projection lies beside the sum.
    first, *others = branches
    total = first(x, weights[0])
    for branch, weight in zip(others, weights[1:], strict=True):
        total = total + branch(x, weight)
    return total


class PyramidPooling(nn.Module):
    """Concatenates a pointwise branch, `branches` more and a pooled one; projects them (1x1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        pointwise: nn.Module,
        branches: int,
    ) -> None:
        super().__init__()
        self.pointwise = Branch(pointwise)
        self.pooled = PooledBranch(nn.Conv2d(in_channels, BRANCH_CHANNELS, 1, bias=False))
        self.project = nn.Conv2d(BRANCH_CHANNELS * (branches + 2), out_channels, 1, bias=False)
        self.project_bn = BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(.5)

    @property
    def spatial_branches(self) -> nn.ModuleList:
        """The branches between the pointwise and the pooled one."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        branches = (self.pointwise, *self.spatial_branches, self.pooled)
        x = concatenate_and_project(branches, x, self.project)
        x = self.relu(self.project_bn(x))
        return self.dropout(x)


class ASPP(PyramidPooling):
    """Atrous spatial pyramid pooling (Chen 2017): a 1x1 and dilated 3x3 convolutions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int] = (6, 12, 18),
    ) -> None:
        pointwise = nn.Conv2d(in_channels, BRANCH_CHANNELS, 1, bias=False)
        super().__init__(in_channels, out_channels, pointwise, len(dilations))
        self.atrous = nn.ModuleList()
        for dilation in dilations:
            conv = nn.Conv2d(
                in_channels,
                BRANCH_CHANNELS,
                3,
                padding=dilation,
                dilation=dilation,
                bias=False,
            )
            self.atrous.append(Branch(conv))

    @property
    def spatial_branches(self) -> nn.ModuleList:
        """The dilated convolutions."""
        return self.atrous


class ASPPDeformable(PyramidPooling):
    """ASPP of modulated deformable convolutions: one of kernel 1, then one for each kernel."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[int] = (1, 3, 7),
    ) -> None:
        pointwise = DeformableConv2d(in_channels, BRANCH_CHANNELS, 1)
        super().__init__(in_channels, out_channels, pointwise, len(kernels))
        self.deformable = nn.ModuleList()
        for kernel in kernels:
            conv = DeformableConv2d(in_channels, BRANCH_CHANNELS, kernel)
            self.deformable.append(Branch(conv))

    @property
    def spatial_branches(self) -> nn.ModuleList:
        """The deformable convolutions."""
        return self.deformable
