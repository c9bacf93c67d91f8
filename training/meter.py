"""What a run costs: images a second, the time spent waiting for data, memory."""

import mmap
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from dataset import Batch
from training.distributed import World, peak_memory

STATM = Path('/proc/self/statm')


class Meter:
    """Measures, on the clock of this process, a loop over the batches that `watch` gives."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._restart()

    def _restart(self) -> None:
        self._since, self._waited, self._images = time.perf_counter(), 0., 0

    def watch(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The loader's batches."""
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            item = next(batches, None)
            self._waited += time.perf_counter() - asked
            if item is None:
                return
            self._images += len(item.image)
            yield item

    def read(self) -> dict[str, float]:
        """Since the last reading: images a second of all ranks, and the share of this one's time that it waited for the
        loader. Read it where the device's work is awaited anyhow; a step given to it does not take its own time."""
        seconds = time.perf_counter() - self._since
        speed = {'images_per_second': self._images * self._world.size / seconds,
                 'waiting_for_data': self._waited / seconds}
        self._restart()
        return speed


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the seconds that it took."""
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def duration(seconds: float) -> str:
    """In a unit that suits it."""
    name, size = next(((name, size) for name, size in (('h', 3600), ('min', 60)) if seconds >= 2 * size), ('s', 1))
    return f'{seconds / size:.1f} {name}'


def resident() -> int:
    """Bytes of memory that this process holds now; where the system does not tell, has held at most."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * mmap.PAGESIZE
    return peak_memory(torch.device('cpu'))


def memory(device: torch.device) -> dict[str, float]:
    """GB that this process holds in the host's memory and, with a GPU, has held at most and has reserved there."""
    held = {'host_GB': resident() / 1e9}
    if device.type == 'cuda':
        held |= {'device_peak_GB': peak_memory(device) / 1e9,
                 'device_reserved_GB': torch.cuda.memory_reserved(device) / 1e9}
    return held
