"""The published code's names of fields and in Python, and what stands for each here.

`Config` understands those fields whose meaning is the same, and says of the others where they went.
Modules that the published code has too look up here what they lack. `docs/published.md` shows the
tables. Only the standard library is imported.
"""

import importlib
from ast import literal_eval
from collections.abc import Callable, Mapping
from typing import Any

from fields import ConfigError, ForeignName

ONE_CHECKPOINT = ('the one checkpoint to start from; the file of a pretrained backbone is '
                  'bb_weights=FILE')


# --- Values ---------------------------------------------------------------------------------------


def _counted_from_end(value: Any) -> int:
    """How many last epochs: the published -40 is 40."""
    return -int(value)


def _count_from_end(value: int) -> int:
    """`value` last epochs, as published."""
    return -value


def _class_weights(value: float) -> dict[str, float]:
    """The weight as published."""
    return {'ce': value}


def _class_weight(value: Any) -> Any:
    """The weight in {'ce': 5.0}, in the same as text, or alone."""
    text = str(value).strip()
    if text.startswith('{'):
        value = literal_eval(text)
    elif text.startswith('ce:'):
        return text.removeprefix('ce:')
    return value['ce'] if isinstance(value, Mapping) else value


def _one_checkpoint(value: Any) -> Any:
    """`value`, unless it is a dictionary of backbones' files, as `weights` was published."""
    if isinstance(value, Mapping) or str(value).startswith('{'):
        raise ConfigError(f'weights: {ONE_CHECKPOINT}')
    return value


# --- Names ----------------------------------------------------------------------------------------

# A name that ends in '.*' stands for each entry of a dictionary.
FIELDS: dict[str, ForeignName] = {
    # Of the same meaning.
    'data_root_dir': ForeignName(field='data_root'),
    'rand_seed': ForeignName(field='seed'),
    'val_last': ForeignName(field='save_last', note='of train.sh'),
    'step': ForeignName(field='save_step', note='of train.sh'),
    'finetune_last_epochs': ForeignName(
        field='tail_epochs',
        note='counted from the end there: -40 is tail_epochs=40',
        convert=_counted_from_end,
        restore=_count_from_end,
    ),
    'lambdas_cls': ForeignName(
        field='lambda_cls',
        note="a number in place of {'ce': 5.0}",
        convert=_class_weight,
        restore=_class_weights,
    ),
    'lambdas_cls.ce': ForeignName(field='lambda_cls'),
    'weights': ForeignName(field='weights', note=ONE_CHECKPOINT, convert=_one_checkpoint),

    # Of one value here, which needs no field.
    'model': ForeignName(
        only='BiRefNet', note='there is one network; its parts are fields: bb, dec_blk, dec_att'),
    'lat_blk': ForeignName(only='BasicLatBlk', note='lateral blocks are 1x1 convolutions'),
    'SDPA_enabled': ForeignName(only=True, note='attention is always the fused one of PyTorch'),
    'precisionHigh': ForeignName(
        only=True, note='on GPUs, products of float32 matrices always use TF32'),
    'refine': ForeignName(only='', note='no further network refines the map'),
    'progressive_ref': ForeignName(only=False, note='no further network refines the map'),
    'ender': ForeignName(only=False, note='no further network refines the map'),
    'scale': ForeignName(only=False, note='no further network refines the map'),
    'refine_iteration': ForeignName(only=1, note='the map is computed once'),
    'batch_size_valid': ForeignName(
        only=1,
        note='images are validated and tested one by one; accumulate and batch_size are of '
             'training'),
    'prompt4loc': ForeignName(
        only=False, note='prompts for objects are not supported; predict.py has --box'),
    'only_S_MAE': ForeignName(
        only=False, note='eval_existingOnes.py --metrics S+MAE computes these alone'),
    'verbose_eval': ForeignName(only=True, note='the evaluation always shows its progress'),

    # Gone.
    'sys_home_dir': ForeignName(
        note='paths stand for themselves: data_root=<sys_home_dir>/datasets/dis and '
             'bb_weights=<sys_home_dir>/weights/cv/<file>'),
    'weights_root_dir': ForeignName(note='give the file itself: bb_weights=<folder>/<file>'),
    'weights.*': ForeignName(note=ONE_CHECKPOINT),
    'cxt': ForeignName(note='it follows from cxt_num and bb'),
    'lateral_channels_in_collection': ForeignName(note='they follow from bb and mul_scl_ipt'),
    'display_eval_metrics': ForeignName(note='eval_existingOnes.py --metrics S+MAE sets them'),
    'lambdas_pix_last_activated': ForeignName(
        note='lambdas_pix_last holds those losses alone that are on'),

    # Without effect.
    'use_accelerate': ForeignName(
        ignored=True, note='torchrun, which train.sh starts, says how many ranks'),
    'dist': ForeignName(
        ignored=True, note='torchrun, which train.sh starts, says how many ranks'),
}

# Arguments of `from_pretrained` besides.
ARGUMENTS: dict[str, ForeignName] = {
    'trust_remote_code': ForeignName(ignored=True, note='no code of a repository is run'),
    'low_cpu_mem_usage': ForeignName(ignored=True, note='weights are in memory once'),
    'use_safetensors': ForeignName(ignored=True, note='the file says what it is'),
    'resume_download': ForeignName(ignored=True, note='downloads always go on'),
    'strict': ForeignName(only=True, note='weights have to fit; leave it out'),
    'map_location': ForeignName(note='load_model(FILE, device) puts the network there'),
    'device_map': ForeignName(note='load_model(FILE, device) puts the network there'),
    'bb_pretrained': ForeignName(
        only=False, note='a checkpoint has the weights of its backbone; leave it out'),
    'torch_dtype': ForeignName(note='load_model(...).to(dtype) converts a network'),
    'dtype': ForeignName(note='load_model(...).to(dtype) converts a network'),
}

# Values that the published code offers, and why there are none here, by field.
REFUSED_VALUES: dict[str, dict[str, str]] = {
    'mixed_precision': {
        'fp8': "PyTorch's autocast has none, and Transformer Engine, which accelerate takes for "
               'it, replaces linear layers alone, of which the decoder has none; take bf16',
    },
    'lambdas_pix_last': {
        'triplet': 'no published task gives it a weight, and the paper does not define it; '
                   'leave it out',
    },
}


# --- Python ---------------------------------------------------------------------------------------

_SCORES = 'evaluation.score_pair(prediction, mask) computes all scores of a pair of uint8 arrays'
_LOSSES = 'loss.Criterion adds up the losses, which are functions: bce, iou, ssim and others'

# What has the same arguments here, by its published place.
SAME: dict[str, str] = {
    'utils.path_to_image': 'image_proc.path_to_image',
    'utils.save_tensor_img': 'image_proc.save_tensor_img',
    'utils.set_seed': 'runtime.distributed.seed_everything',
}

# What has not, and what to write in its place.
REPLACED: dict[str, str] = {
    'utils.Logger': 'runtime.log.setup_logging(folder) writes log.txt of what `logging` gets',
    'utils.AverageMeter': 'training.means.RunningMeans keeps means of losses',
    'utils.save_checkpoint': 'models.save_checkpoint(model, path) writes the weights',
    'dataset.MyData': 'dataset.TrainSet(find_pairs(data_root, task, sets), size) gives samples, '
                      'and dataset.build_loader batches of them',
    'dataset.custom_collate_fn': 'dataset.EpochSampler draws a size for each batch, and '
                                 'dataset.build_loader joins its samples',
    'dataset.class_labels_TR_sorted': 'dataset.class_names(pairs) lists the classes',
    'evaluation.metrics.evaluator': f'{_SCORES}, evaluation.runner.evaluate those of folders',
    'models.birefnet.image2patches':
        'models.modules.reference.image_to_tiles(image, height, width) gives tiles of this size',
    'models.birefnet.SimpleConvs': 'models.modules.reference.InwardReference is this block',
    'models.birefnet.BiRefNetC2F': 'there is one network, models.BiRefNet',
    'loss.Discriminator': 'models.discriminator.Discriminator(size) takes images times masks',
    'image_proc.FB_blur_fusion_foreground_estimator_1':
        'inference.edges.estimate_foreground(image, mask) does both of its steps',
    'image_proc.FB_blur_fusion_foreground_estimator_2':
        'inference.edges.estimate_foreground(image, mask) does both of its steps',
}
for _name in ('FMeasure', 'MAEMeasure', 'MSEMeasure', 'SMeasure', 'EMeasure', 'WeightedFMeasure',
              'HCEMeasure', 'MBAMeasure', 'BIoUMeasure'):
    REPLACED[f'evaluation.metrics.{_name}'] = _SCORES
for _name in ('preproc', 'cv_flip', 'randomCrop', 'randomRotation', 'colorEnhance', 'randomPeper'):
    REPLACED[f'image_proc.{_name}'] = (
        'data.transforms.augment(image, mask, methods, rng) augments a pair')
for _name in ('PixLoss', 'ClsLoss', 'SSIMLoss', 'IoULoss', 'PatchIoULoss', 'StructureLoss',
              'ContourLoss', 'ThrReg_loss', 'MAELoss'):
    REPLACED[f'loss.{_name}'] = _LOSSES

# The package's name and a dot where we are installed, '' in a checkout.
_PREFIX = __name__.removesuffix('published')


def find(place: str) -> Any:
    """Imports what has this place here, `module.name`."""
    module, _, name = place.rpartition('.')
    return getattr(importlib.import_module(_PREFIX + module), name)


def method(place: str) -> Callable[..., Any]:
    """The function of this place as a method, imported when it is called."""
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return find(place)(self, *arguments, **options)

    return call


def look_up(module: str, name: str) -> Any:
    """What a published name means that `module` lacks, for its `__getattr__`.

    Raises:
        ImportError: it has no counterpart of the same form; says what to write in its place.
        AttributeError: it is not a published name.
    """
    place = f'{module.removeprefix(_PREFIX)}.{name}'
    if place in SAME:
        return find(SAME[place])
    if place in REPLACED:
        raise ImportError(f'{name} of the published code is not here: {REPLACED[place]}')
    raise AttributeError(f'module {module!r} has no attribute {name!r}')
