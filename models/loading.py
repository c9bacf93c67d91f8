"""The network built from a Config; checkpoints found, loaded and saved.

Nothing else in this package knows Config.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import published
from config import Config, ConfigError
from models import zoo
from models.architecture import Architecture
from models.backbones import BACKBONES, Backbone, build_backbone, find_family
from models.backbones.registry import State
from models.birefnet import BiRefNet
from models.checkpoints.files import beginnings, read_state, write_state
from models.checkpoints.infer import (
    differences,
    generation,
    infer_architecture,
    infer_backbone,
    is_generation_2024_03,
    nearest_layout,
)
from models.checkpoints.names import DERIVED, OUR_PREFIX, from_official, to_official
from models.checkpoints.pretrained import load_backbone
from models.checkpoints.tile_order import convert_tile_order, read_tile_order, tile_weights
from models.finding import find_checkpoint, saved_config, written_tile_order
from utils import check_state_dict

Shapes = dict[str, tuple[int, ...]]

logger = logging.getLogger(__name__)


def build_birefnet(config: Config | None = None) -> BiRefNet:
    """Builds the network that `config` describes.

    Its weights are random, but for the backbone's where `config.bb_weights` names pretrained ones.
    Raises ValueError for weights that do not fit, and for a backbone that does not take the size.
    """
    config = config or Config()
    architecture = Architecture.from_config(config)
    from_hub = config.bb_weights == 'hub'
    backbone = build_backbone(config.bb, config.size, architecture.scales, pretrained=from_hub)
    if config.bb_weights not in ('', 'none', 'hub'):
        load_backbone(backbone, config.bb_weights)
    return _assemble(backbone, config)


def _assemble(backbone: Backbone, config: Config) -> BiRefNet:
    model = BiRefNet(backbone, Architecture.from_config(config))
    # What is saved with the network's weights has to describe them, not the file that they are of.
    model.config = replace(config, tile_order='row')
    if config.freeze_bb:
        model.encoder.freeze()
    return model


# --- What is known of weights ---------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """The file that a path or name means, and what is known of it without its weights.

    Attributes:
        file: a checkpoint on this machine.
        fields: fields of Config: of the config that this project saved with the checkpoint, and
            beneath it of the published weights (`models.zoo`) that it is. Empty for others.
        tile_order: 'row' or 'column', as far as that is known; else ''.
        is_ours: whether this project wrote the file, so that `tile_order` is certain.
    """

    file: Path
    fields: Mapping[str, Any]
    tile_order: str = ''
    is_ours: bool = False


def resolve(path: str | os.PathLike, **hub: Any) -> Source:
    """Finds the checkpoint that `path` means, and what is known of it. All commands ask here.

    Args:
        path: a `.pth` or `.safetensors` file, a run's state `last.pt`, a folder in Hugging Face
            layout, a run's folder (its best, else its last checkpoint, else its state), the name
            of published weights ('general', 'lite', ...), or of a repository on the Hugging Face
            hub.
        hub: options for the download of a repository, see `load_model`.

    Raises:
        ValueError: there is no such checkpoint, it cannot be downloaded, or a config beside it
            cannot be read.
    """
    file = find_checkpoint(path, **hub)
    entry = None if Path(path).exists() else zoo.find(str(path))
    entry = entry or zoo.identify(file)
    published = entry.facts() if entry else {}

    # What the file's own config says counts before what is known of published weights.
    saved = saved_config(file)
    known = {spec.name for spec in fields(Config)} - {'tile_order'}
    own = {name: value for name, value in saved.items() if name in known}
    written = written_tile_order(file, saved)
    likely = entry.likely_tile_order(file) if entry else ''
    return Source(file, {**published, **own}, written or likely, is_ours=bool(written))


# --- Loading --------------------------------------------------------------------------------------


def load_model(
    path: str | os.PathLike,
    device: str | torch.device = 'cpu',
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    token: str | bool | None = None,
    **overrides: Any,
) -> BiRefNet:
    """Loads a checkpoint of any published generation, or of ours.

    The architecture follows from keys and shapes, the tile order from the weights themselves, the
    rest from the config saved beside them, or from what is known of published ones. No code from
    any file is run.

    Args:
        path: what `resolve` takes: a file, a folder, a run, a name.
        device: where the network is put.
        revision: branch, tag or commit, where `path` is a repository, as are the next four.
        cache_dir: folder of the hub's cache; default: that of its client.
        local_files_only: whether to use the hub's cache alone.
        force_download: whether to download what the cache holds already.
        token: of the hub, for private repositories.
        overrides: fields of Config that settle what none of these says, such as `mul_scl_ipt`,
            `bb='timm/...'`, or the `tile_order` of weights that do not show it.

    Returns:
        The network in eval mode; its `config` holds what was found. Its tile order is 'row',
        whatever that of the file.

    Raises:
        ValueError: the file fits no known layout; the message names the nearest, and what is
            missing.
    """
    options = {
        'revision': revision,
        'cache_dir': cache_dir,
        'local_files_only': local_files_only,
        'force_download': force_download,
        'token': token,
    }
    hub = {name: value for name, value in options.items() if value}
    overrides = Config.translate(overrides)

    # The file, and a network that fits it, still without values.
    source = resolve(path, **hub)
    state = read_state(source.file)
    state = _with_official_names(state, overrides.get('bb') or source.fields.get('bb', ''))
    model = _build_for(state, source, overrides)

    # The values, in the tile order that everything here has.
    tile_order = _find_tile_order(state, source, overrides.get('tile_order', ''))
    if tile_order == 'column':
        state = convert_tile_order(state, 'row')
    _fill(model, state)
    return model.to(device).eval()


# The publication's names of this, and of what writes folders and uploads them.
BiRefNet.from_pretrained = staticmethod(load_model)
BiRefNet.save_pretrained = published.method('exporting.hub.save_pretrained')
BiRefNet.push_to_hub = published.method('exporting.hub.push_to_hub')


def _with_official_names(state: State, bb: str) -> State:
    """A state dict in the official layout from one in that or in our names.

    A run's state has our names. Without `bb` the backbone follows from the keys.
    """
    if not any(key.startswith(OUR_PREFIX) for key in state):
        return dict(state)
    for name in [bb] if bb else BACKBONES:
        official = to_official(state, name)
        if bb or infer_backbone(_shapes_of(official)):
            return official
    return dict(state)


def _find_tile_order(state: State, source: Source, given: str) -> str:
    """The tile order of a file's weights.

    What a user gives goes first, then what this project knows of its own files, then what the
    weights show, then what is likely. Whatever is taken is reported.
    """
    if not tile_weights(state):
        return 'row'

    # An order that is certain counts even against the weights, which then gets a warning.
    shown = read_tile_order(state)
    certain = given or (source.tile_order if source.is_ours else '')
    if certain:
        if shown.order not in ('', certain):
            origin = 'given' if given else 'the file or the config beside it says'
            logger.warning('%s: tile order: %s, as %s, although %s', source.file, certain, origin,
                           shown)
        return certain

    # Else what the weights show, and without that the custom of their time.
    if shown.order:
        logger.info('%s: tile order: %s, as %s', source.file, shown.order, shown)
        return shown.order
    oldest = is_generation_2024_03(_shapes_of(state))
    likely = source.tile_order or ('column' if oldest else 'row')
    other = 'row' if likely == 'column' else 'column'
    logger.warning('%s: tile order: %s, by default: %s; where masks look wrong, give tile_order=%s',
                   source.file, likely, shown, other)
    return likely


def _build_for(state: State, source: Source, overrides: Mapping[str, Any]) -> BiRefNet:
    """The network that a checkpoint fits, without memory for the weights that it will get."""
    file = source.file
    shapes = _shapes_of(state)
    try:
        model = _build_inferred(shapes, source, overrides)
    except ConfigError as error:
        raise ConfigError(f'{file}, or the config beside it: {error}') from error

    bb = model.config.bb
    expected = _shapes_of(to_official(model.state_dict(), bb))
    if problem := differences(expected, shapes):
        given = ''.join(f', {name}={value!r} as given' for name, value in overrides.items())
        layout = f'{bb} of {generation(shapes)}{given}'
        raise ValueError(f'{file} does not fit its nearest known layout, {layout}: {problem}')
    return model


def _shapes_of(state: State) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items() if not DERIVED.search(key)}


def _build_inferred(shapes: Shapes, source: Source, overrides: Mapping[str, Any]) -> BiRefNet:
    """Builds by what the caller says, then what keys settle, then what was saved, then defaults."""
    # The backbone first: the decoder's widths follow from its channels.
    saved = source.fields
    bb = overrides.get('bb') or infer_backbone(shapes) or saved.get('bb')
    if not bb or not any(key.startswith('decoder.') for key in shapes):
        raise ValueError(f'{source.file} is not a checkpoint of BiRefNet: its keys begin with '
                         f'{beginnings(shapes)}; {nearest_layout(shapes)}. If its backbone is one '
                         "of timm's, give bb='timm/<name>'")
    size = _size_of(bb, {**saved, **overrides})
    backbone = _build_without_values(bb, size, (1.,))

    found = infer_architecture(shapes, backbone.channels)
    # Keys do not show this, so that a saved config may know better.
    if found['mul_scl_ipt'] == '' and saved.get('mul_scl_ipt') == 'add':
        found['mul_scl_ipt'] = 'add'
    config = Config(**{**saved, **found, 'bb': bb, 'bb_weights': '', **overrides})

    # A backbone that is built for one size was built for the first guess of it.
    scales = Architecture.from_config(config).scales
    family = find_family(bb)
    if family and family.built_for_size and (config.size != size or scales != (1.,)):
        backbone = _build_without_values(bb, config.size, scales)
    with torch.device('meta'):
        return _assemble(backbone, config)


def _size_of(bb: str, known: Mapping[str, Any]) -> tuple[int, int]:
    """The input size that `known` fields of Config tell, or that follows from the task."""
    relevant = {name: known[name] for name in ('task', 'size') if name in known}
    return Config(bb=bb, **relevant).size


def _build_without_values(bb: str, size: tuple[int, int], scales: tuple[float, ...]) -> Backbone:
    """A backbone without memory for its weights.

    With memory where it computes buffers that no checkpoint holds.
    """
    with torch.device('meta'):
        backbone = build_backbone(bb, size, scales)
    buffers = dict(backbone.named_buffers())
    computed = buffers.keys() - backbone.state_dict().keys()
    if not computed:
        return backbone
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        return build_backbone(bb, size, scales)


def _fill(model: BiRefNet, state: State) -> None:
    """Moves the tensors of `state` into the network, one by one, so that memory holds them once."""
    official = to_official(model.state_dict(), model.config.bb)
    weights = {}
    for key in _shapes_of(state):
        value = state.pop(key)
        dtype = official[key].dtype
        # A copy, which no change of a mapped file can reach.
        weights[key] = value.to(dtype, copy=True, memory_format=torch.contiguous_format)
    # In our names, so that the tile order that was decided on stays.
    model.load_state_dict(from_official(weights), assign=True)


# --- Saving ---------------------------------------------------------------------------------------


def save_checkpoint(
    model: nn.Module,
    path: str | os.PathLike,
    state: State | None = None,
    *,
    dtype: torch.dtype | None = None,
    tile_order: str = 'row',
) -> None:
    """Writes the network's weights in the official layout, atomically.

    Args:
        model: a BiRefNet, bare or wrapped for several GPUs or by torch.compile.
        path: `.safetensors` by suffix, else as torch saves it.
        state: the whole state dict of a sharded network, which holds only a part of each weight.
        dtype: of the weights; default: as they are.
        tile_order: 'row', or 'column' for programs of before November 2024 and those that kept
            their order.
    """
    # Beneath whatever wraps it.
    network = next(m for m in model.modules() if isinstance(m, BiRefNet))
    if state is None:
        state = network.state_dict()
    official = to_official(check_state_dict(state), network.encoder.backbone.name)
    if tile_order != 'row':
        official = convert_tile_order(official, tile_order)
    if dtype is not None:
        official = {key: _to_dtype(value, dtype) for key, value in official.items()}
    write_state(official, path, {'tile_order': tile_order})


def _to_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` as `dtype`, unless it holds whole numbers."""
    return value.to(dtype) if value.is_floating_point() else value
