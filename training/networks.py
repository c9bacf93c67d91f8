"""A network in training: wrapped for its ranks, with its optimizer."""

import warnings
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runtime.distributed import World
from training.sharding import gather_whole, is_sharded, load_optimizer, load_weights

# The option under which a forward pass leaves buffers alone; older releases of torch have another.
_BUFFER_OPTIONS = ('forward_sync_buffers', 'broadcast_buffers')
_BUFFER_OPTION = next(
    name for name in _BUFFER_OPTIONS if name in signature(DistributedDataParallel).parameters)
KEEP_BUFFERS = {_BUFFER_OPTION: False}


class TrainedNetwork:
    """A network on its device with its optimizer. The discriminator is one as well.

    Args:
        module: the bare network, on its device.
        optimizer: of `module`'s parameters. The learning rates of its groups are the base rates.
        world: the ranks that train it.
        options: of DistributedDataParallel.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        **options: Any,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.ddp = distribute(module, world, **options)
        self._world = world
        self._base_rates = [group['lr'] for group in optimizer.param_groups]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves."""
        parameters = []
        for group in self.optimizer.param_groups:
            parameters += group['params']
        return parameters

    @property
    def rates(self) -> list[float]:
        """The learning rate of each of the optimizer's groups."""
        return [group['lr'] for group in self.optimizer.param_groups]

    def set_rate_factor(self, factor: float) -> None:
        """Multiplies the base rates by `factor`."""
        groups = self.optimizer.param_groups
        for group, base_rate in zip(groups, self._base_rates, strict=True):
            group['lr'] = base_rate * factor

    def state_dict(self) -> dict[str, Any]:
        """Returns 'net' and 'optimizer', whose tensors rank 0 has whole. Call it on every rank."""
        state = {
            'net': self.module.state_dict(),
            'optimizer': self.optimizer.state_dict(),
        }
        return gather_whole(state, self._world)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned on rank 0."""
        load_weights(self.module, state['net'])
        load_optimizer(self.optimizer, state['optimizer'])


def distribute(model: nn.Module, world: World, **options: Any) -> nn.Module:
    """Wraps `model` in DistributedDataParallel, with its `options`.

    Returns `model` itself for a single rank, for a sharded model, and if none of its parameters is
    trained.
    """
    is_trained = any(p.requires_grad for p in model.parameters())
    if world.size == 1 or is_sharded(model) or not is_trained:
        return model
    # Of the small filters of depthwise convolutions, whose gradients come in another layout.
    warnings.filterwarnings('ignore', 'Grad strides do not match bucket view strides')
    on_gpu = world.device.type == 'cuda'
    device_ids = [world.device] if on_gpu else None
    return DistributedDataParallel(model, device_ids, gradient_as_bucket_view=True, **options)
