"""When things happen: learning rates by step, checkpoints and validations by epoch, saving."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from utils import ceil_div

COSINE_FLOOR = .01  # where the 'cosine' schedule ends
# At most so many epochs of a run without validation, so that TensorBoard's files stay small.
PREVIEWED_EPOCHS = 50


def rate_factor(
    step: int,
    steps_per_epoch: int,
    epochs: int,
    schedule: str = 'step',
    warmup_steps: int = 0,
    decay_epochs: Sequence[int] = (),
    decay_rate: float = .5,
    first_epoch: int = 1,
) -> float:
    """Computes what the learning rate is multiplied by in an optimizer step.

    Args:
        step: counted from 0 over the whole run.
        steps_per_epoch: optimizer steps in an epoch.
        epochs: the last epoch.
        schedule: 'step', or 'cosine' for half a cosine from 1 to COSINE_FLOOR after the warm-up.
        warmup_steps: steps over which either schedule rises linearly.
        decay_epochs: epochs (1-based; -1 is the last) from which on the 'step' schedule multiplies
            by `decay_rate` once more.
        decay_rate: factor of the 'step' schedule.
        first_epoch: the epoch of step 0.
    """
    warmup = min(1., (step + 1) / (warmup_steps + 1))
    if schedule == 'cosine':
        total_steps = steps_per_epoch * (epochs + 1 - first_epoch)
        decay_steps = max(1, total_steps - warmup_steps)
        progress = max(0, step - warmup_steps) / decay_steps
        return warmup * _half_cosine(progress)

    # One factor more for each milestone that is reached.
    epoch = step // steps_per_epoch + first_epoch
    decays = 0
    for milestone in decay_epochs:
        from_start = milestone if milestone > 0 else epochs + 1 + milestone
        if epoch >= from_start:
            decays += 1
    return warmup * decay_rate ** decays


def _half_cosine(progress: float) -> float:
    """Half a cosine from 1 to COSINE_FLOOR, as `progress` goes from 0 to 1."""
    cosine = 1 + math.cos(math.pi * min(1., progress))
    return COSINE_FLOOR + (1 - COSINE_FLOOR) * cosine / 2


@dataclass(frozen=True)
class EpochPlan:
    """What follows after which epoch.

    Args:
        epochs: the last epoch.
        save_last: how many epochs before the last one checkpoints begin.
        save_step: checkpoints are kept of multiples of this. The last epoch's is always kept.
        val_step: epochs between validations; 0: none. There is one after the last epoch.
        early_stop: validations without a better one after which the run ends; 0: never.
        first_epoch: more than 1 where a run counts on from the weights of another.
    """

    epochs: int
    save_last: int = 1
    save_step: int = 1
    val_step: int = 0
    early_stop: int = 0
    first_epoch: int = 1

    @property
    def trained(self) -> range:
        """The epochs of the whole run."""
        return range(self.first_epoch, self.epochs + 1)

    def is_checkpoint(self, epoch: int) -> bool:
        """Whether the weights of `epoch` are kept."""
        if epoch == self.epochs:
            return True
        is_late = epoch >= self.epochs - self.save_last
        return is_late and epoch % self.save_step == 0

    def is_validation(self, epoch: int) -> bool:
        """Whether there is a validation after `epoch`."""
        return self.val_step > 0 and self._is_due(epoch, self.val_step)

    def is_preview(self, epoch: int) -> bool:
        """Whether previews are drawn after `epoch`: with each validation, or now and then."""
        step = self.val_step or ceil_div(len(self.trained), PREVIEWED_EPOCHS)
        return self._is_due(epoch, step)

    def _is_due(self, epoch: int, step: int) -> bool:
        return epoch % step == 0 or epoch == self.epochs

    def num_checkpoints(self) -> int:
        """How many checkpoints the whole run keeps."""
        return sum(map(self.is_checkpoint, self.trained))

    def num_validations(self) -> int:
        """How many validations the whole run has."""
        return sum(map(self.is_validation, self.trained))


class SaveInterval:
    """When the state is saved inside an epoch.

    Args:
        text: '200' for every 200 optimizer steps ('0' for never), '10min' for every ten minutes.
    """

    def __init__(self, text: str) -> None:
        number = int(text.removesuffix('min'))
        is_time = text.endswith('min')
        self._steps = 0 if is_time else number
        self._seconds = 60 * number if is_time else 0
        self._saved_at = time.monotonic()

    def is_due_after(self, step: int) -> bool:
        """Whether to save after a step, counted from 1: the same answer on every rank."""
        return self._steps > 0 and step % self._steps == 0

    def has_passed(self) -> bool:
        """Whether the minutes have passed since this last returned True, by this rank's clock."""
        now = time.monotonic()
        if self._seconds == 0 or now - self._saved_at < self._seconds:
            return False
        self._saved_at = now
        return True
