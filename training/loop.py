"""The training loop: one optimizer step, one epoch, and all that has to be saved to go on exactly there."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from dataset import Batch, normalize
from loss import Criterion, discriminator_loss, generator_loss
from models.discriminator import Discriminator
from runtime.distributed import World, gather, mean_over_ranks, random_state, set_random_state, share_buffers
from runtime.log import RunLog
from runtime.memory import memory_in_gigabytes
from training.average import MovingAverage
from training.meter import Meter
from training.sharding import gather_whole, is_sharded, load_optimizer, load_weights
from utils import Progress

logger = logging.getLogger(__name__)

AUTOCAST = {'no': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class NonFiniteLossError(RuntimeError):
    """A loss term became infinite or NaN; the message says which and at which step."""


@dataclass
class Options:
    """How to step; fields are Config's of the same names."""

    accumulate: int = 1
    grad_clip: float = 0.
    mixed_precision: str = 'no'
    channels_last: bool = False
    lambda_adv_g: float = 0.
    lambda_adv_d: float = 3.
    log_step: int = 20


class Adversary:
    """The discriminator of MCCL with its optimizer; the generator's term goes into the network's loss."""

    def __init__(self, discriminator: Discriminator, optimizer: torch.optim.Optimizer, world: World) -> None:
        self.bare, self.optimizer = discriminator.to(world.device), optimizer
        # It runs twice before its backward pass, in between of which its buffers may not be overwritten.
        self.net = distribute(self.bare, world, forward_sync_buffers=False)

    def step(self, probability: Tensor, mask: Tensor, image: Tensor, weight: float) -> Tensor:
        """One step of the discriminator; returns its weighted loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = weight * discriminator_loss(self.net, probability, mask, image)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def distribute(model: nn.Module, world: World, find_unused: bool = False, **options: Any) -> nn.Module:
    """`model` under DistributedDataParallel; itself where one process is alone, weights are divided, or none learns."""
    if world.size == 1 or is_sharded(model) or not any(p.requires_grad for p in model.parameters()):
        return model
    devices = [world.device] if world.device.type == 'cuda' else None
    return DistributedDataParallel(model, devices, find_unused_parameters=find_unused, gradient_as_bucket_view=True,
                                   **options)


@dataclass
class Sums:
    """Running sums of named terms on the device, read only when logged, and the first step that was not finite."""

    names: tuple[str, ...] = ()
    values: Tensor | None = None  # (terms,)
    first_bad: Tensor | None = None  # (terms,), -1: all finite so far
    count: int = 0

    def add(self, terms: dict[str, Tensor], step: int) -> None:
        """Adds one step's terms; the names must stay the same until `clear`."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        if self.values is None:
            self.names, self.values, self.count = tuple(terms), torch.zeros_like(values), 0
            self.first_bad = torch.full_like(values, -1)
        assert self.names == tuple(terms), (self.names, tuple(terms))
        self.first_bad = torch.where((self.first_bad < 0) & ~values.isfinite(), step, self.first_bad)
        self.values += values
        self.count += 1

    def means(self, world: World) -> dict[str, float]:
        """Mean of each term over the steps and the ranks. Raises NonFiniteLossError."""
        if self.values is None:
            return {}
        bad = {name: int(step) for name, step in zip(self.names, self.first_bad.tolist(), strict=True) if step >= 0}
        if bad:
            step = min(bad.values())
            terms = ', '.join(name for name, first in bad.items() if first == step)
            raise NonFiniteLossError(f'loss is not finite at step {step} of the epoch, in: {terms}')
        means = mean_over_ranks(self.values / self.count, world).tolist()
        return dict(zip(self.names, means, strict=True))

    def clear(self) -> None:
        """Starts anew, with any names."""
        self.values = None


@dataclass
class Trainer:
    """All that moves during training. `rate` gives the learning rate's factor for an optimizer step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: Criterion
    rate: Callable[[int], float]
    options: Options
    world: World
    adversary: Adversary | None = None
    ema: MovingAverage | None = None
    find_unused: bool = False
    epoch: int = 1  # the epoch under way, 1-based
    batch: int = 0  # batches of it that are done
    steps: int = 0  # optimizer steps of the whole run
    window: Sums = field(default_factory=Sums)  # since the last log line
    total: Sums = field(default_factory=Sums)  # since the epoch's beginning
    skipped: set[str] = field(default_factory=set)  # what was wrong with pairs that others stood in for

    def __post_init__(self) -> None:
        self.net = distribute(self.model, self.world, self.find_unused)
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.options.mixed_precision == 'fp16')
        self.gradient_norm = torch.zeros((), device=self.world.device)
        self._base_rates = [group['lr'] for group in self.optimizer.param_groups]

    @property
    def averaged(self) -> nn.Module:
        """The moving average of the network, or the network itself where there is none."""
        return self.ema.module if self.ema else self.model

    def run_epoch(self, loader: DataLoader, batches: int, log: RunLog | None,
                  after_step: Callable[[], bool]) -> dict[str, float] | None:
        """Trains on the rest of the epoch, `batches` in all; returns the mean of each term over the epoch.

        `loader` begins at `self.batch`. `after_step` is called after each optimizer step; if it says so, training stops
        there and None is returned.
        """
        self.net.train()
        bar = Progress(batches, f'epoch {self.epoch}/{self.criterion.epochs}', 'batch', done=self.batch,
                       quiet=not self.world.is_main, say=logger.info)
        meter = Meter(self.world)
        with bar:
            for item in meter.timed_batches(loader):
                group_end = self._group_end(batches)
                self._step(item, group_end)
                self.batch += 1
                self.skipped.update(item.skipped)
                if self.batch % self.options.log_step == 0 or self.batch == batches:
                    self._report(log, meter, bar)
                bar.update()
                if self.batch == group_end and after_step():
                    return None
        means = self.total.means(self.world)
        self.total.clear()
        self.epoch, self.batch = self.epoch + 1, 0
        return means

    def rehearse(self, item: Batch) -> None:
        """One step that counts for nothing, but for the weights; the device's work is awaited."""
        self.net.train()
        self._step(item, self.batch + 1)
        self.window.means(self.world)
        self.window.clear()
        self.total.clear()

    def _group_end(self, batches: int) -> int:
        """Number of batches done when the group of accumulated gradients under way is complete."""
        size = self.options.accumulate
        return min((self.batch // size + 1) * size, batches)

    def _step(self, item: Batch, group_end: int) -> None:
        """One batch forward and backward and, at the end of its group, one step of the optimizer."""
        image, mask, classes = self._to_device(item)
        first = (self.batch // self.options.accumulate) * self.options.accumulate
        group = group_end - first
        last = self.batch + 1 == group_end
        # A divided network shares its gradients in every batch: kept until the last, they would be whole on each rank.
        no_sync = isinstance(self.net, DistributedDataParallel) and not last
        if is_sharded(self.net):
            share_buffers(self.net, self.world)  # DistributedDataParallel does so itself
        with self.net.no_sync() if no_sync else nullcontext():
            with self.autocast():
                output = self.net(image, side_outputs=True)
            num_averaged = group * self.world.size
            terms = self.criterion(output, mask, classes, epoch=self.epoch,
                                   num_averaged_batches=num_averaged)
            probability = output.logits[-1].float().sigmoid()
            if self.adversary:
                deception = generator_loss(self.adversary.bare, probability, image)
                terms['adversarial'] = self.options.lambda_adv_g * deception
            loss = sum(terms.values())
            self.scaler.scale(loss / group).backward()
        terms = {'loss': loss, **terms}
        if self.adversary:
            learns = (self.batch + 1) % 2 == 0
            terms['discriminator'] = self.adversary.step(
                probability, mask, image, self.options.lambda_adv_d) if learns else torch.zeros_like(loss)
        if last:
            self.gradient_norm = self._optimize()
        terms['gradient_norm'] = self.gradient_norm  # of the group before, while gradients are being accumulated
        for sums in (self.window, self.total):
            sums.add(terms, self.batch + 1)
        if self.world.device.type == 'cpu':  # reading costs nothing here: stop before a bad step is built upon
            self.window.means(World(0, 1, self.world.device))

    def _to_device(self, item: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised image (B, 3, H, W) float32, mask (B, 1, H, W) in 0..1, class ids (B,), on the device."""
        tensors = (item.image, item.mask, item.class_ids)
        image, mask, classes = (t.to(self.world.device, non_blocking=True) for t in tensors)
        image = normalize(image)
        if self.options.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return image, mask.float() / 255, classes

    def autocast(self) -> Any:
        """The context in which the network computes."""
        dtype = AUTOCAST[self.options.mixed_precision]
        if dtype is None:
            return nullcontext()
        # The cache would keep a copy of every weight of a divided network.
        return torch.autocast(self.world.device.type, dtype, cache_enabled=not is_sharded(self.net))

    def _optimize(self) -> Tensor:
        """Moves the weights; returns the norm of the gradient before clipping."""
        factor = self.rate(self.steps)
        for optimizer, rates in self._optimizers():
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group['lr'] = rate * factor
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        norm = nn.utils.clip_grad_norm_(parameters, self.options.grad_clip or math.inf)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.model)
        self.steps += 1
        # Under fp16 the scaler skips steps whose gradient overflows: no reason to stop.
        return norm.nan_to_num(0., 0., 0.) if self.scaler.is_enabled() else norm

    def _optimizers(self) -> Iterator[tuple[torch.optim.Optimizer, list[float]]]:
        yield self.optimizer, self._base_rates
        if self.adversary:
            yield self.adversary.optimizer, self._base_rates[:1]

    def _report(self, log: RunLog | None, meter: Meter, bar: Progress) -> None:
        """Reads the terms since the last report, on all ranks, and writes them."""
        means = self.window.means(self.world)
        self.window.clear()
        if log:
            groups = self.optimizer.param_groups  # the backbone's, if it is trained, is the second
            rates = dict(zip(('lr', 'lr_backbone'), (group['lr'] for group in groups), strict=False))
            log.write(epoch=self.epoch, batch=self.batch, step=self.steps, **rates, **means)
            norm = means.pop('gradient_norm')
            for group, values in (('loss', means), ('optimizer', {**rates, 'gradient_norm': norm}),
                                  ('speed', meter.read()), ('memory', memory_in_gigabytes(self.world.device))):
                log.scalars(group, values, self.steps)
            bar.note(f'loss {means["loss"]:.3f}')

    def state_dict(self, log_position: int) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on exactly here, on rank 0. Call on every rank."""
        def sums(s: Sums) -> dict[str, Any]:
            return {'names': list(s.names), 'values': s.values, 'first_bad': s.first_bad, 'count': s.count}

        adversary = self.adversary and {'net': self.adversary.bare.state_dict(),
                                        'optimizer': self.adversary.optimizer.state_dict()}
        weights = {'model': self.model.state_dict(), 'optimizer': self.optimizer.state_dict(),
                   'ema': self.ema and self.ema.module.state_dict()}
        return {**gather_whole(weights, self.world), 'scaler': self.scaler.state_dict(), 'adversary': adversary,
                'epoch': self.epoch, 'batch': self.batch, 'steps': self.steps, 'log_position': log_position,
                'gradient_norm': self.gradient_norm, 'skipped': gather(sorted(self.skipped), self.world),
                'sums': gather({'window': sums(self.window), 'total': sums(self.total)}, self.world),
                'random': gather(random_state(self.world.device), self.world)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where `state_dict` was called, on the same number of ranks."""
        load_weights(self.model, state['model'])
        load_optimizer(self.optimizer, state['optimizer'])
        self.scaler.load_state_dict(state['scaler'])
        if self.ema:
            load_weights(self.ema.module, state['ema'])
        if self.adversary:
            self.adversary.bare.load_state_dict(state['adversary']['net'])
            self.adversary.optimizer.load_state_dict(state['adversary']['optimizer'])
        self.epoch, self.batch, self.steps = state['epoch'], state['batch'], state['steps']
        self.gradient_norm = state['gradient_norm'].to(self.world.device)
        self.skipped = set(state['skipped'][self.world.rank])
        own = state['sums'][self.world.rank]
        self.window, self.total = (Sums(tuple(s['names']), s['values'], s['first_bad'], s['count'])
                                   for s in (own['window'], own['total']))
        for sums in (self.window, self.total):
            if sums.values is not None:
                sums.values, sums.first_bad = (t.to(self.world.device) for t in (sums.values, sums.first_bad))
        set_random_state(state['random'][self.world.rank], self.world.device)
