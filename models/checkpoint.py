"""Checkpoints: the official state-dict layout on disk, our names inside, and the architecture worked out from keys."""

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from models.backbones import DINOS, PVTS, backbone_shapes
from models.backbones.swin import SWINS, SwinTransformer, relative_position_index, resize_bias_tables
from utils import atomic_write

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]

# --- Names ----------------------------------------------------------------------------------------------------------

# (official, ours), each a run of whole dot-separated parts. Of the first table one rule applies, at the front of a
# key. Levels count from the coarsest: decoder_block4 is levels.0, and the reference at its stride is ipt_blk5.
FRONT: Rules = (
    *((f'decoder.ipt_blk{5 - i}.conv1', f'decoder.levels.{i}.reference.conv_in') for i in range(4)),
    *((f'decoder.ipt_blk{5 - i}', f'decoder.levels.{i}.reference') for i in range(4)),
    *((f'decoder.decoder_block{4 - i}', f'decoder.levels.{i}.block') for i in range(4)),
    *((f'decoder.lateral_block{4 - i}.conv', f'decoder.levels.{i}.lateral') for i in range(3)),
    *((f'decoder.conv_ms_spvn_{4 - i}', f'decoder.levels.{i}.side') for i in range(3)),
    *((f'decoder.gdt_convs_{4 - i}', f'decoder.levels.{i}.outward.features') for i in range(3)),
    *((f'decoder.gdt_convs_pred_{4 - i}.0', f'decoder.levels.{i}.outward.prediction') for i in range(3)),
    *((f'decoder.gdt_convs_attn_{4 - i}.0', f'decoder.levels.{i}.outward.attention') for i in range(3)),
    *((f'decoder.pyramid_neck_x{i + 1}.conv', f'neck.convs.{i}') for i in range(4)),
    ('decoder.ipt_blk1.conv1', 'decoder.reference.conv_in'),
    ('decoder.ipt_blk1', 'decoder.reference'),
    ('decoder.conv_out1.0', 'decoder.head'),
    ('squeeze_module', 'squeeze'),
    ('cls_head.0', 'class_head'),
    ('bb', 'encoder.backbone'),
)
# Of this one all rules apply, anywhere inside the blocks.
INSIDE: Rules = (
    ('dec_att', 'attention'),
    ('conv_resi', 'residual'),
    ('aspp1.atrous_conv', 'pointwise.conv'),
    ('aspp1', 'pointwise'),
    *((f'aspp{i + 2}.atrous_conv', f'atrous.{i}.conv') for i in range(3)),
    *((f'aspp{i + 2}', f'atrous.{i}') for i in range(3)),
    *((f'aspp_deforms.{i}.atrous_conv', f'deformable.{i}.conv') for i in range(9)),
    *((f'aspp_deforms.{i}', f'deformable.{i}') for i in range(9)),
    ('global_avg_pool.1', 'pooled.conv'),
    ('global_avg_pool.2', 'pooled.bn'),
    ('conv1', 'project'),
    ('bn1', 'project_bn'),
)
BLOCK_KEYS = re.compile(r'(squeeze|decoder\.levels\.\d\.block|squeeze_module|decoder\.decoder_block\d)\.')
# Official PVTv2 and timm's, at the front of the backbone's keys.
PVT: Rules = (
    ('patch_embed1', 'patch_embed'),
    *((f'patch_embed{i + 1}', f'stages_{i}.downsample') for i in (1, 2, 3)),
    *((f'block{i + 1}', f'stages_{i}.blocks') for i in range(4)),
    *((f'norm{i + 1}', f'stages_{i}.norm') for i in range(4)),
)
RESNET: Rules = (('conv1', 'conv1.0'), ('bn1', 'conv1.1'), ('layer1', 'conv1.4'),
                 *((f'layer{i}', f'conv{i}') for i in (2, 3, 4)))
DERIVED = re.compile(r'(relative_position_index|attn_mask)$')  # buffers that follow from the architecture
WRAPPERS = ('model', 'state_dict', 'model_state_dict', 'params', 'net')  # keys under which files hold a state dict
OURS, OFFICIAL = 'encoder.backbone.', 'bb.'


def _front(key: str, rules: Iterable[tuple[str, str]]) -> str:
    """`key` with the first rule applied whose left side is its front."""
    for old, new in rules:
        if key.startswith(old + '.'):
            return new + key[len(old):]
    return key


def _inside(key: str, rules: Iterable[tuple[str, str]]) -> str:
    """`key` with every rule applied, each to whole parts."""
    if BLOCK_KEYS.match(key):
        for old, new in rules:
            key = f'.{key}.'.replace(f'.{old}.', f'.{new}.')[1:-1]
    return key


def _reverse(rules: Rules) -> list[tuple[str, str]]:
    return [(new, old) for old, new in rules]


def _pvt_to_timm(key: str) -> str:
    return _front(key, PVT).replace('.dwconv.dwconv.', '.dwconv.')


def _timm_to_pvt(key: str) -> str:
    return _front(key, _reverse(PVT)).replace('.dwconv.', '.dwconv.dwconv.')


def from_official(state: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """A state dict in our names from one in official or our names, derived buffers left out."""
    pvt = f'{prefix}{OFFICIAL}patch_embed1.proj.weight' in state

    def rename(key: str) -> str:
        key = key.removeprefix(prefix)
        if pvt and key.startswith(OFFICIAL):
            key = OFFICIAL + _pvt_to_timm(key.removeprefix(OFFICIAL))
        return prefix + _inside(_front(key, FRONT), INSIDE)

    return {rename(key): value for key, value in state.items() if not DERIVED.search(key)}


def official_key(key: str, bb: str) -> str:
    """The official name of one of our state dict's keys, for a network on backbone `bb`."""
    if key.startswith(OURS) and bb in PVTS:
        key = OURS + _timm_to_pvt(key.removeprefix(OURS))
    return _inside(_front(key, _reverse(FRONT)), _reverse(INSIDE))


def to_official(state: Mapping[str, Tensor], bb: str) -> State:
    """A state dict in the official layout, Swin's index buffers included, from one in our names."""
    official: State = {}
    for key, value in state.items():
        key = official_key(key, bb)
        official[key] = value
        if key.endswith('relative_position_bias_table') and bb in SWINS:
            official[key.replace('bias_table', 'index')] = _index_of(value).clone()
    return official


def _index_of(table: Tensor) -> Tensor:
    """The index buffer that belongs to a relative-position table."""
    return relative_position_index((round(len(table) ** .5) + 1) // 2)


def official_modules(network: nn.Module, bb: str) -> dict[str, nn.Module]:
    """The modules of a network that hold tensors, by their official paths: a state dict of these has the official
    layout. Swin's attentions get the index buffers that belong to it."""
    found: dict[str, nn.Module] = {}
    for path, module in network.named_modules():
        own = [name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
        if not own:
            continue
        official = official_key(f'{path}.{own[0]}', bb).rpartition('.')[0]
        if not any(official.startswith(outer + '.') for outer in found):
            found[official] = module
        table = getattr(module, 'relative_position_bias_table', None)
        if table is not None and bb in SWINS:
            module.register_buffer('relative_position_index', _index_of(table).clone().to(table.device))
    return found


# --- Files ----------------------------------------------------------------------------------------------------------


def read_state(path: str | os.PathLike) -> State:
    """Reads the state dict in a `.pth` or `.safetensors` file, without running any code from it, on the CPU.

    Unwraps keys such as 'model' or 'state_dict' and drops the prefixes that DataParallel and torch.compile leave.
    Raises ValueError, naming the file, if it holds no tensors by name, or such as would fill the memory.
    """
    try:
        if Path(path).suffix.lower() == '.safetensors':
            content = load_safetensors(path)
        else:
            _refuse_compressed(path)
            content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise ValueError(f'{path}: there is no such checkpoint') from None
    except SafetensorError as error:
        raise ValueError(f'{path}: no safetensors file ({error})') from error
    except Exception as error:  # torch's unpickler raises many kinds on foreign or damaged files
        raise ValueError(f'{path}: not loaded: damaged, or holding more than tensors ({str(error)[:200]})') from error
    state = _unwrap(content)
    if not state:
        raise ValueError(f'{path}: holds no state dict')
    if strange := [key for key, value in state.items() if not _is_plain(value)]:
        raise ValueError(f'{path}: holds tensors that are not stored value by value: {_some(strange)}')
    return strip_prefixes(state)


def _unwrap(content: Any) -> State:
    """The tensors by name of what a file holds, under WRAPPERS or not."""
    for _ in WRAPPERS:  # so often at most: a forged dict may hold itself
        inner = [content[k] for k in WRAPPERS if isinstance(content.get(k), dict)] if isinstance(content, dict) else []
        content = inner[0] if inner else content
    items = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in items if isinstance(key, str) and isinstance(value, Tensor)}


def _refuse_compressed(path: str | os.PathLike) -> None:
    """Raises ValueError if a torch file is larger inside than outside, which torch's own never are."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > os.path.getsize(path):
                raise ValueError('compressed, as no checkpoint is')


def _is_plain(value: Tensor) -> bool:
    """Whether each value of a tensor is stored, so that it needs no more memory than the file."""
    return (value.layout == torch.strided and value.device.type == 'cpu' and not value.is_quantized
            and value.numel() * value.element_size() <= value.untyped_storage().nbytes())


def strip_prefixes(state: Mapping[str, Tensor]) -> State:
    """Drops `module.` and `_orig_mod.`, repeated and in any order, wherever wrappers put them."""
    return {re.sub(r'(?<![^.])(module\.|_orig_mod\.)+', '', key): value for key, value in state.items()}


def write_state(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Writes tensors by name, atomically: as safetensors if `path` says so, else as torch saves them.

    Raises OSError, leaving what was there, if it cannot be written.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if Path(path).suffix.lower() == '.safetensors':
        with atomic_write(path) as file:
            file.write(save_safetensors({k: v.clone() for k, v in state.items()}, {'format': 'pt'}))
    else:
        save_atomically(state, path)


def save_atomically(value: Any, path: str | os.PathLike) -> None:
    """`torch.save` that replaces `path` only when all is on the disk; else raises OSError and leaves what was there."""
    try:
        with atomic_write(path) as file:
            torch.save(value, file)
    except RuntimeError as error:  # torch's writer hides the reason
        raise OSError(f'{path}: not written; is the disk full? ({str(error).splitlines()[0]})') from error


# --- Architecture ---------------------------------------------------------------------------------------------------

Shapes = Mapping[str, tuple[int, ...]]


def infer_backbone(shapes: Shapes) -> str:
    """Name of the backbone whose official keys and shapes stand under `bb.`; '' if it is none of ours."""
    def has(key: str) -> bool:
        return OFFICIAL + key in shapes

    def size(key: str) -> int:
        return (*shapes.get(OFFICIAL + key, ()), 0)[0]

    def count(stem: str) -> int:
        start = f'{OFFICIAL}{stem}.'
        return len({key[len(start):].split('.')[0] for key in shapes if key.startswith(start)})

    if has('layers.0.blocks.0.attn.relative_position_bias_table'):
        key = (size('patch_embed.proj.weight'), count('layers.2.blocks'))
        known = {(96, 6): 'swin_v1_t', (96, 18): 'swin_v1_s', (128, 18): 'swin_v1_b', (192, 18): 'swin_v1_l'}
        return known.get(key, '')
    if has('patch_embed1.proj.weight'):
        key = (size('patch_embed1.proj.weight'), count('block3'))
        return {(32, 2): 'pvt_v2_b0', (64, 2): 'pvt_v2_b1', (64, 6): 'pvt_v2_b2', (64, 40): 'pvt_v2_b5'}.get(key, '')
    if has('conv1.4.0.conv1.weight'):
        return 'resnet50'
    if has('conv4.24.weight') or has('conv4.34.weight'):
        return 'vgg16' if has('conv4.24.weight') else 'vgg16bn'
    if has('model.blocks.0.attn.qkv.weight'):
        own = {k.removeprefix(OFFICIAL): tuple(s) for k, s in shapes.items() if k.startswith(OFFICIAL)}
        return next((name for name in DINOS if _same_shapes(backbone_shapes(name), own)), '')
    return ''


def _same_shapes(expected: Shapes, found: Shapes) -> bool:
    return expected.keys() == found.keys() and all(tuple(expected[k]) == tuple(found[k]) for k in expected)


def _weight(shapes: Shapes, key: str) -> tuple[int, ...]:
    """Shape of a convolution's or a linear layer's weight; () if there is none, or one of too few dimensions."""
    shape = tuple(shapes.get(f'{key}.weight', ()))
    return shape if len(shape) > 1 else ()


def infer_architecture(shapes: Shapes, channels: tuple[int, ...]) -> dict[str, Any]:
    """Config fields that official keys and shapes settle.

    `channels` are those of the backbone's x1..x4 before any doubling. 'add' against '' and the tile order of the full
    decoder cannot be seen: the fields stay at their defaults, which the caller may override.
    """
    weight = partial(_weight, shapes)
    levels = tuple(i for i in (5, 4, 3, 2, 1) if weight(f'decoder.ipt_blk{i}.conv1'))
    outward = tuple(i for i in (4, 3, 2) if weight(f'decoder.gdt_convs_{i}.0'))
    tiled = [weight(f'decoder.ipt_blk{i}.conv1')[1] for i in levels if i > 1]
    attention = _attention(shapes, 'decoder.decoder_block4.dec_att.')
    inner = {weight(f'decoder.decoder_block{i}.conv_in')[:1] for i in (4, 3, 2, 1)}
    reference = weight('decoder.pyramid_neck_x3.conv') or weight('decoder.lateral_block4.conv')
    doubled = reference and reference[1] == 2 * channels[2]
    found = {
        'mul_scl_ipt': 'cat' if doubled else '',
        'dec_att': attention,
        'dec_blk': 'ResBlk' if weight('decoder.decoder_block4.conv_resi') else 'BasicDecBlk',
        'dec_channels_inter': 'fixed' if inner == {(64,)} else 'adap',
        'dec_ipt': bool(levels), 'dec_ipt_split': any(width != 3 for width in tiled) or not tiled,
        'ms_supervision': bool(weight('decoder.conv_ms_spvn_4')), 'out_ref': bool(outward),
        'auxiliary_classification': bool(weight('cls_head.0')),
        **_infer_squeeze(shapes, [c * (2 if doubled else 1) for c in channels]),
    }
    if levels:
        found['dec_ipt_levels'] = levels
        if 5 not in levels and 4 in levels:  # the generation of 2024-03
            found['tile_order'] = 'column'
    if outward:
        found['out_ref_levels'] = outward
    if found['auxiliary_classification']:
        found['num_classes'] = weight('cls_head.0')[0]
    block = 'decoder.decoder_block4.dec_att' if attention == 'ASPPDeformable' else 'squeeze_module.0'
    if kernels := _deform_kernels(shapes, block):
        found['deform_kernels'] = kernels
    return found


def _attention(shapes: Shapes, prefix: str) -> str:
    if any(key.startswith(f'{prefix}aspp_deforms.') for key in shapes):
        return 'ASPPDeformable'
    return 'ASPP' if any(key.startswith(f'{prefix}aspp2.') for key in shapes) else ''


def _deform_kernels(shapes: Shapes, prefix: str) -> tuple[int, ...]:
    weights = (_weight(shapes, f'{prefix}.aspp_deforms.{i}.atrous_conv.regular_conv') for i in range(9))
    return tuple(weight[-1] for weight in takewhile(bool, weights))


def _infer_squeeze(shapes: Shapes, channels: list[int]) -> dict[str, Any]:
    """Squeeze block, their number, and the context from the width of the first."""
    count = len({key.split('.')[1] for key in shapes if key.startswith('squeeze_module.')})
    if not count:
        return {'squeeze_block': '', 'cxt_num': 0}
    first = 'squeeze_module.0'
    if weight := _weight(shapes, f'{first}.conv_in'):
        name = 'ResBlk' if f'{first}.conv_resi.weight' in shapes else 'BasicDecBlk'
    else:
        name, weight = _attention(shapes, f'{first}.'), _weight(shapes, f'{first}.global_avg_pool.1')
    width = weight[1] if weight else 0
    context = next((n for n in range(4) if sum(channels[3 - n:]) == width), 3)
    return {'squeeze_block': f'{name}_x{count}', 'cxt_num': context}


def generation(shapes: Shapes) -> str:
    """What of the published generations a checkpoint belongs to, in words."""
    if 'decoder.ipt_blk4.conv1.weight' in shapes and 'decoder.ipt_blk5.conv1.weight' not in shapes:
        return 'generation 2024-03'
    return 'generation 2024-05 or later'


def nearest_layout(shapes: Shapes) -> str:
    """The backbone whose layout shares most with `shapes`, and what of it is missing or strange, in words."""
    found = {key.removeprefix(OFFICIAL) for key in shapes if not DERIVED.search(key)}

    def official(name: str) -> set[str]:
        return {_timm_to_pvt(key) if name in PVTS else key for key in backbone_shapes(name)}

    layouts = {name: official(name) for name in (*SWINS, *PVTS, 'vgg16', 'vgg16bn', 'resnet50', 'dino_v3_s')}
    name = max(layouts, key=lambda n: len(layouts[n] & found) / len(layouts[n]))
    missing = sorted(layouts[name] - found)
    parts = [part for part in ('bb', 'decoder') if not any(key.startswith(part + '.') for key in shapes)]
    return (f'nearest known layout: {name} ({len(layouts[name] & found)} of its {len(layouts[name])} backbone keys)'
            + (f'; no keys under {" and ".join(p + "." for p in parts)}' if parts else '')
            + (f'; missing {_some(missing)}' if missing else ''))


def _some(keys: Iterable[str], most: int = 4) -> str:
    keys = list(keys)
    return ', '.join(keys[:most]) + (f' and {len(keys) - most} more' if len(keys) > most else '')


def differences(expected: Shapes, found: Shapes) -> str:
    """What of `found` does not fit `expected`, in words; '' if all does.

    BatchNorm's counters, which files of old torch versions lack, are not missed.
    """
    common = expected.keys() & found.keys()
    wrong = [f'{k} {tuple(found[k])} instead of {tuple(expected[k])}' for k in expected
             if k in common and tuple(found[k]) != tuple(expected[k])]
    missing = [k for k in expected if k not in found and not k.endswith('.num_batches_tracked')]
    parts = {'missing': missing, 'unexpected': [k for k in found if k not in expected],
             'of another shape': wrong}
    return '; '.join(f'{len(keys)} {word}: {_some(keys)}' for word, keys in parts.items() if keys)


# --- Pretrained backbones --------------------------------------------------------------------------------------------


def load_backbone(net: nn.Module, bb: str, path: str | os.PathLike) -> None:
    """Loads pretrained weights, in the official format of backbone `bb`, from a local file into `net`.

    Classifier heads are ignored, position tables of another window interpolated. Raises ValueError if anything of the
    backbone's own is left without weights.
    """
    state = {k.removeprefix('backbone.'): v for k, v in read_state(path).items() if not DERIVED.search(k)}
    own = net.state_dict()
    state = _backbone_names(state, bb, own)
    if isinstance(net, SwinTransformer):
        state = resize_bias_tables(state, net)
    fitting = {key: value for key, value in state.items() if key in own}
    needed = {k: v.shape for k, v in own.items()
              if not (isinstance(net, SwinTransformer) and re.match(r'norm\d\.', k))}  # classifiers have no such norms
    if problem := differences(needed, {k: v.shape for k, v in fitting.items() if k in needed}):
        raise ValueError(f'{path}: no weights for bb={bb}: {problem}')
    net.load_state_dict(fitting, strict=False)


def _backbone_names(state: State, bb: str, own: Mapping[str, Tensor]) -> State:
    """Names inside our backbone for those of official and timm files."""
    if bb in PVTS and 'patch_embed1.proj.weight' in state:
        return {_pvt_to_timm(key): value for key, value in state.items()}
    if bb == 'resnet50' and 'layer1.0.conv1.weight' in state:
        return {_front(key, RESNET): value for key, value in state.items()}
    if bb.startswith('vgg'):
        stage = {key.split('.', 1)[1]: key for key in own}
        return {stage.get(key.removeprefix('features.'), key): value for key, value in state.items()}

    def in_features(key: str) -> str:
        """timm's name of a parameter in a model's features; there 'stages.0' may be 'stages_0'."""
        names = (key, re.sub(r'^([a-z]+)\.(\d+)\.', r'\1_\2.', key), f'model.{key}')
        return next((name for name in names if name in own), key)

    return {in_features(key): value for key, value in state.items()}
