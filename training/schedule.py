"""When things happen: learning rates and checkpoints by step and epoch, saving also by the clock."""

import math
import time
from collections.abc import Sequence

COSINE_FLOOR = .01


def rate_factor(step: int, steps_per_epoch: int, epochs: int, schedule: str = 'step', warmup_steps: int = 0,
                decay_epochs: Sequence[int] = (), decay_rate: float = .5) -> float:
    """What the learning rate is multiplied by in optimizer step `step`, counted from 0 over the whole run.

    'step': `decay_rate` once more from the beginning of each of `decay_epochs` (1-based; -1 is the last epoch) on.
    'cosine': half a cosine from 1 to COSINE_FLOOR after the warm-up. Both rise linearly over `warmup_steps`.
    """
    warmup = min(1., (step + 1) / (warmup_steps + 1))
    if schedule == 'cosine':
        progress = max(0, step - warmup_steps) / max(1, steps_per_epoch * epochs - warmup_steps)
        return warmup * (COSINE_FLOOR + (1 - COSINE_FLOOR) * (1 + math.cos(math.pi * min(1., progress))) / 2)
    epoch = step // steps_per_epoch + 1
    milestones = [e if e > 0 else epochs + 1 + e for e in decay_epochs]
    return warmup * decay_rate ** sum(epoch >= milestone for milestone in milestones)


def is_checkpoint(epoch: int, epochs: int, save_last: int, save_step: int) -> bool:
    """Whether the weights of `epoch` (1-based) are kept: each `save_step` within the `save_last` last, and the last."""
    return epoch == epochs or (epoch > epochs - save_last and epoch % save_step == 0)


def is_validation(epoch: int, epochs: int, val_step: int) -> bool:
    """Whether there is a validation after `epoch` (1-based): each `val_step` (0: none), and after the last."""
    return val_step > 0 and (epoch % val_step == 0 or epoch == epochs)


class SaveInterval:
    """When to save inside an epoch: each so many steps ('200'; '0' never), or minutes ('10min')."""

    def __init__(self, text: str) -> None:
        number = int(text.removesuffix('min'))
        self._steps, self._seconds = (0, 60 * number) if text.endswith('min') else (number, 0)
        self._since = time.monotonic()

    def after(self, step: int) -> bool:
        """Whether the step, counted from 1, is one to save after: the same answer on every rank."""
        return self._steps > 0 and step % self._steps == 0

    def passed(self) -> bool:
        """Whether the minutes have passed on this process's clock since this was last so."""
        due = self._seconds > 0 and time.monotonic() - self._since >= self._seconds
        if due:
            self._since = time.monotonic()
        return due
