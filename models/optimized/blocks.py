"""Decoder blocks for inference: BatchNorm folded, branches projected while in the cache."""

from typing import Any

import torch
from torch import Tensor, nn

from models.modules.attention import BRANCH_CHANNELS, ASPPDeformable, Branch, PyramidPooling
from models.modules.blocks import BasicDecBlk
from models.modules.deform_conv import (
    DeformableConv2d,
    bordered_rows,
    deform_conv2d,
    pixel_rows,
    sample_blocks,
    weight_matrix,
)
from models.modules.reference import InwardReference, OutwardReference
from models.optimized.algebra import (
    append_pointwise,
    fold_batchnorm,
    folded_weights,
    linear,
    make_conv,
    merge_3x3,
    split_conv,
)

BORDER = 3  # pixels at a border that decide the outermost one after two 3x3 convolutions


class FastDeformableBranch(nn.Module):
    """Deformable convolution, BatchNorm, ReLU and projection, block of pixels after block."""

    def __init__(self, branch: Branch, projection: Tensor) -> None:
        super().__init__()
        layer = branch.conv
        assert isinstance(layer, DeformableConv2d)

        # Offsets and modulation are predicted by one convolution.
        offset_weight, offset_bias = folded_weights(layer.offset_conv)
        modulator_weight, modulator_bias = folded_weights(layer.modulator_conv)
        self.predictor = make_conv(
            torch.cat((offset_weight, modulator_weight)),
            torch.cat((offset_bias, modulator_bias)),
            layer.offset_conv,
        )

        # The deformable convolution with its norm, as a matrix.
        weight, bias = folded_weights(layer.regular_conv, branch.bn)
        self.kernel = weight.shape[-1]
        doubled = weight_matrix(2 * weight)  # modulation is 2 * sigmoid
        self.weight = nn.Parameter(doubled.to(layer.regular_conv.weight), False)
        self.bias = nn.Parameter(bias.to(self.weight), False)
        self.projection = nn.Parameter(projection.to(self.weight), False)

    def add_to(self, out: Tensor, x: Tensor, rows: Tensor | None) -> None:
        """Adds the projected branch of x (B, C, H, W) to out (B * H * W, O).

        `rows` are the bordered rows of x, on a CPU; None elsewhere.
        """
        taps = self.kernel ** 2
        offset, modulation = self.predictor(x.float()).split((2 * taps, taps), 1)
        modulation = modulation.sigmoid()
        if rows is None:
            self._add_by_operator(out, x, offset, modulation)
        else:
            self._add_by_blocks(out, x, offset, modulation, rows)

    def _add_by_operator(self, out: Tensor, x: Tensor, offset: Tensor, modulation: Tensor) -> None:
        """Computes the whole map at once, as a GPU can."""
        taps_apart = self.weight.unflatten(1, (self.kernel, self.kernel, -1))
        weight = taps_apart.permute(0, 3, 1, 2)
        values = deform_conv2d(x, offset, modulation, weight)
        values = values + self.bias[:, None, None]
        activated = pixel_rows(values.relu_())
        out.addmm_(activated, self.projection.T)

    def _add_by_blocks(
        self,
        out: Tensor,
        x: Tensor,
        offset: Tensor,
        modulation: Tensor,
        rows: Tensor,
    ) -> None:
        """Computes one block of pixels after the other, whose values stay in the cache."""
        outs, width = self.weight.shape
        for block, samples in sample_blocks(x, offset, modulation, outs):
            columns = samples.gather(rows)
            columns = columns.view(-1, width).to(self.weight.dtype)
            values = linear(columns, self.weight, self.bias, 'relu')
            out[block] += linear(values, self.projection)


class FastPlainBranch(nn.Module):
    """Convolution, BatchNorm, ReLU and projection."""

    def __init__(self, branch: Branch, projection: Tensor) -> None:
        super().__init__()
        assert isinstance(branch.conv, nn.Conv2d)
        self.conv = fold_batchnorm(branch.conv, branch.bn)
        self.projection = nn.Parameter(projection.to(self.conv.weight), False)

    def add_to(self, out: Tensor, x: Tensor, rows: Tensor | None) -> None:
        """As FastDeformableBranch.add_to."""
        values = self.conv(x).relu_()
        out.addmm_(pixel_rows(values), self.projection.T)


def _fast_branch(branch: Branch, projection: Tensor) -> nn.Module:
    """The fast form of a branch, with the columns (O, 256) of the projection that read it."""
    if isinstance(branch.conv, DeformableConv2d):
        return FastDeformableBranch(branch, projection)
    return FastPlainBranch(branch, projection)


class FastPooling(nn.Module):
    """ASPP or ASPPDeformable in eval mode, without the concatenation of its branches."""

    def __init__(self, pooling: PyramidPooling) -> None:
        super().__init__()
        self.deformable = isinstance(pooling, ASPPDeformable)
        weight, bias = folded_weights(pooling.project, pooling.project_bn)
        matrix = weight[:, :, 0, 0]
        *projections, pooled_projection = matrix.split(BRANCH_CHANNELS, 1)

        # Each branch has the columns of the projection that read it.
        self.branches = nn.ModuleList()
        branches = (pooling.pointwise, *pooling.spatial_branches)
        for branch, projection in zip(branches, projections, strict=True):
            self.branches.append(_fast_branch(branch, projection))

        # The pooled branch brings the projection's bias along.
        assert isinstance(pooling.pooled.conv, nn.Conv2d)
        self.pooled = fold_batchnorm(pooling.pooled.conv, pooling.pooled.bn)
        like = nn.utils.skip_init(nn.Conv2d, 1, 1, 1).to(pooling.project.weight)
        self.project_pooled = make_conv(pooled_projection[..., None, None], bias, like)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W), channels last."""
        batch, _, height, width = x.shape

        # The pooled branch, the same for all pixels of an image, is what the others are added to.
        average = x.mean((2, 3), keepdim=True)
        pooled = self.pooled(average).relu_()
        projected = self.project_pooled(pooled).permute(0, 2, 3, 1)
        everywhere = projected.expand(-1, height, width, -1)
        out = everywhere.reshape(batch * height * width, -1).contiguous()

        # All deformable branches sample from the same rows.
        rows = None
        if self.deformable and x.device.type == 'cpu':
            rows = bordered_rows(x.float())
        branch: Any  # a ModuleList does not say what it holds
        for branch in self.branches:
            branch.add_to(out, x, rows)
        pixels = out.relu_().view(batch, height, width, -1)
        return pixels.permute(0, 3, 1, 2)


def fast_pooling(module: nn.Module) -> nn.Module:
    """ASPP and ASPPDeformable made fast, anything else as it is."""
    return FastPooling(module) if isinstance(module, PyramidPooling) else module


class FastBlock(nn.Module):
    """A decoder block in eval mode, of a map and its inward reference apart.

    `channels` are the map's; `head`, (weight (O, out), bias (O,)), is a 1x1 convolution behind it.
    """

    def __init__(
        self,
        block: BasicDecBlk,
        channels: int,
        head: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        conv_in = fold_batchnorm(block.conv_in, block.bn_in)
        self.conv_in, self.conv_reference = split_conv(conv_in, channels)
        self.attention = fast_pooling(block.attention)
        self.conv_out = fold_batchnorm(block.conv_out, block.bn_out)

        # A head joins what it reads: the last convolution, and the residual one beside it.
        residual = getattr(block, 'residual', None)
        if head is not None:
            weight, bias = head
            self.conv_out = append_pointwise(self.conv_out, weight, bias)
            if residual is not None:
                residual = append_pointwise(residual, weight)

        self.residual = self.residual_reference = None
        if residual is not None:
            self.residual, self.residual_reference = split_conv(residual, channels)

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        """x (B, C, h, w), reference (B, R, h, w) -> (B, out, h, w)."""
        y = self.conv_in(x)
        y = _add(y, self.conv_reference, reference)
        y = self.attention(y.relu_())
        y = self.conv_out(y)
        if self.residual is not None:
            residual = self.residual(x)
            y += _add(residual, self.residual_reference, reference)
        return y


def _add(y: Tensor, layer: nn.Module | None, x: Tensor | None) -> Tensor:
    """y + layer(x), in place; y without a layer."""
    return y if layer is None else y.add_(layer(x))


class FastReference(nn.Module):
    """The two 3x3 convolutions of an inward reference, fused to one of 5x5 where that is cheaper.

    `head` (O, out) is a 1x1 convolution behind them.
    """

    def __init__(self, reference: InwardReference, head: Tensor | None = None) -> None:
        super().__init__()
        self.conv_in = fold_batchnorm(reference.conv_in)
        self.conv_out = fold_batchnorm(reference.conv_out)
        if head is not None:
            self.conv_out = append_pointwise(reference.conv_out, head)

        # Multiplications a pixel decide.
        ins = self.conv_in.in_channels
        inner = self.conv_in.out_channels
        outs = self.conv_out.out_channels
        cost_of_two = 9 * inner * (ins + outs)
        cost_of_one = 25 * ins * outs
        self.fused = None
        if cost_of_one < cost_of_two:
            self.fused = merge_3x3(self.conv_in, self.conv_out)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        if self.fused is None or min(x.shape[2:]) < 2 * BORDER:
            return self._in_turn(x)
        # The fused convolution is wrong in the outermost pixels, which are computed again.
        y = self.fused(x)
        for axis in (2, 3):
            length = x.shape[axis]
            first_pixels = x.narrow(axis, 0, BORDER)
            start = self._in_turn(first_pixels)
            y.select(axis, 0).copy_(start.select(axis, 0))

            last_pixels = x.narrow(axis, length - BORDER, BORDER)
            end = self._in_turn(last_pixels)
            y.select(axis, -1).copy_(end.select(axis, -1))
        return y

    def _in_turn(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv_in(x))


class FastOutward(nn.Module):
    """Attention of the outward reference, in place."""

    def __init__(self, outward: OutwardReference) -> None:
        super().__init__()
        conv, norm, _ = outward.features
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        self.features = fold_batchnorm(conv, norm)
        self.attention = fold_batchnorm(outward.attention)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w), changed in place and returned."""
        features = self.features(x).relu_()
        return x.mul_(self.attention(features).sigmoid_())
