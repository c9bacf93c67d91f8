"""The Swin backbone for inference: windows are gathered by index instead of cut and copied."""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.swin import PatchMerging, SwinBlock, SwinTransformer, shift_mask
from models.optimized.algebra import linear
from utils import ceil_div

CHUNK_VALUES = 1 << 20  # values of a temporary on a CPU: small enough for its cache
WindowGroups = tuple[tuple[int, Tensor], ...]  # kind of mask, and the windows (n, w*w) that have it


def _chunks(rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices that cover `rows` of `width` values: of the size of a CPU's cache; elsewhere one."""
    step = rows
    if device.type == 'cpu':
        step = max(1, CHUNK_VALUES // width)
    return [slice(start, start + step) for start in range(0, rows, step)]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _window_groups(
    batch: int,
    height: int,
    width: int,
    window: int,
    shift: int,
    device: torch.device,
) -> WindowGroups:
    """Windows of the padded and rolled map, as row numbers of the map's tokens, int64.

    The kinds of mask are 0 inside, 1 in the last column, 2 in the last row, 3 in both: only there
    the roll brings tokens together that may not attend to each other, and all windows of a kind
    share one mask. Padding is the row behind the last.
    """
    # The map of row numbers, padded and rolled as the map of tokens would be, and cut to windows.
    count = batch * height * width
    tokens = torch.arange(count, device='cpu').view(batch, height, width)
    right = -width % window
    bottom = -height % window
    tokens = F.pad(tokens, (0, right, 0, bottom), value=count)
    tokens = tokens.roll((-shift, -shift), (1, 2))
    windows = tokens.unflatten(2, (-1, window))
    windows = windows.unflatten(1, (-1, window))
    windows = windows.transpose(2, 3)  # (B, rows, columns, w, w)
    if not shift:
        return ((0, windows.reshape(-1, window * window).to(device)),)

    # The last row and the last column of windows apart from the others.
    rows = (windows[:, :-1], windows[:, -1:])
    parts = []
    for row in rows:
        parts += [row[:, :, :-1], row[:, :, -1:]]
    groups = []
    for kind, part in enumerate(parts):
        if part.numel():
            index = part.reshape(-1, window * window)
            groups.append((kind, index.to(device)))
    return tuple(groups)


class FastSwinBlock(nn.Module):
    """A SwinBlock in eval mode, of tokens as rows; it shares the weights and keeps biases ready."""

    bias: Tensor  # (kinds of mask, heads, w*w, w*w)

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self.qkv = block.attn.qkv
        self.proj = block.attn.proj
        self.window = block.window
        self.shift = block.shift
        self.heads = block.attn.heads

        # One bias for each kind of mask, with the mask in it.
        like = block.norm1.weight
        masks = torch.zeros(1, 1, 1)
        if self.shift:
            side = 2 * self.window  # two by two windows have one of each kind
            masks = shift_mask(side, side, self.window, like.device)
        position_bias = block.attn.bias().detach()
        bias = position_bias[None] + masks[:, None].to(like)
        self.register_buffer('bias', bias.to(like.dtype).contiguous(), persistent=False)

    def forward(self, x: Tensor, batch: int, height: int, width: int) -> Tensor:
        """x (batch * height * width, C), changed in place and returned."""
        groups = _window_groups(batch, height, width, self.window, self.shift, x.device)
        self._add_attention(x, groups)
        self._add_mlp(x)
        return x

    def _add_mlp(self, x: Tensor) -> None:
        """Adds the MLP's output to `x` in place, in chunks that fit the cache."""
        first = self.mlp.fc1
        second = self.mlp.fc2
        for rows in _chunks(len(x), first.out_features, x.device):
            normed = self.norm2(x[rows])
            hidden = linear(normed, first.weight, first.bias, 'gelu')
            x[rows] += linear(hidden, second.weight, second.bias)

    def _add_attention(self, x: Tensor, groups: WindowGroups) -> None:
        """Adds the attention output to `x` in place.

        The queries' memory is reused for the output, since no other window reads them.
        """
        # Queries, keys and values of all tokens.
        tokens, channels = x.shape
        qkv = x.new_empty(tokens + 2, 3 * channels)
        for rows in _chunks(tokens, 3 * channels, x.device):
            normed = self.norm1(x[rows])
            qkv[:tokens][rows] = linear(normed, self.qkv.weight, self.qkv.bias)
        # Padding is zero after the norm, so its projection is the bias.
        qkv[tokens] = self.qkv.bias

        # Windows of one kind of mask at a time, in chunks that fit the cache.
        attended = qkv[:, :channels]
        for kind, windows in groups:
            bias = self.bias[kind:kind + 1]
            values_per_window = windows.shape[1] * 3 * channels
            for chunk in _chunks(len(windows), values_per_window, x.device):
                index = windows[chunk].flatten()
                gathered = qkv.index_select(0, index)
                out = self._attend_windows(gathered, bias)
                # What padding attends to goes to the last row, which nothing reads.
                is_padding = index == tokens
                attended.index_copy_(0, index + is_padding, out)

        # The projection, added to what came in.
        for rows in _chunks(tokens, channels, x.device):
            x[rows] += linear(attended[:tokens][rows], self.proj.weight, self.proj.bias)

    def _attend_windows(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """qkv (windows * w*w, 3 C), bias (1, heads, w*w, w*w) -> (windows * w*w, C)."""
        tokens = self.window ** 2
        head_width = qkv.shape[1] // (3 * self.heads)
        qkv = qkv.view(-1, tokens, 3, self.heads, head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.transpose(1, 2)
        return out.reshape(-1, self.heads * head_width)


class FastSwin(nn.Module):
    """A SwinTransformer in eval mode: the same maps, as channels-last views."""

    def __init__(self, net: SwinTransformer) -> None:
        super().__init__()
        self.patch_embed = net.patch_embed
        self.stages = nn.ModuleList()
        self.merging = nn.ModuleList()
        self.norms = nn.ModuleList()
        stage: Any  # a Stage: a ModuleList does not say what it holds
        for i, stage in enumerate(net.layers):
            blocks = [FastSwinBlock(block) for block in stage.blocks]
            self.stages.append(nn.ModuleList(blocks))
            self.merging.append(stage.downsample or nn.Identity())
            self.norms.append(net.get_submodule(f'norm{i}'))

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, 3, H, W) -> four maps (B, C, h, w)."""
        x = self.patch_embed(image)
        maps = []
        blocks: Any
        for blocks, norm, merging in zip(self.stages, self.norms, self.merging, strict=True):
            # Blocks work on tokens as rows, in place.
            batch, height, width, channels = x.shape
            rows = x.reshape(batch * height * width, channels)
            for block in blocks:
                rows = block(rows, batch, height, width)
            x = rows.view(batch, height, width, channels)
            maps.append(norm(x).permute(0, 3, 1, 2))
            if isinstance(merging, PatchMerging):
                x = _merge(merging, x)
        return maps


def _merge(merging: PatchMerging, x: Tensor) -> Tensor:
    """PatchMerging of x (B, H, W, C), a few rows of patches at a time."""
    batch, height, width, channels = x.shape
    rows = ceil_div(height, 2)
    values_per_row = 2 * batch * width * channels
    merged = []
    for band in _chunks(rows, values_per_row, x.device):
        pixels = x[:, 2 * band.start:2 * band.stop]
        merged.append(merging(pixels))
    return torch.cat(merged, 1)
