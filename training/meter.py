"""How long things take: images a second, the time spent waiting for data."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dataset import Batch
from runtime.distributed import World

UNITS = (('h', 3600), ('min', 60))


class Meter:
    """Measures a loop over the batches of `timed_batches` on the clock of this process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._restart()

    def _restart(self) -> None:
        self._began = time.perf_counter()
        self._seconds_waited = 0.
        self._images = 0

    def timed_batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the loader's batches and measures how long each is waited for."""
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._seconds_waited += time.perf_counter() - asked
            if batch is None:
                return
            self._images += len(batch.image)
            yield batch

    def read(self) -> dict[str, float]:
        """Returns the figures since the last reading.

        Call it only where the device is synchronised anyway. Kernels run asynchronously, so that a
        step's own time cannot be measured.

        Returns:
            'images_per_second' of all ranks, and 'waiting_for_data', the share of this rank's time.
        """
        seconds = time.perf_counter() - self._began
        speed = {
            'images_per_second': self._images * self._world.size / seconds,
            'waiting_for_data': self._seconds_waited / seconds,
        }
        self._restart()
        return speed


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Calls `function`; returns its result and the seconds that it took."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def format_duration(seconds: float) -> str:
    """Formats a duration in the largest unit of which it is two or more: '90.0 s', '2.5 h'."""
    for name, size in UNITS:
        if seconds >= 2 * size:
            return f'{seconds / size:.1f} {name}'
    return f'{seconds:.1f} s'
