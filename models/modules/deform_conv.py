"""Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", CVPR 2019, eq. 1).

torchvision's CPU kernel samples on one core and fills a buffer with all columns, k*k*C*H*W values.
Here a bilinear sample is a bag of four weighted rows of the (pixels, C) map, which `embedding_bag`
sums on all cores. One block of pixels is sampled at a time, so that its columns stay in the
processor's cache until they meet the weight. The backward pass samples again instead of keeping the
columns.
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

# Values in the columns of one block: enough for the full speed of the matrix product, few enough
# for a cache.
BLOCK_VALUES = 1 << 22
# The gradient of embedding_bag's weights: private to PyTorch, so that a release may lack it. It
# saves time.
BAG_GRADIENT = getattr(torch.ops.aten, '_embedding_bag_per_sample_weights_backward', None)


def deform_conv2d(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """Modulated deformable convolution: stride 1, dilation 1, padding k // 2 for odd k.

    Equal to torchvision's operator, gradients included. 16-bit inputs are computed in float32,
    because positions need more bits (torchvision does so under autocast).

    Args:
        x: map, (B, C, H, W). It is zero outside.
        offset: in pixels, y before x for each tap, (B, 2*k*k, H, W).
        modulation: factor of each sample, (B, k*k, H, W).
        weight: (O, C, k, k).

    Returns:
        (B, O, H, W), in the dtype of `x`.
    """
    args = (x, offset, modulation, weight)
    has_16_bits = any(arg.dtype in (torch.float16, torch.bfloat16) for arg in args)
    if has_16_bits:
        in_float32 = deform_conv2d(*(arg.float() for arg in args))
        return in_float32.to(x.dtype)

    # torchvision's backward pass adds in any order on a GPU.
    is_deterministic_gpu = x.device.type == 'cuda' and torch.are_deterministic_algorithms_enabled()
    # Exporters know torchvision's operator and lower it to ONNX DeformConv.
    is_traced = is_exporting() or torch.jit.is_tracing()
    is_ours_better = x.device.type == 'cpu' or is_deterministic_gpu
    if is_ours_better and not is_traced:
        return _deform_conv2d(*args)

    padding = int(weight.shape[-1]) // 2  # under torch.jit.trace a size is a tensor
    return torchvision.ops.deform_conv2d(x, offset, weight, mask=modulation, padding=padding)


class DeformableConv2d(nn.Module):
    """Deformable convolution that predicts offsets and modulation (2 * sigmoid) from its input.

    `kernel_size` is odd. It starts as an ordinary convolution: no offsets, modulation 1.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        taps = kernel_size ** 2
        padding = kernel_size // 2
        self.offset_conv = nn.Conv2d(in_channels, 2 * taps, kernel_size, padding=padding)
        self.modulator_conv = nn.Conv2d(in_channels, taps, kernel_size, padding=padding)
        self.regular_conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding,
                                      bias=False)
        for layer in (self.offset_conv, self.modulator_conv):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        offset = self.offset_conv(x)
        modulation = 2 * self.modulator_conv(x).sigmoid()
        return deform_conv2d(x, offset, modulation, self.regular_conv.weight)


# --- Operators ------------------------------------------------------------------------------------
#
# Custom operators, not an autograd.Function: torch.compile takes them as they are instead of
# tracing the loops. Their matrix products write in place, which autocast leaves alone. They are
# named after this module, because copies of it, as in exported folders, may be loaded beside it.
NAMESPACE = re.sub(r'\W', '_', __name__)
DEVICES = ('cpu', 'cuda')


@torch.library.custom_op(f'{NAMESPACE}::deform_conv2d', mutates_args=(), device_types=DEVICES)
def _deform_conv2d(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, O, H, W), as `deform_conv2d`; one block of pixels after the other."""
    rows = bordered_rows(x)
    matrix = weight_matrix(weight)
    out = _empty_map(x, len(weight))
    out_rows = pixel_rows(out)  # a view of it
    for block, samples in sample_blocks(x, offset, modulation):
        columns = samples.gather(rows).view(-1, matrix.shape[1])
        torch.mm(columns, matrix.T, out=out_rows[block])
    return out


@torch.library.custom_op(f'{NAMESPACE}::deform_conv2d_backward', mutates_args=(),
                         device_types=DEVICES)
def _deform_conv2d_backward(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    modulation: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four inputs, from the output's."""
    rows = bordered_rows(x)
    matrix = weight_matrix(weight)
    grad = pixel_rows(grad)
    grad_rows = torch.zeros_like(rows)
    grad_matrix = torch.zeros_like(matrix)
    grad_offset = _empty_map(x, offset.shape[1])
    grad_modulation = _empty_map(x, modulation.shape[1])

    # Blocks add to the sums over pixels, and fill their own rows of the maps.
    offset_rows = pixel_rows(grad_offset)
    modulation_rows = pixel_rows(grad_modulation)
    for block, samples in sample_blocks(x, offset, modulation):
        columns = samples.gather(rows).view(-1, matrix.shape[1])
        grad_matrix.addmm_(grad[block].T, columns)
        # The columns have served, so their memory takes their gradient.
        grad_columns = torch.mm(grad[block], matrix, out=columns).view(-1, rows.shape[1])
        samples.scatter_(grad_rows, grad_columns)
        grad_position, grad_amount = samples.gradients(rows, grad_columns)
        offset_rows[block] = grad_position.view(-1, offset.shape[1])
        modulation_rows[block] = grad_amount.view(-1, modulation.shape[1])

    # Back from rows and matrix to the shapes of the inputs.
    batch, channels, height, width = x.shape
    bordered = grad_rows.view(batch, height + 2, width + 2, channels)
    grad_x = bordered[:, 1:-1, 1:-1].contiguous()
    grad_x = grad_x.permute(0, 3, 1, 2)
    grad_weight = grad_matrix.view(len(weight), *weight.shape[2:], channels)
    grad_weight = grad_weight.permute(0, 3, 1, 2)
    return grad_x, grad_offset, grad_modulation, grad_weight


@_deform_conv2d.register_fake
def _(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    return _empty_map(x, len(weight))


@_deform_conv2d_backward.register_fake
def _(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(_empty_map(t, t.shape[1]) for t in inputs)


_deform_conv2d.register_autograd(
    lambda ctx, grad: _deform_conv2d_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


# --- Maps as rows of pixels -----------------------------------------------------------------------


def _empty_map(like: Tensor, channels: int) -> Tensor:
    """(B, channels, H, W) for a `like` of (B, C, H, W); a pixel's channels are side by side."""
    batch, _, height, width = like.shape
    pixels = like.new_empty(batch, height, width, channels)
    return pixels.permute(0, 3, 1, 2)


def pixel_rows(t: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C); a view if each pixel's channels lie side by side in memory."""
    channels_last = t.permute(0, 2, 3, 1)
    return channels_last.reshape(-1, t.shape[1])


def bordered_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*(H+2)*(W+2), C): rows of pixels, with a border of zeros around the map."""
    batch, channels, height, width = x.shape
    bordered = x.new_zeros(batch, height + 2, width + 2, channels)
    inside = bordered[:, 1:-1, 1:-1]
    inside.copy_(x.permute(0, 2, 3, 1))
    return bordered.view(-1, channels)


def weight_matrix(weight: Tensor) -> Tensor:
    """(O, C, k, k) -> (O, k*k*C), tap after tap as in the columns."""
    channels_last = weight.permute(0, 2, 3, 1)
    return channels_last.reshape(len(weight), -1)


# --- Bilinear samples -----------------------------------------------------------------------------


class _Samples(NamedTuple):
    """The N bilinear samples of a block of pixels, tap after tap for each pixel.

    Corners are in the order upper left, upper right, lower left, lower right.
    """

    corner: Tensor  # (N,) int32, the upper left corner's row in the bordered map
    shifts: tuple[int, int, int, int]  # from there to each corner's row
    weights: tuple[Tensor, ...]  # (N,) for each corner: bilinear weight times modulation
    down: Tensor  # (N,) fractional position between the upper and the lower corners, 0..1
    right: Tensor  # (N,) fractional position between the left and the right corners, 0..1
    slope_y: Tensor  # (N,) modulation where y matters, 0 where it is off the map
    slope_x: Tensor  # (N,) likewise

    def corners(self) -> Tensor:
        """(N, 4) rows of all corners."""
        return torch.stack([self.corner + shift for shift in self.shifts], 1)

    def gather(self, rows: Tensor) -> Tensor:
        """Values (N, C) of the samples, times their modulation."""
        weights = torch.stack(self.weights, 1)
        return F.embedding_bag(self.corners(), rows, mode='sum', per_sample_weights=weights)

    def scatter_(self, rows: Tensor, values: Tensor) -> None:
        """Adds `values` (N, C) to `rows`: the transpose of `gather`.

        The bags are the rows here; their contents are the samples, sorted by corner.
        """
        # Each bag begins where its corner's first sample stands.
        corner, order = self.corner.sort()
        first = int(corner[0])
        counts = torch.bincount(corner - first)
        starts = counts.cumsum(0) - counts
        for shift, weight in zip(self.shifts, self.weights, strict=True):
            sums = F.embedding_bag(
                order,
                values,
                starts,
                mode='sum',
                per_sample_weights=weight[order],
            )
            start = first + shift
            rows[start:start + len(counts)] += sums

    def gradients(self, rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of positions (N, 2), y before x, and modulation (N,) from that of values."""
        products = _scalar_products(grad, rows, self.corners())
        upper_left, upper_right, lower_left, lower_right = products.unbind(1)
        upper = torch.lerp(upper_left, upper_right, self.right)
        lower = torch.lerp(lower_left, lower_right, self.right)

        # A bilinear value's slopes are differences of its corners.
        downwards = lower - upper
        rightwards_above = upper_right - upper_left
        rightwards_below = lower_right - lower_left
        rightwards = torch.lerp(rightwards_above, rightwards_below, self.down)
        positions = torch.stack((downwards * self.slope_y, rightwards * self.slope_x), 1)
        return positions, torch.lerp(upper, lower, self.down)


def _scalar_products(grad: Tensor, rows: Tensor, corners: Tensor) -> Tensor:
    """Products (N, 4) of each row of `grad` (N, C) with the `rows` (R, C) at `corners` (N, 4)."""
    if BAG_GRADIENT is None:
        products = [(rows[corner] * grad).sum(1) for corner in corners.unbind(1)]
        return torch.stack(products, 1)

    # Four corners to a bag; the mode 0 is the sum.
    bags = torch.arange(len(grad), dtype=corners.dtype, device=grad.device)
    starts = 4 * bags
    bag_of = bags.repeat_interleave(4)
    products = BAG_GRADIENT(grad, rows, corners.view(-1), starts, bag_of, 0)
    return products.view(-1, 4)


def sample_blocks(
    x: Tensor,
    offset: Tensor,
    modulation: Tensor,
    row_width: int = 0,
) -> Iterator[tuple[slice, _Samples]]:
    """Yields the samples of the B*H*W pixels, one block after the other.

    `row_width` is the number of values that the caller computes for each pixel, if larger than
    that of its samples.
    """
    _, channels, height, width = x.shape
    taps = modulation.shape[1]
    offset = pixel_rows(offset)
    modulation = pixel_rows(modulation)

    # As many pixels as the cache has room for, by whichever is wider.
    values_per_pixel = max(taps * channels, row_width)
    step = max(1, BLOCK_VALUES // values_per_pixel)
    for start in range(0, len(offset), step):
        stop = min(start + step, len(offset))
        block = slice(start, stop)
        pixel = torch.arange(start, stop, device=x.device)[:, None]
        samples = _locate(pixel, offset[block], modulation[block], height, width)
        yield block, samples


def _locate(pixel: Tensor, offset: Tensor, modulation: Tensor, height: int, width: int) -> _Samples:
    """Samples of the pixels numbered `pixel` (P, 1) in a batch of maps.

    `offset` is (P, 2*k*k), `modulation` (P, k*k).
    """
    # Where each tap lies without its offset, and with it.
    tap = torch.arange(modulation.shape[1], device=pixel.device)
    kernel = math.isqrt(modulation.shape[1])
    radius = kernel // 2
    y = pixel // width % height + tap // kernel - radius
    x = pixel % width + tap % kernel - radius
    top, down, inside_y = _split_position(offset[:, ::2] + y, height)
    left, right, inside_x = _split_position(offset[:, 1::2] + x, width)

    # The upper left corner's row in the bordered map.
    stride = width + 2
    image_start = pixel // (height * width) * (height + 2) * stride
    first_pixel = image_start + stride + 1
    corner = top.int() * stride + left.int() + first_pixel.int()

    # Bilinear weights times modulation.
    lower = modulation * down
    upper = modulation - lower
    lower_right = lower * right
    upper_right = upper * right
    weights = (upper - upper_right, upper_right, lower - lower_right, lower_right)

    return _Samples(
        corner.flatten(),
        (0, 1, stride, stride + 1),
        tuple(weight.flatten() for weight in weights),
        down.flatten(),
        right.flatten(),
        (modulation * inside_y).flatten(),
        (modulation * inside_x).flatten(),
    )


def _split_position(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Floor index, -1..size-1, and fraction, 0..1, of positions; and whether they are inside.

    Positions farther outside are moved to the zero border. The index is valid for NaN too, so that
    NaN spreads by values and not by a failing access.
    """
    floor = position.floor()
    first = floor.clamp(-1, size - 1).nan_to_num_(-1)
    fraction = (position - first).clamp_(0, 1)
    return first, fraction, floor == first
