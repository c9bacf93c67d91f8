"""The architecture of a checkpoint, worked out from its official keys and shapes."""

from dataclasses import dataclass
from typing import Any

from models.backbones.registry import BACKBONES, Shapes, backbone_shapes, count_children
from models.checkpoints.files import shorten
from models.checkpoints.names import DERIVED, OFFICIAL_PREFIX

REFERENCE_LEVELS = (5, 4, 3, 2, 1)
OUTWARD_LEVELS = (4, 3, 2)
BLOCK_LEVELS = (4, 3, 2, 1)
MOST_KERNELS = 9


def infer_backbone(shapes: Shapes) -> str:
    """Name of the backbone whose official keys and shapes are under `bb.`; '' if unknown."""
    own = {}
    for key, shape in shapes.items():
        if key.startswith(OFFICIAL_PREFIX):
            own[key.removeprefix(OFFICIAL_PREFIX)] = tuple(shape)
    for family in dict.fromkeys(BACKBONES.values()):
        name = family.infer(own) if family.infer else ''
        if name:
            return name
    return ''


@dataclass(frozen=True)
class _Layers:
    """Convolutions and linear layers of a checkpoint, by their official names."""

    shapes: Shapes

    def weight(self, name: str) -> tuple[int, ...]:
        """Shape of a layer's weight; () if there is none, or one of too few dimensions."""
        shape = tuple(self.shapes.get(f'{name}.weight', ()))
        return shape if len(shape) > 1 else ()

    def has(self, name: str) -> bool:
        """Whether there is a layer of this name."""
        return bool(self.weight(name))

    def any_below(self, module: str) -> bool:
        """Whether there is any weight inside a module."""
        return count_children(self.shapes, module) > 0


def infer_architecture(shapes: Shapes, channels: tuple[int, ...]) -> dict[str, Any]:
    """Config fields that official keys and shapes settle.

    `channels` are those of the backbone's x1..x4 before any doubling. 'add' against '' cannot be
    seen: `mul_scl_ipt` is '' for both.
    """
    layers = _Layers(shapes)
    is_doubled = _is_doubled(layers, channels)
    factor = 2 if is_doubled else 1
    return {
        'mul_scl_ipt': 'cat' if is_doubled else '',
        **_infer_squeeze(layers, [factor * width for width in channels]),
        **_infer_classification(layers),
        **_infer_blocks(layers),
        **_infer_inward_reference(layers),
        **_infer_supervision(layers),
        **_infer_kernels(layers),
    }


def _is_doubled(layers: _Layers, channels: tuple[int, ...]) -> bool:
    """Whether x3 has twice the backbone's channels, as the 'cat' pyramid gives it."""
    neck = layers.weight('decoder.pyramid_neck_x3.conv')
    lateral = layers.weight('decoder.lateral_block4.conv')
    reads_x3 = neck or lateral
    return bool(reads_x3) and reads_x3[1] == 2 * channels[2]


def _infer_squeeze(layers: _Layers, channels: list[int]) -> dict[str, Any]:
    """Kind and number of squeeze blocks, and the context from the width of the first."""
    count = count_children(layers.shapes, 'squeeze_module')
    if not count:
        return {'squeeze_block': '', 'cxt_num': 0}
    # The first block is a decoder block, or attention alone, and reads x4 with its context.
    first = 'squeeze_module.0'
    conv_in = layers.weight(f'{first}.conv_in')
    if conv_in:
        kind = _block_kind(layers, first)
        width = conv_in[1]
    else:
        kind = _attention_kind(layers, first)
        pooled = layers.weight(f'{first}.global_avg_pool.1')
        width = pooled[1] if pooled else 0

    # The context whose channels add up to that width.
    widths = [sum(channels[3 - context:]) for context in range(4)]
    context = widths.index(width) if width in widths else 3
    return {'squeeze_block': f'{kind}_x{count}', 'cxt_num': context}


def _infer_classification(layers: _Layers) -> dict[str, Any]:
    head = layers.weight('cls_head.0')
    if not head:
        return {'auxiliary_classification': False}
    return {'auxiliary_classification': True, 'num_classes': head[0]}


def _infer_blocks(layers: _Layers) -> dict[str, Any]:
    widths = {layers.weight(f'decoder.decoder_block{level}.conv_in')[:1] for level in BLOCK_LEVELS}
    return {
        'dec_blk': _block_kind(layers, 'decoder.decoder_block4'),
        'dec_att': _attention_kind(layers, 'decoder.decoder_block4.dec_att'),
        'dec_channels_inter': 'fixed' if widths == {(64,)} else 'adap',
    }


def _block_kind(layers: _Layers, block: str) -> str:
    return 'ResBlk' if layers.has(f'{block}.conv_resi') else 'BasicDecBlk'


def _attention_kind(layers: _Layers, attention: str) -> str:
    if layers.any_below(f'{attention}.aspp_deforms'):
        return 'ASPPDeformable'
    return 'ASPP' if layers.any_below(f'{attention}.aspp2') else ''


def _infer_inward_reference(layers: _Layers) -> dict[str, Any]:
    levels = tuple(n for n in REFERENCE_LEVELS if layers.has(f'decoder.ipt_blk{n}.conv1'))
    tiled = [layers.weight(f'decoder.ipt_blk{n}.conv1')[1] for n in levels if n > 1]
    found: dict[str, Any] = {
        'dec_ipt': bool(levels),
        'dec_ipt_split': any(channels != 3 for channels in tiled) or not tiled,
    }
    if levels:
        found['dec_ipt_levels'] = levels
    return found


def _infer_supervision(layers: _Layers) -> dict[str, Any]:
    levels = tuple(n for n in OUTWARD_LEVELS if layers.has(f'decoder.gdt_convs_{n}.0'))
    found: dict[str, Any] = {
        'ms_supervision': layers.has('decoder.conv_ms_spvn_4'),
        'out_ref': bool(levels),
    }
    if levels:
        found['out_ref_levels'] = levels
    return found


def _infer_kernels(layers: _Layers) -> dict[str, Any]:
    """Kernels of the first deformable ASPP."""
    attention = 'decoder.decoder_block4.dec_att'
    if not layers.any_below(f'{attention}.aspp_deforms'):
        attention = 'squeeze_module.0'
    kernels = []
    for i in range(MOST_KERNELS):
        weight = layers.weight(f'{attention}.aspp_deforms.{i}.atrous_conv.regular_conv')
        if not weight:
            break
        kernels.append(weight[-1])
    return {'deform_kernels': tuple(kernels)} if kernels else {}


# --- In words -------------------------------------------------------------------------------------


def is_generation_2024_03(shapes: Shapes) -> bool:
    """Whether a checkpoint is of the first published generation, without reference at stride 32."""
    layers = _Layers(shapes)
    return layers.has('decoder.ipt_blk4.conv1') and not layers.has('decoder.ipt_blk5.conv1')


def generation(shapes: Shapes) -> str:
    """The published generation of a checkpoint."""
    return 'generation 2024-03' if is_generation_2024_03(shapes) else 'generation 2024-05 or later'


def nearest_layout(shapes: Shapes) -> str:
    """The backbone whose layout shares most with `shapes`, and what of it is missing."""
    found = {key.removeprefix(OFFICIAL_PREFIX) for key in shapes if not DERIVED.search(key)}
    layouts = {name: _official_layout(name) for name in BACKBONES if not name.endswith('/')}

    def agreement(name: str) -> float:
        return len(layouts[name] & found) / len(layouts[name])

    # The nearest backbone, and what the checkpoint lacks of it.
    name = max(layouts, key=agreement)
    layout = layouts[name]
    shared = len(layout & found)
    words = f'nearest known layout: {name} ({shared} of its {len(layout)} backbone keys)'
    present = {key.split('.')[0] for key in shapes}
    absent = [f'{part}.' for part in ('bb', 'decoder') if part not in present]
    if absent:
        words += f'; no keys under {" and ".join(absent)}'
    if missing := sorted(layout - found):
        words += f'; missing {shorten(missing)}'
    return words


def _official_layout(name: str) -> set[str]:
    """The official keys of a backbone."""
    keys = backbone_shapes(name)
    rules = BACKBONES[name].official_rules
    if rules is None:
        return set(keys)
    return {rules.reversed().rename(key) for key in keys}


def differences(expected: Shapes, found: Shapes) -> str:
    """What of `found` does not fit `expected`, in words; '' if all does.

    BatchNorm's counters, which files of old torch versions lack, are not missed.
    """
    # Keys of each kind of difference.
    missing, wrong = [], []
    for key, shape in expected.items():
        if key not in found:
            if not key.endswith('.num_batches_tracked'):
                missing.append(key)
        elif tuple(found[key]) != tuple(shape):
            wrong.append(f'{key} {tuple(found[key])} instead of {tuple(shape)}')
    unexpected = [key for key in found if key not in expected]

    # In words, by kinds that occur.
    problems = {'missing': missing, 'unexpected': unexpected, 'of another shape': wrong}
    words = []
    for kind, keys in problems.items():
        if keys:
            words.append(f'{len(keys)} {kind}: {shorten(keys)}')
    return '; '.join(words)
