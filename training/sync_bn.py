"""BatchNorm over the global batch."""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn

from runtime.distributed import World


class _MeanOverRanks(torch.autograd.Function):
    """The mean of a tensor over all ranks; so is the gradient, as losses are averaged over ranks too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values / dist.get_world_size()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _MeanOverRanks.apply(gradient)


class _Synchronised:
    """What torch's SyncBatchNorm does, which refuses the CPU. Ranks have equal batches."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape and dtype."""
        if not self.training:
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        mean = _MeanOverRanks.apply(values.mean((0, 2, 3), keepdim=True))
        variance = _MeanOverRanks.apply((values - mean).square().mean((0, 2, 3), keepdim=True))
        self._note(mean.detach().flatten(), variance.detach().flatten(), x.numel() / x.shape[1] * dist.get_world_size())
        scale, shift = (p.view(1, -1, 1, 1) for p in (self.weight, self.bias))
        x = ((values - mean) * (variance + self.eps).rsqrt() * scale + shift).to(x.dtype)
        return self.act(self.drop(x)) if isinstance(self, BatchNormAct2d) else x

    def _note(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Moves the running statistics, unless they are frozen (models.modules.norm)."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


class _BatchNorm2d(_Synchronised, nn.BatchNorm2d):
    pass


class _BatchNormAct2d(_Synchronised, BatchNormAct2d):
    pass


def synchronise(model: nn.Module, world: World) -> nn.Module:
    """Makes every BatchNorm of `model` one over all processes; the model to use from then on. On GPUs it is torch's."""
    if world.device.type != 'cpu':
        return convert_sync_batchnorm(model)  # timm's also keeps what it fused into its norms
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = _BatchNormAct2d if isinstance(module, BatchNormAct2d) else _BatchNorm2d
    return model
