"""Linear layers rewritten as fewer or cheaper ones.

Weights are computed in float64, so that results stay equal to rounding.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.modules.resize import resize

# oneDNN's linear layer: private to PyTorch, so that a release may lack it. It only saves time.
LINEAR: Any = getattr(torch.ops.mkldnn, '_linear_pointwise', None)
ONEDNN = (
    LINEAR is not None
    and torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability().startswith('AVX')
)
ACTIVATIONS = {'none': lambda x: x, 'relu': torch.relu_, 'gelu': F.gelu}


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = 'none',
) -> Tensor:
    """x (N, I), weight (O, I), bias (O,) -> (N, O), followed by one of ACTIVATIONS.

    In float32 on an x86 CPU it is oneDNN's, which keeps the activation in the cache and, on
    processors that are not Intel's, is faster than the MKL behind F.linear.
    """
    is_float32_on_cpu = x.device.type == 'cpu' and x.dtype == torch.float32
    if ONEDNN and is_float32_on_cpu and not torch.compiler.is_compiling():
        return LINEAR(x, weight, bias, activation, [], 'none')
    y = F.linear(x, weight, bias)
    return ACTIVATIONS[activation](y)


# --- Convolutions ---------------------------------------------------------------------------------


def make_conv(weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution with these values and the padding, dilation, dtype and device of `like`.

    Its weight is stored as channels-last maps want it.
    """
    # Without initial values, which would be drawn for nothing.
    outs, ins, *kernel = weight.shape
    layer = nn.utils.skip_init(
        nn.Conv2d,
        ins,
        outs,
        kernel,
        bias=bias is not None,
        padding=like.padding,
        dilation=like.dilation,
    )
    weight = weight.to(like.weight).contiguous(memory_format=torch.channels_last)
    layer.weight = nn.Parameter(weight, False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(like.weight), False)
    return layer


def folded_weights(layer: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> tuple[Tensor, Tensor]:
    """Folds a BatchNorm (eval mode) into `layer`: weight (O, I, k, k) and bias (O,), float64."""
    weight = layer.weight.detach().double()
    if layer.bias is None:
        bias = weight.new_zeros(len(weight))
    else:
        bias = layer.bias.detach().double()
    if norm is None:
        return weight, bias

    # In eval mode the norm is a factor and an offset for each channel.
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    scale = norm.weight.detach().double() / deviation
    weight = weight * scale[:, None, None, None]
    bias = (bias - norm.running_mean) * scale + norm.bias.detach()
    return weight, bias


def fold_batchnorm(layer: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> nn.Conv2d:
    """The convolution that is `layer`, then `norm`."""
    weight, bias = folded_weights(layer, norm)
    return make_conv(weight, bias, layer)


def split_conv(layer: nn.Conv2d, channels: int) -> tuple[nn.Conv2d, nn.Conv2d | None]:
    """Two convolutions whose sum is `layer`.

    The first reads the first `channels` of the input; the second, without bias, the rest if any.
    """
    weight, bias = folded_weights(layer)
    first = make_conv(weight[:, :channels], bias, layer)
    if weight.shape[1] == channels:
        return first, None
    second = make_conv(weight[:, channels:], None, layer)
    return first, second


def append_pointwise(layer: nn.Conv2d, pointwise: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """The convolution that is `layer`, then a 1x1 convolution of weight (O', O) and bias (O',)."""
    weight, inner_bias = folded_weights(layer)
    outer_bias = pointwise @ inner_bias
    if bias is not None:
        outer_bias = outer_bias + bias
    outer = torch.einsum('po,oikl->pikl', pointwise, weight)
    return make_conv(outer, outer_bias, layer)


def merge_3x3(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One 5x5 convolution for two of 3x3, `first` and then `second`.

    It differs in the outermost pixels, where `second` sees zeros outside of the map of `first`.
    """
    inner, inner_bias = folded_weights(first)
    outer, outer_bias = folded_weights(second)

    # Composing correlations is a full convolution of their kernels.
    flipped = outer.flip(2, 3)
    weight = F.conv2d(inner.transpose(0, 1), flipped, padding=2)
    weight = weight.transpose(0, 1)

    bias = outer_bias + torch.einsum('omkl,m->o', outer, inner_bias)
    like = nn.utils.skip_init(nn.Conv2d, 1, 1, 5, padding=2).to(first.weight)
    return make_conv(weight, bias, like)


# --- Resizing -------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def resize_matrix(sides: Sequence[int]) -> Tensor:
    """Bilinear resizing, with aligned corners, of a row through all `sides`.

    (sides[-1], sides[0]), float32.
    """
    identity = torch.eye(sides[0], dtype=torch.float64, device='cpu')
    matrix = identity[None]
    for side in sides[1:]:
        matrix = F.interpolate(matrix, size=side, mode='linear', align_corners=True)
    return matrix[0].T.float().contiguous()


def resize_through(x: Tensor, *sizes: Sequence[int]) -> Tensor:
    """Resizes x (B, C, h, w) to each of `sizes` in turn, in one step: (B, C, *sizes[-1]).

    The result's channels lie side by side in memory, as those of x should: nothing is copied then.
    """
    # The sizes on the way, without those that change nothing.
    path = [tuple(x.shape[2:])]
    for size in map(tuple, sizes):
        if size != path[-1]:
            path.append(size)
    if len(path) <= 2:
        return resize(x, path[-1])

    # Resizing is separable and linear: one matrix for all columns, one for all rows.
    heights, widths = zip(*path, strict=True)
    rows = resize_matrix(heights).to(x)
    columns = resize_matrix(widths).to(x)
    y = rows @ x.permute(0, 2, 3, 1).flatten(2)  # (B, h', w * C)
    y = columns @ y.unflatten(2, (x.shape[3], -1))  # (B, h', w', C)
    return y.permute(0, 3, 1, 2)
