"""Decoder blocks for inference: BatchNorm folded, branches projected while their values are in the cache."""


import torch
from torch import Tensor, nn

from models.fast.algebra import compose, conv, fold, linear, project, split, weights
from models.modules.attention import ASPP, BRANCH_CHANNELS, ASPPDeformable, Branch
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

STRIP = 3  # pixels at a border that decide the outermost one after two 3x3 convolutions


class DeformableBranch(nn.Module):
    """Deformable convolution, BatchNorm and ReLU, then its share of the projection, block of pixels after block."""

    def __init__(self, branch: Branch, projection: Tensor) -> None:
        super().__init__()
        layer: DeformableConv2d = branch.conv
        offset, modulator = weights(layer.offset_conv), weights(layer.modulator_conv)
        self.predictor = conv(*(torch.cat(pair) for pair in zip(offset, modulator, strict=True)), layer.offset_conv)
        weight, bias = weights(layer.regular_conv, branch.bn)
        self.kernel = weight.shape[-1]
        doubled = weight_matrix(2 * weight)  # modulation is 2 * sigmoid
        self.weight = nn.Parameter(doubled.to(layer.regular_conv.weight), False)
        self.bias = nn.Parameter(bias.to(self.weight), False)
        self.projection = nn.Parameter(projection.to(self.weight), False)

    def add_to(self, out: Tensor, x: Tensor, rows: Tensor | None) -> None:
        """Adds the branch of x (B, C, H, W) to out (B * H * W, O); `rows` are x's bordered rows, on a CPU."""
        taps = self.kernel ** 2
        offset, modulation = self.predictor(x.float()).split((2 * taps, taps), 1)
        modulation = modulation.sigmoid()
        if rows is None:
            weight = self.weight.unflatten(1, (self.kernel, self.kernel, -1)).permute(0, 3, 1, 2)
            values = deform_conv2d(x, offset, modulation, weight) + self.bias[:, None, None]
            out.addmm_(pixel_rows(values.relu_()), self.projection.T)
            return
        for block, samples in sample_blocks(x, offset, modulation, len(self.weight)):
            columns = samples.gather(rows).view(-1, self.weight.shape[1]).to(self.weight.dtype)
            values = linear(columns, self.weight, self.bias, 'relu')
            out[block] += linear(values, self.projection)


class PlainBranch(nn.Module):
    """Convolution, BatchNorm and ReLU, then its share of the projection."""

    def __init__(self, branch: Branch, projection: Tensor) -> None:
        super().__init__()
        self.conv = fold(branch.conv, branch.bn)
        self.projection = nn.Parameter(projection.to(self.conv.weight), False)

    def add_to(self, out: Tensor, x: Tensor, rows: Tensor | None) -> None:
        """As DeformableBranch.add_to."""
        out.addmm_(pixel_rows(self.conv(x).relu_()), self.projection.T)


class FastPooling(nn.Module):
    """ASPP or ASPPDeformable in eval mode, without the concatenation of its branches."""

    def __init__(self, pooling: ASPP | ASPPDeformable) -> None:
        super().__init__()
        self.deformable = isinstance(pooling, ASPPDeformable)
        others = pooling.deformable if self.deformable else pooling.atrous
        weight, bias = weights(pooling.project, pooling.project_bn)
        *shares, pooled = weight[:, :, 0, 0].split(BRANCH_CHANNELS, 1)
        kind = DeformableBranch if self.deformable else PlainBranch
        self.branches = nn.ModuleList(
            (kind if isinstance(branch.conv, DeformableConv2d) else PlainBranch)(branch, share)
            for branch, share in zip((pooling.pointwise, *others), shares, strict=True))
        self.pooled = fold(pooling.pooled.conv, pooling.pooled.bn)
        like = nn.utils.skip_init(nn.Conv2d, 1, 1, 1).to(pooling.project.weight)
        self.project_pooled = conv(pooled[..., None, None], bias, like)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W), channels last."""
        batch, _, height, width = x.shape
        start = self.project_pooled(self.pooled(x.mean((2, 3), keepdim=True)).relu_())
        out = start.permute(0, 2, 3, 1).expand(-1, height, width, -1).reshape(batch * height * width, -1).contiguous()
        rows = bordered_rows(x.float()) if self.deformable and x.device.type == 'cpu' else None
        for branch in self.branches:
            branch.add_to(out, x, rows)
        return out.relu_().view(batch, height, width, -1).permute(0, 3, 1, 2)


class FastBlock(nn.Module):
    """A decoder block in eval mode, of a map and its inward reference apart; optionally with a 1x1 head behind it."""

    def __init__(self, block: BasicDecBlk, channels: int, head: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.conv_in, self.conv_reference = split(fold(block.conv_in, block.bn_in), channels)
        self.attention = fast_pooling(block.attention)
        self.conv_out = fold(block.conv_out, block.bn_out)
        residual = getattr(block, 'residual', None)
        if head is not None:
            self.conv_out = project(self.conv_out, *head)
            residual = project(residual, head[0]) if residual is not None else None
        self.residual, self.residual_reference = split(residual, channels) if residual is not None else (None, None)

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        """x (B, C, h, w), reference (B, R, h, w) -> (B, out, h, w)."""
        y = _sum_of(self.conv_in(x), self.conv_reference, reference).relu_()
        y = self.conv_out(self.attention(y))
        if self.residual is not None:
            y += _sum_of(self.residual(x), self.residual_reference, reference)
        return y


def _sum_of(y: Tensor, layer: nn.Module | None, x: Tensor | None) -> Tensor:
    return y if layer is None else y.add_(layer(x))


def fast_pooling(module: nn.Module) -> nn.Module:
    """ASPP and ASPPDeformable made fast, anything else as it is."""
    return FastPooling(module) if isinstance(module, ASPP | ASPPDeformable) else module


class FastReference(nn.Module):
    """The two convolutions of an inward reference, as one of 5x5 where that is cheaper."""

    def __init__(self, reference: InwardReference, head: Tensor | None = None) -> None:
        super().__init__()
        self.conv_in = fold(reference.conv_in)
        self.conv_out = fold(reference.conv_out) if head is None else project(reference.conv_out, head)
        inner, ins, outs = self.conv_in.out_channels, self.conv_in.in_channels, self.conv_out.out_channels
        self.both = compose(self.conv_in, self.conv_out) if 25 * ins * outs < 9 * inner * (ins + outs) else None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        if self.both is None or min(x.shape[2:]) < 2 * STRIP:
            return self._in_turn(x)
        y = self.both(x)
        y[:, :, :1] = self._in_turn(x[:, :, :STRIP])[:, :, :1]
        y[:, :, -1:] = self._in_turn(x[:, :, -STRIP:])[:, :, -1:]
        y[..., :1] = self._in_turn(x[..., :STRIP])[..., :1]
        y[..., -1:] = self._in_turn(x[..., -STRIP:])[..., -1:]
        return y

    def _in_turn(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv_in(x))


class FastOutward(nn.Module):
    """Attention of the outward reference, in place."""

    def __init__(self, outward: OutwardReference) -> None:
        super().__init__()
        self.features = fold(outward.features[0], outward.features[1])
        self.attention = fold(outward.attention)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w), changed in place and returned."""
        return x.mul_(self.attention(self.features(x).relu_()).sigmoid_())
