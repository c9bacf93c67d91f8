"""A run: what happens before, between and after the epochs of training, and how it resumes."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from dataset import EpochSampler
from models import save_checkpoint
from runtime.distributed import PREEMPTED, StopRequest, World, gather
from runtime.log import RunLog
from training.previews import Preview, draw_strip
from training.schedule import EpochPlan, SaveInterval
from training.sharding import gather_whole
from training.state import RunState
from training.trainer import Trainer
from training.validation import Best, Validator
from utils import epoch_of, write_json

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """One run with all its parts.

    Args:
        folder: where checkpoints, state and logs are written.
        config: every field of the run's Config, which is saved with it.
        world: the ranks.
        trainer: the networks, and what changes in training.
        loader: batches of this rank.
        sampler: decides which images they hold.
        plan: what follows after which epoch.
        validator: scores the network.
        best: the best validation so far.
        save_interval: when the state is saved inside an epoch.
        previews: pairs that TensorBoard shows.
        validates_ema: whether the EMA of the weights is validated, where there is one.
        resume: '' to refuse a folder that holds a run, 'auto' to go on with it, 'force' to go on
            even if the config has changed.
    """

    folder: Path
    config: dict[str, Any]
    world: World
    trainer: Trainer
    loader: DataLoader
    sampler: EpochSampler
    plan: EpochPlan
    validator: Validator
    best: Best
    save_interval: SaveInterval
    previews: list[Preview]
    validates_ema: bool = True
    resume: str = ''
    log: RunLog | None = None  # open while the run trains, on the main rank
    saved: tuple[int, int] | None = None  # epoch and batch of the state on disk

    def train(self) -> int:
        """Trains from the last state on, epoch after epoch.

        Returns:
            0 when the run is complete, PREEMPTED if a signal stopped it and its state is saved.
        """
        # All ranks go back to the same state. The main one cuts its log off where that ended.
        log_position = self._restore_state()
        if self.world.is_main:
            write_json(self.folder / 'config.json', self.config)
            self.log = RunLog(self.folder, log_position, self.trainer.steps)
        try:
            with StopRequest(self.world) as stop:
                is_complete = self._run_epochs(stop)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._describe_kept()) from None
        finally:
            if self.log:
                self.log.close()

        if not is_complete:
            # The first process to end would take the others with it, which may still be writing.
            gather(None, self.world)
            logger.info('stopped by a signal: the state is saved, resume=auto goes on with it')
            return PREEMPTED
        # The run is complete: what is left is for its reader.
        self._report_skipped()
        if self.world.is_main:
            self._draw_curves()
            logger.info('done: checkpoints in %s', self.folder)
        return 0

    def _describe_kept(self) -> str:
        """Describes what an interruption leaves, and how to go on."""
        if self.saved is None:
            return f'interrupted before a state was saved: {self.folder} has to start again'
        epoch, batch = self.saved
        return (f'interrupted: {self.folder} holds the state in epoch {epoch} after {batch} '
                'batches; the same command with resume=auto goes on from there')

    # --- Before the first epoch -------------------------------------------------------------------

    def _restore_state(self) -> int:
        """Goes back to the run's last state, if there is one; returns the log's position there.

        Raises ValueError if the folder holds a run that `resume` does not ask for, or one that was
        made under another config or on another number of ranks.
        """
        # A folder that not all nodes share would send the ranks to different epochs.
        state = RunState.load(self.folder)
        positions = gather(state and state.position, self.world)
        if len(set(positions)) > 1:
            raise ValueError(f'{self.folder}: not all processes found the same state there; '
                             'it must lie on a file system that all nodes share')
        if state is None:
            self._check_no_later_checkpoint()
            if self.resume:
                logger.info('no state in %s yet: starting from the first epoch', self.folder)
            return 0
        if not self.resume:
            raise ValueError(f'{self.folder} holds a run already: '
                             'add resume=auto to go on with it, or choose another name')

        # The state must be of a run like this one, as it goes on exactly.
        state.check_world_size(self.world.size)
        state.check_tile_order()
        if self.resume != 'force':
            state.check_config(self.config)
            state.check_images(self.sampler.n)
        self.trainer.load_state_dict(state.trainer)
        self.best.load_state_dict(state.best)
        self.saved = epoch, batch = state.position
        logger.info('resuming in epoch %d after %d batches', epoch, batch)
        return state.log_position

    def _check_no_later_checkpoint(self) -> None:
        """Raises ValueError if epochs are there that a run without a state would write again.

        That of the first epoch may be there: a run that was killed then has no state yet.
        """
        for file in sorted(self.folder.glob('epoch_*.pth')):
            if (epoch_of(file) or 0) > self.plan.first_epoch:
                raise ValueError(
                    f'{self.folder}: holds {file.name} of a run whose state, last.pt, is gone; '
                    'choose another name, or train on from it with weights=FILE')

    # --- Epochs -----------------------------------------------------------------------------------

    def _run_epochs(self, stop: StopRequest) -> bool:
        """Runs the remaining epochs; returns False if a signal stopped them."""
        while self.trainer.epoch <= self.plan.epochs and not self._should_stop_early():
            if not self._run_epoch(stop):
                return False
        return True

    def _should_stop_early(self) -> bool:
        patience = self.plan.early_stop
        if patience == 0 or self.best.validations_since < patience:
            return False
        logger.info('early stop: no better %s since epoch %d', self.best.metric, self.best.epoch)
        return True

    def _run_epoch(self, stop: StopRequest) -> bool:
        """Trains one epoch and keeps its results; returns False if a signal stopped it."""
        # The steps. After each, the state may be saved or the run stopped.
        epoch = self.trainer.epoch
        began = time.monotonic()
        self.sampler.set_epoch(epoch, self.trainer.batch)
        after_step = partial(self._save_if_due, stop)
        means = self.trainer.run_epoch(self.loader, self.sampler.batches, self.log, after_step)
        if means is None:
            return False

        if self.log:
            self.log.write(epoch=epoch, mean=means)
            seconds = time.monotonic() - began
            logger.info('epoch %d/%d: %s (%.0f s)',
                        epoch, self.plan.epochs, _format(means), seconds)
        # The results come before the state, which says that the epoch is done.
        if self.plan.is_checkpoint(epoch):
            self.save_checkpoint(self.trainer.averaged, self.folder / f'epoch_{epoch}.pth')
        if self.plan.is_validation(epoch):
            self._validate(epoch)
        if self.plan.is_preview(epoch):
            self._draw_previews()
        self._save_state()
        return True

    def _save_if_due(self, stop: StopRequest) -> bool:
        """Saves the state where it is time to, and before stopping; returns whether to stop."""
        # Only the main rank's clock counts, so that all ranks save after the same step.
        wants_to_save = self.world.is_main and self.save_interval.has_passed()
        stop_now, save_now = stop.agreed(save=wants_to_save)
        if stop_now or save_now or self.save_interval.is_due_after(self.trainer.steps):
            self._save_state()
        return stop_now

    def _save_state(self) -> None:
        """Writes last.pt. Call it on every rank."""
        trainer = self.trainer.state_dict()
        if not self.world.is_main:
            return
        log_position = self.log.position if self.log else 0
        best = self.best.state_dict()
        state = RunState(
            trainer, best, log_position, self.config, self.world.size, self.sampler.n)
        state.save(self.folder)
        self.saved = state.position

    def save_checkpoint(self, model: nn.Module, path: Path) -> None:
        """Writes a network's weights. Call it on every rank."""
        state = gather_whole(model.state_dict(), self.world)
        if self.world.is_main:
            save_checkpoint(model, path, state)

    # --- Validation and previews ------------------------------------------------------------------

    @property
    def validated_model(self) -> nn.Module:
        """The network that is validated and previewed."""
        return self.trainer.averaged if self.validates_ema else self.trainer.model

    def _validate(self, epoch: int) -> None:
        """Scores the network and keeps its weights if they are the best so far."""
        scores = self.validator.score(self.validated_model, self.trainer.autocast())
        is_best = self.best.update(scores, epoch)
        if self.log:
            self.log.write(epoch=epoch, validation=scores)
            self.log.scalars('validation', scores, self.trainer.steps)
            remark = f' (the best {self.best.metric} so far)' if is_best else ''
            logger.info('validation: %s%s', _format(scores), remark)
        if is_best:
            self.save_checkpoint(self.validated_model, self.folder / 'best.pth')

    def _draw_previews(self) -> None:
        """Shows previews in TensorBoard.

        Call it on every rank, because a sharded network computes on all of them.
        """
        for preview in self.previews:
            autocast = self.trainer.autocast()
            strip = draw_strip(self.validated_model, preview, self.world.device, autocast)
            if self.log:
                self.log.image(preview.name, strip, self.trainer.steps)

    # --- After the last epoch ---------------------------------------------------------------------

    def _report_skipped(self) -> None:
        skipped = set().union(*gather(self.trainer.skipped, self.world))
        if skipped:
            logger.warning('%d pair(s) could not be read, and others took their place:\n  %s',
                           len(skipped), '\n  '.join(sorted(skipped)))

    def _draw_curves(self) -> None:
        try:
            from training.curves import draw_curves
        except ImportError as error:
            logger.warning('no curves are drawn: %s is not installed', error.name)
            return
        best = (self.best.metric, self.best.epoch) if self.best.epoch else None
        try:
            path = draw_curves(self.folder, best)
        except OSError as error:  # the run is complete all the same
            logger.warning('no curves are drawn: %s', error)
            return
        logger.info('curves in %s', path)


def _format(values: Mapping[str, float]) -> str:
    return ' '.join(f'{name} {value:.4f}' for name, value in values.items())
