"""Normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager

from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _AnyBatch:
    """Makes a BatchNorm work at every batch size: one value per channel has no variance, so it then uses its running
    statistics and leaves them as they are (a pooled map of a single image, for example)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        if not self.training or x.shape[0] * x.shape[2] * x.shape[3] > 1:
            return super().forward(x)
        self.training = False
        try:
            return super().forward(x)
        finally:
            self.training = True


class BatchNorm2d(_AnyBatch, nn.BatchNorm2d):
    """torch's, for every batch size."""


class _BatchNormAct2d(_AnyBatch, BatchNormAct2d):
    """timm's, for every batch size."""


def allow_any_batch(net: nn.Module) -> nn.Module:
    """Gives every BatchNorm of a foreign network our behaviour, its weights and settings untouched; returns `net`."""
    ours = {nn.BatchNorm2d: BatchNorm2d, BatchNormAct2d: _BatchNormAct2d}
    for module in net.modules():
        module.__class__ = ours.get(type(module), type(module))
    return net


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of every BatchNorm in `module`: a forward pass that is repeated counts once."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0., None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
