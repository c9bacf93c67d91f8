"""The one way in which the network resizes."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from models.modules.tracing import has_symbolic_size


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (B, C, H, W) -> (B, C, *size), bilinear with aligned corners; x itself if of that size."""
    size = tuple(size)
    if not has_symbolic_size(x) and x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode='bilinear', align_corners=True)
