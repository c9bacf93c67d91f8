"""The network built from a Config; checkpoints found, loaded and saved.

Nothing else in this package knows Config.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import Config, ConfigError, unknown_fields
from models import zoo
from models.architecture import Architecture
from models.backbones import Backbone, build_backbone, find_family
from models.birefnet import BiRefNet
from models.checkpoints.files import read_state, strip_prefixes, write_state
from models.checkpoints.infer import (
    differences,
    generation,
    infer_architecture,
    infer_backbone,
    nearest_layout,
)
from models.checkpoints.names import DERIVED, to_official
from models.checkpoints.pretrained import load_backbone

State = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def build_birefnet(config: Config | None = None) -> BiRefNet:
    """Builds the network that `config` describes.

    Its weights are random, but for the backbone's where `config.bb_weights` names pretrained ones.
    Raises ValueError for weights that do not fit, and for a backbone that does not take the size.
    """
    config = config or Config()
    architecture = Architecture.from_config(config)
    from_hub = config.bb_weights == 'hub'
    backbone = build_backbone(config.bb, config.size, architecture.scales, pretrained=from_hub)
    if config.bb_weights and not from_hub:
        load_backbone(backbone, config.bb_weights)
    return _assemble(backbone, config)


def _assemble(backbone: Backbone, config: Config) -> BiRefNet:
    model = BiRefNet(backbone, Architecture.from_config(config))
    model.config = config
    if config.freeze_bb:
        model.encoder.freeze()
    return model


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

    The architecture follows from keys and shapes, the rest from the config saved beside the
    weights, or from what is known of published ones. No code from any file is run.

    Args:
        path: a `.pth` or `.safetensors` file, a folder in Hugging Face layout, a run's folder (its
            best, else its last checkpoint), the name of published weights (`models.zoo`: 'general',
            'lite', ...), or of a repository on the Hugging Face hub.
        device: where the network is put.
        revision: branch, tag or commit, where `path` is a repository, as are the next four.
        cache_dir: folder of the hub's cache; default: that of its client.
        local_files_only: whether to use the hub's cache alone.
        force_download: whether to download what the cache holds already.
        token: of the hub, for private repositories.
        overrides: fields of Config that settle what none of these says, such as `tile_order`,
            `mul_scl_ipt` or `bb='timm/...'`.

    Returns:
        The network in eval mode; its `config` holds what was found.

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
    if complaints := unknown_fields(overrides):
        raise ConfigError('\n'.join(complaints))
    file = find_checkpoint(path, **hub)
    saved = {**_published_facts(str(path), file), **_saved_fields(file)}
    state = read_state(file)
    model = _build_for(state, file, saved, overrides)
    _fill(model, state)
    return model.to(device).eval()


def _build_for(state: State, file: Path, saved: Mapping[str, Any],
               overrides: Mapping[str, Any]) -> BiRefNet:
    """The network that a checkpoint fits, without memory for the weights that it will get."""
    shapes = _shapes_of(state)
    try:
        model = _build_inferred(shapes, file, saved, overrides)
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


def _build_inferred(shapes: Shapes, file: Path, saved: Mapping[str, Any],
                    overrides: Mapping[str, Any]) -> BiRefNet:
    """Builds by what the caller says, then what keys settle, then what was saved, then defaults."""
    bb = overrides.get('bb') or infer_backbone(shapes) or saved.get('bb')
    if not bb or not any(key.startswith('decoder.') for key in shapes):
        raise ValueError(f'{file} is not a checkpoint of BiRefNet; {nearest_layout(shapes)}. If '
                         "its backbone is one of timm's, give bb='timm/<name>'")
    size = _size_of(bb, {**saved, **overrides})
    backbone = _build_without_values(bb, size, (1.,))

    found = infer_architecture(shapes, backbone.channels)
    # Two things that keys do not show, so that a saved config may know better.
    if found['mul_scl_ipt'] == '' and saved.get('mul_scl_ipt') == 'add':
        found['mul_scl_ipt'] = 'add'
    if saved.get('tile_order'):
        found.pop('tile_order', None)
    config = Config(**{**saved, **found, 'bb': bb, 'bb_weights': '', **overrides})

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
    computed = dict(backbone.named_buffers()).keys() - backbone.state_dict().keys()
    return build_backbone(bb, size, scales) if computed else backbone


def _fill(model: BiRefNet, state: dict[str, Tensor]) -> None:
    """Moves the tensors of `state` into the network, one by one, so that memory holds them once."""
    official = to_official(model.state_dict(), model.config.bb)
    weights = {}
    for key in _shapes_of(state):
        value = state.pop(key)
        dtype = official[key].dtype
        # A copy, which no change of a mapped file can reach.
        weights[key] = value.to(dtype, copy=True, memory_format=torch.contiguous_format)
    model.load_state_dict(weights, assign=True)


def _saved_fields(file: Path) -> dict[str, Any]:
    """Fields of the Config saved beside a checkpoint of ours.

    They are in `config.json`, whole or under the key 'birefnet'. That file may be another
    project's, which the checkpoint's keys make up for.
    """
    path = file.with_name('config.json')
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not JSON ({error})') from error
    if isinstance(content, dict):
        content = content.get('birefnet', content)
    if not isinstance(content, dict) or not {'mul_scl_ipt', 'tile_order'} <= content.keys():
        return {}
    known = {spec.name for spec in fields(Config)}
    return {name: value for name, value in content.items() if name in known}


# --- Finding --------------------------------------------------------------------------------------


def find_checkpoint(path: str | os.PathLike, **hub: Any) -> Path:
    """The file that `path` means, in any of the forms that `load_model` takes.

    `hub` are options for the download of a repository. Raises ValueError if there is no such thing.
    """
    name = str(path)
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        return _find_in_folder(path)
    entry = zoo.find(name)
    asks_hub = bool(hub) and is_repository(name)
    if entry and not asks_hub:
        return zoo.fetch(entry)
    if is_repository(name):
        return _fetch_repository(name, **hub)
    near = difflib.get_close_matches(name, zoo.zoo(), 1)
    advice = f'; did you mean {near[0]}?' if near else ''
    raise ValueError(f'{path}: there is no such checkpoint{advice}')


def _find_in_folder(folder: Path) -> Path:
    """A folder's model.safetensors, or a run's best, else its last checkpoint."""
    candidates = ['model.safetensors', 'best.pth']
    epochs = [path.stem.removeprefix('epoch_') for path in folder.glob('epoch_*.pth')]
    numbers = [int(epoch) for epoch in epochs if epoch.isdecimal()]
    if numbers:
        candidates.append(f'epoch_{max(numbers)}.pth')
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise ValueError(f'{folder}: holds neither model.safetensors nor best.pth nor epoch_<N>.pth')


def is_repository(name: str | os.PathLike) -> bool:
    """Whether `name` has the form of a repository on the hub, and there is no such path here."""
    pattern = r'[\w-]+/[\w.-]+(?<!\.pth)(?<!\.safetensors)'
    return re.fullmatch(pattern, str(name)) is not None and not Path(name).exists()


def _published_facts(name: str, file: Path) -> dict[str, Any]:
    """Fields of Config that are known of published weights; none of others."""
    entry = None if Path(name).exists() else zoo.find(name)
    return {} if entry is None else entry.facts(file)


def _fetch_repository(repository: str, **hub: Any) -> Path:
    try:
        return zoo.fetch_repository(repository, **hub)
    except zoo.HUB_ERRORS as error:
        kind = type(error).__name__
        raise ValueError(f'{repository}: neither a local path nor to be had from the hub ({kind}); '
                         'without a network, give a local file') from error


# --- Saving ---------------------------------------------------------------------------------------


def save_checkpoint(model: nn.Module, path: str | os.PathLike, state: State | None = None) -> None:
    """Writes the network's weights in the official layout, atomically.

    Args:
        model: a BiRefNet, bare or wrapped for several GPUs or by torch.compile.
        path: `.safetensors` by suffix, else as torch saves it.
        state: the whole state dict of a sharded network, which holds only a part of each weight.
    """
    network = next(m for m in model.modules() if isinstance(m, BiRefNet))
    if state is None:
        state = network.state_dict()
    write_state(to_official(strip_prefixes(state), network.encoder.backbone.name), path)
