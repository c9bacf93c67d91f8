"""The registry of backbones: what the rest of the project asks of each, in one place."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.base import SMALLEST, Backbone
from models.checkpoints.rules import KeyRules

Size = tuple[int, int]
Shapes = Mapping[str, tuple[int, ...]]
State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class BackboneFamily:
    """Backbones that are built, recognised and loaded alike.

    Attributes:
        build: makes a Backbone from its name, whether to download pretrained weights, and the sizes
            (height, width) of the images that it will see.
        infer: the backbone's name from the keys and shapes of its part of an official checkpoint;
            '' if it is not of this family. None: keys do not tell.
        rename_pretrained: brings a pretrained state dict to the names, and tables to the shapes, of
            a network. None: they are the same.
        pretrained_files: by backbone, the name of the file that its authors publish, as a pattern.
        pretrained_folders: likewise, of the repository in Hugging Face's layout.
        on_hub: timm or torchvision download pretrained weights.
        untrained: pattern of the names that pretrained files lack.
        official_rules: from names in official checkpoints to the network's. None: the same.
        official_mark: a key of official checkpoints that the network does not have.
        official_index: official checkpoints hold Swin's buffers of relative positions.
        built_for_size: one of these takes images of the sizes alone for which it was built.
        frozen: not trained by default.
        for_transformers: all that the network keeps is in its state dict, so that transformers,
            which builds it empty, can load it.
    """

    build: Callable[[str, bool, Sequence[Size]], Backbone]
    infer: Callable[[Shapes], str] | None = None
    rename_pretrained: Callable[[State, nn.Module], State] | None = None
    pretrained_files: Mapping[str, str] = field(default_factory=dict, hash=False)
    pretrained_folders: Mapping[str, str] = field(default_factory=dict, hash=False)
    on_hub: bool = True
    untrained: str = ''
    official_rules: KeyRules | None = None
    official_mark: str = ''
    official_index: bool = False
    built_for_size: bool = False
    frozen: bool = False
    for_transformers: bool = True


# By name. A name that ends in '/' stands for all names that begin so.
BACKBONES: dict[str, BackboneFamily] = {}


def register_backbones(*names: str, **facts: Any) -> Callable:
    """Decorator of a `build` function: registers backbones of these names.

    `facts` are the other attributes of BackboneFamily.
    """
    def register(build: Callable[[str, bool, Sequence[Size]], Backbone]) -> Callable:
        family = BackboneFamily(build=build, **facts)
        for name in names:
            assert name not in BACKBONES, f'two backbones are called {name}'
            BACKBONES[name] = family
        return build

    return register


def find_family(name: str) -> BackboneFamily | None:
    """The family of a backbone; None for one that is not registered."""
    prefix = name.split('/')[0] + '/'
    return BACKBONES.get(name) or BACKBONES.get(prefix)


def build_backbone(
    name: str,
    size: Size = (1024, 1024),
    scales: Sequence[float] = (1.,),
    pretrained: bool = False,
) -> Backbone:
    """Builds a backbone.

    Args:
        name: a registered name, or timm/<name>.
        size: (width, height) of the images that the network takes.
        scales: of these images, at which the backbone will see them.
        pretrained: download timm's or torchvision's weights from their hub.

    Raises:
        KeyError: there is no such backbone; the message lists the known ones.
        ValueError: the backbone has no such size, or no such weights.
    """
    family = find_family(name)
    if family is None:
        near = difflib.get_close_matches(name, BACKBONES, 1)
        raise KeyError(f'unknown backbone {name!r}; nearest: {near}; known: {", ".join(BACKBONES)}')
    width, height = size
    sizes = []
    for scale in scales:
        scaled_height = max(round(height * scale), SMALLEST)
        scaled_width = max(round(width * scale), SMALLEST)
        sizes.append((scaled_height, scaled_width))
    backbone = family.build(name, pretrained, sizes)
    backbone.name = name
    return backbone


@lru_cache(maxsize=32)
def backbone_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a backbone's state dict, without memory for its values."""
    with torch.device('meta'):
        state = build_backbone(name).net.state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


# --- For `infer` ----------------------------------------------------------------------------------


def width_of(shapes: Shapes, key: str) -> int:
    """First dimension of a tensor; 0 if there is none."""
    shape = shapes.get(key, ())
    return shape[0] if shape else 0


def count_children(shapes: Shapes, module: str) -> int:
    """Number of modules directly inside `module` that have weights."""
    prefix = module + '.'
    children = set()
    for key in shapes:
        if key.startswith(prefix):
            children.add(key.removeprefix(prefix).split('.')[0])
    return len(children)
