"""The whole network rearranged for inference, and `optimize`, which does it."""

import copy
import warnings
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck

from models.backbones.swin import SwinTransformer
from models.birefnet import BiRefNet, check_size
from models.decoder import Decoder, DecoderLevel
from models.encoder import Encoder
from models.fast.algebra import resize_through, split, weights
from models.fast.blocks import DeformableBranch, FastBlock, FastOutward, FastReference, fast_pooling
from models.fast.swin import FastSwin
from models.modules.blocks import BasicDecBlk
from models.modules.reference import image_to_tiles
from models.modules.resize import resize

Maps = tuple[Tensor, ...]  # a map of the encoder, under the 'cat' pyramid with that of the half-size image behind it


def optimize(model: BiRefNet, dtype: torch.dtype = torch.float32, compile: bool = False) -> nn.Module:
    """The network for inference: image (B, 3, H, W), normalised RGB -> [logits (B, 1, H, W), float32].

    Equal to `model` in eval mode to rounding. `dtype` may also be torch.bfloat16 or torch.float16: the maps are kept
    in it, while positions of deformable convolutions and the sum of the final map stay in float32. `compile` compiles
    the network for each size it meets, at its first image, for as many as torch allows (eight); where that fails it
    says so and goes on without. In float32, weights that need no change are shared with `model`. Raises ValueError for
    a model in training mode, and for other dtypes.
    """
    if model.training:
        raise ValueError('optimize: the model is in training mode; call model.eval() first')
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f'optimize: dtype={dtype}; take torch.float32, torch.bfloat16 or torch.float16')
    with torch.no_grad():
        fast = FastBiRefNet(model).eval().requires_grad_(False)
        if dtype != torch.float32:
            fast = copy.deepcopy(fast).set_dtype(dtype)
    return Compiled(fast) if compile else fast


class FastBiRefNet(nn.Module):
    """BiRefNet in eval mode. Under the 'cat' pyramid the half-size image's maps keep their size as long as only linear
    layers follow, which commute with resizing.
    """

    def __init__(self, model: BiRefNet) -> None:
        super().__init__()
        self.encoder = FastEncoder(model.encoder)
        self.context = model.context.count
        self.squeeze = nn.Sequential(*(
            FastBlock(block, block.conv_in.in_channels) if isinstance(block, BasicDecBlk) else fast_pooling(block)
            for block in model.squeeze))
        halved = self.encoder.pyramid == 'cat'
        self.neck = None
        if model.neck is not None:
            self.neck = nn.ModuleList(Pointwise(layer, halved) for layer in model.neck.convs[:3])
            self.neck.append(Pointwise(model.neck.convs[3], False))  # x4 has been joined by then
        self.decoder = FastDecoder(model.decoder, halved and model.neck is None)
        self.dtype = torch.float32
        self.config = getattr(model, 'config', None)  # nothing here reads it

    @property
    def bytes_per_pixel(self) -> int:
        """Of the image: a bound of the memory that grows with it, a fifth above what was measured (benchmarks/LOG.md).

        Only a CPU works block by block. Elsewhere torchvision's deformable convolution keeps all its columns, 784 bytes
        a pixel by itself.
        """
        backbone = self.encoder.plain.backbone
        if next(self.parameters()).device.type != 'cpu':
            return 2000
        return 3 * backbone.patch_embed.proj.out_channels if isinstance(backbone, FastSwin) else 800

    def set_dtype(self, dtype: torch.dtype) -> 'FastBiRefNet':
        """Brings all to `dtype` but the convolutions that predict positions."""
        self.to(dtype)
        self.dtype = dtype
        for module in self.modules():
            if isinstance(module, DeformableBranch):
                module.predictor.float()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, 3, H, W) -> [logits (B, 1, H, W)]. Raises ValueError if H or W is no multiple of 32."""
        check_size(image)
        image = image.to(self.dtype, memory_format=torch.channels_last)
        maps = self.encoder(image)
        maps[3] = (self.squeeze(self._with_context(maps)),)
        if self.neck is not None:
            sizes = [[side >> i for side in image.shape[2:]] for i in (2, 3, 4, 5)]
            maps = [(layer(x, size),) for layer, x, size in zip(self.neck, maps, sizes, strict=True)]
        return [self.decoder(image, maps)]

    def _with_context(self, maps: Sequence[Maps]) -> Tensor:
        """The last of x1..x3 brought to the size of x4, by way of the size of their own level, in front of it."""
        size = maps[3][0].shape[2:]
        parts = [resize_through(x, own[0].shape[2:], size) for own in maps[3 - self.context:3] for x in own]
        return torch.cat([*parts, *(resize(x, size) for x in maps[3])], 1)


class FastEncoder(nn.Module):
    """Backbone on the image and its half-size copy, whose maps stay as small as they are if the pyramid is 'cat'."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.plain = copy.copy(encoder)
        self.plain._modules = {'backbone': fast_backbone(encoder.backbone)}
        self.pyramid = encoder.pyramid

    def forward(self, image: Tensor) -> list[Maps]:
        """image (B, 3, H, W) -> x1..x4."""
        if self.pyramid != 'cat':
            return [(x,) for x in self.plain(image)]
        return list(zip(*self.plain.both(image), strict=True))


class Pointwise(nn.Module):
    """A 1x1 convolution of an encoder's map, brought to another size."""

    def __init__(self, layer: nn.Conv2d, halved: bool) -> None:
        super().__init__()
        self.on_full, self.on_half = split(layer, layer.in_channels // (1 + halved))

    def forward(self, maps: Maps, size: Sequence[int]) -> Tensor:
        """x (B, C, h, w), with the half-size image's -> (B, out, *size), resized where that leaves less to compute."""
        own = maps[0].shape[2:]
        layers = [self.on_full] if self.on_half is None else [self.on_full, self.on_half]
        if own[0] * own[1] > size[0] * size[1]:
            parts = [layer(resize_through(x, own, size)) for layer, x in zip(layers, maps, strict=True)]
        else:
            parts = [resize_through(layer(x), own, size) for layer, x in zip(layers, maps, strict=True)]
        return sum(parts[1:], parts[0])

    def add_to(self, coarse: Tensor, maps: Maps) -> Tensor:
        """coarse (B, out, h, w), changed in place, brought to the size of `maps` and added to their convolution."""
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

    def __init__(self, level: DecoderLevel, halved: bool, head: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        width = 0 if level.reference is None else level.reference.conv_out.out_channels
        self.block = FastBlock(level.block, level.block.conv_in.in_channels - width, head)
        self.reference = None if level.reference is None else FastReference(level.reference)
        self.outward = None if level.outward is None else FastOutward(level.outward)
        self.lateral = None if level.lateral is None else Pointwise(level.lateral, halved)

    def forward(self, x: Tensor, tiles: Tensor | None, finer: Maps | None) -> Tensor:
        """x (B, c_i, h, w), tiles (B, 3 * n, h, w), the next finer map -> that level's input, or (B, 1, h, w)."""
        x = self.block(x, None if self.reference is None else self.reference(tiles))
        if self.outward is not None:
            x = self.outward(x)
        return x if self.lateral is None else self.lateral.add_to(x, finer)


class FastDecoder(nn.Module):
    """The decoder in eval mode. The 1x1 head is applied before the resizing to full size, on either side of the sum."""

    def __init__(self, decoder: Decoder, halved: bool) -> None:
        super().__init__()
        self.split, self.tile_order = decoder.split, decoder.tile_order
        weight, bias = weights(decoder.head)
        features, reference = weight[:, :, 0, 0].tensor_split([decoder.levels[-1].block.conv_out.out_channels], 1)
        heads = [None] * (len(decoder.levels) - 1) + [(features, bias)]
        self.levels = nn.ModuleList(
            FastLevel(level, halved, head) for level, head in zip(decoder.levels, heads, strict=True))
        self.reference = None if decoder.reference is None else FastReference(decoder.reference, reference)

    def forward(self, image: Tensor, maps: Sequence[Maps]) -> Tensor:
        """image (B, 3, H, W), maps x1..x4 -> logits (B, 1, H, W), float32."""
        x = maps[3][0]
        for level, finer in zip(self.levels, (*maps[2::-1], None), strict=True):
            tiles = self._tiles(image, x.shape[2:]) if level.reference is not None else None
            x = level(x, tiles, finer)
        logits = resize(x.float(), image.shape[2:])
        return logits if self.reference is None else logits + self.reference(image)

    def _tiles(self, image: Tensor, size: Sequence[int]) -> Tensor:
        return image_to_tiles(image, *size, self.tile_order) if self.split else resize(image, size)


def fast_backbone(net: nn.Module) -> nn.Module:
    """The backbone in eval mode: Swin rearranged, BatchNorm folded in VGG and ResNet, any other as it is."""
    if isinstance(net, SwinTransformer):
        return FastSwin(net)
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        return net
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            _fuse(module, pairwise(module._modules))
        elif isinstance(module, Bottleneck):
            _fuse(module, ((f'conv{i}', f'bn{i}') for i in (1, 2, 3)))
    return net.to(memory_format=torch.channels_last)


def _fuse(module: nn.Module, names: Sequence[tuple[str, str]]) -> None:
    """Folds each BatchNorm that follows a convolution by name."""
    for first, second in list(names):
        layer, norm = getattr(module, first), getattr(module, second)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, first, fuse_conv_bn_eval(layer, norm))
            setattr(module, second, nn.Identity())


class Compiled(nn.Module):
    """`net` compiled for each size at its first use, or as it is, with a warning, where compiling fails.

    Once for all sizes would take ten times as long (benchmarks/LOG.md).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.compiled = net, torch.compile(net, dynamic=False)
        self.config = net.config

    @property
    def bytes_per_pixel(self) -> int:
        """As the network's."""
        return self.net.bytes_per_pixel

    def forward(self, image: Tensor) -> list[Tensor]:
        """As the network's."""
        if self.compiled is not None:
            try:
                with warnings.catch_warnings():  # the cached tables are traced like all the rest, which does no harm
                    warnings.filterwarnings('ignore', 'Dynamo detected a call to a `functools.lru_cache`')
                    return self.compiled(image)
            except torch._dynamo.exc.TorchDynamoException as error:
                warnings.warn(f'optimize: compiling failed, going on without: {type(error).__name__}: '
                              f'{str(error).splitlines()[0]}')
                self.compiled = None
        return self.net(image)
