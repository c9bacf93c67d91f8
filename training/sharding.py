"""Networks sharded over the ranks: parameters, gradients and the optimizer's state.

This is FSDP2, which is ZeRO's stage 3 (Rajbhandari et al., SC 2020). A block is whole on a device
only while it is computed. Each of N ranks keeps 16 bytes / N for a trained parameter under AdamW
(weight, gradient, two moments), 4 bytes / N for a frozen one, and two whole blocks.

Rank 0 gathers a state tensor by tensor and writes it in the form that other runs have. A sharded
run therefore reads the state of one that is not, and the other way round.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from runtime.distributed import World

LISTS = (nn.ModuleList, nn.Sequential)

# FSDP2 records events on streams, also on the CPU, whose streams could not in torch 2.6.
ON_CPU = hasattr(torch.cpu.Stream, 'record_event')

# Each rank has the whole tensor and takes its shard of it. Before torch 2.7 rank 0 sends the same
# to all others, which takes longer.
FROM_OWN_DATA: dict[str, Any] = {}
if 'src_data_rank' in signature(distribute_tensor).parameters:
    FROM_OWN_DATA['src_data_rank'] = None


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Finds the blocks of `model`, inner ones first.

    A block is a member of a list that consists of modules itself: a backbone's blocks and the
    stages around them, the decoder's levels with their branches. A stage without a forward pass
    is replaced by its parts, because FSDP2 gathers a block as its forward pass begins.
    """
    lists = [module for module in model.modules() if isinstance(module, LISTS)]
    blocks: list[nn.Module] = []
    for members in reversed(lists):
        for member in members.children():
            parts = [member]
            if _has_no_forward(member):
                parts = list(member.children())
            blocks += [part for part in parts if _is_block(part)]
    # A stage's parts may also be members of a list.
    return list(dict.fromkeys(blocks))


def _is_block(module: nn.Module) -> bool:
    return any(module.children()) and not _has_no_forward(module)


def _has_no_forward(module: nn.Module) -> bool:
    """Whether a module only holds others, as nn.ModuleList does."""
    return type(module).forward is nn.Module.forward


def shard(model: nn.Module, world: World) -> None:
    """Shards `model` over the ranks and moves it to their devices.

    Its weights must be the same on all ranks. Every block is a unit, and the modules outside of
    blocks are one more. From then on forward and backward passes are collective, so that each rank
    must make as many as the others. Gradients are averaged over the ranks.

    Raises:
        ValueError: On CPUs, where this release of torch cannot.
    """
    if world.device.type == 'cpu' and not ON_CPU:
        raise ValueError(f"sharding='fsdp' on CPUs needs a newer PyTorch than {torch.__version__}; "
                         'update it, or train without sharding')
    mesh = init_device_mesh(world.device.type, (world.size,))
    for unit in (*find_blocks(model), model):
        fully_shard(unit, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has sharded the network."""
    return isinstance(model, FSDPModule)


def gather_whole(value: Any, world: World) -> Any:
    """Gathers the sharded tensors in nested dicts and lists. Call it on every rank.

    Returns the same structure. Its sharded tensors are whole, on the CPU of rank 0; other ranks
    have None in their place.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()  # collective
        return whole.cpu() if world.is_main else None
    if isinstance(value, dict):
        return {key: gather_whole(item, world) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [gather_whole(item, world) for item in value]
        return type(value)(items)
    return value


def _shard_like(whole: Tensor, like: Tensor | None) -> Tensor:
    """This rank's shard of `whole`, a copy, if `like` is sharded; otherwise `whole`."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    sharded = distribute_tensor(whole, like.device_mesh, like.placements, **FROM_OWN_DATA)
    return sharded.clone()


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads whole tensors, which every rank has, into a network that may be sharded."""
    own = model.state_dict()
    shards = {}
    for name, value in state.items():
        shards[name] = _shard_like(value, own.get(name))
    model.load_state_dict(shards)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads whole tensors into an optimizer whose parameters may be sharded."""
    # Optimizers number their parameters through all groups.
    parameters = []
    for group in optimizer.param_groups:
        parameters += group['params']

    # Moments are sharded as their parameter is; a step's number stays as it is.
    shards = {}
    for index, entries in state['state'].items():
        like = parameters[index]
        shards[index] = {name: _shard_like(value, like) for name, value in entries.items()}
    optimizer.load_state_dict({**state, 'state': shards})
