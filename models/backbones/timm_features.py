"""Backbones from timm: PVTv2, DINOv3, and any other model with maps at strides 4, 8, 16, 32."""

import difflib
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.backbones.base import Backbone
from models.backbones.registry import (
    Shapes,
    Size,
    State,
    count_children,
    register_backbones,
    width_of,
)
from models.checkpoints.rules import KeyRules
from models.modules.norm import allow_any_batch

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)


class _RatesWithValues(TorchFunctionMode):
    """Keeps drop path rates off the meta device: older timm reads them while it builds a network.

    It makes them by a `linspace` that names neither device nor type, unlike that of positions,
    which belong where the network is.
    """

    def __torch_function__(
        self,
        function: Callable,
        types: Any,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:
        """Calls `function`; a plain `linspace` on the CPU."""
        if function is torch.linspace and not kwargs:
            return function(*args, device='cpu')
        return function(*args, **kwargs or {})


def _create(name: str, **options: Any) -> nn.Module:
    """timm's network `name` that returns feature maps, built on any device, meta included."""
    with _RatesWithValues():
        return timm.create_model(name, features_only=True, **options)


def _map_channels(net: nn.Module) -> list[int]:
    """The channels of each map that a model of timm returns."""
    info: Any = net.feature_info
    return info.channels()


def rename_timm(state: State, net: nn.Module) -> State:
    """Names in a timm model that returns features, for those in timm's files.

    Where the file has 'stages.0', the model may have 'stages_0'.
    """
    own = net.state_dict()
    renamed = {}
    for key, value in state.items():
        flattened = re.sub(r'^([a-z]+)\.(\d+)\.', r'\1_\2.', key)
        candidates = (key, flattened, f'model.{key}')
        name = next((name for name in candidates if name in own), key)
        renamed[name] = value
    return renamed


# --- PVT v2 ---------------------------------------------------------------------------------------

# (channels of the first stage, depth of the third)
PVTS = {
    'pvt_v2_b0': (32, 2),
    'pvt_v2_b1': (64, 2),
    'pvt_v2_b2': (64, 6),
    'pvt_v2_b5': (64, 40),
}
# Names in the authors' files and in official checkpoints -> timm's.
OFFICIAL_PVT = KeyRules.parse(prefixes='''
    patch_embed1 -> patch_embed
    patch_embed2 -> stages_1.downsample
    patch_embed3 -> stages_2.downsample
    patch_embed4 -> stages_3.downsample
    block1       -> stages_0.blocks
    block2       -> stages_1.blocks
    block3       -> stages_2.blocks
    block4       -> stages_3.blocks
    norm1        -> stages_0.norm
    norm2        -> stages_1.norm
    norm3        -> stages_2.norm
    norm4        -> stages_3.norm
''', parts='''
    dwconv.dwconv -> dwconv
''')
PVT_MARK = 'patch_embed1.proj.weight'


def infer_pvt(shapes: Shapes) -> str:
    """One of PVTS, or ''."""
    width = width_of(shapes, PVT_MARK)
    depth = count_children(shapes, 'block3')
    for name, known in PVTS.items():
        if known == (width, depth):
            return name
    return ''


def rename_pvt(state: State, net: nn.Module) -> State:
    """timm's names for those in the authors' files or timm's."""
    if PVT_MARK not in state:
        return rename_timm(state, net)
    return {OFFICIAL_PVT.rename(key): value for key, value in state.items()}


@register_backbones(
    *PVTS,
    infer=infer_pvt,
    rename_pretrained=rename_pvt,
    pretrained_files={name: f'{name}.pth' for name in PVTS},
    official_rules=OFFICIAL_PVT,
    official_mark=PVT_MARK,
)
def build_pvt(name: str, pretrained: bool = False, sizes: Sequence[Size] = ()) -> Backbone:
    """Pyramid Vision Transformer v2 (Wang 2021) with drop path 0.1."""
    net = _create(name, pretrained=pretrained, drop_path_rate=.1)
    return Backbone(net, _map_channels(net))


# --- DINOv3 ---------------------------------------------------------------------------------------


class Dino(NamedTuple):
    """One of DINOv3's vision transformers."""

    timm_name: str
    blocks: tuple[int, int, int, int]  # whose output serves as x1..x4; the fourth is the last
    width: int
    gated: bool  # its MLPs are SwiGLUs
    official_name: str  # in the names of its authors' files


DINOS = {
    'dino_v3_s': Dino('vit_small_patch16_dinov3', (3, 5, 7, 11), 384, False, 'vits16'),
    'dino_v3_s_plus': Dino(
        'vit_small_plus_patch16_dinov3', (3, 5, 7, 11), 384, True, 'vits16plus'),
    'dino_v3_b': Dino('vit_base_patch16_dinov3', (3, 5, 7, 11), 768, False, 'vitb16'),
    'dino_v3_l': Dino('vit_large_patch16_dinov3', (5, 11, 17, 23), 1024, False, 'vitl16'),
    'dino_v3_h_plus': Dino(
        'vit_huge_plus_patch16_dinov3', (7, 15, 23, 31), 1280, True, 'vith16plus'),
    'dino_v3_7b': Dino('vit_7b_patch16_dinov3', (9, 19, 29, 39), 4096, True, 'vit7b16'),
}


def infer_dino(shapes: Shapes) -> str:
    """One of DINOS, or ''."""
    width = width_of(shapes, 'model.blocks.0.attn.proj.weight')
    depth = count_children(shapes, 'model.blocks')
    gated = 'model.blocks.0.mlp.fc1_g.weight' in shapes
    for name, dino in DINOS.items():
        if (dino.width, dino.blocks[3] + 1, dino.gated) == (width, depth, gated):
            return name
    return ''


# Names in the authors' files and in Hugging Face's -> timm's.
PRETRAINED_DINO = KeyRules.parse(parts='''
    storage_tokens              -> reg_token
    ls1.gamma                   -> gamma_1
    ls2.gamma                   -> gamma_2
    mlp.w1                      -> mlp.fc1_g
    mlp.w2                      -> mlp.fc1_x
    mlp.w3                      -> mlp.fc2

    embeddings.cls_token        -> cls_token
    embeddings.register_tokens  -> reg_token
    embeddings.patch_embeddings -> patch_embed.proj
    layer                       -> blocks
    attention                   -> attn
    attn.o_proj                 -> attn.proj
    layer_scale1.lambda1        -> gamma_1
    layer_scale2.lambda1        -> gamma_2
    mlp.gate_proj               -> mlp.fc1_g
    mlp.up_proj                 -> mlp.fc1_x
    mlp.down_proj               -> mlp.fc2
''')
PROJECTIONS = ('q_proj', 'k_proj', 'v_proj')


def rename_dino(state: State, net: nn.Module) -> State:
    """timm's names for those in the authors' files, Hugging Face's or timm's."""
    renamed = {}
    for key, value in state.items():
        renamed[PRETRAINED_DINO.rename(key.removeprefix('model.'))] = value
    renamed = _join_projections(renamed)

    # Without a gate, the first layer of an MLP has another name.
    if not any('.mlp.fc1_g.' in key for key in renamed):
        renamed = {key.replace('.mlp.fc1_x.', '.mlp.fc1.'): renamed[key] for key in renamed}
    _report_lost_biases(renamed, net)
    return rename_timm(renamed, net)


def _join_projections(state: State) -> State:
    """One matrix for queries, keys and values, and one bias, where a file has three of them.

    A bias that the file leaves out, as that of the keys, is 0.
    """
    joined = dict(state)
    for key in state:
        attention, found, _ = key.partition('q_proj.weight')
        names = [f'{attention}{name}' for name in PROJECTIONS]
        if not found or any(f'{name}.weight' not in state for name in names):
            continue
        weights = []
        biases = []
        for name in names:
            weight = joined.pop(f'{name}.weight')
            no_bias = weight.new_zeros(len(weight))
            weights.append(weight)
            biases.append(joined.pop(f'{name}.bias', no_bias))
        joined[f'{attention}qkv.weight'] = torch.cat(weights)
        joined[f'{attention}qkv.bias'] = torch.cat(biases)
    return joined


def _report_lost_biases(state: State, net: nn.Module) -> None:
    """Warns of biases that the network does not have. In most of the authors' files they are 0."""
    own = net.state_dict()
    lost: list[Tensor] = []
    for key, bias in state.items():
        if f'model.{key}' in own:
            continue
        if key.endswith('attn.qkv.bias'):
            queries, _, values = bias.chunk(3)  # that of the keys is masked
            lost += [queries, values]
        elif key.endswith(('attn.q_bias', 'attn.v_bias')):
            lost.append(bias)
    largest = max((bias.abs().max().item() for bias in lost), default=0.)
    if largest:
        logger.warning('biases of queries and values, up to %.2g, are left out: the network of '
                       'this name has none', largest)


@register_backbones(
    *DINOS,
    infer=infer_dino,
    rename_pretrained=rename_dino,
    frozen=True,
    for_transformers=False,
    pretrained_files={
        name: f'dinov3_{dino.official_name}_pretrain_lvd*.pth' for name, dino in DINOS.items()},
    pretrained_folders={
        name: f'dinov3-{dino.official_name}-pretrain-lvd*' for name, dino in DINOS.items()},
)
def build_dino(name: str, pretrained: bool = False, sizes: Sequence[Size] = ()) -> Backbone:
    """DINOv3: the features of four blocks, all at stride 16, without a further norm."""
    dino = DINOS[name]
    net = _create(dino.timm_name, pretrained=pretrained, out_indices=dino.blocks)
    return Backbone(net, _map_channels(net), smallest=16, needs_neck=True)


# --- Any model ------------------------------------------------------------------------------------


class _Fit(NamedTuple):
    """How a model is built to give maps at STRIDES."""

    options: dict[str, Any]
    outputs: tuple[int, ...]
    channels: tuple[int, ...]


@register_backbones('timm/', rename_pretrained=rename_timm, built_for_size=True)
def build_timm(
    name: str,
    pretrained: bool = False,
    sizes: Sequence[Size] = ((1024, 1024),),
) -> Backbone:
    """Any timm model with maps at strides 4..32: at each stride the last that it offers.

    It must run at all of `sizes` (height, width), which is tried without computing anything.
    Raises ValueError, naming the model, where there is no such model, no such stride, or no such
    size.
    """
    model = name.removeprefix('timm/')
    if not timm.is_model(model):
        architecture = model.split('.')[0]  # without the name of its weights
        near = difflib.get_close_matches(architecture, timm.list_models(), 3)
        nearest = ', '.join(near) or 'none'
        raise ValueError(f'bb={name}: timm has no such model; nearest: {nearest}')

    # Found without memory, built with it.
    with torch.device('meta'):
        fit = _find_fit(model, sizes)
    net = _create(model, pretrained=pretrained, **fit.options)
    channels_last = _is_channels_last(net)
    return Backbone(allow_any_batch(net), fit.channels, fit.outputs, channels_last=channels_last)


def _is_channels_last(net: nn.Module) -> bool:
    return getattr(net, 'output_fmt', 'NCHW') == 'NHWC'


def _find_fit(model: str, sizes: Sequence[Size]) -> _Fit:
    """The first options under which the model runs at all sizes, and its maps at STRIDES."""
    # Most models take any size; others must be built for one, or for one among others.
    alternatives: tuple[dict[str, Any], ...] = (
        {},
        {'img_size': sizes[0]},
        {'img_size': sizes[0], 'dynamic_img_size': True},
        {'img_size': sizes[0], 'strict_img_size': False},
    )
    problem = ''
    for options in alternatives:
        try:
            maps = _run_at(model, options, sizes)
        except Exception as error:  # timm's models refuse sizes and arguments each in their own way
            problem = problem or f'{type(error).__name__}: {error}'
            continue
        # The first that runs is taken: one without the strides has them under no other options.
        outputs = _choose_outputs(model, maps, sizes[0])
        channels = tuple(maps[i].shape[1] for i in outputs)
        return _Fit(options, outputs, channels)
    tried = ' and '.join(f'{width}x{height}' for height, width in sizes)
    raise ValueError(f'bb=timm/{model} does not run at {tried} (width x height): {problem}. Choose '
                     "a size that it supports, or mul_scl_ipt='' if half the size is what fails")


def _run_at(model: str, options: dict[str, Any], sizes: Sequence[Size]) -> list[Tensor]:
    """The maps (B, C, H, W) of an image of the first size; the model has run at the others too."""
    net = _create(model, **options).eval().to('meta')  # older timm makes some buffers on the CPU
    maps, *_ = [net(torch.zeros(1, 3, *size)) for size in sizes]
    if _is_channels_last(net):
        maps = [x.permute(0, 3, 1, 2) for x in maps]
    return maps


def _choose_outputs(model: str, maps: Sequence[Tensor], size: Size) -> tuple[int, ...]:
    """Number of the last map at each of STRIDES. Raises ValueError if there is none."""
    _, width = size
    strides = [width / x.shape[3] for x in maps]
    if missing := [stride for stride in STRIDES if stride not in strides]:
        raise ValueError(f'bb=timm/{model} has no maps at strides {missing}, only at '
                         f'{sorted(set(strides))}; take a hierarchical backbone')
    last_of = {stride: i for i, stride in enumerate(strides)}
    return tuple(last_of[stride] for stride in STRIDES)
