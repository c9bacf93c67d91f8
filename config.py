"""Every option of the system: the fields, their meaning, and what each task changes.

Edit a default below, or write `key=value` behind any command: `python train.py task=COD epochs=90`.
A field left at `AUTO` follows from the task (TASKS) or from other fields (`Config.automatic`).
`python config.py task=COD` prints what that gives, `python config.py --print bb task=COD` one
value.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('config')

import difflib
import math
import os
import signal
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import published
from fields import AUTO, ConfigError, Settings, option, rule_of, type_hints

Swin = Literal['swin_v1_t', 'swin_v1_s', 'swin_v1_b', 'swin_v1_l']
Pvt = Literal['pvt_v2_b0', 'pvt_v2_b1', 'pvt_v2_b2', 'pvt_v2_b5']
Convnet = Literal['vgg16', 'vgg16bn', 'resnet50']
Dino = Literal[
    'dino_v3_s', 'dino_v3_s_plus', 'dino_v3_b', 'dino_v3_l', 'dino_v3_h_plus', 'dino_v3_7b']
Backbone = Literal[Swin, Pvt, Convnet, Dino]
Augmentation = Literal['flip', 'crop', 'rotate', 'enhance', 'pepper']
PixelLoss = Literal['bce', 'iou', 'iou_patch', 'mae', 'mse', 'reg', 'ssim', 'cnt', 'structure']
Squeeze = Literal['', 'BasicDecBlk_x1', 'ResBlk_x1', 'ASPP_x1', 'ASPPDeformable_x1']

SWIN = typing.get_args(Swin)
PVT = typing.get_args(Pvt)
DINO = typing.get_args(Dino)
BACKBONES = typing.get_args(Backbone)
PREPROC_METHODS = typing.get_args(Augmentation)
USUAL_METHODS = tuple(method for method in PREPROC_METHODS if method != 'crop')
PIXEL_LOSSES = typing.get_args(PixelLoss)

SQUEEZE_PATTERN = r'(BasicDecBlk|ResBlk|ASPP|ASPPDeformable)_x[1-9]\d*'
# The name of one folder: not . or .., and no separator of paths.
SET_PATTERN = r'(?!\.+(\+|$))[^/\\+\0]+'
SETS_PATTERN = rf'({SET_PATTERN}(\+{SET_PATTERN})*)?'


# --- Tasks --------------------------------------------------------------------------------------

# Columns of the tables of scores, in their order.
DIS_COLUMNS = (
    'maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'meanEm', 'HCE', 'maxEm', 'meanFm', 'adpEm', 'adpFm',
    'mBA', 'maxBIoU', 'meanBIoU')
COD_COLUMNS = (
    'Smeasure', 'wFmeasure', 'meanFm', 'meanEm', 'maxEm', 'MAE', 'maxFm', 'adpEm', 'adpFm', 'HCE',
    'mBA', 'maxBIoU', 'meanBIoU')
HRSOD_COLUMNS = (
    'Smeasure', 'maxFm', 'meanEm', 'MAE', 'maxEm', 'meanFm', 'wFmeasure', 'adpEm', 'adpFm', 'HCE',
    'mBA', 'maxBIoU', 'meanBIoU')
MATTING_COLUMNS = (
    'Smeasure', 'maxFm', 'meanEm', 'MSE', 'maxEm', 'meanFm', 'wFmeasure', 'adpEm', 'adpFm', 'HCE',
    'mBA', 'maxBIoU', 'meanBIoU', 'SAD', 'MAD', 'alphaMSE', 'Grad', 'Conn', 'SAD-U', 'MAD-U',
    'alphaMSE-U', 'Grad-U', 'Conn-U')
OTHER_COLUMNS = (
    'Smeasure', 'MAE', 'maxEm', 'meanEm', 'maxFm', 'meanFm', 'wFmeasure', 'adpEm', 'adpFm', 'HCE',
    'mBA', 'maxBIoU', 'meanBIoU')

DIS_TE = ('DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4')
PLAIN_WEIGHTS = {'bce': 30., 'iou': .5, 'ssim': 10.}
GENERAL_WEIGHTS = {'bce': 30., 'iou': .5, 'mae': 100., 'ssim': 10.}
MATTING_WEIGHTS = {'bce': 30., 'mae': 100., 'ssim': 10.}
FADE_BCE_IOU_MAE = {'bce': 0., 'iou': .5, 'mae': .9}
FADE_MSE_SSIM = {'mse': .9, 'ssim': .9}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that a task decides. The defaults here are those of a task of your own."""

    # Defaults of the fields of `Config` that have these names. Sets are joined by '+'; without
    # any, they are read from the task's folder.
    training_set: str = ''
    testsets: str = ''
    bb: str = 'swin_v1_l'
    size: tuple[int, int] = (1024, 1024)
    batch_size: int = 4
    channels_last: bool = False
    lambdas_pix_last: Mapping[str, float] = field(default_factory=lambda: PLAIN_WEIGHTS)
    epochs: int = 150
    tail_epochs: int = 20
    base_lr: float = 1e-5
    warmup_steps: int = 0
    lr_schedule: str = 'step'
    save_last: int = 50
    save_step: int = 5
    val_step: int = 0

    # By what the weights of pixel losses are multiplied in each of the last `tail_epochs` epochs.
    tail_factors: Mapping[str, float] = field(default_factory=lambda: FADE_BCE_IOU_MAE)

    # Evaluation: columns of the tables in their order, the scores that choose a checkpoint, and
    # rows of means over several test sets by their names.
    columns: tuple[str, ...] = OTHER_COLUMNS
    selection_metrics: tuple[str, ...] = ('sm', 'wfm')
    averaged_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TASKS: dict[str, Task] = {
    'DIS5K': Task(
        training_set='DIS-TR',
        testsets='DIS-VD+DIS-TE1+DIS-TE2+DIS-TE3+DIS-TE4',
        epochs=500,
        tail_epochs=40,
        base_lr=1e-4,
        columns=DIS_COLUMNS,
        selection_metrics=('sm', 'wfm', 'hce'),
        averaged_sets={'DIS-TE1..4': DIS_TE},
    ),
    'COD': Task(
        training_set='TR-COD10K+TR-CAMO',
        testsets='CHAMELEON+NC4K+TE-CAMO+TE-COD10K',
        columns=COD_COLUMNS,
    ),
    'HRSOD': Task(
        training_set='TR-HRSOD+TR-UHRSD',
        testsets='DAVIS-S+TE-HRSOD+TE-UHRSD+DUT-OMRON+TE-DUTS',
        columns=HRSOD_COLUMNS,
    ),
    'General': Task(
        testsets='DIS-VD+TE-P3M-500-NP',
        lambdas_pix_last=GENERAL_WEIGHTS,
        epochs=200,
        columns=DIS_COLUMNS,
        averaged_sets={'DIS-TE1..4': DIS_TE},
    ),
    'General-2K': Task(
        testsets='DIS-VD+TE-P3M-500-NP',
        size=(2560, 1440),
        lambdas_pix_last=GENERAL_WEIGHTS,
        epochs=250,
        save_last=30,
        save_step=2,
        columns=DIS_COLUMNS,
        averaged_sets={'DIS-TE1..4': DIS_TE},
    ),
    'Matting': Task(
        testsets='TE-P3M-500-NP+TE-AM-2k',
        lambdas_pix_last=MATTING_WEIGHTS,
        tail_epochs=10,
        tail_factors=FADE_MSE_SSIM,
        columns=MATTING_COLUMNS,
    ),
    # Small enough to learn from random weights on two CPU cores in minutes (`make demo`). The
    # backbone is a convolutional one, because it learns faster from nothing than a transformer.
    # The Makefile adds two settings of the network, which is not a task's to decide.
    'Demo': Task(
        training_set='TR-Demo',
        testsets='TE-Demo',
        bb='timm/resnet18',
        size=(128, 128),
        batch_size=8,
        channels_last=True,
        epochs=3,
        tail_epochs=0,
        base_lr=1.5e-3,
        warmup_steps=10,
        lr_schedule='cosine',
        save_last=3,
        save_step=1,
    ),
}


# Fields that a preset sets, over the task's.
PRESETS: dict[str, dict[str, Any]] = {
    '': {'mixed_precision': 'no', 'compile': False},
    'published': {'batch_size': 8, 'mixed_precision': 'bf16', 'compile': True},
}


def task_record(name: str) -> Task:
    """The record of the task `name`; a folder of your own has the defaults of `Task`."""
    return TASKS.get(name, Task())


# --- Fields -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """All options of a run, frozen. Raises `ConfigError`, which names every offending field."""

    foreign_names = published.FIELDS

    # --- Task and data ----------------------------------------------------------------------------
    task: str = option(
        'DIS5K',
        f'{", ".join(TASKS)}, or the name of any folder in data_root',
        pattern=r'(?!\.+$)[^/\\\0]+',
    )
    preset: Literal['', 'published'] = option(
        '', "'published': batch_size=8, mixed_precision=bf16 and compile=True, as published")
    data_root: str = option('datasets', 'holds <task>/<set>/im and <task>/<set>/gt')
    training_set: str = option(
        AUTO,
        "sets to train on, joined by '+'; empty: all of the task's folder (TR- if marked)",
        pattern=SETS_PATTERN,
    )
    testsets: str = option(
        AUTO,
        "sets to test on, joined by '+'; empty: those of the task's folder named TE-*",
        pattern=SETS_PATTERN,
    )
    validation_set: str = option(
        '',
        "sets to validate on, joined by '+'; empty: a validation split of the training set",
        pattern=SETS_PATTERN,
    )
    validation_share: float = option(
        .05, 'share of training pairs held out without a validation_set', minimum=0)
    size: tuple[int, int] = option(AUTO, 'network input (width, height)')
    dynamic_size: tuple[tuple[int, int], tuple[int, int]] | None = option(
        None,
        '((w_min, w_max), (h_min, h_max)): each training batch draws its own size; '
        'None: always `size`',
    )
    preproc_methods: tuple[Augmentation, ...] = option(
        AUTO,
        'training augmentation; default: all but crop, with background_color_synthesis flip alone')
    background_color_synthesis: bool = option(
        False, 'train on objects over flat colours; augmentation is then flip alone')
    load_all: bool = option(
        False, 'keep resized pairs in a memory-mapped cache that all ranks of a machine share')
    cache_dir: str = option('', 'where load_all keeps its files; empty: .cache in data_root')
    num_workers: int = option(
        AUTO, 'loader processes per rank; 0: load in the training process', minimum=0)
    skip_bad: bool = option(
        False, 'count and log unreadable training pairs instead of stopping at the first')

    # --- Network: encoder -------------------------------------------------------------------------
    bb: Backbone | str = option(
        AUTO, 'backbone; timm/<name> for any of timm', pattern=r'timm/[\w.\-]+')
    bb_weights: str = option(
        '',
        "pretrained backbone: a local file in the official format, 'hub', or 'none' for random "
        'weights; empty: the file of that backbone in weights/ or BIREFNET_HOME',
    )
    freeze_bb: bool = option(AUTO, 'train only what follows the backbone (default for dino_v3_*)')
    mul_scl_ipt: Literal['', 'add', 'cat'] = option(
        'cat', "image pyramid: the half-size image's features join by 'cat', 'add', or not")
    cxt_num: Literal[0, 1, 2, 3] = option(
        3, 'context: how many of x1..x3 join x4 before the squeeze')
    squeeze_block: Squeeze | str = option(
        'BasicDecBlk_x1',
        'blocks between encoder and decoder: <block>_x<N>, or none',
        pattern=SQUEEZE_PATTERN,
    )
    auxiliary_classification: bool = option(
        False, "class head on x4; the class is the 4th '#'-field of a file's name")
    num_classes: int = option(219, 'classes of the class head (219 in DIS5K)', minimum=1)

    # --- Network: decoder with bilateral reference ------------------------------------------------
    dec_blk: Literal['BasicDecBlk', 'ResBlk'] = option('BasicDecBlk', 'decoder block')
    dec_att: Literal['', 'ASPP', 'ASPPDeformable'] = option(
        'ASPPDeformable', 'attention inside the blocks')
    dec_channels_inter: Literal['fixed', 'adap'] = option(
        'fixed', "width inside the blocks: 64, or a quarter of the input ('adap')")
    dec_ipt: bool = option(True, 'inward reference: the image joins each decoder level')
    dec_ipt_split: bool = option(
        True, 'inward reference as tiles of the full-resolution image, else resized')
    dec_ipt_levels: tuple[Literal[5, 4, 3, 2, 1], ...] = option(
        (5, 4, 3, 2, 1), 'levels with inward reference (2024-03: 4,3,2,1)')
    ms_supervision: bool = option(True, 'multi-stage supervision: side outputs at levels 4, 3, 2')
    out_ref: bool = option(
        True, 'outward reference: gradient attention; needs ms_supervision, off without it')
    out_ref_levels: tuple[Literal[4, 3, 2], ...] = option(
        (4, 3, 2), 'levels with outward reference (2024-03: 3,2)')
    deform_kernels: tuple[int, ...] = option(
        (1, 3, 7), 'kernels of the deformable branches (2024-03: 3)')

    # --- Losses -----------------------------------------------------------------------------------
    lambdas_pix_last: dict[PixelLoss, float] = option(
        AUTO,
        'weights of the pixel losses; a loss not named is off',
        refused=published.REFUSED_VALUES['lambdas_pix_last'],
    )
    lambda_gdt: float = option(1., 'weight of the edge loss of the outward reference', minimum=0)
    lambda_cls: float = option(5., 'weight of the class loss', minimum=0)
    lambda_adv_g: float = option(
        0., 'weight of the adversarial loss (10 in MCCL); 0: no discriminator', minimum=0)
    lambda_adv_d: float = option(3., "weight of the discriminator's loss", minimum=0)
    tail_epochs: int = option(
        AUTO, 'last epochs in which bce is off and iou, mae (Matting: mse, ssim) fade', minimum=0)

    # --- Optimisation -----------------------------------------------------------------------------
    batch_size: int = option(AUTO, 'images per process and step', minimum=1)
    accumulate: int = option(
        1, 'steps whose gradients are summed before the optimizer moves', minimum=1)
    epochs: int = option(AUTO, 'epochs of training', minimum=1)
    optimizer: Literal['AdamW', 'Adam'] = option('AdamW', 'optimizer')
    base_lr: float = option(AUTO, 'learning rate at batch size 4', minimum=0)
    lr: float = option(AUTO, 'learning rate; default: base_lr * sqrt(batch_size / 4)', minimum=0)
    lr_bb_factor: float = option(1., "the backbone's learning rate as a share of lr", minimum=0)
    weight_decay: float = option(
        AUTO,
        'weight decay: decoupled in AdamW (default .01), L2 in Adam (default 0)',
        minimum=0,
    )
    warmup_steps: int = option(
        AUTO, 'optimizer steps over which the learning rate rises from 0', minimum=0)
    lr_schedule: Literal['step', 'cosine'] = option(
        AUTO, "'step' (published), or 'cosine' to a hundredth of lr")
    lr_decay_epochs: tuple[int, ...] = option(
        (), 'epochs where lr falls by lr_decay_rate; negative: from the end')
    lr_decay_rate: float = option(.5, 'factor of the step schedule', minimum=0)
    grad_clip: float = option(0., 'largest norm of the gradient; 0: no clipping', minimum=0)
    ema_decay: float = option(0., 'decay of the EMA of the weights; 0: none', minimum=0)
    mixed_precision: Literal['no', 'bf16', 'fp16'] = option(
        AUTO,
        "autocast of training, validation and test; default: 'no', or the preset's",
        refused=published.REFUSED_VALUES['mixed_precision'],
    )
    compile: bool = option(
        AUTO, "torch.compile of backbone and decoder; default: False, or the preset's")
    grad_checkpointing: bool = option(
        False, 'recompute activations of backbone and decoder blocks: less memory')
    channels_last: bool = option(AUTO, 'memory format of the network')
    sync_bn: bool = option(False, 'BatchNorm statistics over all ranks')
    sharding: Literal['', 'fsdp'] = option(
        '', "'fsdp': weights, gradients and optimizer sharded over the ranks; '': all on each")

    # --- Run --------------------------------------------------------------------------------------
    seed: int = option(7, 'seed; each rank adds its number', minimum=0)
    weights: str = option('', 'start from this checkpoint, counting epochs from 1')
    continue_epochs: bool = option(
        False,
        'count on from the epoch in the name of `weights`, as published: epochs=294 after '
        'epoch_244 trains 50',
    )
    tile_order: Literal['row', 'column'] = option(
        'row', "of `weights` that do not show it: 'column' before 2024-11; inside it is 'row'")
    resume: Literal['', 'auto', 'force'] = option(
        '', "'auto': go on from the run's last state; 'force': even if the config has changed")
    ckpt_root: str = option('ckpts', 'runs are saved in <ckpt_root>/<run>')
    pred_root: str = option(
        'e_preds', 'masks are saved in <pred_root>/<run>--epoch_<N>-reso_<W>x<H>')
    save_dir: str = option('e_results', 'scores and tables are saved here')
    save_last: int = option(
        AUTO, 'checkpoints are kept from epoch `epochs - save_last` on', minimum=1)
    save_step: int = option(
        AUTO, 'and of those every so many epochs; the last epoch is always kept', minimum=1)
    save_every: str = option(
        '0',
        "also save the state for resuming every so many steps ('200') or minutes ('10min'); "
        '0: each epoch',
        pattern=r'\d+(min)?',
        form='steps like 200, or minutes like 10min',
    )
    val_step: int = option(AUTO, 'epochs between validations; 0: none', minimum=0)
    val_metric: Literal['sm', 'wfm', 'mae', 'mse', 'maxFm', 'meanEm', 'loss'] | str = option(
        'sm',
        'what best.pth is best on: any score of single images (meanDice), or the loss',
        pattern=r'\w+',
    )
    val_ema: bool = option(
        True, 'validate the EMA of the weights, where there is one, and keep its best')
    early_stop: int = option(
        0, 'stop after so many validations without a better one; 0: never', minimum=0)
    deterministic: bool = option(
        False, 'equal runs give equal bits on one machine; slower, as cuDNN tries nothing out')
    dry_run: bool = option(
        False, 'go through one batch of everything, estimate time and memory, leave nothing')
    log_step: int = option(20, 'steps between log lines', minimum=1)
    device: Literal['auto', 'cpu', 'cuda', 'mps'] = option(
        'auto', "'auto': cuda if there is one, else cpu")

    def automatic(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values for the fields left at AUTO: the task's, and what follows from other fields."""
        defaults = {**task_defaults(given['task']), **PRESETS[given['preset']]}
        settled = {**defaults, **given}
        batch_size = settled['batch_size']
        only_flips = settled['background_color_synthesis']
        return {
            **defaults,
            'preproc_methods': ('flip',) if only_flips else USUAL_METHODS,
            'weight_decay': .01 if settled['optimizer'] == 'AdamW' else 0.,
            'freeze_bb': settled['bb'] in DINO,
            'lr': settled['base_lr'] * math.sqrt(batch_size / 4),
            'num_workers': min(batch_size, 8, _cores()),
            'tail_epochs': min(settled['tail_epochs'], settled['epochs'] // 2),
        }

    def contradictions(self) -> Iterator[str]:
        """Values that exclude each other, and values that are illegal only beside others."""
        yield from _size_problems(self)
        yield from _network_problems(self)
        yield from _training_problems(self)


# --- Rules between fields -----------------------------------------------------------------------


def _size_problems(cfg: Config) -> Iterator[str]:
    dynamic_sides = [side for limits in cfg.dynamic_size or () for side in limits]
    for name, sides in (('size', cfg.size), ('dynamic_size', dynamic_sides)):
        if any(side < 32 or side % 32 for side in sides):
            nearest = tuple(max(32, round(side / 32) * 32) for side in sides)
            yield f'{name}: sides must be multiples of 32; nearest: {nearest}'
    if not cfg.dynamic_size:
        return
    if any(low > high for low, high in cfg.dynamic_size):
        yield f'dynamic_size: {cfg.dynamic_size} has a minimum above its maximum'
    if cfg.load_all:
        yield ('dynamic_size and load_all exclude each other: the cache holds one size; '
               'set load_all=False')


def _network_problems(cfg: Config) -> Iterator[str]:
    if cfg.cxt_num and not cfg.squeeze_block:
        yield (f"squeeze_block='' and cxt_num={cfg.cxt_num} exclude each other: "
               'set cxt_num=0, or a squeeze_block')
    if cfg.bb in SWIN and cfg.bb_weights == 'hub':
        yield (f"bb_weights='hub' and bb={cfg.bb} exclude each other: "
               'take a local file of the official Swin weights')
    kernels = cfg.deform_kernels
    if not 1 <= len(kernels) <= 9:
        yield f'deform_kernels: {kernels} must be 1 to 9 kernels; nearest: (1, 3, 7)'
    if any(kernel % 2 == 0 or kernel < 1 for kernel in kernels):
        yield f'deform_kernels: {kernels} must be odd; nearest: (1, 3, 7)'


def _training_problems(cfg: Config) -> Iterator[str]:
    if cfg.mixed_precision == 'fp16' and cfg.device == 'cpu':
        yield "mixed_precision='fp16' and device='cpu' exclude each other: take bf16 or no"
    for name in ('compile', 'channels_last'):
        if cfg.sharding and getattr(cfg, name):
            yield (f'sharding={cfg.sharding!r} and {name}=True exclude each other: '
                   f'set {name}=False')
    if not 0 <= cfg.validation_share < 1:
        yield f'validation_share: {cfg.validation_share} is not below 1; nearest: 0.5'
    if any(weight < 0 for weight in cfg.lambdas_pix_last.values()):
        yield f'lambdas_pix_last: {cfg.lambdas_pix_last} has a negative weight'
    if not 0 <= cfg.ema_decay < 1:
        yield f'ema_decay: {cfg.ema_decay} is not below 1; nearest: 0.999'
    if cfg.early_stop and not cfg.val_step:
        yield (f'early_stop={cfg.early_stop} needs validations to go by: '
               'set val_step, e.g. val_step=1')
    if cfg.tail_epochs > cfg.epochs:
        yield (f'tail_epochs: {cfg.tail_epochs} is more than epochs={cfg.epochs}; '
               f'nearest: {cfg.epochs}')


# --- What follows from a config -----------------------------------------------------------------

# Fields that the network is built from. A checkpoint's keys and shapes, or the config beside it,
# give them.
ARCHITECTURE = (
    'bb', 'mul_scl_ipt', 'cxt_num', 'squeeze_block', 'auxiliary_classification', 'num_classes',
    'dec_blk', 'dec_att', 'dec_channels_inter', 'dec_ipt', 'dec_ipt_split', 'dec_ipt_levels',
    'ms_supervision', 'out_ref', 'out_ref_levels', 'deform_kernels')


def task_defaults(task: str) -> dict[str, Any]:
    """Defaults of the fields of Config that a task decides."""
    record = task_record(task)
    known = type_hints(Config)
    defaults = {}
    for spec in fields(record):
        if spec.name not in known:
            continue
        value = getattr(record, spec.name)
        # A copy, because a config's weights may be changed and the record is everybody's.
        defaults[spec.name] = dict(value) if isinstance(value, Mapping) else value
    return defaults


def unknown_fields(names: Iterable[str]) -> list[str]:
    """A line, with the nearest known names, for each of `names` that is not a field of Config."""
    return Config.unknown(names)


def training_sets(cfg: Config) -> list[str]:
    """Names of the training sets: given, the task's, or read from `<data_root>/<task>`.

    Without a given set, all sets of the folder but the test sets; for a task of your own only those
    named TR-*, if there are any.
    """
    if cfg.training_set:
        return cfg.training_set.split('+')
    held_out = test_sets(cfg)
    names = [name for name in _folder_sets(cfg) if name not in held_out]
    marked = [name for name in names if name.startswith('TR-')]
    if marked and cfg.task not in TASKS:
        names = marked
    if not names:
        folder = Path(cfg.data_root, cfg.task)
        raise ConfigError(f'training_set: {folder} holds no <set>/im to train on')
    return names


def test_sets(cfg: Config) -> list[str]:
    """Names of the test sets: given, the task's, or those of `<data_root>/<task>` named TE-*."""
    if cfg.testsets:
        return cfg.testsets.split('+')
    return [name for name in _folder_sets(cfg) if name.startswith('TE-')]


# pytest would take it for a test by its name. Functions have no type that admits attributes.
test_sets.__test__ = False  # type: ignore[attr-defined]


def _folder_sets(cfg: Config) -> list[str]:
    folder = Path(cfg.data_root, cfg.task)
    if not folder.is_dir():
        near = difflib.get_close_matches(cfg.task, TASKS, 1)
        hint = f'; did you mean task={near[0]}?' if near else ''
        raise ConfigError(f'task: there is no folder {folder}{hint}')
    return sorted(path.name for path in folder.iterdir() if (path / 'im').is_dir())


def _cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- The command line ---------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """`python config.py [--print FIELD] [key=value ...]`: prints one value, or every field."""
    printed, overrides = _printed_field(arguments)
    if printed is None:
        print_all(Config.from_overrides(overrides))
        return
    complaints = unknown_fields([printed])
    if complaints:
        raise ConfigError('\n'.join(complaints))
    cfg = Config.from_overrides(overrides)
    if printed == 'testsets':
        print('+'.join(test_sets(cfg)))
    elif printed == 'training_set':
        print('+'.join(training_sets(cfg)))
    else:
        print(getattr(cfg, printed))


def print_all(cfg: Config) -> None:
    """Prints every field with its value and its meaning."""
    for spec in fields(cfg):
        print(f'{spec.name} = {getattr(cfg, spec.name)!r}')
        print(f'    {rule_of(spec).meaning}')


def _printed_field(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The field behind --print (None without the flag), and the overrides."""
    printed = None
    overrides = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == '--print':
            printed = next(remaining, '')
        elif argument in ('--print_task', '--print_testsets', '--print_training_set'):
            # The flags that users' scripts pass.
            printed = argument.removeprefix('--print_')
        else:
            overrides.append(argument)
    return printed, overrides


if __name__ == '__main__':
    if '-h' in sys.argv or '--help' in sys.argv:
        print(f'{__doc__}\n{main.__doc__}')
        sys.exit()
    if hasattr(signal, 'SIGPIPE'):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except ConfigError as error:
        sys.exit(f'config: {error}')
    except OSError as error:
        os.write(2, f'config: {error}\n'.encode())
        os._exit(1)  # an ordinary end would try to write the output once more
