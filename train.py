#!/usr/bin/env python
"""Trains the network: `python train.py [--ckpt_dir ckpts/RUN] [key=value ...]`, or under torchrun.

Every field of config.py can be set as key=value (`task=COD bb=pvt_v2_b2 batch_size=4`);
`python config.py` lists them. The run's folder gets its config, checkpoints epoch_<N>.pth, log.txt,
log.jsonl, TensorBoard's files, and last.pt, from which `resume=auto` goes on exactly. SIGTERM,
SIGUSR1 and SIGHUP (a closed terminal) make the run save that state and exit with code 75.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('train')

import argparse
import logging
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record

from config import ARCHITECTURE, Config, task_record, training_sets
from data.workers import workers_that_fit
from dataset import (
    EpochSampler,
    Pair,
    PairCache,
    Size,
    TrainSet,
    build_loader,
    check_masks,
    check_readable,
    class_names,
    find_pairs,
)
from loss import Criterion
from models import BiRefNet, build_birefnet, load_model
from models.checkpoints.pretrained import find_pretrained, where_to_get
from models.discriminator import Discriminator
from models.loading import resolve
from runtime.command import run_command
from runtime.device import prepare_device
from runtime.distributed import World, join_world, refuse_separate_tasks, seed_everything
from runtime.locks import hold_lock
from runtime.log import setup_logging
from runtime.starting import is_main_process
from training.average import MovingAverage
from training.beginning import first_epoch_after, report_counting_from_1
from training.compiling import run_uncompiled_what_fails
from training.dry_run import dry_run
from training.means import NonFiniteLossError
from training.networks import KEEP_BUFFERS, TrainedNetwork
from training.optimizers import build_optimizer
from training.previews import read_previews
from training.run import Run
from training.schedule import EpochPlan, SaveInterval, rate_factor
from training.sharding import shard
from training.sync_bn import synchronise
from training.trainer import StepOptions, Trainer
from training.validation import Best, Validator, raise_error, skip_into, split_pairs
from utils import STRIDE, ceil_div, epoch_of

logger = logging.getLogger(__name__)

LOCK = '.lock'  # in a run's folder, held while a process trains it


# --- The command line -----------------------------------------------------------------------------


def parse_arguments(arguments: list[str]) -> tuple[Config, Path]:
    """Returns the config and the run's folder. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('overrides', nargs='*', metavar='key=value', help='fields of config.py')
    add('--ckpt_dir', help="the run's folder (default: ckpts/<task>)")
    add('--epochs', type=int, help='the same as epochs=N')
    add('--resume', nargs='?', const='auto', default='', metavar='FILE',
        help='without FILE the same as resume=auto, with FILE the same as weights=FILE '
             'continue_epochs=true')
    # Scripts for the published code and launchers pass them. Whether a run is distributed,
    # torchrun says.
    add('--dist', '--local-rank', '--local_rank', help=argparse.SUPPRESS)
    add('--use_accelerate', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)

    overrides = list(options.overrides)
    if options.epochs is not None:
        overrides.append(f'epochs={options.epochs}')
    if options.resume == 'auto':
        overrides.append('resume=auto')
    elif options.resume not in ('', 'None'):
        overrides.append(f'weights={options.resume}')
        # As the published scripts count, where there is something to count on from.
        if epoch_of(Path(options.resume)) is not None:
            overrides.insert(0, 'continue_epochs=true')
    cfg = Config.from_overrides(overrides)
    folder = options.ckpt_dir or Path(cfg.ckpt_root, cfg.task)
    return cfg, Path(folder)


# --- The network ----------------------------------------------------------------------------------


def build_model(cfg: Config) -> tuple[BiRefNet, Config]:
    """Builds the network, or loads it from `cfg.weights`.

    Returns the network in training mode, and the config with the architecture of those weights.
    """
    if not cfg.weights:
        return build_birefnet(cfg), replace(cfg, tile_order='row')
    overrides: dict[str, Any] = {
        'size': cfg.size,
        'freeze_bb': cfg.freeze_bb,
        **_hidden_architecture(cfg),
    }
    model = load_model(cfg.weights, **overrides)
    found = {name: getattr(model.config, name) for name in ARCHITECTURE}
    for name, value in found.items():
        if value != getattr(cfg, name):
            logger.info('%s=%r, as %s has it', name, value, cfg.weights)
    # `tile_order` is that of the weights given: what the run writes is in row order.
    cfg = replace(cfg, **found, tile_order='row')
    model.config = replace(cfg, bb_weights='')
    return model.train(), cfg


def with_backbone_weights(cfg: Config) -> Config:
    """Returns the config with the pretrained weights of its backbone, where they are found."""
    if cfg.weights or cfg.bb_weights:
        return cfg
    file = find_pretrained(cfg.bb)
    if file is None:
        return cfg
    logger.info('backbone: pretrained weights of %s', file)
    return replace(cfg, bb_weights=str(file))


def warn_of_random_backbone(cfg: Config) -> None:
    """Reports a backbone that starts from random weights, which is seldom meant."""
    if cfg.weights or cfg.bb_weights:
        return
    problem = 'needs far more images than a pretrained one'
    if cfg.freeze_bb:
        problem = 'keeps them, as freeze_bb=True'
    logger.warning('the backbone %s starts from random weights and %s: %s, or give bb_weights=FILE '
                   'or weights=CHECKPOINT; bb_weights=none if random weights are meant',
                   cfg.bb, problem, where_to_get(cfg.bb))


def find_first_epoch(cfg: Config, is_main: bool) -> int:
    """Returns the epoch that a run begins with; the main rank reports how it counts."""
    if not cfg.weights:
        if cfg.continue_epochs:
            raise ValueError('continue_epochs: there is no epoch to count on from without weights')
        return 1
    file = resolve(cfg.weights).file
    if cfg.continue_epochs:
        return first_epoch_after(file, cfg.epochs)
    if is_main:
        report_counting_from_1(file, cfg.epochs)
    return 1


def _hidden_architecture(cfg: Config) -> dict[str, str]:
    """Fields of `cfg` to load weights by, because keys and shapes do not show them."""
    fields: dict[str, str] = {}
    if cfg.tile_order == 'column':
        fields['tile_order'] = cfg.tile_order
    if cfg.mul_scl_ipt == 'add':
        fields['mul_scl_ipt'] = cfg.mul_scl_ipt
    if cfg.bb.startswith('timm/'):
        fields['bb'] = cfg.bb
    return fields


# --- The data -------------------------------------------------------------------------------------


def find_data(cfg: Config) -> tuple[list[Pair], list[Pair]]:
    """Returns training and validation pairs.

    Raises ValueError that lists everything that is wrong with the files.
    """
    sets = training_sets(cfg)
    training = find_pairs(cfg.data_root, cfg.task, sets)
    validation: list[Pair] = []
    if cfg.val_step and cfg.validation_set:
        validation = find_pairs(cfg.data_root, cfg.task, cfg.validation_set.split('+'))
    elif cfg.val_step:
        if len(training) < 2:
            raise ValueError('val_step: a single pair cannot be split into training and '
                             'validation; name a validation_set, or set val_step=0')
        training, validation = split_pairs(training, cfg.validation_share, cfg.seed)
    logger.info('%d training pairs from %s, %d for validation',
                len(training), '+'.join(sets), len(validation))
    if not cfg.skip_bad:
        check_readable([*training, *validation])
    check_masks([*training, *validation], skip_bad=cfg.skip_bad)
    return training, validation


def build_train_set(cfg: Config, training: list[Pair], validation: list[Pair]) -> TrainSet:
    """Builds the training set, with its classes and its cache where `cfg` asks for them."""
    classes = None
    if cfg.auxiliary_classification:
        classes = class_names(training)
        if len(classes) > cfg.num_classes:
            raise ValueError(f'num_classes: the training set has {len(classes)} classes, '
                             f'more than {cfg.num_classes}')
    cache = None
    if cfg.load_all:
        # It holds training and validation pairs, so that changing the split does not rebuild it.
        pairs = sorted([*training, *validation])
        folder = cfg.cache_dir or Path(cfg.data_root, '.cache')
        cache = build_cache(pairs, cfg.size, Path(folder), cfg.skip_bad)
    return TrainSet(
        training,
        cfg.size,
        cfg.preproc_methods,
        background_color_synthesis=cfg.background_color_synthesis,
        seed=cfg.seed,
        classes=classes,
        cache=cache,
        skip_bad=cfg.skip_bad,
    )


def build_cache(
    pairs: Sequence[Pair],
    size: Size,
    folder: Path,
    skip_bad: bool,
) -> PairCache | None:
    """Builds the cache of the pairs; None, with a warning, where no file can be kept or mapped."""
    try:
        return PairCache(pairs, size, folder, skip_bad=skip_bad)
    except OSError as error:
        logger.warning('load_all: no cache in %s (%s): images are read in each epoch; '
                       'cache_dir names another folder', folder, error)
        return None


def build_sampler(cfg: Config, train_set: TrainSet, world: World) -> EpochSampler:
    """Builds the sampler of this rank."""
    return EpochSampler(
        len(train_set),
        cfg.batch_size,
        cfg.seed,
        rank=world.rank,
        world_size=world.size,
        dynamic_size=cfg.dynamic_size,
    )


def largest_size(cfg: Config) -> Size | None:
    """The largest (width, height) that `dynamic_size` draws; None without it."""
    if not cfg.dynamic_size:
        return None
    (_, width), (_, height) = cfg.dynamic_size
    return width // STRIDE * STRIDE, height // STRIDE * STRIDE


# --- The trainer ----------------------------------------------------------------------------------


def build_trainer(
    cfg: Config,
    model: BiRefNet,
    steps_per_epoch: int,
    world: World,
    first_epoch: int = 1,
) -> Trainer:
    """Builds all that changes in training, on its device."""
    model = prepare_model(cfg, model, world)
    ema = MovingAverage(deepcopy(model), cfg.ema_decay) if cfg.ema_decay else None
    place_on_device(cfg, model, world)
    if ema:
        place_on_device(cfg, ema.module, world)

    discriminator = build_discriminator(cfg, world) if cfg.lambda_adv_g else None
    options = StepOptions(
        accumulate=cfg.accumulate,
        grad_clip=cfg.grad_clip,
        mixed_precision=cfg.mixed_precision,
        channels_last=cfg.channels_last,
        lambda_adv_g=cfg.lambda_adv_g,
        lambda_adv_d=cfg.lambda_adv_d,
        log_step=cfg.log_step,
    )
    return Trainer(
        network=build_network(cfg, model, world),
        criterion=build_criterion(cfg),
        rate_factor=partial(
            rate_factor,
            steps_per_epoch=steps_per_epoch,
            epochs=cfg.epochs,
            schedule=cfg.lr_schedule,
            warmup_steps=cfg.warmup_steps,
            decay_epochs=cfg.lr_decay_epochs,
            decay_rate=cfg.lr_decay_rate,
            first_epoch=first_epoch,
        ),
        options=options,
        world=world,
        discriminator=discriminator,
        ema=ema,
        epoch=first_epoch,
    )


def prepare_model(cfg: Config, model: BiRefNet, world: World) -> BiRefNet:
    """Sets up checkpointing, compiling and synchronised BatchNorm, as `cfg` asks for them."""
    # On a CPU the compiled backward pass in bf16 has given gradients that are not finite.
    compiles = cfg.compile and (world.device.type != 'cpu' or cfg.mixed_precision == 'no')
    if compiles:
        logger.info('compile: the first step and the first of a new size compile, which takes '
                    'minutes')
        run_uncompiled_what_fails()
    elif cfg.compile:
        logger.warning('compile: on a CPU nothing is compiled in %s, because gradients may '
                       'become infinite', cfg.mixed_precision)
    for part in (model.encoder.backbone, model.decoder):
        if cfg.grad_checkpointing:
            part.set_grad_checkpointing()
        if compiles:
            part.compile()
    if cfg.sync_bn and world.size > 1:
        return synchronise(model, world)
    return model


def place_on_device(cfg: Config, model: nn.Module, world: World) -> None:
    """Moves a network to its device, or shards it over those of all ranks."""
    if cfg.sharding and world.size > 1:
        shard(model, world)
        return
    layout = torch.channels_last if cfg.channels_last else torch.preserve_format
    # Torch's types do not know of this argument together with a device.
    model.to(world.device, memory_format=layout)  # type: ignore[call-overload]


def build_network(cfg: Config, model: BiRefNet, world: World) -> TrainedNetwork:
    """Gives the network its optimizer and wraps it for its ranks."""
    optimizer = build_optimizer(
        cfg.optimizer,
        model,
        model.encoder.backbone,
        lr=cfg.lr,
        backbone_factor=cfg.lr_bb_factor,
        weight_decay=cfg.weight_decay,
    )
    # Edge maps without a loss, and timm's stages that no feature map follows, get no gradient.
    has_unused_parameters = (cfg.out_ref and not cfg.lambda_gdt) or cfg.bb.startswith('timm/')
    return TrainedNetwork(model, optimizer, world, find_unused_parameters=has_unused_parameters)


def build_discriminator(cfg: Config, world: World) -> TrainedNetwork:
    """Builds the discriminator of MCCL, with an optimizer of its own."""
    module = Discriminator(cfg.size, dynamic=cfg.dynamic_size is not None).to(world.device)
    optimizer = build_optimizer(
        cfg.optimizer, module, lr=cfg.lr, weight_decay=cfg.weight_decay)
    # It runs twice before its backward pass. The second may not change what the first has read.
    return TrainedNetwork(module, optimizer, world, **KEEP_BUFFERS)


def build_plan(cfg: Config, first_epoch: int) -> EpochPlan:
    """Builds the plan of what follows after which epoch."""
    return EpochPlan(
        cfg.epochs,
        cfg.save_last,
        cfg.save_step,
        cfg.val_step,
        cfg.early_stop,
        first_epoch,
    )


def pixel_weights(cfg: Config) -> dict[str, float]:
    """Returns the weights of the pixel losses by name."""
    return dict(cfg.lambdas_pix_last.items())


def build_criterion(cfg: Config) -> Criterion:
    """Builds the losses with their weights."""
    return Criterion(
        pixel_weights(cfg),
        cfg.epochs,
        cfg.tail_epochs,
        task_record(cfg.task).tail_factors,
        edge_weight=cfg.lambda_gdt,
        class_weight=cfg.lambda_cls,
    )


# --- The run --------------------------------------------------------------------------------------


def build_run(cfg: Config, folder: Path, world: World) -> Run:
    """Builds a run with all its parts."""
    # Every rank draws the same weights.
    seed_everything(cfg.seed)
    cfg = with_backbone_weights(cfg)
    if world.is_main:
        warn_of_random_backbone(cfg)
    first_epoch = find_first_epoch(cfg, world.is_main)
    model, cfg = build_model(cfg)

    training, validation = find_data(cfg)
    train_set = build_train_set(cfg, training, validation)
    sampler = build_sampler(cfg, train_set, world)

    steps_per_epoch = ceil_div(sampler.batches, cfg.accumulate)
    trainer = build_trainer(cfg, model, steps_per_epoch, world, first_epoch)

    on_error = skip_into(trainer.skipped) if cfg.skip_bad else raise_error
    validator = Validator(
        validation, cfg.size, pixel_weights(cfg), world, on_error, metric=cfg.val_metric)
    previews = read_previews(validation or training, cfg.size, on_error)

    # From here on random numbers do not depend on how the parts were built.
    seed_everything(cfg.seed + world.rank)
    on_gpu = world.device.type == 'cuda'
    width, height = largest_size(cfg) or cfg.size
    batch_bytes = sampler.per_batch * (3 + 1) * width * height  # images and masks, uint8
    num_workers = workers_that_fit(cfg.num_workers, batch_bytes)
    loader = build_loader(train_set, sampler, num_workers, pin_memory=on_gpu)

    parameters = sum(p.numel() for p in model.parameters())
    logger.info('%s, %.1f M parameters, %d batches of %d each epoch on %d x %s', cfg.bb,
                parameters / 1e6, sampler.batches, sampler.per_batch,
                world.size, world.device.type)
    return Run(
        folder=folder,
        config=cfg.as_dict(),
        world=world,
        trainer=trainer,
        loader=loader,
        sampler=sampler,
        plan=build_plan(cfg, first_epoch),
        validator=validator,
        best=Best(cfg.val_metric),
        save_interval=SaveInterval(cfg.save_every),
        previews=previews,
        validates_ema=cfg.val_ema,
        resume=cfg.resume,
    )


@record
def main(arguments: list[str] | None = None) -> int:
    """Trains a run; returns the exit code."""
    cfg, folder = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    refuse_separate_tasks()

    # Only the main rank writes and reports. A dry run writes nothing.
    is_main = is_main_process()
    level = logging.INFO if is_main else logging.WARNING
    if cfg.dry_run or not is_main:
        setup_logging(None, level)
        return train(cfg, folder)
    busy = (f'{folder}: another process is training this run; wait until it ends, '
            'or choose another --ckpt_dir')
    with hold_lock(folder / LOCK, busy):
        setup_logging(folder, level)
        return train(cfg, folder)


def train(cfg: Config, folder: Path) -> int:
    """Trains a run, or tries it out with `cfg.dry_run`; returns the exit code."""
    device = prepare_device(
        cfg.device,
        fixed_size=cfg.dynamic_size is None,
        deterministic=cfg.deterministic,
        mixed_precision=cfg.mixed_precision,
    )
    with join_world(device) as world:
        run = build_run(cfg, folder, world)
        if cfg.dry_run:
            dry_run(run, largest_size(cfg))
            return 0
        return run.train()


if __name__ == '__main__':
    sys.exit(run_command('train', main, (NonFiniteLossError,)))
