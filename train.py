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
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from config import ARCHITECTURE, Config, training_sets
from dataset import EpochSampler, PairCache, TrainSet, build_loader, check_readable, class_names, find_pairs
from loss import Criterion, Discriminator
from models import BiRefNet, load_model, save_checkpoint
from training.distributed import StopRequest, World, join_world, seed_everything
from training.log import RunLog, setup_logging
from training.loop import Adversary, NonFiniteLossError, Options, Trainer
from training.schedule import is_checkpoint, rate_factor
from training.state import contradictions, load_state, save_state
from utils import write_json

logger = logging.getLogger(__name__)

PREEMPTED = 75  # EX_TEMPFAIL: the state is saved, run the same command with resume=auto


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
        return BiRefNet(cfg), cfg
    said = {'tile_order': 'column'} if cfg.tile_order == 'column' else {}
    said |= {'mul_scl_ipt': 'add'} if cfg.mul_scl_ipt == 'add' else {}
    said |= {'bb': cfg.bb} if cfg.bb.startswith('timm/') else {}
    loaded = load_model(cfg.weights, **said)
    found = {name: getattr(loaded.config, name) for name in ARCHITECTURE}
    for name, value in found.items():
        if value != getattr(cfg, name):
            logger.info('%s=%r, as %s has it', name, value, cfg.weights)
    cfg = replace(cfg, **found)
    model = BiRefNet(replace(cfg, bb_weights=''))
    model.load_state_dict(loaded.state_dict())
    return model, cfg


def build_data(cfg: Config, folder: Path, world: World) -> tuple[TrainSet, EpochSampler]:
    """Training set and the sampler of this rank. Raises ValueError listing all that is wrong with the files."""
    pairs = find_pairs(cfg.data_root, cfg.task, training_sets(cfg))
    logger.info('%d training pairs from %s', len(pairs), '+'.join(training_sets(cfg)))
    if not cfg.skip_bad and not cfg.load_all:
        check_readable(pairs)
    classes = class_names(pairs) if cfg.auxiliary_classification else None
    if classes and len(classes) > cfg.num_classes:
        raise ValueError(f'num_classes: the training set has {len(classes)} classes, more than {cfg.num_classes}')
    cache = None
    if cfg.load_all:
        cache = PairCache(pairs, cfg.size, cfg.cache_dir or Path(cfg.data_root, '.cache'), skip_bad=cfg.skip_bad)
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
    model.to(world.device, memory_format=torch.channels_last if cfg.channels_last else torch.preserve_format)
    for part in (model.encoder.backbone, model.decoder):
        if hasattr(part, 'grad_checkpointing'):
            part.grad_checkpointing = cfg.grad_checkpointing
        elif cfg.grad_checkpointing and hasattr(part, 'set_grad_checkpointing'):
            part.set_grad_checkpointing()
        if cfg.compile:
            part.compile()
    if cfg.sync_bn and world.size > 1 and world.device.type == 'cuda':
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    adversary = None
    if cfg.lambda_adv_g:
        discriminator = Discriminator(cfg.size, dynamic=cfg.dynamic_size is not None).to(world.device)
        adversary = Adversary(discriminator, build_optimizer(cfg, discriminator, None, world.device), world)
    criterion = Criterion(cfg.lambdas_pix_last, cfg.task, cfg.epochs, cfg.tail_epochs, cfg.lambda_gdt, cfg.lambda_cls)
    rate = partial(rate_factor, steps_per_epoch=steps_per_epoch, epochs=cfg.epochs, schedule=cfg.lr_schedule,
                   warmup_steps=cfg.warmup_steps, decay_epochs=cfg.lr_decay_epochs, decay_rate=cfg.lr_decay_rate)
    options = Options(cfg.accumulate, cfg.grad_clip, cfg.ema_decay, cfg.mixed_precision, cfg.channels_last,
                      cfg.lambda_adv_g, cfg.lambda_adv_d, cfg.log_step)
    find_unused = (cfg.out_ref and not cfg.lambda_gdt) or cfg.bb.startswith('timm/')
    return Trainer(model, build_optimizer(cfg, model, model.encoder.backbone, world.device), criterion, rate, options,
                   world, adversary, find_unused)


def resume(cfg: Config, folder: Path, trainer: Trainer) -> int:
    """Goes back to the run's last state, if there is one; returns the position of the log there.

    Raises ValueError if the run has a state that was not asked for, or one that the config contradicts.
    """
    state = load_state(folder)
    if state is None:
        if cfg.resume:
            logger.info('no state in %s yet: starting anew', folder)
        return 0
    if not cfg.resume:
        raise ValueError(f'{folder} holds a run already: add resume=auto to go on with it, or choose another name')
    conflicts = contradictions(state['config'], cfg.as_dict())
    if state['world_size'] != trainer.world.size:
        conflicts.append(f'processes: the run had {state["world_size"]}, now there are {trainer.world.size}')
    if conflicts and cfg.resume != 'force':
        raise ValueError('the run to resume contradicts this config (resume=force goes on all the same):\n  '
                         + '\n  '.join(conflicts))
    if state['world_size'] != trainer.world.size:
        raise ValueError(conflicts[-1] + '; the order of images depends on it')
    trainer.load_state_dict(state)
    logger.info('resuming in epoch %d after %d batches', trainer.epoch, trainer.batch)
    return state['log_position']


def train(cfg: Config, folder: Path, world: World) -> int:
    """Trains until the last epoch, or until a signal; returns the exit code."""
    seed_everything(cfg.seed + world.rank)
    model, cfg = build_model(cfg)
    data, sampler = build_data(cfg, folder, world)
    steps_per_epoch = -(-sampler.batches // cfg.accumulate)
    trainer = build_trainer(cfg, model, steps_per_epoch, world)
    seed_everything(cfg.seed + world.rank)  # what was drawn for building depends on the configuration
    position = resume(cfg, folder, trainer)
    log = None
    if world.is_main:
        write_json(folder / 'config.json', cfg.as_dict())
        log = RunLog(folder, position, trainer.steps)
        parameters = sum(p.numel() for p in model.parameters())
        logger.info('%s, %.1f M parameters, %d batches of %d each epoch on %d x %s', cfg.bb, parameters / 1e6,
                    sampler.batches, sampler.per_batch, world.size, world.device.type)
    loader = build_loader(data, sampler, cfg.num_workers, pin_memory=world.device.type == 'cuda')
    stop = StopRequest(world)

    def save() -> None:
        state = trainer.state_dict(log.position if log else 0)
        if world.is_main:
            save_state(folder, {**state, 'config': cfg.as_dict(), 'world_size': world.size})

    def after_step() -> bool:
        stopping = stop.agreed()
        if stopping or (cfg.save_every and trainer.steps % cfg.save_every == 0):
            save()
        return stopping

    try:
        return run(cfg, folder, trainer, sampler, loader, log, save, after_step)
    finally:
        stop.close()
        if log:
            log.close()


def run(cfg, folder, trainer: Trainer, sampler: EpochSampler, loader, log: RunLog | None, save, after_step) -> int:
    """Epoch after epoch; returns the exit code."""
    while trainer.epoch <= cfg.epochs:
        epoch, began = trainer.epoch, time.monotonic()
        sampler.set_epoch(epoch, trainer.batch)
        means = trainer.run_epoch(loader, sampler.batches, log, after_step)
        if means is None:
            logger.info('stopped by a signal in epoch %d after %d batches: the state is saved', epoch, trainer.batch)
            return PREEMPTED
        if log:
            log.write(epoch=epoch, mean=means)
            terms = ' '.join(f'{name} {value:.4f}' for name, value in means.items())
            logger.info('epoch %d/%d: %s (%.0f s)', epoch, cfg.epochs, terms, time.monotonic() - began)
            if is_checkpoint(epoch, cfg.epochs, cfg.save_last, cfg.save_step):
                save_checkpoint(trainer.best_weights, folder / f'epoch_{epoch}.pth')
        save()
    logger.info('done: %d epochs, checkpoints in %s', cfg.epochs, folder)
    return 0


@record
def main(arguments: list[str] | None = None) -> int:
    """Parses, joins the other processes, trains; returns the exit code."""
    cfg, folder = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    is_main = int(os.environ.get('RANK', 0)) == 0
    if is_main:
        folder.mkdir(parents=True, exist_ok=True)
    setup_logging(*([folder] if is_main else [None, logging.WARNING]))
    with join_world(cfg.device) as world:
        return train(cfg, folder, world)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (ValueError, OSError, NonFiniteLossError) as error:
        sys.exit(f'train: {error}')
