"""Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", CVPR 2019, eq. 1), quick on a CPU too.

torchvision's CPU kernel samples on one core and fills a buffer with all columns, k*k*C*H*W values. Here a bilinear sample is a
bag of four weighted rows of the (pixels, C) map, which `embedding_bag` sums on all cores, and one block of pixels is sampled at a
time, so that its columns stay in the processor's cache until they meet the weight. The backward pass samples again instead of
keeping the columns.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor, nn

# Values in the columns of one block: many enough for the full speed of the matrix product, few enough for a cache.
BLOCK_VALUES = 1 << 22


def deform_conv2d(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """Modulated deformable convolution: stride 1, dilation 1, padding k // 2 for odd k; zero outside the map.

    `x` (B, C, H, W), `offset` (B, 2*k*k, H, W) in pixels, y before x for each tap, `modulation` (B, k*k, H, W),
    `weight` (O, C, k, k) -> (B, O, H, W) in the dtype of `x`. Equal to torchvision's operator, gradients included; 16-bit
    inputs are computed in float32, because positions need more than 16 bits (torchvision does so under autocast).
    """
    args = (x, offset, modulation, weight)
    if any(arg.dtype in (torch.float16, torch.bfloat16) for arg in args):
        return deform_conv2d(*(arg.float() for arg in args)).to(x.dtype)
    # Exporters know torchvision's operator and lower it to ONNX DeformConv.
    if x.device.type == 'cpu' and not (torch.compiler.is_exporting() or torch.jit.is_tracing()):
        return _deform_conv2d(*args)
    return torchvision.ops.deform_conv2d(x, offset, weight, mask=modulation, padding=weight.shape[-1] // 2)


class DeformableConv2d(nn.Module):
    """Deformable convolution that predicts its offsets and its modulation, 2 * sigmoid, by convolutions of its input.

    (B, in_channels, H, W) -> (B, out_channels, H, W); `kernel_size` is odd. Starts as an ordinary convolution.
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


@torch.library.custom_op('birefnet::deform_conv2d', mutates_args=(), device_types='cpu')
def _deform_conv2d(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    out, rows, matrix = _empty_map(x, len(weight)), _bordered_rows(x), _matrix(weight)
    with torch.autocast('cpu', enabled=False):
        for block, samples in _sample_blocks(x, offset, modulation):
            torch.mm(_columns(rows, samples).view(-1, matrix.shape[1]), matrix.T, out=_pixel_rows(out)[block])
    return out


@torch.library.custom_op('birefnet::deform_conv2d_backward', mutates_args=(), device_types='cpu')
def _deform_conv2d_backward(grad: Tensor, x: Tensor, offset: Tensor, modulation: Tensor,
                            weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, matrix, grad = _bordered_rows(x), _matrix(weight), _pixel_rows(grad)
    grad_rows, grad_matrix = torch.zeros_like(rows), torch.zeros_like(matrix)
    grad_offset, grad_modulation = (_empty_map(x, t.shape[1]) for t in (offset, modulation))
    with torch.autocast('cpu', enabled=False):
        for block, samples in _sample_blocks(x, offset, modulation):
            columns = _columns(rows, samples).view(-1, matrix.shape[1])
            grad_matrix.addmm_(grad[block].T, columns)
            grad_columns = torch.mm(grad[block], matrix, out=columns).view(-1, rows.shape[1])
            _add_to_rows(grad_rows, grad_columns, samples)
            grad_y, grad_x, grad_samples = _sample_gradients(rows, grad_columns, samples)
            _pixel_rows(grad_offset)[block] = torch.stack((grad_y, grad_x), -1).view(len(columns), -1)
            _pixel_rows(grad_modulation)[block] = grad_samples.view(len(columns), -1)
    batch, channels, height, width = x.shape
    grad_map = grad_rows.view(batch, height + 2, width + 2, channels)[:, 1:-1, 1:-1].contiguous()
    grad_weight = grad_matrix.view(len(weight), *weight.shape[2:], channels)
    return grad_map.permute(0, 3, 1, 2), grad_offset, grad_modulation, grad_weight.permute(0, 3, 1, 2)


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
    """(B, channels, H, W) for a `like` of (B, C, H, W), each pixel's channels side by side in memory."""
    batch, _, height, width = like.shape
    return like.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _pixel_rows(t: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C), a view of maps that hold each pixel's channels side by side."""
    return t.permute(0, 2, 3, 1).reshape(-1, t.shape[1])


def _bordered_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*(H+2)*(W+2), C): one row for each pixel, and zeros for a border one pixel wide."""
    batch, channels, height, width = x.shape
    bordered = x.new_zeros(batch, height + 2, width + 2, channels)
    bordered[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    return bordered.view(-1, channels)


def _matrix(weight: Tensor) -> Tensor:
    """(O, C, k, k) -> (O, k*k*C), in the order of the columns."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


class _Samples(NamedTuple):
    """Where the N samples of a block of pixels lie, one tap after the other for each pixel; corners upper left first."""

    corners: tuple[Tensor, ...]  # four of (N,), int32: rows of the bordered map
    weights: tuple[Tensor, ...]  # four of (N,): their bilinear weights times the modulation
    y: Tensor  # (N,): way from the upper to the lower corners, 0..1
    x: Tensor
    y_slope: Tensor  # (N,): modulation where the sample depends on y, and 0 where it is off the map
    x_slope: Tensor


def _sample_blocks(x: Tensor, offset: Tensor, modulation: Tensor) -> Iterator[tuple[slice, _Samples]]:
    """Samples of one block of pixels after the other."""
    (_, channels, height, width), taps = x.shape, modulation.shape[1]
    offset, modulation = _pixel_rows(offset), _pixel_rows(modulation)
    step = max(1, BLOCK_VALUES // (taps * channels))
    for start in range(0, len(offset), step):
        block = slice(start, min(start + step, len(offset)))
        yield block, _locate(torch.arange(block.start, block.stop)[:, None], offset[block], modulation[block], height, width)


def _locate(pixel: Tensor, offset: Tensor, modulation: Tensor, height: int, width: int) -> _Samples:
    """`pixel` (P, 1) in a batch of maps, `offset` (P, 2*k*k), `modulation` (P, k*k)."""
    tap, size = torch.arange(modulation.shape[1]), round(modulation.shape[1]**.5)
    top, y, in_y = _split(offset[:, ::2] + (pixel // width % height + tap // size - size // 2), height)
    left, x, in_x = _split(offset[:, 1::2] + (pixel % width + tap % size - size // 2), width)

    stride = width + 2
    origin = pixel // (height * width) * (height + 2) * stride + stride + 1
    corner = (top.int() * stride + left.int() + origin.int()).flatten()
    lower = modulation * y
    upper = modulation - lower
    lower_right, upper_right = lower * x, upper * x
    weights = (upper - upper_right, upper_right, lower - lower_right, lower_right)
    return _Samples((corner, corner + 1, corner + stride, corner + stride + 1), tuple(w.flatten() for w in weights),
                    y.flatten(), x.flatten(), (modulation * in_y).flatten(), (modulation * in_x).flatten())


def _split(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixel at or before each position in -1..size-1, the way from there to the next, whether the position lies there.

    Beyond the border the two add up to a position on it. NaN positions yield a pixel, so that only their values are NaN.
    """
    floor = position.floor()
    first = floor.clamp(-1, size - 1).nan_to_num_(-1)
    return first, (position - first).clamp_(0, 1), floor == first


def _columns(rows: Tensor, samples: _Samples) -> Tensor:
    """(N, C): each sample's value, times its modulation."""
    return F.embedding_bag(torch.stack(samples.corners, 1), rows, mode='sum',
                           per_sample_weights=torch.stack(samples.weights, 1))


def _add_to_rows(grad_rows: Tensor, grad_columns: Tensor, samples: _Samples) -> None:
    """Adds each sample's gradient (N, C) to the rows of its corners: sorted by corner, the samples are bags again."""
    corner, order = samples.corners[0].sort()
    first = int(corner[0])
    count = torch.bincount(corner - first)
    start = count.cumsum(0) - count
    for corners, weights in zip(samples.corners, samples.weights, strict=True):
        shift = int(corners[0] - samples.corners[0][0])
        grad_rows[first + shift:first + shift + len(count)] += F.embedding_bag(
            order, grad_columns, start, mode='sum', per_sample_weights=weights[order])


def _sample_gradients(rows: Tensor, grad_columns: Tensor, samples: _Samples) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, x and modulation (N,) each, from that of the columns."""
    corners = torch.stack(samples.corners, 1).view(-1)
    bags = torch.arange(len(grad_columns), dtype=corners.dtype)
    grads = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad_columns, rows, corners, 4 * bags, bags.repeat_interleave(4), 0)
    upper_left, upper_right, lower_left, lower_right = grads.view(-1, 4).unbind(1)
    upper, lower = torch.lerp(upper_left, upper_right, samples.x), torch.lerp(lower_left, lower_right, samples.x)
    across = torch.lerp(upper_right - upper_left, lower_right - lower_left, samples.y)
    return (lower - upper) * samples.y_slope, across * samples.x_slope, torch.lerp(upper, lower, samples.y)
