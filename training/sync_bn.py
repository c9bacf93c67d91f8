"""BatchNorm over the global batch."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn

from runtime.distributed import World

ModuleT = TypeVar('ModuleT', bound=nn.Module)

CHANNELS = (1, -1, 1, 1)  # the shape in which one value a channel meets (B, C, H, W)


class _MeanOverRanks(torch.autograd.Function):
    """The mean of a tensor over all ranks.

    Its gradient is the mean of the ranks' gradients, because losses are averaged over ranks too.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values / dist.get_world_size()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _MeanOverRanks.apply(gradient)


class _SynchronisedOnCpu(nn.BatchNorm2d):
    """Does what torch's SyncBatchNorm does, which refuses the CPU. Ranks have equal batches."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape and dtype."""
        if not self.training:
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()

        # The variance about the mean: a difference of two large means would lose its digits.
        own_mean = values.mean((0, 2, 3), keepdim=True)
        mean = _MeanOverRanks.apply(own_mean)
        centred = values - mean
        own_variance = centred.square().mean((0, 2, 3), keepdim=True)
        variance = _MeanOverRanks.apply(own_variance)
        self._update_running_statistics(mean, variance, count=self._values_per_channel(x))

        scale = self.weight.view(CHANNELS)
        offset = self.bias.view(CHANNELS)
        normalised = centred * (variance + self.eps).rsqrt()
        x = (normalised * scale + offset).to(x.dtype)

        # timm's norm holds its activation, too.
        if isinstance(self, BatchNormAct2d):
            return self.act(self.drop(x))
        return x

    def _values_per_channel(self, x: Tensor) -> float:
        own = x.numel() / x.shape[1]
        return own * dist.get_world_size()

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Moves the running statistics by those of a global batch of `count` values a channel."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None, 'no moving average of all batches'
        unbiased = variance * count / (count - 1)
        self.running_mean.lerp_(mean.detach().flatten(), self.momentum)
        self.running_var.lerp_(unbiased.detach().flatten(), self.momentum)


class _BatchNorm2d(_SynchronisedOnCpu):
    pass


class _BatchNormAct2d(_SynchronisedOnCpu, BatchNormAct2d):
    pass


def synchronise(model: ModuleT, world: World) -> ModuleT:
    """Makes every BatchNorm of `model` one over all ranks; returns the model to use from then on.

    On GPUs the layers are torch's, put in place by timm, which keeps what it fused into its own.
    """
    if world.device.type != 'cpu':
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, BatchNormAct2d):
            module.__class__ = _BatchNormAct2d
        elif isinstance(module, nn.BatchNorm2d):
            module.__class__ = _BatchNorm2d
    return model
