"""What is beside the weights in a folder of Hugging Face's layout.

transformers and the family's tools read it.

The weights themselves are written by `models`, in the official layout.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporting.single_file import PREFIX, join_modules
from models.backbones import BACKBONES, find_family
from utils import IMAGENET_MEAN, IMAGENET_STD, atomic_write, write_json

MODELING = 'modeling_birefnet'
CONFIG_CLASS = 'BiRefNetConfig'
MODEL_CLASS = 'BiRefNetForImageSegmentation'


def modeling_source(bb: str) -> str:
    """The modelling file of a network on backbone `bb`.

    It needs torch, torchvision and transformers, and timm if the backbone comes from there. Raises
    ValueError for a backbone that transformers cannot load.
    """
    family = find_family(bb)
    if family is None or not family.for_transformers:
        loadable = [name for name, known in BACKBONES.items() if known.for_transformers]
        raise ValueError(
            f'bb={bb}: transformers leaves empty what a network keeps outside of its state dict, '
            f'as this backbone does; it can load {", ".join(loadable)}')
    # The builder comes with its decorator, which registers this one family in the file.
    builder = (family.build.__module__.removeprefix(PREFIX), family.build.__name__)
    body = join_modules([builder, ('exporting.modeling', MODEL_CLASS)])
    title = ('BiRefNet (Zheng et al., arXiv 2401.03407) for transformers; a program has joined it '
             'from the sources of a project.')
    return f'"""{title}"""\n\n{body}'


def write_companions(folder: str | os.PathLike, fields: Mapping[str, Any], card: str) -> None:
    """Writes config.json, preprocessor_config.json, the modelling file and README.md.

    Args:
        folder: made if it is not there.
        fields: the fields of Config that build the network, `size` (width, height) among them.
        card: the text of README.md.

    Raises:
        ValueError: transformers cannot load the network; nothing is written.
    """
    source = modeling_source(fields['bb'])
    folder = Path(folder)
    write_json(folder / 'config.json', config(fields))
    write_json(folder / 'preprocessor_config.json', preprocessor(*fields['size']))
    for name, text in ((f'{MODELING}.py', source), ('README.md', card)):
        with atomic_write(folder / name, 'w') as file:
            file.write(text)


def config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """config.json: the keys that the family's repositories carry, and `fields` under 'birefnet'."""
    pipeline = {'pt': ['AutoModelForImageSegmentation'], 'tf': [], 'type': 'image'}
    return {
        'architectures': [MODEL_CLASS],
        'auto_map': {
            'AutoConfig': f'{MODELING}.{CONFIG_CLASS}',
            'AutoModelForImageSegmentation': f'{MODELING}.{MODEL_CLASS}',
        },
        'custom_pipelines': {'image-segmentation': pipeline},
        'bb_pretrained': False,
        'model_type': 'birefnet',
        'birefnet': dict(fields),
    }


def preprocessor(width: int, height: int) -> dict[str, Any]:
    """preprocessor_config.json.

    It describes bilinear resizing to the training size without keeping the aspect ratio, and
    normalising with ImageNet's mean and standard deviation.
    """
    return {
        'do_normalize': True,
        'do_rescale': True,
        'do_resize': True,
        # The family has ViTFeatureExtractor under both keys, which transformers knows no more.
        'feature_extractor_type': 'ViTFeatureExtractor',
        'image_processor_type': 'ViTImageProcessor',
        'image_mean': list(IMAGENET_MEAN),
        'image_std': list(IMAGENET_STD),
        'resample': 2,
        'rescale_factor': 1 / 255,
        'size': {'height': height, 'width': width},
    }
