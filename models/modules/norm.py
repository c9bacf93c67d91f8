"""Normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _AnyBatch(nn.BatchNorm2d):
    """Makes a BatchNorm work at every batch size.

    A single value per channel has no variance (a pooled map of one image, for example). The norm
    then uses its running statistics, and leaves them as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        values_per_channel = x.shape[0] * x.shape[2] * x.shape[3]
        if not self.training or values_per_channel > 1:
            return super().forward(x)
        self.training = False
        try:
            return super().forward(x)
        finally:
            self.training = True


class BatchNorm2d(_AnyBatch):
    """torch's, for every batch size."""


class _BatchNormAct2d(_AnyBatch, BatchNormAct2d):
    """timm's, for every batch size."""


def allow_any_batch(net: nn.Module) -> nn.Module:
    """Puts our BatchNorms in the place of a foreign network's, with its weights and settings.

    Returns `net`, or its replacement if it is a BatchNorm itself.
    """
    if isinstance(net, nn.BatchNorm2d) and type(net) in (nn.BatchNorm2d, BatchNormAct2d):
        return _replacement(net)
    for name, child in net.named_children():
        setattr(net, name, allow_any_batch(child))
    return net


def _replacement(norm: nn.BatchNorm2d) -> nn.Module:
    """One of our BatchNorms that shares parameters and buffers with `norm`."""
    settings: dict[str, Any] = {
        'num_features': norm.num_features,
        'eps': norm.eps,
        'momentum': norm.momentum,
        'affine': norm.affine,
        'track_running_stats': norm.track_running_stats,
    }

    # timm's norm holds its activation, too.
    ours: nn.BatchNorm2d
    if isinstance(norm, BatchNormAct2d):
        activated = _BatchNormAct2d(**settings, apply_act=False)
        activated.drop = norm.drop
        activated.act = norm.act
        ours = activated
    else:
        ours = BatchNorm2d(**settings)

    # Shared, not copied: whoever holds the weights holds these.
    ours.weight = norm.weight
    ours.bias = norm.bias
    ours.running_mean = norm.running_mean
    ours.running_var = norm.running_var
    ours.num_batches_tracked = norm.num_batches_tracked
    return ours.train(norm.training)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of every BatchNorm in `module`, for a repeated forward pass."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]

    # A momentum of 0 moves nothing, and without a counter none counts.
    for norm in norms:
        norm.momentum = 0.
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count
