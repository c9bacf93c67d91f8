"""Networks divided among the processes: parameters, gradients and the optimizer's state (FSDP2, which is ZeRO's stage
3: Rajbhandari et al., SC 2020). A block is whole on a device only while it is computed.

Each of N ranks keeps 16 bytes / N for a trained parameter under AdamW (weight, gradient, two moments) and 4 bytes / N
for a frozen one, and two blocks whole. A state is gathered tensor by tensor and written by rank 0 alone, in the form
that undivided runs have, so that either kind reads the other's.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from training.distributed import World

# FSDP2 records events on streams, also on the CPU, whose streams could not in torch 2.6.
ON_CPU = hasattr(torch.cpu.Stream, 'record_event')
# Each rank divides what it has itself. Before torch 2.7, rank 0 sends all others the same, which takes longer.
OWN_DATA = {'src_data_rank': None} if 'src_data_rank' in signature(distribute_tensor).parameters else {}


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of every list in `model` that are made of modules themselves, inner ones first.

    These are a backbone's blocks and the stages around them, and the decoder's levels with their
    branches. A stage without a forward pass gives way to its parts: FSDP2 makes a unit whole as its
    forward pass begins.
    """
    kinds = (nn.ModuleList, nn.Sequential)
    lists = [module for module in model.modules() if isinstance(module, kinds)]
    members = [member for members in lists[::-1] for member in members]
    parts: list[nn.Module] = []
    for member in members:
        parts += member.children() if _only_holds(member) else [member]
    return [part for part in dict.fromkeys(parts) if any(part.children()) and not _only_holds(part)]


def _only_holds(module: nn.Module) -> bool:
    """Whether it has no forward pass, as nn.ModuleList has none."""
    return type(module).forward is nn.Module.forward


def shard(model: nn.Module, world: World) -> None:
    """Divides `model` among the ranks and moves it to their devices. Its weights must be the same on all of them.

    Every block is a unit of its own, and what lies outside of blocks is one more. Forward and backward passes are
    then collective: each rank must make as many as the others. Gradients come out averaged over the ranks.
    Raises ValueError on CPUs where this release of torch cannot.
    """
    if world.device.type == 'cpu' and not ON_CPU:
        raise ValueError(f"sharding='fsdp' on CPUs needs a newer PyTorch than {torch.__version__}; "
                         'update it, or train without sharding')
    mesh = init_device_mesh(world.device.type, (world.size,))
    for unit in (*blocks(model), model):
        fully_shard(unit, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has divided the network."""
    return isinstance(model, FSDPModule)


def gather_whole(value: Any, world: World) -> Any:
    """Nested dicts and lists in which each divided tensor is whole: on rank 0, on the CPU; None on others.

    Call on every rank.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()  # collective
        return whole.cpu() if world.is_main else None
    if isinstance(value, dict):
        return {key: gather_whole(item, world) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(gather_whole(item, world) for item in value)
    return value


def _divide(whole: Tensor, like: Tensor | None) -> Tensor:
    """`whole`, which every rank has, divided as `like` is, if it is; a copy of this rank's share."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, **OWN_DATA).clone()


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors into a network that may be divided."""
    own = model.state_dict()
    model.load_state_dict({name: _divide(value, own.get(name)) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors into an optimizer whose parameters may be divided."""
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    divided = {index: {name: _divide(value, parameters[index]) for name, value in entries.items()}
               for index, entries in state['state'].items()}
    optimizer.load_state_dict({**state, 'state': divided})
