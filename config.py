"""Every switch of the system, its meaning and its legal values.

Edit a default below, or write `key=value` behind any command (`python train.py task=COD bb=pvt_v2_b2 batch_size=4`).
A field left at `AUTO` follows from the task (TASKS) or from another field; `python config.py task=COD` prints what
that gives, `python config.py --print bb task=COD` a single value.
"""

import difflib
import json
import math
import os
import re
import sys
import typing
from ast import literal_eval
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

AUTO: Any = None

SWIN = ('swin_v1_t', 'swin_v1_s', 'swin_v1_b', 'swin_v1_l')
PVT = ('pvt_v2_b0', 'pvt_v2_b1', 'pvt_v2_b2', 'pvt_v2_b5')
DINO = ('dino_v3_s', 'dino_v3_s_plus', 'dino_v3_b', 'dino_v3_l', 'dino_v3_h_plus', 'dino_v3_7b')
BACKBONES = (*SWIN, *PVT, 'vgg16', 'vgg16bn', 'resnet50', *DINO)
SQUEEZE_PATTERN = r'(BasicDecBlk|ResBlk|ASPP|ASPPDeformable)_x[1-9]\d*'
SET_PATTERN = r'(?!\.+(\+|$))[^/\\+\0]+'  # a folder's name, which leads nowhere else
SETS_PATTERN = rf'({SET_PATTERN}(\+{SET_PATTERN})*)?'
PREPROC_METHODS = ('flip', 'crop', 'rotate', 'enhance', 'pepper')
PIXEL_LOSSES = ('bce', 'iou', 'iou_patch', 'mae', 'mse', 'reg', 'ssim', 'cnt', 'structure')

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
    'mBA', 'maxBIoU', 'meanBIoU')
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
    """Everything that a task decides; what a task does not name is as for a task of your own."""

    # Defaults of the fields of `Config` that have these names. Sets are joined by '+'; without any, they are read
    # from the task's folder.
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

    # Evaluation: columns of the tables in their order, the scores that choose a checkpoint, and rows of means over
    # several test sets by their names.
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
    # Small enough to learn from random weights on two CPU cores in minutes (`make demo`). The backbone is a
    # convolutional one, because it learns faster from nothing than a transformer.
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


def task_record(name: str) -> Task:
    """The record of the task `name`; a folder of your own has the defaults of `Task`."""
    return TASKS.get(name, Task())


class ConfigError(ValueError):
    """Unknown fields, wrong types, illegal values or values that exclude each other; one line for each."""


def option(default: Any, meaning: str, choices: tuple = (), minimum: float | None = None,
           pattern: str = '', form: str = "a plain name, or set names joined by '+'") -> Any:
    """A field with its meaning and what is legal: one of `choices`, at least `minimum`, or all of `pattern`, which
    `form` puts into words."""
    metadata = {'meaning': meaning, 'choices': choices, 'minimum': minimum, 'pattern': pattern, 'form': form}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One frozen set of switches. Raises `ConfigError` naming every offending field with its nearest legal value."""

    # --- Task and data ----------------------------------------------------------------------------------------------
    task: str = option('DIS5K', f'{", ".join(TASKS)}, or the name of any folder in data_root',
                       pattern=r'(?!\.+$)[^/\\\0]+')
    data_root: str = option('datasets', 'holds <task>/<set>/im and <task>/<set>/gt')
    training_set: str = option(AUTO, "sets to train on, joined by '+'; empty: all of the task's folder (TR- if marked)",
                               pattern=SETS_PATTERN)
    testsets: str = option(AUTO, "sets to test on, joined by '+'; empty: those of the task's folder named TE-*",
                           pattern=SETS_PATTERN)
    validation_set: str = option('', "sets to validate on, joined by '+'; empty: a held-out share of the training set",
                                 pattern=SETS_PATTERN)
    validation_share: float = option(.05, 'share of training pairs held out without a validation_set', minimum=0)
    size: tuple[int, int] = option(AUTO, 'network input (width, height)')
    dynamic_size: tuple[tuple[int, int], tuple[int, int]] | None = option(
        None, '((w_min, w_max), (h_min, h_max)): each training batch draws its own size; None: always `size`')
    preproc_methods: tuple[str, ...] = option(
        ('flip', 'rotate', 'enhance', 'pepper'), "training augmentation; also 'crop'", choices=PREPROC_METHODS)
    background_color_synthesis: bool = option(False, 'train on objects over flat colours')
    load_all: bool = option(False, 'keep resized pairs in one memory-mapped cache, shared by all processes')
    cache_dir: str = option('', 'where load_all keeps its files; empty: .cache in data_root')
    num_workers: int = option(AUTO, 'loader processes per rank; 0: load in the training process', minimum=0)
    skip_bad: bool = option(False, 'count and log unreadable training pairs instead of stopping at the first')

    # --- Network: encoder -------------------------------------------------------------------------------------------
    bb: str = option(AUTO, 'backbone; timm/<name> for any of timm', choices=BACKBONES, pattern=r'timm/[\w.\-]+')
    bb_weights: str = option('', "pretrained backbone: a local file in the official format, 'hub', or '' random")
    freeze_bb: bool = option(AUTO, 'train only what follows the backbone (default for dino_v3_*)')
    mul_scl_ipt: str = option('cat', "image pyramid: the half-size image's features join by 'cat', 'add', or not",
                              choices=('', 'add', 'cat'))
    cxt_num: int = option(3, 'context: how many of x1..x3 join x4 before the squeeze', choices=(0, 1, 2, 3))
    squeeze_block: str = option('BasicDecBlk_x1', 'blocks between encoder and decoder: <block>_x<N>, or none',
                                choices=('', 'BasicDecBlk_x1', 'ResBlk_x1', 'ASPP_x1', 'ASPPDeformable_x1'),
                                pattern=SQUEEZE_PATTERN)
    auxiliary_classification: bool = option(False, "class head on x4; the class is the 4th '#'-field of a file's name")
    num_classes: int = option(219, 'classes of the class head (219 in DIS5K)', minimum=1)

    # --- Network: decoder with bilateral reference --------------------------------------------------------------------
    dec_blk: str = option('BasicDecBlk', 'decoder block', choices=('BasicDecBlk', 'ResBlk'))
    dec_att: str = option('ASPPDeformable', 'attention inside the blocks', choices=('', 'ASPP', 'ASPPDeformable'))
    dec_channels_inter: str = option('fixed', "width inside the blocks: 64, or a quarter of the input ('adap')",
                                     choices=('fixed', 'adap'))
    dec_ipt: bool = option(True, 'inward reference: the image joins each decoder level')
    dec_ipt_split: bool = option(True, 'inward reference as tiles of the full-resolution image, else resized')
    dec_ipt_levels: tuple[int, ...] = option((5, 4, 3, 2, 1), 'levels with inward reference (2024-03: 4,3,2,1)',
                                             choices=(5, 4, 3, 2, 1))
    tile_order: str = option('row', "tiles on channels: channel-row-column, or column-row-channel before 2024-11",
                             choices=('row', 'column'))
    ms_supervision: bool = option(True, 'multi-stage supervision: side outputs at levels 4, 3, 2')
    out_ref: bool = option(True, 'outward reference: gradient attention; needs ms_supervision, off without it')
    out_ref_levels: tuple[int, ...] = option((4, 3, 2), 'levels with outward reference (2024-03: 3,2)',
                                            choices=(4, 3, 2))
    deform_kernels: tuple[int, ...] = option((1, 3, 7), 'kernels of the deformable branches (2024-03: 3)')

    # --- Losses -------------------------------------------------------------------------------------------------------
    lambdas_pix_last: dict[str, float] = option(AUTO, 'weights of the pixel losses; a loss not named is off',
                                                choices=PIXEL_LOSSES)
    lambda_gdt: float = option(1., 'weight of the gradient loss of the outward reference', minimum=0)
    lambda_cls: float = option(5., 'weight of the class loss', minimum=0)
    lambda_adv_g: float = option(0., 'weight of the adversarial loss (10 in MCCL); 0: no discriminator', minimum=0)
    lambda_adv_d: float = option(3., "weight of the discriminator's loss", minimum=0)
    tail_epochs: int = option(AUTO, 'last epochs in which bce is off and iou, mae (Matting: mse, ssim) fade', minimum=0)

    # --- Optimisation -------------------------------------------------------------------------------------------------
    batch_size: int = option(AUTO, 'images per process and step', minimum=1)
    accumulate: int = option(1, 'steps whose gradients are summed before the optimizer moves', minimum=1)
    epochs: int = option(AUTO, 'epochs of training', minimum=1)
    optimizer: str = option('AdamW', 'optimizer', choices=('AdamW', 'Adam'))
    base_lr: float = option(AUTO, 'learning rate at batch size 4', minimum=0)
    lr: float = option(AUTO, 'learning rate; by itself base_lr * sqrt(batch_size / 4)', minimum=0)
    lr_bb_factor: float = option(1., "the backbone's learning rate as a share of lr", minimum=0)
    weight_decay: float = option(.01, 'decoupled weight decay', minimum=0)
    warmup_steps: int = option(AUTO, 'optimizer steps over which the rate rises from 0', minimum=0)
    lr_schedule: str = option(AUTO, "'step' (published), or 'cosine' to a hundredth of lr", choices=('step', 'cosine'))
    lr_decay_epochs: tuple[int, ...] = option((), 'epochs where lr falls by lr_decay_rate; negative: from the end')
    lr_decay_rate: float = option(.5, 'factor of the step schedule', minimum=0)
    grad_clip: float = option(0., 'largest norm of the gradient; 0: no clipping', minimum=0)
    ema_decay: float = option(0., 'decay of the moving average of weights; 0: none', minimum=0)
    mixed_precision: str = option('no', 'autocast of training and testing', choices=('no', 'bf16', 'fp16'))
    compile: bool = option(False, 'torch.compile of backbone and decoder')
    grad_checkpointing: bool = option(False, 'recompute activations of backbone and decoder blocks: less memory')
    channels_last: bool = option(AUTO, 'memory format of the network')
    sync_bn: bool = option(False, 'BatchNorm statistics over all processes')
    sharding: str = option('', "'fsdp': weights, gradients and optimizer divided among the processes; '': all on each",
                           choices=('', 'fsdp'))

    # --- Run ----------------------------------------------------------------------------------------------------------
    seed: int = option(7, 'seed; each rank adds its number', minimum=0)
    weights: str = option('', 'start from this checkpoint, counting epochs from 1')
    resume: str = option('', "'auto': go on from the run's last state; 'force': even if the config has changed",
                         choices=('', 'auto', 'force'))
    ckpt_root: str = option('ckpts', 'runs are saved in <ckpt_root>/<run>')
    pred_root: str = option('e_preds', 'masks are saved in <pred_root>/<run>--epoch_<N>')
    save_dir: str = option('e_results', 'scores and tables are saved here')
    save_last: int = option(AUTO, 'checkpoints are kept within so many last epochs', minimum=1)
    save_step: int = option(AUTO, 'epochs between checkpoints', minimum=1)
    save_every: str = option('0', "also save the state for resuming every so many steps ('200') or minutes ('10min'); "
                             '0: each epoch', pattern=r'\d+(min)?', form='steps like 200, or minutes like 10min')
    val_step: int = option(AUTO, 'epochs between validations; 0: none', minimum=0)
    val_metric: str = option('sm', 'what best.pth is best on: a metric of the validation, or its loss',
                             choices=('sm', 'wfm', 'mae', 'mse', 'maxFm', 'meanEm', 'loss'))
    val_ema: bool = option(True, 'validate the moving average of weights, where there is one, and keep its best')
    early_stop: int = option(0, 'stop after so many validations without a better one; 0: never', minimum=0)
    deterministic: bool = option(False, 'equal runs give equal bits on one machine; slower, as cuDNN tries nothing out')
    dry_run: bool = option(False, 'go through one batch of everything, estimate time and memory, leave nothing')
    log_step: int = option(20, 'steps between log lines', minimum=1)
    device: str = option('auto', "'auto': cuda if there is one, else cpu", choices=('auto', 'cpu', 'cuda', 'mps'))

    def __post_init__(self) -> None:
        problems = [p for spec in fields(self) if (p := self._check(spec))]
        if not problems:
            self._resolve()
            problems = list(_contradictions(self))
        if problems:
            raise ConfigError('\n'.join(problems))

    def _check(self, spec) -> str:
        """Brings one field to its type; returns what is wrong with it, or nothing."""
        value, hint = getattr(self, spec.name), HINTS[spec.name]
        if spec.default is AUTO and value in (AUTO, 'None', 'none'):
            object.__setattr__(self, spec.name, AUTO)
            return ''
        try:
            value = _convert(value, hint)
        except (ArithmeticError, KeyError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError):
            return f'{spec.name}: {value!r} is no {_type_name(hint)}'
        object.__setattr__(self, spec.name, value)
        return _illegal(spec, value)

    def _resolve(self) -> None:
        preset = task_defaults(self.task)
        automatic = {**preset, 'freeze_bb': (self.bb or preset['bb']) in DINO}
        batch_size = self.batch_size or preset['batch_size']
        base_lr = preset['base_lr'] if self.base_lr is None else self.base_lr
        automatic |= {'lr': base_lr * math.sqrt(batch_size / 4), 'num_workers': min(batch_size, 8, _cores()),
                      'tail_epochs': min(preset['tail_epochs'], (self.epochs or preset['epochs']) // 2)}
        for name, value in automatic.items():
            if getattr(self, name) is AUTO:
                object.__setattr__(self, name, dict(value) if isinstance(value, Mapping) else value)

    @classmethod
    def from_overrides(cls, overrides: Iterable[str], base: Mapping[str, Any] | None = None) -> 'Config':
        """Config from `key=value` strings over `base`, e.g. a saved config's fields.

        `lambdas_pix_last.mae=100` sets one weight. Raises ConfigError.
        """
        values, weights, problems = dict(base or {}), {}, []
        for text in overrides:
            name, equals, value = text.partition('=')
            if not equals:
                problems.append(f'{text!r}: write key=value')
            elif name.startswith('lambdas_pix_last.'):
                weights[name.partition('.')[2]] = value
            else:
                values[name] = value
        problems += unknown_fields(values)
        if problems:
            raise ConfigError('\n'.join(problems))
        if weights:  # they join those that the rest leads to, whatever the order of the overrides
            values['lambdas_pix_last'] = cls(**values).lambdas_pix_last | weights
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> 'Config':
        """The config saved at `path` (JSON), with `key=value` overrides."""
        try:
            values = json.loads(Path(path).read_text(encoding='utf-8'))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f'{path}: no JSON ({error})') from error
        if not isinstance(values, dict):
            raise ConfigError(f'{path}: holds no fields by name')
        overrides = list(overrides)
        try:
            return cls.from_overrides(overrides, values)
        except ConfigError as error:
            raise ConfigError(f'{" over ".join([*overrides, str(path)])}: {error}') from error

    def as_dict(self) -> dict[str, Any]:
        """All fields, resolved, as plain JSON values (tuples as lists)."""
        return json.loads(json.dumps(asdict(self)))


# What a checkpoint's keys and shapes, or the config saved with it, tell of the network.
ARCHITECTURE = ('bb', 'mul_scl_ipt', 'cxt_num', 'squeeze_block', 'auxiliary_classification', 'num_classes', 'dec_blk',
                'dec_att', 'dec_channels_inter', 'dec_ipt', 'dec_ipt_split', 'dec_ipt_levels', 'tile_order',
                'ms_supervision', 'out_ref', 'out_ref_levels', 'deform_kernels')
BOOLEANS = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False}


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


HINTS = typing.get_type_hints(Config)


def task_defaults(name: str) -> dict[str, Any]:
    """The defaults of Config's fields that the task `name` decides."""
    record = task_record(name)
    return {spec.name: getattr(record, spec.name) for spec in fields(record) if spec.name in HINTS}


def unknown_fields(names: Iterable[str]) -> list[str]:
    """One complaint, with the nearest known names, for each that is no field of Config."""
    known = [spec.name for spec in fields(Config)]
    complaints = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, .4)
            hint = ' or '.join(near) or 'one of ' + ', '.join(known)
            complaints.append(f'{name}: no such field; did you mean {hint}?')
    return complaints


def training_sets(cfg: Config) -> list[str]:
    """Names of the training sets: given, the task's, or read off `<data_root>/<task>`.

    What is read off is all that is no test set; of a task of one's own the sets named TR-*, if any is.
    """
    if cfg.training_set:
        return cfg.training_set.split('+')
    rest = [name for name in _folder_sets(cfg) if name not in test_sets(cfg)]
    names = [name for name in rest if name.startswith('TR-') and cfg.task not in TASKS] or rest
    if not names:
        raise ConfigError(f'training_set: {Path(cfg.data_root, cfg.task)} holds no <set>/im to train on')
    return names


def test_sets(cfg: Config) -> list[str]:
    """Names of the test sets: given, the task's, or those of `<data_root>/<task>` named TE-*."""
    if cfg.testsets:
        return cfg.testsets.split('+')
    return [name for name in _folder_sets(cfg) if name.startswith('TE-')]


test_sets.__test__ = False  # no test, whatever pytest makes of its name


def _folder_sets(cfg: Config) -> list[str]:
    folder = Path(cfg.data_root, cfg.task)
    if not folder.is_dir():
        near = difflib.get_close_matches(cfg.task, TASKS, 1)
        hint = f'; did you mean task={near[0]}?' if near else ''
        raise ConfigError(f'task: there is no folder {folder}{hint}')
    return sorted(p.name for p in folder.iterdir() if (p / 'im').is_dir())


# --- Values ---------------------------------------------------------------------------------------------------------


def _convert(value: Any, hint: Any) -> Any:
    """Brings `value`, native or as typed behind a command, to the type `hint`; raises TypeError or ValueError."""
    args = typing.get_args(hint)
    if type(None) in args:
        return None if value in (None, '', 'None', 'none') else _convert(value, args[0])
    if hint is bool:
        return BOOLEANS[str(value).lower()]
    if hint is str and type(value) in (str, int):
        return str(value)
    if hint is str or isinstance(value, bool):
        raise TypeError(value)
    if hint is int and isinstance(value, str) and re.fullmatch(r'\s*[+-]?\d+\s*', value):
        value = int(value)
    if hint in (int, float):
        number = float(value)
        if not math.isfinite(number) or (hint is int and number != int(number)):
            raise ValueError(value)
        return value if type(value) is hint else hint(number)
    if isinstance(value, str):
        value = _parse_collection(value, hint)
    if typing.get_origin(hint) is dict:
        return {_convert(k, args[0]): _convert(v, args[1]) for k, v in dict(value).items()}
    items = list(value) if isinstance(value, (list, tuple)) else [value] * (1 if args[-1] is ... else len(args))
    hints = [args[0]] * len(items) if args[-1] is ... else args
    if any(typing.get_args(h) and not isinstance(item, (list, tuple)) for item, h in zip(items, hints, strict=True)):
        raise TypeError(value)  # a pair of pairs is written in full
    return tuple(_convert(item, h) for item, h in zip(items, hints, strict=True))


def _parse_collection(text: str, hint: Any) -> Any:
    """'1024x768' or '1024' (sizes), 'flip,rotate', '-20,-10', 'bce:30,iou:.5', or Python's own notation."""
    text = text.strip()
    if text[:1] in '([{' and text:
        return literal_eval(text)
    if typing.get_origin(hint) is dict:
        return dict(item.split(':') for item in text.split(',') if item)
    parts = [part.strip() for part in re.split(r'[,x+]' if re.fullmatch(r'[\d,x\s+-]*', text) else r'[,+]', text)]
    parts = [part for part in parts if part]
    return parts[0] if len(parts) == 1 and typing.get_args(hint)[-1] is not ... else parts


def _illegal(spec, value: Any) -> str:
    """What is wrong with a value of the right type, and the nearest legal ones; or nothing."""
    rule = spec.metadata
    items = list(value) if isinstance(value, (tuple, dict)) else [value]
    free = rule['pattern'] and re.fullmatch(rule['pattern'], str(value))
    if rule['choices'] and not free and (bad := [item for item in items if item not in rule['choices']]):
        near = [n for item in bad for n in difflib.get_close_matches(str(item), map(str, rule['choices']), 2)]
        legal = ' or '.join(repr(n) for n in near) or ', '.join(map(repr, rule['choices']))
        return f'{spec.name}: {bad[0]!r} is not legal; nearest: {legal}'
    if rule['pattern'] and not rule['choices'] and not free:
        return f'{spec.name}: {value!r} is not legal; it must be {rule["form"]}'
    numbers = value.values() if isinstance(value, dict) else [] if value is None else items
    if rule['minimum'] is not None and any(n < rule['minimum'] for n in numbers):
        return f'{spec.name}: {value!r} is too small; nearest: {rule["minimum"]}'
    return ''


def _contradictions(cfg: Config) -> Iterable[str]:
    """Each pair of values that exclude each other, and each value illegal only in its context."""
    for name, sides in (('size', cfg.size), ('dynamic_size', [s for pair in cfg.dynamic_size or () for s in pair])):
        if any(side < 32 or side % 32 for side in sides):
            nearest = tuple(max(32, round(side / 32) * 32) for side in sides)
            yield f'{name}: sides must be multiples of 32; nearest: {nearest}'
    if cfg.dynamic_size and any(low > high for low, high in cfg.dynamic_size):
        yield f'dynamic_size: {cfg.dynamic_size} has a minimum above its maximum'
    if cfg.dynamic_size and cfg.load_all:
        yield 'dynamic_size and load_all exclude each other: the cache holds one size; set load_all=False'
    if cfg.cxt_num and not cfg.squeeze_block:
        yield f"squeeze_block='' and cxt_num={cfg.cxt_num} exclude each other: set cxt_num=0, or a squeeze_block"
    if cfg.mixed_precision == 'fp16' and cfg.device == 'cpu':
        yield "mixed_precision='fp16' and device='cpu' exclude each other: take bf16 or no"
    for name in ('compile', 'channels_last'):
        if cfg.sharding and getattr(cfg, name):
            yield f'sharding={cfg.sharding!r} and {name}=True exclude each other: set {name}=False'
    if cfg.bb in SWIN and cfg.bb_weights == 'hub':
        yield f"bb_weights='hub' and bb={cfg.bb} exclude each other: take a local file of the official Swin weights"
    if not 0 <= cfg.validation_share < 1:
        yield f'validation_share: {cfg.validation_share} is not below 1; nearest: 0.5'
    if not 1 <= len(cfg.deform_kernels) <= 9:
        yield f'deform_kernels: {cfg.deform_kernels} must be 1 to 9 kernels; nearest: (1, 3, 7)'
    if any(k % 2 == 0 or k < 1 for k in cfg.deform_kernels):
        yield f'deform_kernels: {cfg.deform_kernels} must be odd; nearest: (1, 3, 7)'
    if any(weight < 0 for weight in cfg.lambdas_pix_last.values()):
        yield f'lambdas_pix_last: {cfg.lambdas_pix_last} has a negative weight'
    if not 0 <= cfg.ema_decay < 1:
        yield f'ema_decay: {cfg.ema_decay} is not below 1; nearest: 0.999'
    if cfg.early_stop and not cfg.val_step:
        yield f'early_stop={cfg.early_stop} needs validations to go by: set val_step, e.g. val_step=1'
    if cfg.tail_epochs > cfg.epochs:
        yield f'tail_epochs: {cfg.tail_epochs} is more than epochs={cfg.epochs}; nearest: {cfg.epochs}'


def _type_name(hint: Any) -> str:
    names = {bool: 'True or False', int: 'whole number', float: 'number', str: 'text', tuple[int, int]: 'WxH',
             dict[str, float]: 'set of name:weight', tuple[int, ...]: 'list of whole numbers',
             tuple[str, ...]: 'list of names'}
    return names.get(hint, '((w_min, w_max), (h_min, h_max))')


def main(arguments: list[str]) -> None:
    """`python config.py [--print FIELD] [key=value ...]`: prints one value, or every field with its meaning."""
    printed = None
    if '--print' in arguments:
        at = arguments.index('--print')
        printed = arguments[at + 1] if at + 1 < len(arguments) else ''
        del arguments[at:at + 2]
    for old in ('task', 'testsets', 'training_set'):  # the flags that users' scripts pass
        if f'--print_{old}' in arguments:
            arguments.remove(f'--print_{old}')
            printed = old
    if printed is not None and (complaints := unknown_fields([printed])):
        raise ConfigError('\n'.join(complaints))
    cfg = Config.from_overrides(arguments)
    if printed is None:
        for spec in fields(cfg):
            print(f'{spec.name} = {getattr(cfg, spec.name)!r}\n    {spec.metadata["meaning"]}')
    else:
        sets = {'testsets': test_sets, 'training_set': training_sets}
        print('+'.join(sets[printed](cfg)) if printed in sets else getattr(cfg, printed))


if __name__ == '__main__':
    if {'-h', '--help'} & set(sys.argv):
        print(f'{__doc__}\n{main.__doc__}')
        sys.exit()
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f'config: {error}')
