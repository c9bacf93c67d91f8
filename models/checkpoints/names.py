"""Names of weights: the official state-dict layout on disk, our names inside."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.backbones.registry import BACKBONES, BackboneFamily, State, find_family
from models.backbones.swin import relative_position_index
from models.checkpoints.rules import KeyRules
from models.checkpoints.tile_order import convert_tile_order, read_tile_order

logger = logging.getLogger(__name__)

OFFICIAL_PREFIX = 'bb.'
OUR_PREFIX = 'encoder.backbone.net.'
# Buffers that follow from the architecture.
DERIVED = re.compile(r'(relative_position_index|attn_mask)$')

# Official names -> ours. The published code numbers a level 4..1 and its reference one higher; here
# levels count in the order in which they work.
KEY_PREFIX_RULES = KeyRules.parse(prefixes='''
    bb                           -> encoder.backbone.net
    squeeze_module               -> squeeze
    cls_head.0                   -> class_head

    decoder.pyramid_neck_x1.conv -> neck.convs.0
    decoder.pyramid_neck_x2.conv -> neck.convs.1
    decoder.pyramid_neck_x3.conv -> neck.convs.2
    decoder.pyramid_neck_x4.conv -> neck.convs.3

    decoder.ipt_blk5.conv1       -> decoder.levels.0.reference.conv_in
    decoder.ipt_blk5             -> decoder.levels.0.reference
    decoder.decoder_block4       -> decoder.levels.0.block
    decoder.conv_ms_spvn_4       -> decoder.levels.0.side
    decoder.gdt_convs_4          -> decoder.levels.0.outward.features
    decoder.gdt_convs_pred_4.0   -> decoder.levels.0.outward.prediction
    decoder.gdt_convs_attn_4.0   -> decoder.levels.0.outward.attention
    decoder.lateral_block4.conv  -> decoder.levels.0.lateral

    decoder.ipt_blk4.conv1       -> decoder.levels.1.reference.conv_in
    decoder.ipt_blk4             -> decoder.levels.1.reference
    decoder.decoder_block3       -> decoder.levels.1.block
    decoder.conv_ms_spvn_3       -> decoder.levels.1.side
    decoder.gdt_convs_3          -> decoder.levels.1.outward.features
    decoder.gdt_convs_pred_3.0   -> decoder.levels.1.outward.prediction
    decoder.gdt_convs_attn_3.0   -> decoder.levels.1.outward.attention
    decoder.lateral_block3.conv  -> decoder.levels.1.lateral

    decoder.ipt_blk3.conv1       -> decoder.levels.2.reference.conv_in
    decoder.ipt_blk3             -> decoder.levels.2.reference
    decoder.decoder_block2       -> decoder.levels.2.block
    decoder.conv_ms_spvn_2       -> decoder.levels.2.side
    decoder.gdt_convs_2          -> decoder.levels.2.outward.features
    decoder.gdt_convs_pred_2.0   -> decoder.levels.2.outward.prediction
    decoder.gdt_convs_attn_2.0   -> decoder.levels.2.outward.attention
    decoder.lateral_block2.conv  -> decoder.levels.2.lateral

    decoder.ipt_blk2.conv1       -> decoder.levels.3.reference.conv_in
    decoder.ipt_blk2             -> decoder.levels.3.reference
    decoder.decoder_block1       -> decoder.levels.3.block

    decoder.ipt_blk1.conv1       -> decoder.reference.conv_in
    decoder.ipt_blk1             -> decoder.reference
    decoder.conv_out1.0          -> decoder.head
''')
# Inside the blocks of decoder and squeeze.
BLOCK_KEY_RULES = KeyRules.parse(parts='''
    dec_att           -> attention
    conv_resi         -> residual
    conv1             -> project
    bn1               -> project_bn
    global_avg_pool.1 -> pooled.conv
    global_avg_pool.2 -> pooled.bn
    atrous_conv       -> conv
    aspp1             -> pointwise
    aspp2             -> atrous.0
    aspp3             -> atrous.1
    aspp4             -> atrous.2
    aspp_deforms      -> deformable
''')
OUR_BLOCK = re.compile(r'(squeeze|decoder\.levels\.\d\.block)\.')


# --- From official names to ours ------------------------------------------------------------------


def from_official(state: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """A state dict in our names from one in official or our names, without derived buffers.

    `prefix` stands in front of all keys.
    """
    backbone_rules = _official_backbone_rules(state, prefix)
    renamed = {}
    for key, value in state.items():
        if not DERIVED.search(key):
            own = _from_official_key(key.removeprefix(prefix), backbone_rules)
            renamed[prefix + own] = value
    return renamed


def _official_backbone_rules(state: Mapping[str, Any], prefix: str) -> KeyRules:
    """Rules for the backbone's part, from the family whose mark is among the keys."""
    for family in BACKBONES.values():
        mark = prefix + OFFICIAL_PREFIX + family.official_mark
        if family.official_rules and mark in state:
            return family.official_rules
    return KeyRules()


def _from_official_key(key: str, backbone_rules: KeyRules) -> str:
    if key.startswith(OFFICIAL_PREFIX):
        key = OFFICIAL_PREFIX + backbone_rules.rename(key.removeprefix(OFFICIAL_PREFIX))
    key = KEY_PREFIX_RULES.rename(key)
    if OUR_BLOCK.match(key):
        key = BLOCK_KEY_RULES.rename(key)
    return key


def accept_official_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook before `load_state_dict` of a BiRefNet: lets it take official names, too.

    Weights of these names may have either tile order; one that they show is converted.
    """
    is_official = any(key.startswith(prefix + OFFICIAL_PREFIX) for key in state)
    renamed = from_official(state, prefix)
    if is_official and read_tile_order(renamed).order == 'column':
        logger.info('tile order: column, as the weights show it')
        renamed = convert_tile_order(renamed, 'row')
    state.clear()
    state.update(renamed)


# --- From our names to official ones --------------------------------------------------------------


def official_key(key: str, backbone: str) -> str:
    """The official name of one of our state dict's keys, for a network on this backbone."""
    family = find_family(backbone)
    if key.startswith(OUR_PREFIX) and family and family.official_rules:
        inner = family.official_rules.reversed().rename(key.removeprefix(OUR_PREFIX))
        key = OUR_PREFIX + inner
    if OUR_BLOCK.match(key):
        key = BLOCK_KEY_RULES.reversed().rename(key)
    return KEY_PREFIX_RULES.reversed().rename(key)


def to_official(state: Mapping[str, Tensor], backbone: str) -> State:
    """A state dict in the official layout, Swin's index buffers included, from one in our names."""
    has_index = _has_official_index(find_family(backbone))
    official: State = {}
    for key, value in state.items():
        key = official_key(key, backbone)
        official[key] = value
        if has_index and key.endswith('relative_position_bias_table'):
            index_key = key.replace('bias_table', 'index')
            official[index_key] = _index_of(value).clone()
    return official


def _has_official_index(family: BackboneFamily | None) -> bool:
    return family is not None and family.official_index


def _index_of(table: Tensor) -> Tensor:
    """The index buffer that belongs to a relative-position table of (2 * window - 1)^2 rows."""
    side = round(len(table) ** .5)
    return relative_position_index((side + 1) // 2)


def official_modules(network: nn.Module, backbone: str) -> dict[str, nn.Module]:
    """The modules of a network that hold tensors, by their official paths.

    A state dict of these has the official layout. Swin's attentions get the index buffers that
    belong to it.
    """
    has_index = _has_official_index(find_family(backbone))
    found: dict[str, nn.Module] = {}
    for path, module in network.named_modules():
        tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if not tensors:
            continue

        # The module's path is that of its first tensor, less the tensor's own name.
        name, _ = tensors[0]
        official = official_key(f'{path}.{name}', backbone).rpartition('.')[0]
        if not any(official.startswith(outer + '.') for outer in found):
            found[official] = module

        table = getattr(module, 'relative_position_bias_table', None)
        if table is not None and has_index:
            index = _index_of(table).clone().to(table.device)
            module.register_buffer('relative_position_index', index)
    return found
