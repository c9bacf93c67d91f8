"""Backbones. Importing a family's module registers it."""

from models.backbones import convnets, swin, timm_features  # noqa: F401
from models.backbones.base import Backbone
from models.backbones.registry import (
    BACKBONES,
    backbone_shapes,
    build_backbone,
    find_family,
    register_backbones,
)

__all__ = [
    'BACKBONES',
    'Backbone',
    'backbone_shapes',
    'build_backbone',
    'find_family',
    'register_backbones',
]
