"""Processes of one command: their ranks and devices, what they exchange, how they stop together."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from runtime.processes import SAVING_SIGNALS, heeded_signals

PREEMPTED = 75  # EX_TEMPFAIL: the state is saved; the same command with resume=auto goes on
TIMEOUT = timedelta(minutes=30)  # after which a rank that waits for others gives up


# --- Ranks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """This process's rank among `size` processes, and the device that it works on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports to the user."""
        return self.rank == 0


# How launchers of single tasks say how many they have started.
TASK_COUNTS = {
    'srun': 'SLURM_STEP_NUM_TASKS',
    'mpirun': 'OMPI_COMM_WORLD_SIZE',
    'mpiexec': 'PMI_SIZE',
}


def refuse_separate_tasks() -> None:
    """Raises ValueError if something else than torchrun has started this command several times.

    Its processes would not know of each other, and each would do all the work.
    """
    if 'WORLD_SIZE' in os.environ:
        return
    launchers = [name for name, variable in TASK_COUNTS.items() if _number(variable) > 1]
    if _number('SLURM_PROCID') > 0:
        launchers.append('srun')
    if launchers:
        raise ValueError(
            f'{launchers[0]} has started this command several times, and each would do all the '
            'work: let it start one task a node, and torchrun the processes of each, as sub.sh '
            'and train.sh do')


def _number(variable: str) -> int:
    value = os.environ.get(variable, '')
    return int(value) if value.isdecimal() else 0


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Joins the processes that torchrun started, over nccl on GPUs and gloo on CPUs.

    Without torchrun the world is this process alone.
    """
    size = int(os.environ.get('WORLD_SIZE', 1))
    if size == 1:
        yield World(0, 1, device)
        return
    backend = 'gloo'
    if device.type == 'cuda':
        torch.cuda.set_device(device)
        backend = 'cuda:nccl,cpu:gloo'
    dist.init_process_group(backend, timeout=TIMEOUT)
    yield World(dist.get_rank(), size, device)
    # After an error the group lasts until the process ends. The other ranks fail when it goes, and
    # torchrun is to learn of this rank's error first.
    dist.destroy_process_group()


# --- What ranks exchange --------------------------------------------------------------------------


def gather(value: Any, world: World) -> list[Any]:
    """Returns the `value` of every rank, on every rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def mean_over_ranks(values: Tensor, world: World) -> Tensor:
    """Returns the mean of a tensor over all ranks."""
    if world.size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world.size


@torch.no_grad()
def share_buffers(model: nn.Module, world: World) -> None:
    """Gives every rank the running statistics of rank 0, which are those that are saved."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if world.size == 1 or not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.broadcast(flat, 0)
    lengths = [buffer.numel() for buffer in buffers]
    for buffer, values in zip(buffers, flat.split(lengths), strict=True):
        buffer.copy_(values.view_as(buffer))


# --- Random numbers -------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Every random state of this process, of types that torch loads without unpickling code."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    state = {
        'python': random.getstate(),
        'numpy': (name, keys.tolist(), *rest),
        'torch': torch.get_rng_state(),
    }
    if device.type == 'cuda':
        state['cuda'] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores what `random_state` returned."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if device.type == 'cuda' and 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'], device)


# --- Stopping together ----------------------------------------------------------------------------


class StopRequest:
    """Lets a signal to any process stop all of them after the same step.

    SIGTERM ends a job, SIGUSR1 is Slurm's warning of preemption, and SIGHUP comes of a terminal
    that is closed. The ranks exchange two numbers in each step, over the CPU's memory, and read the
    answer a step later, so that none of them waits.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_requested = False
        self._pending: tuple[dist.Work, Tensor] | None = None
        self._previous_handlers = {}
        for number in heeded_signals(SAVING_SIGNALS):
            self._previous_handlers[number] = signal.signal(number, self._handle)

    def __enter__(self) -> 'StopRequest':
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error:
            self._pending = None  # the other ranks may have ended, and would never answer
        self.close()

    def _handle(self, number: int, _frame: Any) -> None:
        self._is_requested = True

    def agreed(self, save: bool = False) -> tuple[bool, bool]:
        """Exchanges the ranks' wishes. Call it once after each step, on every rank.

        Args:
            save: whether this rank wishes to save the state.

        Returns:
            Whether to stop now, and whether to save now.
        """
        wishes = (self._is_requested, save)
        if self._world.size == 1:
            return wishes

        stop_now = save_now = False
        if self._pending:
            work, flags = self._pending
            work.wait()
            stop_now, save_now = flags.bool().tolist()

        flags = torch.tensor(wishes, dtype=torch.float32)
        self._pending = (dist.all_reduce(flags, dist.ReduceOp.MAX, async_op=True), flags)
        self._is_requested |= stop_now
        return stop_now, save_now

    def close(self) -> None:
        """Waits for the pending exchange and restores the signal handlers.

        After a request the handlers stay. Schedulers send a signal more than once, and the default
        handler would kill a process that is still saving.
        """
        if self._pending:
            work, _ = self._pending
            work.wait()
        if self._is_requested:
            return
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
