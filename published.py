"""The published code's names of fields, and what stands for each here.

`Config` understands those whose meaning is the same, and says of the others where they went.
`docs/published.md` shows the table. Only the standard library is imported.
"""

from ast import literal_eval
from collections.abc import Mapping
from typing import Any

from fields import ConfigError, ForeignName

ONE_CHECKPOINT = ('the one checkpoint to start from; the file of a pretrained backbone is '
                  'bb_weights=FILE')


# --- Values ---------------------------------------------------------------------------------------


def _counted_from_end(value: Any) -> int:
    """How many last epochs: the published -40 is 40."""
    return -int(value)


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
    ),
    'lambdas_cls': ForeignName(
        field='lambda_cls',
        note="a number in place of {'ce': 5.0}",
        convert=_class_weight,
    ),
    'lambdas_cls.ce': ForeignName(field='lambda_cls'),
    'weights': ForeignName(field='weights', note=ONE_CHECKPOINT, convert=_one_checkpoint),

    # Of one value here, which needs no field.
    'model': ForeignName(
        only='BiRefNet', note='there is one network; its parts are fields: bb, dec_blk, dec_att'),
    'lat_blk': ForeignName(only='BasicLatBlk', note='lateral blocks are 1x1 convolutions'),
    'SDPA_enabled': ForeignName(only='True', note='attention is always the fused one of PyTorch'),
    'precisionHigh': ForeignName(
        only='True', note='on GPUs, products of float32 matrices always use TF32'),
    'refine': ForeignName(only='', note='no further network refines the map'),
    'progressive_ref': ForeignName(only='False', note='no further network refines the map'),

    # Gone.
    'sys_home_dir': ForeignName(
        note='paths stand for themselves: data_root=<sys_home_dir>/datasets/dis and '
             'bb_weights=<sys_home_dir>/weights/cv/<file>'),
    'weights_root_dir': ForeignName(note='give the file itself: bb_weights=<folder>/<file>'),
    'weights.*': ForeignName(note=ONE_CHECKPOINT),
    'batch_size_valid': ForeignName(
        note='images are validated and tested one by one; accumulate and batch_size are of '
             'training'),
    'cxt': ForeignName(note='it follows from cxt_num and bb'),
    'lateral_channels_in_collection': ForeignName(note='they follow from bb and mul_scl_ipt'),
    'prompt4loc': ForeignName(note='prompts for objects are not supported; predict.py has --box'),
    'only_S_MAE': ForeignName(note='eval_existingOnes.py --metrics S+MAE computes these alone'),
    'verbose_eval': ForeignName(note='the evaluation always shows its progress'),
    'use_accelerate': ForeignName(note='torchrun, which train.sh starts, says how many ranks'),
    'dist': ForeignName(note='torchrun, which train.sh starts, says how many ranks'),
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
