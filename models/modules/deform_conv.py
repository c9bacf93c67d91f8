"""Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", CVPR 2019, eq. 1), quick on a CPU too.

torchvision's CPU kernel samples on one core and fills a buffer with all columns, k*k*C*H*W values. Here a bilinear
sample is a bag of four weighted rows of the (pixels, C) map, which `embedding_bag` sums on all cores, and one block of
pixels is sampled at a time, so that its columns stay in the processor's cache until they meet the weight. The backward
pass samples again instead of keeping the columns.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor, nn

from models.modules.tracing import is_exporting

# Values in the columns of one block: many enough for the full speed of the matrix product, few enough for a cache.
BLOCK_VALUES = 1 << 22
# The gradient of embedding_bag's weights: private to PyTorch, so that a release may lack it. It only saves time.
BAG_GRADIENT = getattr(torch.ops.aten, '_embedding_bag_per_sample_weights_backward', None)


def deform_conv2d(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """Modulated deformable convolution: stride 1, dilation 1, padding k // 2 for odd k; zero outside the map.

    `x` (B, C, H, W), `offset` (B, 2*k*k, H, W) in pixels, y before x for each tap, `modulation` (B, k*k, H, W),
    `weight` (O, C, k, k) -> (B, O, H, W) in the dtype of `x`. Equal to torchvision's operator, gradients included.
    16-bit inputs are computed in float32, because positions need more bits (torchvision does so under autocast).
    """
    args = (x, offset, modulation, weight)
    if any(arg.dtype in (torch.float16, torch.bfloat16) for arg in args):
        return deform_conv2d(*(arg.float() for arg in args)).to(x.dtype)
    # torchvision's backward pass adds in any order on a GPU.
    own = x.device.type == 'cpu' or (x.device.type == 'cuda' and torch.are_deterministic_algorithms_enabled())
    # Exporters know torchvision's operator and lower it to ONNX DeformConv.
    if own and not (is_exporting() or torch.jit.is_tracing()):
        return _deform_conv2d(*args)
    padding = int(weight.shape[-1]) // 2  # under torch.jit.trace a size is a tensor
    return torchvision.ops.deform_conv2d(x, offset, weight, mask=modulation, padding=padding)


class DeformableConv2d(nn.Module):
    """Deformable convolution that predicts its offsets and its modulation, 2 * sigmoid, by convolutions of its input.

    `kernel_size` is odd. It starts as an ordinary convolution: no offsets, modulation 1.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        taps, padding = kernel_size**2, kernel_size // 2
        self.offset_conv = nn.Conv2d(in_channels, 2 * taps, kernel_size, padding=padding)
        self.modulator_conv = nn.Conv2d(in_channels, taps, kernel_size, padding=padding)
        self.regular_conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        for parameter in (*self.offset_conv.parameters(), *self.modulator_conv.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        offset = self.offset_conv(x)
        modulation = 2 * self.modulator_conv(x).sigmoid()
        return deform_conv2d(x, offset, modulation, self.regular_conv.weight)


# Custom operators, not an autograd.Function: torch.compile takes them as they are instead of tracing the loops.
# Their matrix products write in place, which autocast leaves alone. They are named after this module: copies of it,
# as in exported folders, may be loaded beside it.
NAMESPACE = re.sub(r'\W', '_', __name__)
DEVICES = ('cpu', 'cuda')


@torch.library.custom_op(f'{NAMESPACE}::deform_conv2d', mutates_args=(), device_types=DEVICES)
def _deform_conv2d(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    rows, matrix = bordered_rows(x), weight_matrix(weight)
    out = _empty_map(x, len(weight))
    for block, samples in sample_blocks(x, offset, modulation):
        columns = samples.gather(rows).view(-1, matrix.shape[1])
        torch.mm(columns, matrix.T, out=pixel_rows(out)[block])
    return out


@torch.library.custom_op(f'{NAMESPACE}::deform_conv2d_backward', mutates_args=(), device_types=DEVICES)
def _deform_conv2d_backward(grad: Tensor, x: Tensor, offset: Tensor, modulation: Tensor,
                            weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four inputs, from the output's."""
    rows, matrix, grad = bordered_rows(x), weight_matrix(weight), pixel_rows(grad)
    grad_rows, grad_matrix = torch.zeros_like(rows), torch.zeros_like(matrix)
    grad_offset, grad_modulation = _empty_map(x, offset.shape[1]), _empty_map(x, modulation.shape[1])
    for block, samples in sample_blocks(x, offset, modulation):
        columns = samples.gather(rows).view(-1, matrix.shape[1])
        grad_matrix.addmm_(grad[block].T, columns)
        grad_columns = torch.mm(grad[block], matrix, out=columns).view(-1, rows.shape[1])
        samples.scatter_(grad_rows, grad_columns)
        grad_position, grad_amount = samples.gradients(rows, grad_columns)
        pixel_rows(grad_offset)[block] = grad_position.view(-1, offset.shape[1])
        pixel_rows(grad_modulation)[block] = grad_amount.view(-1, modulation.shape[1])
    (batch, channels, height, width), kernel = x.shape, weight.shape[2:]
    grad_x = grad_rows.view(batch, height + 2, width + 2, channels)[:, 1:-1, 1:-1].contiguous()
    grad_weight = grad_matrix.view(len(weight), *kernel, channels)
    return grad_x.permute(0, 3, 1, 2), grad_offset, grad_modulation, grad_weight.permute(0, 3, 1, 2)


@_deform_conv2d.register_fake
def _(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    return _empty_map(x, len(weight))


@_deform_conv2d_backward.register_fake
def _(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(_empty_map(t, t.shape[1]) for t in inputs)


_deform_conv2d.register_autograd(
    lambda ctx, grad: _deform_conv2d_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


def _empty_map(like: Tensor, channels: int) -> Tensor:
    """(B, channels, H, W) for a `like` of (B, C, H, W), with each pixel's channels side by side in memory."""
    batch, _, height, width = like.shape
    return like.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def pixel_rows(t: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C); a view if each pixel's channels lie side by side in memory."""
    return t.permute(0, 2, 3, 1).reshape(-1, t.shape[1])


def bordered_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*(H+2)*(W+2), C): a row for each pixel, and rows of zeros for a border one pixel wide."""
    batch, channels, height, width = x.shape
    bordered = x.new_zeros(batch, height + 2, width + 2, channels)
    bordered[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    return bordered.view(-1, channels)


def weight_matrix(weight: Tensor) -> Tensor:
    """(O, C, k, k) -> (O, k*k*C), tap after tap as in the columns."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


class _Samples(NamedTuple):
    """Where the N samples of a block of pixels lie, tap after tap for each pixel. Corners: the upper two, the lower."""

    corner: Tensor  # (N,) int32, the upper left corner's row in the bordered map
    shifts: tuple[int, int, int, int]  # from there to each corner's row
    weights: tuple[Tensor, Tensor, Tensor, Tensor]  # (N,) each: a corner's bilinear weight times the modulation
    down: Tensor  # (N,) way from the upper to the lower corners, 0..1
    right: Tensor  # (N,) way from the left to the right corners, 0..1
    slope_y: Tensor  # (N,) modulation where y matters, 0 where it is off the map
    slope_x: Tensor  # (N,) likewise

    def corners(self) -> Tensor:
        """(N, 4) rows of all corners."""
        return torch.stack([self.corner + shift for shift in self.shifts], 1)

    def gather(self, rows: Tensor) -> Tensor:
        """Values (N, C) of the samples, times their modulation."""
        return F.embedding_bag(self.corners(), rows, mode='sum', per_sample_weights=torch.stack(self.weights, 1))

    def scatter_(self, rows: Tensor, values: Tensor) -> None:
        """Transpose of `gather`: adds `values` (N, C) to `rows`. Sorted by corner, samples are the bags' contents."""
        corner, order = self.corner.sort()
        first = int(corner[0])
        counts = torch.bincount(corner - first)
        starts = counts.cumsum(0) - counts
        for shift, weight in zip(self.shifts, self.weights, strict=True):
            rows[first + shift:first + shift + len(counts)] += F.embedding_bag(
                order, values, starts, mode='sum', per_sample_weights=weight[order])

    def gradients(self, rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the positions (N, 2), y before x, and of the modulation (N,), from that of the values (N, C)."""
        upper_left, upper_right, lower_left, lower_right = _products(grad, rows, self.corners()).unbind(1)
        upper, lower = torch.lerp(upper_left, upper_right, self.right), torch.lerp(lower_left, lower_right, self.right)
        across = torch.lerp(upper_right - upper_left, lower_right - lower_left, self.down)
        positions = torch.stack(((lower - upper) * self.slope_y, across * self.slope_x), 1)
        return positions, torch.lerp(upper, lower, self.down)


def _products(grad: Tensor, rows: Tensor, corners: Tensor) -> Tensor:
    """Scalar products (N, 4) of each row of `grad` (N, C) with the `rows` (R, C) that `corners` (N, 4) names."""
    if BAG_GRADIENT is None:
        return torch.stack([(rows[corner] * grad).sum(1) for corner in corners.unbind(1)], 1)
    bags = torch.arange(len(grad), dtype=corners.dtype, device=grad.device)
    return BAG_GRADIENT(grad, rows, corners.view(-1), 4 * bags, bags.repeat_interleave(4), 0).view(-1, 4)


def sample_blocks(x: Tensor, offset: Tensor, modulation: Tensor, width: int = 0) -> Iterator[tuple[slice, _Samples]]:
    """The samples of one block of the B*H*W pixels after the other, for use in rows of at most `width` values."""
    (_, channels, height, width), taps = x.shape, modulation.shape[1]
    offset, modulation = pixel_rows(offset), pixel_rows(modulation)
    step = max(1, BLOCK_VALUES // max(taps * channels, width))
    for start in range(0, len(offset), step):
        block = slice(start, min(start + step, len(offset)))
        pixel = torch.arange(block.start, block.stop, device=x.device)[:, None]
        yield block, _locate(pixel, offset[block], modulation[block], height, width)


def _locate(pixel: Tensor, offset: Tensor, modulation: Tensor, height: int, width: int) -> _Samples:
    """Samples of the pixels numbered `pixel` (P, 1) in a batch of maps; `offset` (P, 2*k*k), `modulation` (P, k*k)."""
    tap, kernel = torch.arange(modulation.shape[1], device=pixel.device), math.isqrt(modulation.shape[1])
    top, down, inside_y = _split(offset[:, ::2] + (pixel // width % height + tap // kernel - kernel // 2), height)
    left, right, inside_x = _split(offset[:, 1::2] + (pixel % width + tap % kernel - kernel // 2), width)

    stride = width + 2
    origin = pixel // (height * width) * (height + 2) * stride + stride + 1  # row of the image's first pixel
    corner = top.int() * stride + left.int() + origin.int()
    lower = modulation * down
    upper = modulation - lower
    lower_right, upper_right = lower * right, upper * right
    weights = (upper - upper_right, upper_right, lower - lower_right, lower_right)
    return _Samples(corner.flatten(), (0, 1, stride, stride + 1), tuple(weight.flatten() for weight in weights),
                    down.flatten(), right.flatten(), (modulation * inside_y).flatten(),
                    (modulation * inside_x).flatten())


def _split(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the pixel at or before each position, -1..size-1, the way from there to the next, and whether it is so.

    Of a position that is farther off the map, the two name a place on the border instead, where all is zero. The index
    is one for NaN too, so that NaN spreads by values and not by a failing access.
    """
    floor = position.floor()
    first = floor.clamp(-1, size - 1).nan_to_num_(-1)
    return first, (position - first).clamp_(0, 1), floor == first
