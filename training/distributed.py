"""One process or many: ranks, devices, and ends on which all agree."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from utils import STOP_SIGNALS

PREEMPTED = 75  # EX_TEMPFAIL: the state is saved, run the same command with resume=auto


@dataclass(frozen=True)
class World:
    """This process among `size` of them, and the device that it works on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Joins the processes that torchrun started, over nccl on GPUs and gloo on CPUs; alone without torchrun."""
    size = int(os.environ.get('WORLD_SIZE', 1))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    backend = 'cuda:nccl,cpu:gloo' if device.type == 'cuda' else 'gloo'
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Every random state of this process, of types that torch loads without unpickling code."""
    name, keys, *rest = np.random.get_state()
    state = {'python': random.getstate(), 'numpy': (name, keys.tolist(), *rest), 'torch': torch.get_rng_state()}
    if device.type == 'cuda':
        state['cuda'] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undoes everything random since `random_state`."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if device.type == 'cuda' and 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'], device)


def gather(value: Any, world: World) -> list[Any]:
    """`value` of every rank, on every rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def share_buffers(model: nn.Module, world: World) -> None:
    """Gives every rank rank 0's running statistics, which are those that are saved."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if world.size == 1 or not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.broadcast(flat, 0)
    for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(values.view_as(buffer))


def mean_over_ranks(values: torch.Tensor, world: World) -> torch.Tensor:
    """The mean of a tensor over all ranks."""
    if world.size > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world.size
    return values


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: on the GPU, or resident without one."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


class StopRequest:
    """SIGTERM or SIGUSR1 (Slurm's warning of preemption) to any process asks all of them to stop after the same step.

    The ranks exchange two numbers each step, over CPU memory and answered a step later, so that nobody waits for them.
    """

    def __init__(self, world: World) -> None:
        self._world, self._pending, self._asked = world, None, False
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}

    def _note(self, number: int, _frame: Any) -> None:
        self._asked = True

    def agreed(self, save: bool = False) -> tuple[bool, bool]:
        """Whether to stop now, and whether any rank wished to `save`; call it once after each step, on every rank."""
        wishes = (self._asked, save)
        if self._world.size == 1:
            return wishes
        answer = (False, False)
        if self._pending:
            work, flags = self._pending
            work.wait()
            answer = tuple(flags.bool().tolist())
        flags = torch.tensor(wishes, dtype=torch.float32)
        self._asked |= answer[0]
        self._pending = (dist.all_reduce(flags, dist.ReduceOp.MAX, async_op=True), flags)
        return answer

    def close(self) -> None:
        """Awaits what is under way and gives the signals back; not in a process that ends for one, as schedulers repeat
        themselves."""
        if self._pending:
            self._pending[0].wait()
        if self._asked:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
