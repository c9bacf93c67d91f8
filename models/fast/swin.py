"""The Swin backbone for inference: windows are gathered, not cut and copied, and nothing of full size is made twice."""

import math
from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.swin import PatchMerging, SwinBlock, SwinTransformer, shift_mask
from models.fast.algebra import linear

CHUNK_VALUES = 1 << 20  # values of a temporary on a CPU: small enough for its cache


def _chunks(rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices that cover `rows` of `width` values: as many rows at a time as fit a CPU's cache, elsewhere all."""
    step = max(1, CHUNK_VALUES // width) if device.type == 'cpu' else rows
    return [slice(start, start + step) for start in range(0, rows, step)]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _window_groups(batch: int, height: int, width: int, window: int, shift: int,
                   device: torch.device) -> tuple[tuple[int, Tensor], ...]:
    """Windows of the padded and rolled map as rows of the map's tokens: kind of mask, (windows, w*w) int64.

    The kinds: 0 inside, 1 in the last column, 2 in the last row, 3 in both. Only there does the roll bring tokens
    together that may not see each other, and all windows of a kind share one mask. Padding is the row behind the last.
    """
    tokens = torch.arange(batch * height * width, device='cpu').view(batch, height, width)
    tokens = F.pad(tokens, (0, -width % window, 0, -height % window), value=tokens.numel())
    tokens = tokens.roll((-shift, -shift), (1, 2))
    tokens = tokens.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)  # (B, rows, columns, w, w)
    if not shift:
        return ((0, tokens.reshape(-1, window * window).to(device)),)
    parts = [tokens[:, rows, columns] for rows, columns in product((slice(-1), slice(-1, None)), repeat=2)]
    return tuple((kind, part.reshape(-1, window * window).to(device))
                 for kind, part in enumerate(parts) if part.numel())


class FastSwinBlock(nn.Module):
    """A SwinBlock in eval mode, of tokens as rows. It shares its weights with the block, and keeps its biases ready."""

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.qkv, self.proj = block.attn.qkv, block.attn.proj
        self.window, self.shift, self.heads = block.window, block.shift, block.attn.heads
        side = 2 * self.window  # two by two windows have one of each kind
        masks = shift_mask(side, side, self.window, block.norm1.weight.device) if self.shift else torch.zeros(1, 1, 1)
        bias = block.attn.bias().detach()[None] + masks[:, None].to(block.norm1.weight)
        self.register_buffer('bias', bias.to(block.norm1.weight.dtype).contiguous(), persistent=False)

    def forward(self, x: Tensor, batch: int, height: int, width: int) -> Tensor:
        """x (batch * height * width, C), changed in place and returned."""
        self._attend(x, _window_groups(batch, height, width, self.window, self.shift, x.device))
        for rows in _chunks(len(x), self.mlp.fc1.out_features, x.device):
            hidden = linear(self.norm2(x[rows]), self.mlp.fc1.weight, self.mlp.fc1.bias, 'gelu')
            x[rows] += linear(hidden, self.mlp.fc2.weight, self.mlp.fc2.bias)
        return x

    def _attend(self, x: Tensor, groups: tuple[tuple[int, Tensor], ...]) -> None:
        """Adds the attention to x; its output takes the place of the queries, which each window alone has read."""
        tokens, channels = x.shape
        qkv = x.new_empty(tokens + 2, 3 * channels)  # after the norm padding is zero, its projection the bias
        qkv[tokens] = self.qkv.bias
        for rows in _chunks(tokens, 3 * channels, x.device):
            qkv[:tokens][rows] = linear(self.norm1(x[rows]), self.qkv.weight, self.qkv.bias)
        attended = qkv[:, :channels]
        for kind, windows in groups:
            for some in _chunks(len(windows), windows.shape[1] * 3 * channels, x.device):
                index = windows[some].flatten()
                out = self._attend_windows(qkv.index_select(0, index), self.bias[kind:kind + 1])
                attended.index_copy_(0, index + (index == tokens), out)  # the last row takes what padding has seen
        for rows in _chunks(tokens, channels, x.device):
            x[rows] += linear(attended[:tokens][rows], self.proj.weight, self.proj.bias)

    def _attend_windows(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """qkv (windows * w*w, 3 C), bias (1, heads, w*w, w*w) -> (windows * w*w, C)."""
        q, k, v = qkv.view(-1, self.window ** 2, 3, self.heads, qkv.shape[1] // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(len(qkv), -1)


class FastSwin(nn.Module):
    """A SwinTransformer in eval mode: the same maps, as channels-last views."""

    def __init__(self, net: SwinTransformer) -> None:
        super().__init__()
        self.patch_embed = net.patch_embed
        self.stages = nn.ModuleList(nn.ModuleList(FastSwinBlock(block) for block in stage.blocks)
                                    for stage in net.layers)
        self.merging = nn.ModuleList(stage.downsample or nn.Identity() for stage in net.layers)
        self.norms = nn.ModuleList(getattr(net, f'norm{i}') for i in range(len(net.layers)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, 3, H, W) -> four maps (B, C, h, w)."""
        x, maps = self.patch_embed(image), []
        for blocks, norm, merging in zip(self.stages, self.norms, self.merging, strict=True):
            size = x.shape[:3]
            rows = x.reshape(math.prod(size), -1)
            for block in blocks:
                rows = block(rows, *size)
            x = rows.view(*size, -1)
            maps.append(norm(x).permute(0, 3, 1, 2))
            x = _merge(merging, x) if isinstance(merging, PatchMerging) else x
        return maps


def _merge(merging: PatchMerging, x: Tensor) -> Tensor:
    """PatchMerging of x (B, H, W, C), a few rows of patches at a time."""
    batch, height, width, channels = x.shape
    bands = _chunks(-(-height // 2), 2 * batch * width * channels, x.device)
    return torch.cat([merging(x[:, 2 * band.start:2 * band.stop]) for band in bands], 1)
