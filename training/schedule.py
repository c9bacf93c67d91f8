"""Learning rates and checkpoints as pure functions of the step and the epoch."""

import math
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
