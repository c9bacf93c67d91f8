"""Running means of a step's terms."""

from typing import Any

import torch
from torch import Tensor

from runtime.distributed import World, mean_over_ranks


class NonFiniteLossError(RuntimeError):
    """A term of the loss became infinite or NaN; the message says which and at which step."""


class RunningMeans:
    """Sums named terms on the device, so that no step waits for their values.

    It also remembers the first step in which a term was not finite.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None  # (terms,)
        self._first_bad: Tensor | None = None  # (terms,), -1 where all values were finite
        self._count = 0

    def add(self, terms: dict[str, Tensor], step: int) -> None:
        """Adds the terms of one step; their names must stay the same until `clear`."""
        names = tuple(terms)
        values = torch.stack([value.detach().float() for value in terms.values()])
        if self._sums is None or self._first_bad is None:
            self._names = names
            self._sums = torch.zeros_like(values)
            self._first_bad = torch.full_like(values, -1)
            self._count = 0
        assert self._names == names, (self._names, names)

        # On the device, so that nothing waits for it.
        was_finite = self._first_bad < 0
        is_first_bad = was_finite & ~values.isfinite()
        self._first_bad = torch.where(is_first_bad, step, self._first_bad)
        self._sums += values
        self._count += 1

    def check_finite(self) -> None:
        """Waits for the device. Raises NonFiniteLossError if a term was not finite on this rank."""
        if self._first_bad is None:
            return
        first_bad = self._first_bad.tolist()
        bad: dict[str, int] = {}
        for name, step in zip(self._names, first_bad, strict=True):
            if step >= 0:
                bad[name] = int(step)
        if not bad:
            return

        # What follows from the first bad term is bad as well: only those of its step are named.
        first = min(bad.values())
        names = ', '.join(name for name, step in bad.items() if step == first)
        raise NonFiniteLossError(f'loss is not finite at step {first} of the epoch, in: {names}')

    def means(self, world: World) -> dict[str, float]:
        """Returns the mean of each term over steps and ranks; errors as `check_finite`."""
        if self._sums is None:
            return {}
        self.check_finite()
        own_means = self._sums / self._count
        means = mean_over_ranks(own_means, world)
        return dict(zip(self._names, means.tolist(), strict=True))

    def clear(self) -> None:
        """Forgets all terms and their names."""
        self._sums = None
        self._first_bad = None

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` needs."""
        return {
            'names': list(self._names),
            'values': self._sums,
            'first_bad': self._first_bad,
            'count': self._count,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores the sums, and puts them on the device."""
        self._names = tuple(state['names'])
        self._count = state['count']
        self.clear()
        if state['values'] is not None:
            self._sums = state['values'].to(device)
            self._first_bad = state['first_bad'].to(device)
