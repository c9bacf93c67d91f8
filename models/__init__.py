"""The network built from a Config, and checkpoints read and written. Nothing else in this package knows Config."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import Config, ConfigError, unknown_fields
from inference.predict import predict
from models import birefnet
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


class BiRefNet(birefnet.BiRefNet):
    """The network that `config` describes, with pretrained backbone weights where `config.bb_weights` names them.

    Its state dict has names of our own; `load_state_dict` takes official names too.
    """

    def __init__(self, config: Config | None = None) -> None:
        config = config or Config()
        scales = (1., .5) if config.mul_scl_ipt else (1.,)
        backbone = build_backbone(config.bb, config.size, scales, pretrained=config.bb_weights == 'hub')
        if config.bb_weights not in ('', 'hub'):
            load_backbone(backbone.net, config.bb, config.bb_weights)
        super().__init__(
            backbone, neck=needs_neck(config.bb), pyramid=config.mul_scl_ipt, frozen=config.freeze_bb,
            context=config.cxt_num, squeeze=config.squeeze_block, block=config.dec_blk, attention=config.dec_att,
            kernels=config.deform_kernels, inner=64 if config.dec_channels_inter == 'fixed' else None,
            reference_levels=config.dec_ipt_levels if config.dec_ipt else (), split=config.dec_ipt_split,
            tile_order=config.tile_order, supervised=config.ms_supervision,
            outward_levels=config.out_ref_levels if config.out_ref else (),
            num_classes=config.num_classes if config.auxiliary_classification else 0)
        self.config = config
        self.register_load_state_dict_pre_hook(_accept_official_names)


def _accept_official_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    renamed = from_official(state, prefix)
    state.clear()
    state.update(renamed)


def load_model(path: str | os.PathLike, device: str | torch.device = 'cpu', **overrides: Any) -> BiRefNet:
    """Loads a checkpoint of any published generation, or of ours, and returns the network in eval mode.

    `path` is a `.pth` or `.safetensors` file, a folder in Hugging Face layout, a run's folder (its best, else its last
    checkpoint), or a repository's name on the Hugging Face hub. The architecture follows from keys and shapes, the
    rest from the config saved beside it; `overrides` are Config fields that settle what neither says (`tile_order`,
    `mul_scl_ipt`, `bb='timm/...'`). The network's `config` tells what was found. No code from any file is run.
    Raises ValueError saying what is missing, and the nearest known layout, if the file fits nothing.
    """
    if complaints := unknown_fields(overrides):
        raise ConfigError('\n'.join(complaints))
    file = find_checkpoint(path)
    saved = _saved_fields(file)
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
    state = {key: _copy(state.pop(key)) for key in list(state)}  # one after the other: the weights are there once
    model.load_state_dict(state, assign=True)
    return model.to(device).eval()


def _copy(value: Tensor) -> Tensor:
    """`value` in memory of its own, which no change of a mapped file can reach, and in float32 unless it counts."""
    dtype = torch.float32 if value.is_floating_point() else value.dtype
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
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        numbers = [int(p.stem[6:]) for p in path.glob('epoch_*.pth') if p.stem[6:].isdecimal()]
        for name in ('model.safetensors', 'best.pth', f'epoch_{max(numbers, default=0)}.pth'):
            if (path / name).is_file():
                return path / name
        raise ValueError(f'{path}: holds neither model.safetensors nor best.pth nor epoch_<N>.pth')
    if re.fullmatch(r'[\w.-]+/[\w.-]+', str(path.as_posix())) and not path.suffix:
        return _download(path.as_posix())
    raise ValueError(f'{path}: there is no such checkpoint')


def _download(repository: str) -> Path:
    """model.safetensors of a repository on the Hugging Face hub, and its config beside it if it has one."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    try:
        file = Path(hf_hub_download(repository, 'model.safetensors'))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f'{repository}: neither a local path nor to be had from the hub '
                         f'({type(error).__name__}); without a network, give a local file') from error
    with suppress(HfHubHTTPError, LocalEntryNotFoundError, OSError):  # the keys tell the architecture without it
        hf_hub_download(repository, 'config.json')
    return file


def save_checkpoint(model: nn.Module, path: str | os.PathLike, state: Mapping[str, Any] | None = None) -> None:
    """Writes the network's weights in the official layout, atomically; `.safetensors` by suffix, else as `.pth`.

    `model` is a BiRefNet, bare or wrapped for several GPUs or by torch.compile; `state` its whole state dict where the
    network itself holds but a share of each weight.
    """
    inner = next(m for m in model.modules() if isinstance(m, BiRefNet))
    state = inner.state_dict() if state is None else state
    write_state(to_official(strip_prefixes(state), inner.config.bb), path)
