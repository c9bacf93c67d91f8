#!/usr/bin/env python
"""Trains the network: `python train.py [--ckpt_dir ckpts/RUN] [key=value ...]`, or under torchrun.

Any field of config.py can be set as key=value (`task=COD bb=pvt_v2_b2 batch_size=4`); `python config.py` lists them.
A run's folder gets its config, its checkpoints epoch_<N>.pth, log.txt, log.jsonl, TensorBoard scalars, and last.pt,
from which `resume=auto` goes on exactly. SIGTERM and SIGUSR1 save that state and end with exit code 75.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from config import ARCHITECTURE, Config, task_record, training_sets
from dataset import (
    Batch,
    EpochSampler,
    Pair,
    PairCache,
    TrainSet,
    build_loader,
    check_readable,
    class_names,
    collate,
    find_pairs,
)
from loss import Criterion
from models import BiRefNet, build_birefnet, load_model, save_checkpoint
from models.discriminator import Discriminator
from runtime.device import prepare_device
from training.average import MovingAverage
from training.distributed import PREEMPTED, StopRequest, World, gather, join_world, peak_memory, seed_everything
from training.log import RunLog, setup_logging
from training.loop import Adversary, NonFiniteLossError, Options, Trainer
from training.meter import duration, timed
from training.pictures import choose, draw_strip
from training.schedule import SaveInterval, is_checkpoint, is_validation, rate_factor
from training.sharding import gather_whole, shard
from training.state import contradictions, load_state, save_state
from training.sync_bn import synchronise
from training.validation import Best, read_pair, split_pairs, validate
from utils import STRIDE, write_json

logger = logging.getLogger(__name__)

PICTURED_EPOCHS = 50  # of a run without validation, so that TensorBoard's files stay small


def parse_arguments(arguments: list[str]) -> tuple[Config, Path]:
    """Config and run folder. Raises ConfigError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='fields of config.py')
    parser.add_argument('--ckpt_dir', help="the run's folder (default: ckpts/<task>)")
    parser.add_argument('--epochs', type=int, help='the same as epochs=N')
    parser.add_argument('--resume', nargs='?', const='auto', default='', metavar='FILE',
                        help="alone: the same as resume=auto; with a file: the same as weights=FILE")
    parser.add_argument('--dist', '--use_accelerate', nargs='?', help=argparse.SUPPRESS)  # torchrun says it
    options = parser.parse_intermixed_args(arguments)
    overrides = list(options.overrides)
    if options.epochs is not None:
        overrides.append(f'epochs={options.epochs}')
    if options.resume not in ('', 'None'):
        overrides.append('resume=auto' if options.resume == 'auto' else f'weights={options.resume}')
    cfg = Config.from_overrides(overrides)
    return cfg, Path(options.ckpt_dir or Path(cfg.ckpt_root, cfg.task))


def build_model(cfg: Config) -> tuple[BiRefNet, Config]:
    """The network; with `cfg.weights`, these and their architecture, whatever `cfg` says of it."""
    if not cfg.weights:
        return build_birefnet(cfg), cfg
    said = {'tile_order': 'column'} if cfg.tile_order == 'column' else {}
    said |= {'mul_scl_ipt': 'add'} if cfg.mul_scl_ipt == 'add' else {}
    said |= {'bb': cfg.bb} if cfg.bb.startswith('timm/') else {}
    model = load_model(cfg.weights, size=cfg.size, freeze_bb=cfg.freeze_bb, **said)
    found = {name: getattr(model.config, name) for name in ARCHITECTURE}
    for name, value in found.items():
        if value != getattr(cfg, name):
            logger.info('%s=%r, as %s has it', name, value, cfg.weights)
    cfg = replace(cfg, **found)
    model.config = replace(cfg, bb_weights='')
    return model.train(), cfg


def find_data(cfg: Config) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs. Raises ValueError listing all that is wrong with the files."""
    pairs = find_pairs(cfg.data_root, cfg.task, training_sets(cfg))
    held_out: list[Pair] = []
    if cfg.val_step and cfg.validation_set:
        held_out = find_pairs(cfg.data_root, cfg.task, cfg.validation_set.split('+'))
    elif cfg.val_step:
        pairs, held_out = split_pairs(pairs, cfg.validation_share, cfg.seed)
    logger.info('%d training pairs from %s, %d for validation', len(pairs), '+'.join(training_sets(cfg)), len(held_out))
    if not cfg.skip_bad:
        check_readable([*pairs, *held_out])
    return pairs, held_out


def build_data(cfg: Config, pairs: list[Pair], held_out: list[Pair], world: World) -> tuple[TrainSet, EpochSampler]:
    """Training set and the sampler of this rank."""
    classes = class_names(pairs) if cfg.auxiliary_classification else None
    if classes and len(classes) > cfg.num_classes:
        raise ValueError(f'num_classes: the training set has {len(classes)} classes, more than {cfg.num_classes}')
    cache = None
    if cfg.load_all:
        # Of all pairs, however they are divided: a change of validation then leaves the cache as it is.
        cache = PairCache(sorted([*pairs, *held_out]), cfg.size, cfg.cache_dir or Path(cfg.data_root, '.cache'),
                          skip_bad=cfg.skip_bad)
    data = TrainSet(pairs, cfg.size, cfg.preproc_methods, cfg.background_color_synthesis, cfg.seed, classes, cache,
                    cfg.skip_bad)
    return data, EpochSampler(len(pairs), cfg.batch_size, cfg.seed, world.rank, world.size, cfg.dynamic_size)


def build_optimizer(cfg: Config, model: torch.nn.Module, backbone: torch.nn.Module | None,
                    device: torch.device) -> torch.optim.Optimizer:
    """AdamW or Adam, fused; the backbone's parameters, if any, are the last group, at their own rate."""
    inside = {id(p) for p in backbone.parameters()} if backbone else set()
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{'params': [p for p in trained if id(p) not in inside], 'lr': cfg.lr},
              {'params': [p for p in trained if id(p) in inside], 'lr': cfg.lr * cfg.lr_bb_factor}]
    kind = {'AdamW': torch.optim.AdamW, 'Adam': torch.optim.Adam}[cfg.optimizer]
    return kind([group for group in groups if group['params']], lr=cfg.lr, weight_decay=cfg.weight_decay,
                fused=device.type in ('cpu', 'cuda'))


def build_trainer(cfg: Config, model: BiRefNet, steps_per_epoch: int, world: World) -> Trainer:
    """Everything that moves, on its device."""
    if cfg.compile:
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is, and torch says so
    for part in (model.encoder.backbone, model.decoder):
        if cfg.grad_checkpointing:
            part.set_grad_checkpointing()
        if cfg.compile:
            part.compile()
    if cfg.sync_bn and world.size > 1:
        model = synchronise(model, world)
    ema = MovingAverage(deepcopy(model), cfg.ema_decay) if cfg.ema_decay else None
    for net in (model, *([ema.module] if ema else [])):
        if cfg.sharding and world.size > 1:
            shard(net, world)
        else:
            net.to(world.device, memory_format=torch.channels_last if cfg.channels_last else torch.preserve_format)
    adversary = None
    if cfg.lambda_adv_g:
        discriminator = Discriminator(cfg.size, dynamic=cfg.dynamic_size is not None).to(world.device)
        adversary = Adversary(discriminator, build_optimizer(cfg, discriminator, None, world.device), world)
    criterion = Criterion(cfg.lambdas_pix_last, cfg.epochs, cfg.tail_epochs, task_record(cfg.task).tail_factors,
                          cfg.lambda_gdt, cfg.lambda_cls)
    rate = partial(rate_factor, steps_per_epoch=steps_per_epoch, epochs=cfg.epochs, schedule=cfg.lr_schedule,
                   warmup_steps=cfg.warmup_steps, decay_epochs=cfg.lr_decay_epochs, decay_rate=cfg.lr_decay_rate)
    options = Options(cfg.accumulate, cfg.grad_clip, cfg.mixed_precision, cfg.channels_last, cfg.lambda_adv_g,
                      cfg.lambda_adv_d, cfg.log_step)
    find_unused = (cfg.out_ref and not cfg.lambda_gdt) or cfg.bb.startswith('timm/')
    return Trainer(model, build_optimizer(cfg, model, model.encoder.backbone, world.device), criterion, rate, options,
                   world, adversary, ema, find_unused)


def resume(cfg: Config, folder: Path, trainer: Trainer, best: Best) -> int:
    """Goes back to the run's last state, if there is one; returns the position of the log there.

    Raises ValueError if the run has a state that was not asked for, or one that the config contradicts.
    """
    state = load_state(folder)
    if len(set(gather(state and (state['epoch'], state['batch']), trainer.world))) > 1:
        raise ValueError(f'{folder}: not all processes found the same state there; it must lie on a file system that '
                         'all nodes share')
    if state is None:
        if cfg.resume:
            logger.info('no state in %s yet: starting anew', folder)
        return 0
    if not cfg.resume:
        raise ValueError(f'{folder} holds a run already: add resume=auto to go on with it, or choose another name')
    if state['world_size'] != trainer.world.size:
        raise ValueError(f'the run to resume had {state["world_size"]} processes, now there are {trainer.world.size}: '
                         'the order of its images depends on their number')
    conflicts = contradictions(state['config'], cfg.as_dict())
    if conflicts and cfg.resume != 'force':
        raise ValueError('the run to resume contradicts this config (resume=force goes on all the same):\n  '
                         + '\n  '.join(conflicts))
    trainer.load_state_dict(state)
    vars(best).update(state['best'])
    logger.info('resuming in epoch %d after %d batches', trainer.epoch, trainer.batch)
    return state['log_position']


class Run:
    """One run: its parts, and what happens after each step and each epoch."""

    def __init__(self, cfg: Config, folder: Path, world: World) -> None:
        seed_everything(cfg.seed)  # the same weights everywhere
        model, self.cfg = build_model(cfg)
        self.folder, self.world, self.log = folder, world, None
        pairs, self.held_out = find_data(self.cfg)
        data, self.sampler = build_data(self.cfg, pairs, self.held_out, world)
        self.trainer = build_trainer(self.cfg, model, -(-self.sampler.batches // cfg.accumulate), world)
        self.pictured = [(pair, *pixels) for pair in choose(self.held_out or pairs)
                         if (pixels := read_pair(pair, self.cfg.size, self._skipped))]
        self.best, self.interval = Best(cfg.val_metric), SaveInterval(cfg.save_every)
        seed_everything(cfg.seed + world.rank)  # from here on random states do not depend on how things were built
        self.loader = build_loader(data, self.sampler, cfg.num_workers, pin_memory=world.device.type == 'cuda')
        logger.info('%s, %.1f M parameters, %d batches of %d each epoch on %d x %s', self.cfg.bb,
                    sum(p.numel() for p in model.parameters()) / 1e6, self.sampler.batches, self.sampler.per_batch,
                    world.size, world.device.type)

    def _draw_curves(self) -> None:
        try:
            from training.curves import draw_curves
        except ImportError as error:
            logger.warning('no curves are drawn: %s is not installed', error.name)
            return
        path = draw_curves(self.folder, (self.best.metric, self.best.epoch) if self.best.epoch else None)
        logger.info('curves in %s', path)

    @property
    def _skipped(self) -> set[str] | None:
        """Where to note what is wrong with pairs that cannot be read; None: they end the run."""
        return self.trainer.skipped if self.cfg.skip_bad else None

    def train(self) -> int:
        """Epoch after epoch, from the last state on; returns the exit code."""
        position = resume(self.cfg, self.folder, self.trainer, self.best)
        if self.world.is_main:
            write_json(self.folder / 'config.json', self.cfg.as_dict())
            self.log = RunLog(self.folder, position, self.trainer.steps)
        self.stop = StopRequest(self.world)
        try:
            while self.trainer.epoch <= self.cfg.epochs and not self._tired():
                if not self._run_epoch():
                    gather(None, self.world)  # the first process to end would take the others with it, still writing
                    logger.info('stopped by a signal: the state is saved, resume=auto goes on with it')
                    return PREEMPTED
        finally:
            self.stop.close()
            if self.log:
                self.log.close()
        skipped = set().union(*gather(self.trainer.skipped, self.world))
        if skipped:
            logger.warning('%d pair(s) could not be read, and others stood in for them:\n  %s', len(skipped),
                           '\n  '.join(sorted(skipped)))
        if self.world.is_main:
            self._draw_curves()
            logger.info('done: checkpoints in %s', self.folder)
        return 0

    def _tired(self) -> bool:
        tired = bool(self.cfg.early_stop) and self.best.since >= self.cfg.early_stop
        if tired:
            logger.info('early stop: no better %s since epoch %d', self.best.metric, self.best.epoch)
        return tired

    def _run_epoch(self) -> bool:
        """Trains one epoch and keeps what it gave; False if a signal ended it."""
        epoch, began = self.trainer.epoch, time.monotonic()
        self.sampler.set_epoch(epoch, self.trainer.batch)
        means = self.trainer.run_epoch(self.loader, self.sampler.batches, self.log, self._after_step)
        if means is None:
            return False
        if self.log:
            self.log.write(epoch=epoch, mean=means)
            terms = ' '.join(f'{name} {value:.4f}' for name, value in means.items())
            logger.info('epoch %d/%d: %s (%.0f s)', epoch, self.cfg.epochs, terms, time.monotonic() - began)
        if is_checkpoint(epoch, self.cfg.epochs, self.cfg.save_last, self.cfg.save_step):
            self._checkpoint(self.trainer.averaged, self.folder / f'epoch_{epoch}.pth')
        if is_validation(epoch, self.cfg.epochs, self.cfg.val_step):
            self._validate(epoch)
        if is_validation(epoch, self.cfg.epochs, self.cfg.val_step or -(-self.cfg.epochs // PICTURED_EPOCHS)):
            self._draw_pictures()
        self._save()
        return True

    def _draw_pictures(self) -> None:
        """On every rank: a network that is divided among them needs them all."""
        for pair, image, mask in self.pictured:
            strip = draw_strip(self._judged, image, mask, self.world.device, self.trainer.autocast())
            if self.log:
                self.log.picture(f'{pair.set}/{pair.name}', strip, self.trainer.steps)

    @property
    def _judged(self) -> torch.nn.Module:
        """The network that is validated."""
        return self.trainer.averaged if self.cfg.val_ema else self.trainer.model

    def _score(self, pairs: list[Pair]) -> dict[str, float]:
        return validate(self._judged, pairs, self.cfg.size, self.cfg.lambdas_pix_last, self.world,
                        self.trainer.autocast(), self._skipped, self.cfg.val_metric)

    def _validate(self, epoch: int) -> None:
        scores = self._score(self.held_out)
        better = self.best.update(scores, epoch)
        if self.log:
            self.log.write(epoch=epoch, validation=scores)
            self.log.scalars('validation', scores, self.trainer.steps)
            logger.info('validation: %s%s', ' '.join(f'{name} {value:.4f}' for name, value in scores.items()),
                        f' (the best {self.best.metric} so far)' if better else '')
        if better:
            self._checkpoint(self._judged, self.folder / 'best.pth')

    def _checkpoint(self, model: torch.nn.Module, path: Path) -> None:
        """Writes a network's weights. Call on every rank."""
        state = gather_whole(model.state_dict(), self.world)
        if self.world.is_main:
            save_checkpoint(model, path, state)

    def _after_step(self) -> bool:
        stopping, due = self.stop.agreed(self.world.is_main and self.interval.passed())
        if stopping or due or self.interval.after(self.trainer.steps):
            self._save()
        return stopping

    def _save(self) -> None:
        state = self.trainer.state_dict(self.log.position if self.log else 0)
        if self.world.is_main:
            save_state(self.folder, {**state, 'best': self.best.state_dict(), 'config': self.cfg.as_dict(),
                                     'world_size': self.world.size})

    def rehearse(self) -> int:
        """One batch of everything; tells what time and memory the run would take. Leaves nothing behind."""
        self.sampler.set_epoch(1)
        _, starting = timed(lambda: next(iter(self.loader)))
        batch, loading = timed(self._largest_batch)
        loading /= max(1, self.cfg.num_workers)
        self.trainer.rehearse(batch)  # this one also plans and allocates
        _, step = timed(lambda: self.trainer.rehearse(batch))
        each = timed(lambda: self._score(self.held_out[:self.world.size]))[1] if self.held_out else 0.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'epoch_1.pth')
            self._checkpoint(self.trainer.averaged, path)
            size = path.stat().st_size if self.world.is_main else 0
        logger.info('dry run: the first batch came after %.1f s; a step takes %.2f s and loading its batch %.2f s%s',
                    starting, step, loading, ': the loader is the slower one' if loading > step else '')
        self._tell_time(max(step, loading) if self.cfg.num_workers else step + loading,
                        each * len(self.held_out) / self.world.size)
        self._tell_memory(size / 1e9)
        return 0

    def _largest_batch(self) -> Batch:
        """The first batch of this rank, in the largest size that there will be, loaded by this process alone."""
        largest = self.cfg.dynamic_size and tuple(limits[1] // STRIDE * STRIDE for limits in self.cfg.dynamic_size)
        return collate([self.loader.dataset[key._replace(size=largest)] for key in next(iter(self.sampler))])

    def _tell_time(self, batch: float, validation: float) -> None:
        """What the whole run takes; both in seconds."""
        epoch, epochs = batch * self.sampler.batches, self.cfg.epochs
        validations = sum(is_validation(e, epochs, self.cfg.val_step) for e in range(1, epochs + 1))
        logger.info('dry run: an epoch takes %s, a validation %s; %d and %d of them %s', duration(epoch),
                    duration(validation), epochs, validations, duration(epoch * epochs + validation * validations))

    def _tell_memory(self, checkpoint: float) -> None:
        """Peaks so far, and what the run will leave on disk; `checkpoint` is one's size in GB."""
        cfg, device = self.cfg, self.world.device
        peaks = f'{peak_memory(torch.device("cpu")) / 1e9:.2f} GB of the host'
        if device.type == 'cuda':
            peaks += f' and {peak_memory(device) / 1e9:.2f} GB of the GPU'
        kept = sum(is_checkpoint(e, cfg.epochs, cfg.save_last, cfg.save_step) for e in range(1, cfg.epochs + 1))
        logger.info('dry run: peak memory %s; on disk %d checkpoints of %.2f GB and the state twice, %.2f GB', peaks,
                    kept, checkpoint, 2 * 3 * checkpoint)


@record
def main(arguments: list[str] | None = None) -> int:
    """Parses, joins the other processes, trains; returns the exit code."""
    cfg, folder = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    is_main = int(os.environ.get('RANK', 0)) == 0
    if is_main and not cfg.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
    setup_logging(folder if is_main and not cfg.dry_run else None, logging.INFO if is_main else logging.WARNING)
    device = prepare_device(cfg.device, fixed_size=cfg.dynamic_size is None, deterministic=cfg.deterministic,
                            mixed_precision=cfg.mixed_precision)
    with join_world(device) as world:
        run = Run(cfg, folder, world)
        return run.rehearse() if cfg.dry_run else run.train()


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (ValueError, OSError, NonFiniteLossError) as error:
        sys.exit(f'train: {error}')
