"""Linear layers rewritten as fewer or cheaper ones. Weights are worked out in float64, so that results stay equal."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.modules.resize import resize

# oneDNN's linear layer: private to PyTorch, so that a release may lack it. It only saves time.
LINEAR = getattr(torch.ops.mkldnn, '_linear_pointwise', None)
ONEDNN = (LINEAR is not None and torch.backends.mkldnn.is_available()
          and torch.backends.cpu.get_cpu_capability().startswith('AVX'))
ACTIVATIONS = {'none': lambda x: x, 'relu': torch.relu_, 'gelu': F.gelu}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = 'none') -> Tensor:
    """x (N, I), weight (O, I), bias (O,) -> (N, O), and one of ACTIVATIONS.

    In float32 on an x86 CPU by oneDNN, which keeps the activation in the cache and, on processors that are not Intel's,
    is quicker than the MKL behind F.linear.
    """
    if ONEDNN and x.device.type == 'cpu' and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        return LINEAR(x, weight, bias, activation, [], 'none')
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def conv(weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution with the padding and dilation of `like`; its weight is stored as channels-last maps want it."""
    layer = nn.utils.skip_init(nn.Conv2d, weight.shape[1], weight.shape[0], weight.shape[2:], bias=bias is not None,
                               padding=like.padding, dilation=like.dilation)
    layer.weight = nn.Parameter(weight.to(like.weight).contiguous(memory_format=torch.channels_last), False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(like.weight), False)
    return layer


def weights(layer: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> tuple[Tensor, Tensor]:
    """Weight (O, I, k, k) and bias (O,) of a convolution and the BatchNorm in eval mode that follows it, in float64."""
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    if norm is None:
        return weight, bias
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias.detach()


def fold(layer: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> nn.Conv2d:
    """The convolution that is `layer`, then `norm`."""
    return conv(*weights(layer, norm), layer)


def split(layer: nn.Conv2d, channels: int) -> tuple[nn.Conv2d, nn.Conv2d | None]:
    """Two convolutions, of the first `channels` of the input and, without bias, of the rest: their sum is `layer`."""
    weight, bias = weights(layer)
    rest = conv(weight[:, channels:], None, layer) if weight.shape[1] > channels else None
    return conv(weight[:, :channels], bias, layer), rest


def project(layer: nn.Conv2d, pointwise: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """`layer`, then the 1x1 convolution `pointwise` (O', O) with `bias` (O',)."""
    weight, inner = weights(layer)
    outer = pointwise @ inner + (0 if bias is None else bias)
    return conv(torch.einsum('po,oikl->pikl', pointwise, weight), outer, layer)


def compose(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """`first`, then `second`, both 3x3, as one 5x5 convolution: equal but for the outermost pixels, where the second
    sees zeros outside of the first's map, which this one cannot know."""
    (inner, inner_bias), (outer, outer_bias) = weights(first), weights(second)
    weight = F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=2).transpose(0, 1)
    like = nn.utils.skip_init(nn.Conv2d, 1, 1, 5, padding=2).to(first.weight)
    return conv(weight, outer_bias + torch.einsum('omkl,m->o', outer, inner_bias), like)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def resize_matrix(sizes: Sequence[int]) -> Tensor:
    """(sizes[-1], sizes[0]), float32: bilinear resizing with aligned corners of a row through all `sizes`."""
    matrix = torch.eye(sizes[0], dtype=torch.float64, device='cpu')[None]
    for size in sizes[1:]:
        matrix = F.interpolate(matrix, size=size, mode='linear', align_corners=True)
    return matrix[0].T.float().contiguous()


def resize_through(x: Tensor, *sizes: Sequence[int]) -> Tensor:
    """x (B, C, h, w) -> (B, C, *sizes[-1]): resized (bilinear, aligned corners) to each size in turn, in one step.

    The result's channels lie side by side in memory, as x's should: nothing is copied then.
    """
    path = [tuple(x.shape[2:])]
    path += [b for a, b in pairwise([path[0], *map(tuple, sizes)]) if a != b]
    if len(path) <= 2:
        return resize(x, path[-1])
    rows, columns = (resize_matrix(sides).to(x) for sides in zip(*path, strict=True))
    y = rows @ x.permute(0, 2, 3, 1).flatten(2)  # (B, h', w * C)
    return (columns @ y.unflatten(2, (x.shape[3], -1))).permute(0, 3, 1, 2)
