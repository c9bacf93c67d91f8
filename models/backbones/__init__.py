"""Backbones by name."""

import difflib
from functools import lru_cache

import torch

from models.backbones.base import Backbone
from models.backbones.convnets import build_resnet50, build_vgg
from models.backbones.swin import SWINS, build_swin
from models.backbones.timm_features import build_dino, build_pvt, build_timm

PVTS = ('pvt_v2_b0', 'pvt_v2_b1', 'pvt_v2_b2', 'pvt_v2_b5')
# timm's name and the blocks whose output serves as x1..x4
DINOS = {
    'dino_v3_s': ('vit_small_patch16_dinov3', (3, 5, 7, 11)),
    'dino_v3_s_plus': ('vit_small_plus_patch16_dinov3', (3, 5, 7, 11)),
    'dino_v3_b': ('vit_base_patch16_dinov3', (3, 5, 7, 11)),
    'dino_v3_l': ('vit_large_patch16_dinov3', (5, 11, 17, 23)),
    'dino_v3_h_plus': ('vit_huge_plus_patch16_dinov3', (7, 15, 23, 31)),
    'dino_v3_7b': ('vit_7b_patch16_dinov3', (9, 19, 29, 39)),
}


def needs_neck(name: str) -> bool:
    """Whether the backbone's four maps are all at one stride, so that a neck must make the pyramid."""
    return name in DINOS


def build_backbone(name: str, size: tuple[int, int] = (1024, 1024), scales: tuple[float, ...] = (1.,),
                   pretrained: bool = False) -> Backbone:
    """Builds backbone `name`; `pretrained` takes timm's or torchvision's weights from their hub.

    `size` (width, height) and `scales` of it are what the backbone will see: a timm model of a fixed input size is
    built for it, or refused with a ValueError. An unknown name raises KeyError with the known.
    """
    if name in SWINS:
        if pretrained:
            raise ValueError(f'bb_weights=hub: {name} takes a local file, '
                             'e.g. swin_large_patch4_window12_384_22kto1k.pth')
        return build_swin(name)
    if name in PVTS:
        return build_pvt(name, pretrained)
    if name in ('vgg16', 'vgg16bn'):
        return build_vgg(name, pretrained)
    if name == 'resnet50':
        return build_resnet50(pretrained)
    if name in DINOS:
        return build_dino(*DINOS[name], pretrained)
    if name.startswith('timm/'):
        return build_timm(name.removeprefix('timm/'), size, scales, pretrained)
    known = (*SWINS, *PVTS, 'vgg16', 'vgg16bn', 'resnet50', *DINOS, 'timm/<name>')
    near = difflib.get_close_matches(name, known, 1)
    raise KeyError(f'unknown backbone {name!r}; nearest: {near}; known: {", ".join(known)}')


@lru_cache(maxsize=32)
def backbone_shapes(name: str) -> dict[str, torch.Size]:
    """Names and shapes of a backbone's state, without memory for its values."""
    with torch.device('meta'):
        return {key: value.shape for key, value in build_backbone(name).net.state_dict().items()}
