"""Backbones out of timm: PVTv2, DINOv3, and any other model that gives maps at strides 4, 8, 16, 32."""

import difflib
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch.overrides import TorchFunctionMode

from models.backbones.base import SMALLEST, Backbone
from models.modules.norm import allow_any_batch

STRIDES = (4, 8, 16, 32)


class _RatesWithValues(TorchFunctionMode):
    """Keeps rates off the meta device: older timm reads those of drop path from `linspace` while it builds a network.

    It names neither device nor type there, unlike where it makes positions, which belong where the network is.
    """

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Calls `function`; a plain `linspace` on the CPU."""
        if function is torch.linspace and not kwargs:
            return function(*args, device='cpu')
        return function(*args, **kwargs or {})


def _create(name: str, **options: Any) -> torch.nn.Module:
    """timm's network `name` that gives feature maps, built on any device, the meta device included."""
    with _RatesWithValues():
        return timm.create_model(name, features_only=True, **options)


def build_pvt(name: str, pretrained: bool = False) -> Backbone:
    """Pyramid Vision Transformer v2 (Wang 2021) with drop path 0.1."""
    net = _create(name, pretrained=pretrained, drop_path_rate=.1)
    return Backbone(net, tuple(net.feature_info.channels()))


def build_dino(name: str, blocks: tuple[int, ...], pretrained: bool = False) -> Backbone:
    """DINOv3: the features of four blocks, all at stride 16, without a further norm."""
    net = _create(name, pretrained=pretrained, out_indices=blocks)
    return Backbone(net, tuple(net.feature_info.channels()), smallest=16)


def build_timm(name: str, size: tuple[int, int], scales: tuple[float, ...], pretrained: bool = False) -> Backbone:
    """Any timm model with maps at strides 4..32: at each stride the last that it offers.

    It must run at every one of `scales` of `size` (width, height), which is tried without computing anything.
    Raises ValueError, naming the model, where there is no such model, no such stride, or no such size.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split('.')[0], timm.list_models(), 3)
        raise ValueError(f'bb=timm/{name}: timm has no such model; nearest: {", ".join(near) or "none"}')
    with torch.device('meta'):
        options, outputs, channels = _probe(name, size, scales)
    net = allow_any_batch(_create(name, pretrained=pretrained, **options))
    return Backbone(net, channels, outputs, channels_last=_channels_last(net))


def _channels_last(net: torch.nn.Module) -> bool:
    return getattr(net, 'output_fmt', 'NCHW') == 'NHWC'


def _probe(name: str, size: tuple[int, int], scales: tuple[float, ...],
           ) -> tuple[dict, tuple[int, ...], tuple[int, ...]]:
    """Options under which the model runs at every scale of `size`, the outputs to take and their channels."""
    sizes = [tuple(max(round(side * scale), SMALLEST) for side in size[::-1]) for scale in scales]
    problem = ''
    for options in ({}, {'img_size': sizes[0]}, {'img_size': sizes[0], 'dynamic_img_size': True},
                    {'img_size': sizes[0], 'strict_img_size': False}):
        try:
            net = _create(name, **options).eval().to('meta')  # older timm makes some buffers on the CPU
            maps, *_ = [net(torch.zeros(1, 3, *s)) for s in sizes]
            maps = [m.permute(0, 3, 1, 2) for m in maps] if _channels_last(net) else maps
        except Exception as error:  # timm's models refuse sizes and arguments each in a way of its own
            problem = problem or f'{type(error).__name__}: {error}'
            continue
        strides = [sizes[0][1] / m.shape[3] for m in maps]
        if missing := [s for s in STRIDES if s not in strides]:
            raise ValueError(f'bb=timm/{name} has no maps at strides {missing}, only at {sorted(set(strides))}; '
                             'take a hierarchical backbone')
        outputs = tuple(len(strides) - 1 - strides[::-1].index(s) for s in STRIDES)
        return options, outputs, tuple(maps[i].shape[1] for i in outputs)
    raise ValueError(f"bb=timm/{name} does not run at {' and '.join(f'{w}x{h}' for h, w in sizes)} (width x height): "
                     f"{problem}. Choose a size that it supports, or mul_scl_ipt='' if half the size is what fails")
