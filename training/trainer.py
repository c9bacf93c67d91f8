"""The training loop: a batch, a step of the optimizer, an epoch."""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from dataset import Batch, normalize
from loss import Criterion, add_losses, discriminator_loss, generator_loss
from runtime.device import AUTOCAST
from runtime.distributed import World, gather, random_state, set_random_state, share_buffers
from runtime.log import RunLog
from runtime.memory import memory_in_gigabytes
from training.average import MovingAverage
from training.means import RunningMeans
from training.meter import Meter
from training.networks import TrainedNetwork
from training.sharding import gather_whole, is_sharded, load_weights
from utils import Progress

logger = logging.getLogger(__name__)

DISCRIMINATOR_PERIOD = 2  # the discriminator learns from every second batch


@dataclass(frozen=True)
class StepOptions:
    """How steps are made; the fields are Config's of the same names."""

    accumulate: int = 1
    grad_clip: float = 0.
    mixed_precision: str = 'no'
    channels_last: bool = False
    lambda_adv_g: float = 0.
    lambda_adv_d: float = 3.
    log_step: int = 20


@dataclass
class Trainer:
    """Trains a network, and holds all that changes while it does.

    Args:
        network: the network with its optimizer.
        criterion: its losses.
        rate_factor: what base learning rates are multiplied by in an optimizer step, from 0.
        options: how steps are made.
        world: the ranks that train together.
        discriminator: the adversary of MCCL, with its optimizer.
        ema: the moving average of the network's weights.
    """

    network: TrainedNetwork
    criterion: Criterion
    rate_factor: Callable[[int], float]
    options: StepOptions
    world: World
    discriminator: TrainedNetwork | None = None
    ema: MovingAverage | None = None
    scaler: torch.amp.GradScaler = field(init=False)  # scales under fp16 alone
    epoch: int = 1  # the current epoch, 1-based
    batch: int = 0  # its batches that are done
    steps: int = 0  # optimizer steps of the whole run
    since_log: RunningMeans = field(default_factory=RunningMeans)
    this_epoch: RunningMeans = field(default_factory=RunningMeans)
    skipped: set[str] = field(default_factory=set)  # what is wrong with pairs that were skipped

    def __post_init__(self) -> None:
        device = self.world.device
        self.gradient_norm = torch.zeros((), device=device)
        scales = self.options.mixed_precision == 'fp16'
        self.scaler = torch.amp.GradScaler(device.type, enabled=scales)

    @property
    def model(self) -> nn.Module:
        """The bare network."""
        return self.network.module

    @property
    def averaged(self) -> nn.Module:
        """The EMA of the network, or the network itself where there is none."""
        return self.ema.module if self.ema else self.model

    def autocast(self) -> AbstractContextManager:
        """The context in which the network computes."""
        dtype = AUTOCAST[self.options.mixed_precision]
        if dtype is None:
            return nullcontext()
        # The cache would keep a whole copy of every weight of a sharded network.
        use_cache = not is_sharded(self.model)
        return torch.autocast(self.world.device.type, dtype, cache_enabled=use_cache)

    # --- An epoch ---------------------------------------------------------------------------------

    def run_epoch(
        self,
        loader: DataLoader,
        num_batches: int,
        log: RunLog | None,
        after_step: Callable[[], bool],
    ) -> dict[str, float] | None:
        """Trains on the rest of the epoch.

        Args:
            loader: the epoch's batches from `self.batch` on.
            num_batches: how many batches the whole epoch has.
            log: written to every `log_step` batches; None on all ranks but the main one.
            after_step: called after each step of the optimizer; returns whether to stop there.

        Returns:
            The mean of each term over the epoch, or None if training stopped.
        """
        # Whoever resumes inside an epoch goes on with its batch, its sums and its progress.
        self.network.ddp.train()
        meter = Meter(self.world)
        title = f'epoch {self.epoch}/{self.criterion.epochs}'
        bar = Progress(num_batches, title, 'batch', done=self.batch,
                       quiet=not self.world.is_main, say=logger.info)
        with bar:
            for batch in meter.timed_batches(loader):
                first, end = self._current_group(num_batches)
                completes_group = self.batch + 1 == end
                self.step(batch, end - first, completes_group)

                if self.batch % self.options.log_step == 0 or self.batch == num_batches:
                    self._report(log, meter, bar)
                bar.update()
                if completes_group and after_step():
                    return None

        # On to the next epoch.
        means = self.this_epoch.means(self.world)
        self.this_epoch.clear()
        self.epoch += 1
        self.batch = 0
        return means

    def _current_group(self, num_batches: int) -> tuple[int, int]:
        """First batch, and end, of those whose gradients are accumulated with the next one's."""
        size = self.options.accumulate
        first = self.batch // size * size
        return first, min(first + size, num_batches)

    def _report(self, log: RunLog | None, meter: Meter, bar: Progress) -> None:
        """Reads the terms since the last report, on all ranks, and logs them."""
        means = self.take_means()
        if log is None:
            return
        # The backbone's group, if it is trained, is the second.
        names = ('lr', 'lr_backbone')
        rates = dict(zip(names, self.network.rates, strict=False))
        log.write(epoch=self.epoch, batch=self.batch, step=self.steps, **rates, **means)
        norm = means.pop('gradient_norm')
        log.scalars('loss', means, self.steps)
        log.scalars('optimizer', {**rates, 'gradient_norm': norm}, self.steps)
        log.scalars('speed', meter.read(), self.steps)
        log.scalars('memory', memory_in_gigabytes(self.world.device), self.steps)
        bar.note(f'loss {means["loss"]:.3f}')

    def take_means(self) -> dict[str, float]:
        """Returns the mean of each term since the last call, over steps and ranks.

        It waits for the device. Call it on every rank. Raises NonFiniteLossError.
        """
        means = self.since_log.means(self.world)
        self.since_log.clear()
        return means

    # --- A step -----------------------------------------------------------------------------------

    def step(self, batch: Batch, group_size: int = 1, completes_group: bool = True) -> None:
        """Trains on one batch; the optimizer moves at the end of its group.

        Args:
            batch: on the CPU or the device.
            group_size: how many batches have their gradients accumulated.
            completes_group: whether this is the last of them.

        Raises:
            NonFiniteLossError: at once on a CPU. On a GPU `take_means` raises it, because reading a
                value would make every step wait for the device.
        """
        terms = self.accumulate_gradients(batch, group_size, completes_group)
        if completes_group:
            self.gradient_norm = self.update_weights()
        # While gradients are being accumulated, it is the norm of the group before.
        terms['gradient_norm'] = self.gradient_norm

        # Terms are summed on the device. On a CPU they are checked at once: nothing waits for them.
        self.batch += 1
        self.skipped.update(batch.skipped)
        self.since_log.add(terms, self.batch)
        self.this_epoch.add(terms, self.batch)
        if self.world.device.type == 'cpu':
            self.since_log.check_finite()

    def accumulate_gradients(
        self,
        batch: Batch,
        group_size: int = 1,
        completes_group: bool = True,
    ) -> dict[str, Tensor]:
        """Adds the gradients of one batch to the parameters'; the discriminator takes its step.

        Returns the terms of the loss, weighted; arguments as of `step`.
        """
        image, mask, class_ids = self._to_device(batch)
        # All ranks go on from the same running statistics, as under DistributedDataParallel.
        if is_sharded(self.model):
            share_buffers(self.model, self.world)

        # Only the network computes under autocast: the losses take float32.
        with self._gradient_sync(completes_group):
            with self.autocast():
                output = self.network.ddp(image, side_outputs=True)
            terms = self.criterion(output, mask, class_ids, epoch=self.epoch,
                                   num_averaged_batches=group_size * self.world.size)
            probability = output.logits[-1].float().sigmoid()
            if self.discriminator:
                generator_term = generator_loss(self.discriminator.module, probability, image)
                terms['adversarial'] = self.options.lambda_adv_g * generator_term
            loss = add_losses(terms.values())
            self.scaler.scale(loss / group_size).backward()

        # The discriminator learns from this batch after the network has.
        terms = {'loss': loss, **terms}
        if self.discriminator:
            terms['discriminator'] = self._train_discriminator(
                self.discriminator, probability, mask, image)
        return terms

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Moves a batch to the device.

        Returns the normalised image (B, 3, H, W), the mask (B, 1, H, W) in 0..1, both float32, and
        class ids (B,).
        """
        device = self.world.device
        image = normalize(batch.image.to(device, non_blocking=True))
        mask = batch.mask.to(device, non_blocking=True).float() / 255
        class_ids = batch.class_ids.to(device, non_blocking=True)
        if self.options.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return image, mask, class_ids

    def _gradient_sync(self, completes_group: bool) -> AbstractContextManager:
        """The context of a backward pass: ranks average gradients once a group.

        A sharded network averages them in every batch. Otherwise each rank would hold the whole
        gradient until the end of the group.
        """
        ddp = self.network.ddp
        if isinstance(ddp, DistributedDataParallel) and not completes_group:
            return ddp.no_sync()
        return nullcontext()

    def _train_discriminator(
        self,
        discriminator: TrainedNetwork,
        probability: Tensor,
        mask: Tensor,
        image: Tensor,
    ) -> Tensor:
        """Makes a step of the discriminator; returns its weighted loss, 0 in batches without."""
        if (self.batch + 1) % DISCRIMINATOR_PERIOD:
            return torch.zeros((), device=self.world.device)
        optimizer = discriminator.optimizer
        optimizer.zero_grad(set_to_none=True)
        loss = discriminator_loss(discriminator.ddp, probability, mask, image)
        weighted = self.options.lambda_adv_d * loss
        weighted.backward()
        optimizer.step()
        return weighted.detach()

    def update_weights(self) -> Tensor:
        """Moves the weights by the accumulated gradients, which are dropped.

        Returns the norm of the gradient before clipping.
        """
        # The rate of this step.
        factor = self.rate_factor(self.steps)
        self.network.set_rate_factor(factor)
        if self.discriminator:
            self.discriminator.set_rate_factor(factor)

        # The norm is that of the gradients without fp16's scale, before they are clipped.
        optimizer = self.network.optimizer
        self.scaler.unscale_(optimizer)
        max_norm = self.options.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters, max_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()

        # The step, and what follows the weights.
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.model)
        self.steps += 1

        if self.scaler.is_enabled():
            # A gradient that overflows under fp16 is not an error: the scaler has skipped the step.
            return norm.nan_to_num(0., 0., 0.)
        return norm

    # --- Its state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Returns all that `load_state_dict` needs to go on exactly from here.

        Rank 0 has all of it, the other ranks do not. Call it on every rank.
        """
        network = self.network.state_dict()
        means = {
            'window': self.since_log.state_dict(),
            'total': self.this_epoch.state_dict(),
        }
        return {
            'model': network['net'],
            'optimizer': network['optimizer'],
            'ema': self.ema and gather_whole(self.ema.module.state_dict(), self.world),
            'scaler': self.scaler.state_dict(),
            'adversary': self.discriminator and self.discriminator.state_dict(),
            'epoch': self.epoch,
            'batch': self.batch,
            'steps': self.steps,
            'gradient_norm': self.gradient_norm,
            'skipped': gather(sorted(self.skipped), self.world),
            'sums': gather(means, self.world),
            'random': gather(random_state(self.world.device), self.world),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned on rank 0, on the same number of ranks."""
        # The networks, which every rank loads alike.
        self.network.load_state_dict({'net': state['model'], 'optimizer': state['optimizer']})
        self.scaler.load_state_dict(state['scaler'])
        if self.ema:
            load_weights(self.ema.module, state['ema'])
        if self.discriminator:
            self.discriminator.load_state_dict(state['adversary'])

        # The position in the run.
        self.epoch = state['epoch']
        self.batch = state['batch']
        self.steps = state['steps']

        # What each rank has of its own: its pairs, sums and random numbers.
        rank = self.world.rank
        device = self.world.device
        self.gradient_norm = state['gradient_norm'].to(device)
        self.skipped.update(state['skipped'][rank])
        means = state['sums'][rank]
        self.since_log.load_state_dict(means['window'], device)
        self.this_epoch.load_state_dict(means['total'], device)
        set_random_state(state['random'][rank], device)
