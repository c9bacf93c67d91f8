"""The network built from a Config, and checkpoints read and written. Nothing else in this package knows Config."""

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import ARCHITECTURE, Config, ConfigError, unknown_fields
from inference.predict import predict
from models import birefnet, hub, zoo
from models.backbones import build_backbone, needs_neck
from models.checkpoint import (
    DERIVED,
    differences,
    from_official,
    generation,
    infer_architecture,
    infer_backbone,
    load_backbone,
    nearest_layout,
    read_state,
    strip_prefixes,
    to_official,
    write_state,
)
from models.fast import optimize

__all__ = ['BiRefNet', 'load_model', 'optimize', 'predict', 'save_checkpoint']


def scales_of(config: Any) -> tuple[float, ...]:
    """The scales of the image at which the backbone of a network sees it; `config` has the fields of a Config."""
    return (1., .5) if config.mul_scl_ipt else (1.,)


def network_arguments(config: Any) -> dict[str, Any]:
    """What `models.birefnet.BiRefNet` is composed from, but for its backbone; `config` has the fields of a Config."""
    return {
        'neck': needs_neck(config.bb), 'pyramid': config.mul_scl_ipt, 'context': config.cxt_num,
        'squeeze': config.squeeze_block, 'block': config.dec_blk, 'attention': config.dec_att,
        'kernels': config.deform_kernels, 'inner': 64 if config.dec_channels_inter == 'fixed' else None,
        'reference_levels': config.dec_ipt_levels if config.dec_ipt else (), 'split': config.dec_ipt_split,
        'tile_order': config.tile_order, 'supervised': config.ms_supervision,
        'outward_levels': config.out_ref_levels if config.out_ref else (),
        'num_classes': config.num_classes if config.auxiliary_classification else 0,
    }


class BiRefNet(birefnet.BiRefNet):
    """The network that `config` describes, with pretrained backbone weights where `config.bb_weights` names them.

    Its state dict has names of our own; `load_state_dict` takes official names too.
    """

    def __init__(self, config: Config | None = None) -> None:
        config = config or Config()
        backbone = build_backbone(config.bb, config.size, scales_of(config), pretrained=config.bb_weights == 'hub')
        if config.bb_weights not in ('', 'hub'):
            load_backbone(backbone.net, config.bb, config.bb_weights)
        super().__init__(backbone, frozen=config.freeze_bb, **network_arguments(config))
        self.config = config
        self.register_load_state_dict_pre_hook(_accept_official_names)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, device: str | torch.device = 'cpu', *,
                        revision: str | None = None, cache_dir: str | os.PathLike | None = None,
                        local_files_only: bool = False, force_download: bool = False,
                        token: str | bool | None = None, **overrides: Any) -> 'BiRefNet':
        """As `load_model`, with the hub's options where `name` is a repository."""
        options = {'revision': revision, 'cache_dir': cache_dir, 'local_files_only': local_files_only,
                   'force_download': force_download, 'token': token}
        if is_repository(name) and any(options.values()):
            file = _fetch_repository(str(name), **options)
            return _load(file, _published_facts(str(name), file), device, overrides)
        return load_model(name, device, **overrides)

    def save_pretrained(self, folder: str | os.PathLike, *, title: str = '', license: str = '',
                        checkpoint: str | os.PathLike = '', results: str | os.PathLike = 'e_results',
                        dtype: torch.dtype = torch.float32) -> None:
        """Writes a folder in Hugging Face's layout, which `from_pretrained` reads, and `transformers` too, and tools
        for the publication's weights: model.safetensors, in `dtype` and the official layout, config.json,
        preprocessor_config.json, a modelling file and the card README.md.

        The card tells metrics and training set from the run in whose folder `checkpoint` lies and from the
        evaluation's folder `results`, and the `license`. Raises ValueError for a backbone that transformers cannot
        load.
        """
        switches = {name: value for name, value in self.config.as_dict().items() if name in PUBLIC}
        hub.save_folder(folder, to_official(self.state_dict(), self.config.bb), switches, title=title, license=license,
                        checkpoint=checkpoint, results=results, dtype=dtype)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None, **options: Any) -> str:
        """Brings what `save_pretrained` writes, with its `options`, to a repository on the Hugging Face hub."""
        save = partial(self.save_pretrained, **{'title': repository, **options})
        return hub.upload(repository, save, private=private, token=token)


# Fields that folders for others tell: no paths of this machine.
PUBLIC = (*ARCHITECTURE, 'task', 'size', 'dynamic_size')


def _accept_official_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    renamed = from_official(state, prefix)
    state.clear()
    state.update(renamed)


def load_model(path: str | os.PathLike, device: str | torch.device = 'cpu', **overrides: Any) -> BiRefNet:
    """Loads a checkpoint of any published generation, or of ours, and returns the network in eval mode.

    `path` is a `.pth` or `.safetensors` file, a folder in Hugging Face layout, a run's folder (its best, else its last
    checkpoint), the name of published weights (`models.zoo`: 'general', 'lite', ...), or of a repository on the
    Hugging Face hub. The architecture follows from keys and shapes, the rest from the config saved beside it, or what
    is known of published weights; `overrides` are Config fields that settle what none of these says (`tile_order`,
    `mul_scl_ipt`, `bb='timm/...'`). The network's `config` tells what was found. No code from any file is run.
    Raises ValueError saying what is missing, and the nearest known layout, if the file fits nothing.
    """
    file = find_checkpoint(path)
    return _load(file, _published_facts(str(path), file), device, overrides)


def _load(file: Path, facts: Mapping[str, Any], device: str | torch.device, overrides: Mapping[str, Any]) -> BiRefNet:
    """The network of a file; `facts` are fields of Config that hold where nothing beside the file says otherwise."""
    if complaints := unknown_fields(overrides):
        raise ConfigError('\n'.join(complaints))
    saved = {**facts, **_saved_fields(file)}
    state = read_state(file)
    shapes = {key: tuple(value.shape) for key, value in state.items() if not DERIVED.search(key)}
    try:
        config = _infer_config(file, shapes, saved, overrides)
    except ConfigError as error:
        raise ConfigError(f'{file}, or the config beside it: {error}') from error
    model = _without_values(config)
    official = to_official(model.state_dict(), config.bb)
    expected = {key: tuple(value.shape) for key, value in official.items() if not DERIVED.search(key)}
    if problem := differences(expected, shapes):
        given = ''.join(f', {name}={value!r} as given' for name, value in overrides.items())
        raise ValueError(f'{file} does not fit its nearest known layout, {config.bb} of {generation(shapes)}{given}: '
                         f'{problem}')
    # One after the other: the weights are there once.
    model.load_state_dict({key: _copy(state.pop(key), official[key].dtype) for key in shapes}, assign=True)
    return model.to(device).eval()


def _copy(value: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` as `dtype` in memory of its own, which no change of a mapped file can reach."""
    return value.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _without_values(config: Config) -> BiRefNet:
    """The network without memory for its values; with it where it works out buffers that no checkpoint holds."""
    with torch.device('meta'):
        model = BiRefNet(config)
    derived = dict(model.named_buffers()).keys() - model.state_dict().keys()
    return BiRefNet(config) if derived else model


def _infer_config(file: Path, shapes: Mapping[str, tuple[int, ...]], saved: Mapping[str, Any],
                  overrides: Mapping[str, Any]) -> Config:
    """What the caller says, over what the keys settle, over what was saved, over the defaults."""
    bb = overrides.get('bb') or infer_backbone(shapes) or saved.get('bb')
    if not bb or not any(key.startswith('decoder.') for key in shapes):
        raise ValueError(f'{file} is no checkpoint of BiRefNet; {nearest_layout(shapes)}. If its backbone is one of '
                         "timm's, give bb='timm/<name>'")
    size = Config(bb=bb, **{k: v for k, v in {**saved, **overrides}.items() if k in ('task', 'size')}).size
    with torch.device('meta'):
        channels = build_backbone(bb, size).channels
    found = infer_architecture(shapes, channels)
    if found['mul_scl_ipt'] == '' and saved.get('mul_scl_ipt') == 'add':
        found['mul_scl_ipt'] = 'add'  # the keys of 'add' and of none are the same
    if saved.get('tile_order'):
        found.pop('tile_order', None)
    return Config(**{**saved, **found, 'bb': bb, 'bb_weights': '', **overrides})


def _saved_fields(file: Path) -> dict[str, Any]:
    """Fields of the Config saved beside a checkpoint of ours: `config.json`, whole or under the key 'birefnet'."""
    path = file.with_name('config.json')
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: no JSON ({error})') from error
    content = content.get('birefnet', content) if isinstance(content, dict) else {}
    if not isinstance(content, dict) or not {'mul_scl_ipt', 'tile_order'} <= content.keys():
        return {}  # another project's, which the checkpoint's keys make good for
    known = {spec.name for spec in fields(Config)}
    return {k: v for k, v in content.items() if k in known}


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The file `path` means: itself, a folder's model.safetensors, a run's best or last checkpoint, a download."""
    name, path = str(path), Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        numbers = [int(p.stem[6:]) for p in path.glob('epoch_*.pth') if p.stem[6:].isdecimal()]
        for file in ('model.safetensors', 'best.pth', f'epoch_{max(numbers, default=0)}.pth'):
            if (path / file).is_file():
                return path / file
        raise ValueError(f'{path}: holds neither model.safetensors nor best.pth nor epoch_<N>.pth')
    if (entry := zoo.find(name)) is not None:
        return zoo.fetch(entry)
    if is_repository(name):
        return _fetch_repository(name)
    near = difflib.get_close_matches(name, zoo.zoo(), 1)
    raise ValueError(f'{path}: there is no such checkpoint' + (f'; did you mean {near[0]}?' if near else ''))


def is_repository(name: str | os.PathLike) -> bool:
    """Whether `name`, unless there is such a path here, has the form of a repository's on the hub."""
    pattern = r'[\w-]+/[\w.-]+(?<!\.pth)(?<!\.safetensors)'
    return re.fullmatch(pattern, str(name)) is not None and not Path(name).exists()


def _published_facts(name: str, file: Path) -> dict[str, Any]:
    """What is known of published weights; nothing of others."""
    entry = None if Path(name).exists() else zoo.find(name)
    return {} if entry is None else entry.facts(file)


def _fetch_repository(repository: str, **options: Any) -> Path:
    try:
        return zoo.fetch_repository(repository, **options)
    except zoo.HUB_ERRORS as error:
        raise ValueError(f'{repository}: neither a local path nor to be had from the hub '
                         f'({type(error).__name__}); without a network, give a local file') from error


def save_checkpoint(model: nn.Module, path: str | os.PathLike, state: Mapping[str, Any] | None = None) -> None:
    """Writes the network's weights in the official layout, atomically; `.safetensors` by suffix, else as `.pth`.

    `model` is a BiRefNet, bare or wrapped for several GPUs or by torch.compile; `state` its whole state dict where the
    network itself holds but a share of each weight.
    """
    inner = next(m for m in model.modules() if isinstance(m, BiRefNet))
    state = inner.state_dict() if state is None else state
    write_state(to_official(strip_prefixes(state), inner.config.bb), path)
