"""The whole network rearranged for inference, and `optimize`, which does it."""

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck

from models.backbones.base import Backbone
from models.backbones.swin import SwinTransformer
from models.birefnet import BiRefNet, check_size
from models.decoder import Decoder, DecoderLevel
from models.encoder import Encoder, PyramidNeck
from models.modules.blocks import BasicDecBlk
from models.modules.resize import resize
from models.optimized.algebra import folded_weights, resize_through, split_conv
from models.optimized.blocks import (
    FastBlock,
    FastDeformableBranch,
    FastOutward,
    FastReference,
    fast_pooling,
)
from models.optimized.swin import FastSwin

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A map of the encoder; under the 'cat' pyramid with that of the half-size image behind it.
Maps = tuple[Tensor, ...]


def optimize(
    model: BiRefNet,
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
) -> nn.Module:
    """Rearranges a network for inference; its outputs stay equal to rounding.

    Args:
        model: in eval mode. In float32, weights that need no change are shared with it.
        dtype: of the maps; may also be torch.bfloat16 or torch.float16. Positions of deformable
            convolutions and the sum of the final map stay in float32.
        compile: compiles the network for each size it meets, at its first image, for as many as
            torch allows (eight). Where that fails it warns and goes on without.

    Returns:
        A module: image (B, 3, H, W), normalised RGB -> [logits (B, 1, H, W), float32].

    Raises:
        ValueError: the model is in training mode, or there is no such dtype.
    """
    if model.training:
        raise ValueError('optimize: the model is in training mode; call model.eval() first')
    if dtype not in DTYPES:
        known = ', '.join(map(str, DTYPES))
        raise ValueError(f'optimize: dtype={dtype}; take one of {known}')
    with torch.no_grad():
        fast = FastBiRefNet(model).eval().requires_grad_(False)
        is_float32 = all(weight.dtype == torch.float32 for weight in fast.parameters())
        if dtype != torch.float32 or not is_float32:
            fast = copy.deepcopy(fast).set_dtype(dtype)
    return Compiled(fast) if compile else fast


class FastBiRefNet(nn.Module):
    """BiRefNet in eval mode.

    Under the 'cat' pyramid the half-size image's maps keep their size as long as only linear layers
    follow, which commute with resizing.
    """

    def __init__(self, model: BiRefNet) -> None:
        super().__init__()
        # From the image to the squeezed x4.
        self.encoder = FastEncoder(model.encoder)
        self.context = model.context.count
        self.squeeze = nn.Sequential()
        for block in model.squeeze:
            self.squeeze.append(_fast_squeeze(block))

        # The next linear layer resizes the half-size maps: the neck's, or else the decoder's.
        has_half_size_maps = model.encoder.pyramid == 'cat'
        self.neck = None
        if model.neck is not None:
            self.neck = _fast_neck(model.neck, has_half_size_maps)
            has_half_size_maps = False
        self.decoder = FastDecoder(model.decoder, has_half_size_maps)
        self.dtype = torch.float32
        self.config = model.config  # nothing here reads it

    @property
    def bytes_per_pixel(self) -> int:
        """Upper bound on the working memory in bytes per input pixel.

        It is 20% above the measured value (benchmarks/LOG.md). Only a CPU works block by block:
        elsewhere torchvision's deformable convolution alone keeps columns of 784 bytes a pixel.
        """
        if next(self.parameters()).device.type != 'cpu':
            return 2000
        net = self.encoder.backbone.net
        if isinstance(net, FastSwin):
            return 3 * net.patch_embed.proj.out_channels
        return 800

    def set_dtype(self, dtype: torch.dtype) -> 'FastBiRefNet':
        """Converts all but the convolutions that predict positions to `dtype`."""
        self.to(dtype)
        self.dtype = dtype
        for module in self.modules():
            if isinstance(module, FastDeformableBranch):
                module.predictor.float()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, 3, H, W) -> [logits (B, 1, H, W)].

        Raises ValueError if H or W is not a multiple of 32.
        """
        check_size(image)
        if _is_autocast(image.device.type):  # the caller's: `dtype` decides on the maps here
            with torch.autocast(image.device.type, enabled=False):
                return self.forward(image)
        image = image.to(self.dtype, memory_format=torch.channels_last)

        # Each level is the map of the image, and beside it perhaps that of its half.
        maps = self.encoder(image)
        squeezed = self.squeeze(self._with_context(maps))
        maps[3] = (squeezed,)
        if self.neck is not None:
            maps = _through_neck(self.neck, maps, image.shape[2:])
        return [self.decoder(image, maps)]

    def _with_context(self, maps: Sequence[Maps]) -> Tensor:
        """The last of x1..x3, resized to their own level and then to x4, in front of x4."""
        size = maps[3][0].shape[2:]
        parts = []
        for level in maps[3 - self.context:3]:
            own_size = level[0].shape[2:]
            parts += [resize_through(x, own_size, size) for x in level]
        parts += [resize(x, size) for x in maps[3]]
        return torch.cat(parts, 1)


def _is_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _through_neck(neck: nn.ModuleList, maps: Sequence[Maps], size: Sequence[int]) -> list[Maps]:
    """Brings each map to its level's size: `size` over 4, 8, 16, 32."""
    pyramid: list[Maps] = []
    for i, (layer, x) in enumerate(zip(neck, maps, strict=True)):
        level_size = [side >> (i + 2) for side in size]
        pyramid.append((layer(x, level_size),))
    return pyramid


def _fast_squeeze(block: nn.Module) -> nn.Module:
    """A block of the squeeze made fast: a decoder block, or an attention on its own."""
    if isinstance(block, BasicDecBlk):
        return FastBlock(block, block.conv_in.in_channels)
    return fast_pooling(block)


def _fast_neck(neck: PyramidNeck, has_half_size_maps: bool) -> nn.ModuleList:
    """The neck's convolutions, which also resize."""
    convs: list[Any] = list(neck.convs)  # a ModuleList does not say what it holds
    *finer, last = convs
    layers = nn.ModuleList(Pointwise(conv, has_half_size_maps) for conv in finer)
    layers.append(Pointwise(last, False))  # x4 is one map after the squeeze
    return layers


class FastEncoder(nn.Module):
    """Backbone on the image and its half-size copy, whose maps stay small if pyramid is 'cat'."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.wrapped = Encoder(fast_backbone(encoder.backbone), encoder.pyramid)

    @property
    def backbone(self) -> Backbone:
        """The fast backbone."""
        return self.wrapped.backbone

    def forward(self, image: Tensor) -> list[Maps]:
        """image (B, 3, H, W) -> x1..x4."""
        if self.wrapped.pyramid != 'cat':
            return [(x,) for x in self.wrapped(image)]
        full, half = self.wrapped.forward_pyramid(image)
        return list(zip(full, half, strict=True))


class Pointwise(nn.Module):
    """A 1x1 convolution of an encoder's map, brought to another size."""

    def __init__(self, layer: nn.Conv2d, has_half_size_maps: bool) -> None:
        super().__init__()
        channels = layer.in_channels
        if has_half_size_maps:
            channels //= 2
        self.on_full, self.on_half = split_conv(layer, channels)

    def forward(self, maps: Maps, size: Sequence[int]) -> Tensor:
        """Maps (B, C, h, w) of the image and its half -> (B, out, *size).

        They are resized where that leaves less to compute.
        """
        own_size = maps[0].shape[2:]
        shrinks = own_size[0] * own_size[1] > size[0] * size[1]

        def bring(layer: nn.Module, x: Tensor) -> Tensor:
            if shrinks:
                return layer(resize_through(x, own_size, size))
            return resize_through(layer(x), own_size, size)

        total = bring(self.on_full, maps[0])
        if self.on_half is not None:
            total = total + bring(self.on_half, maps[1])
        return total

    def add_to(self, coarse: Tensor, maps: Maps) -> Tensor:
        """The convolution of `maps` plus `coarse` (B, out, h, w), resized; changes `coarse`."""
        size = maps[0].shape[2:]
        y = self.on_full(maps[0])
        if self.on_half is not None:
            half = self.on_half(maps[1])
            if half.shape == coarse.shape:  # resized together
                coarse += half
            else:
                y += resize(half, size)
        return y.add_(resize(coarse, size))


class FastLevel(nn.Module):
    """A level of the decoder in eval mode; the last one ends in the head."""

    def __init__(
        self,
        level: DecoderLevel,
        has_half_size_maps: bool,
        head: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__()
        block: Any = level.block
        channels = block.conv_in.in_channels
        self.reference = None
        if level.reference is not None:
            channels -= level.reference.conv_out.out_channels
            self.reference = FastReference(level.reference)
        self.block = FastBlock(block, channels, head)
        self.outward = self.lateral = None
        if level.outward is not None:
            self.outward = FastOutward(level.outward)
        if level.lateral is not None:
            self.lateral = Pointwise(level.lateral, has_half_size_maps)

    def forward(self, x: Tensor, image_view: Tensor | None, finer: Maps | None) -> Tensor:
        """x (B, c_i, h, w), image_view (B, 3 * n, h, w), the next finer map -> that level's input.

        The last level, which has no finer map, gives (B, 1, h, w).
        """
        reference = None
        if self.reference is not None:
            reference = self.reference(image_view)
        x = self.block(x, reference)
        if self.outward is not None:
            x = self.outward(x)
        if self.lateral is not None:
            assert finer is not None, 'only the last level has no finer map'
            x = self.lateral.add_to(x, finer)
        return x


class FastDecoder(nn.Module):
    """The decoder in eval mode. The head is applied before the resizing to full size."""

    def __init__(self, decoder: Decoder, has_half_size_maps: bool) -> None:
        super().__init__()
        self.view = decoder.view

        # The head reads the last level's features and then the full-resolution reference.
        weight, bias = folded_weights(decoder.head)
        last: Any = decoder.levels[-1]  # a ModuleList does not say what it holds
        feature_channels = last.block.conv_out.out_channels
        on_features = weight[:, :feature_channels, 0, 0]
        on_reference = weight[:, feature_channels:, 0, 0]

        self.levels = nn.ModuleList()
        level: Any
        for level in decoder.levels:
            is_last = level is last
            head = (on_features, bias) if is_last else None
            self.levels.append(FastLevel(level, has_half_size_maps, head))
        self.reference = None
        if decoder.reference is not None:
            self.reference = FastReference(decoder.reference, on_reference)

    def forward(self, image: Tensor, maps: Sequence[Maps]) -> Tensor:
        """image (B, 3, H, W), maps x1..x4 -> logits (B, 1, H, W), float32."""
        x1, x2, x3, (x,) = maps
        for level, finer in zip(self.levels, (x3, x2, x1, None), strict=True):
            image_view = None
            if level.reference is not None:
                image_view = self.view(image, x.shape[2:])
            x = level(x, image_view, finer)
        logits = resize(x.float(), image.shape[2:])
        if self.reference is not None:
            logits = logits + self.reference(image)
        return logits


def fast_backbone(backbone: Backbone) -> Backbone:
    """The backbone in eval mode: Swin rearranged, BatchNorm folded in VGG and ResNet."""
    return Backbone(
        _fast_net(backbone.net),
        backbone.channels,
        backbone.outputs,
        backbone.smallest,
        backbone.channels_last,
        backbone.needs_neck,
        backbone.name,
    )


def _fast_net(net: nn.Module) -> nn.Module:
    """A backbone's network made fast; a network without BatchNorm as it is."""
    if isinstance(net, SwinTransformer):
        return FastSwin(net)
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        return net

    # A copy, because folding changes weights. Children of a Sequential follow each other; those of
    # torchvision's bottleneck are called so.
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            names = [name for name, _ in module.named_children()]
            _fold_pairs(module, pairwise(names))
        elif isinstance(module, Bottleneck):
            _fold_pairs(module, [('conv1', 'bn1'), ('conv2', 'bn2'), ('conv3', 'bn3')])
    return net.to(memory_format=torch.channels_last)


def _fold_pairs(module: nn.Module, names: Iterable[tuple[str, str]]) -> None:
    """Folds each BatchNorm among the children that follows a convolution, by their names."""
    for first, second in names:
        layer = module.get_submodule(first)
        norm = module.get_submodule(second)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, first, fuse_conv_bn_eval(layer, norm))
            setattr(module, second, nn.Identity())


class Compiled(nn.Module):
    """`net` compiled for each size at its first use.

    Where compiling fails, it warns and `net` runs as it is. Compiling once for all sizes
    would take ten times as long (benchmarks/LOG.md).
    """

    def __init__(self, net: FastBiRefNet) -> None:
        super().__init__()
        self.net = net
        self.compiled: Callable[..., Any] | None = torch.compile(net, dynamic=False)
        self.config = net.config

    @property
    def bytes_per_pixel(self) -> int:
        """As the network's."""
        return self.net.bytes_per_pixel

    def forward(self, image: Tensor) -> list[Tensor]:
        """As the network's."""
        if self.compiled is None:
            return self.net(image)
        try:
            with warnings.catch_warnings():
                # The cached tables are traced like all the rest.
                warnings.filterwarnings('ignore', 'Dynamo detected a call to a `functools.lru')
                return self.compiled(image)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            kind = type(error).__name__
            warnings.warn(f'optimize: compiling failed, going on without: {kind}: {reason}')
            self.compiled = None
        return self.net(image)
