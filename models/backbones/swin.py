"""Swin Transformer (Liu et al., arXiv 2103.14030) as detectors use it: any input size, a norm on every stage's output.

Ours, because the published weights need padding before the cyclic shift; timm shifts first, which differs whenever a
map is no multiple of the window. Parameter names are those of the official checkpoints.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.backbones.base import Backbone
from models.modules.tracing import count_to_cover, gather_padded, is_exporting, rolled, traced_for_all_sizes

CPU = torch.device('cpu')
MASKED = -100.  # as published: far enough from any logit, and finite in half precision


def _constant(maxsize: int) -> Callable:
    """Decorator: keeps the tensors that a function of hashable arguments returned last.

    They may first be needed under inference_mode and then serve training. What compilers and exporters trace with
    (symbolic sizes, fake tensors) is not kept.
    """
    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        cached = lru_cache(maxsize)(torch.inference_mode(False)(function))

        @wraps(function)
        def call(*args: Any) -> Tensor:
            return function(*args) if torch.compiler.is_compiling() else cached(*args)

        return call

    return decorate


@_constant(maxsize=16)
def relative_position_index(window: int, device: torch.device = CPU) -> Tensor:
    """Row of the bias table for each (query, key) of a window: (w*w, w*w), int64,
    (dy + w - 1)(2w - 1) + dx + w - 1 with (dy, dx) = query - key."""
    token = torch.arange(window * window, device=device)
    y, x = token // window, token % window
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


@_constant(maxsize=16)
def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Which tokens of a shifted, padded map may attend to each other: 0 or MASKED, (windows, w*w, w*w), float32.

    Tokens that the cyclic shift brought together from opposite borders may not.
    """
    shift = window // 2
    tokens = [torch.arange(-side, 0, device=device) for side in (height, width)]
    regions = [(t >= -window).long() + (t >= -shift).long() for t in tokens]
    region = (3 * regions[0][:, None] + regions[1]).reshape(1, height, width, 1)
    region = _to_windows(region, window)[..., 0]
    return torch.where(region[:, :, None] == region[:, None], 0., MASKED)


def _to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, window * window, C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def _from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """(B * windows, window * window, C) -> (B, height, width, C)."""
    x = x.reshape(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def bias(self) -> Tensor:
        """(heads, w*w, w*w)."""
        index = relative_position_index(self.window, self.relative_position_bias_table.device)
        return self.relative_position_bias_table[index].permute(2, 0, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B * windows, w*w, C), mask (windows, w*w, w*w) or None -> the shape of x."""
        count, tokens, channels = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.bias().to(q.dtype)[None]
        if mask is not None:  # windows join the heads, so that the bias broadcasts over the batch
            windows = mask.shape[0]  # len() would fix a symbol
            bias = (bias + mask[:, None].to(q.dtype)).reshape(1, windows * self.heads, tokens, tokens)
            q, k, v = (t.reshape(-1, windows * self.heads, tokens, t.shape[-1]) for t in (q, k, v))
        if is_exporting():  # exporters take the fused operator apart, and trip over its memory layout
            x = (q * q.shape[-1] ** -.5 @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x.reshape(count, self.heads, tokens, -1).transpose(1, 2).reshape(count, tokens, channels)
        return self.proj(x)


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> the same shape."""
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): in training, each sample's residual path is left out with
    probability `drop_prob`, and the others are scaled so that the mean stays."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...) -> the same shape."""
        if not self.training or not self.drop_prob:
            return x
        share = 1 - self.drop_prob
        return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(share).div_(share)


class SwinBlock(nn.Module):
    """Window attention, shifted by half a window where `shifted`, and an MLP, each with norm and residual path."""

    def __init__(self, dim: int, heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, C) -> the same shape."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        """Pads bottom and right to whole windows, then rolls, attends, rolls back and crops."""
        height, width = x.shape[1:3]
        if traced_for_all_sizes(x):
            return self._attend_traced(x)
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = shift_mask(*padded, self.window, x.device)
        x = _from_windows(self.attn(_to_windows(x, self.window), mask), self.window, *padded)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _attend_traced(self, x: Tensor) -> Tensor:
        """The same for exporters that trace all sizes at once: indices do what padding, rolling and cropping do."""
        (height, width), window = x.shape[1:3], self.window
        padded = [count_to_cover(side, window) * window for side in (height, width)]
        rows, columns = (rolled(side, self.shift, side, x.device) for side in padded)
        mask = shift_mask(*padded, window, x.device) if self.shift else None
        x = gather_padded(x, rows, columns)
        x = _from_windows(self.attn(_to_windows(x, window), mask), window, *padded)
        rows, columns = (rolled(side, -self.shift, whole, x.device)
                         for side, whole in zip((height, width), padded, strict=True))
        return x.index_select(1, rows).index_select(2, columns)


class PatchMerging(nn.Module):
    """Halves the map and doubles the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        batch, height, width, channels = x.shape
        rows, columns = count_to_cover(height, 2), count_to_cover(width, 2)
        if traced_for_all_sizes(x):
            x = gather_padded(x, *(torch.arange(2 * n, device=x.device) for n in (rows, columns)))
        else:
            x = F.pad(x, (0, 0, 0, 2 * columns - width, 0, 2 * rows - height))
        x = x.view(batch, rows, 2, columns, 2, channels).permute(0, 1, 3, 4, 2, 5)  # the column goes before the row
        return self.reduction(self.norm(x.reshape(batch, rows, columns, 4 * channels)))


class Stage(nn.Module):
    """Blocks, every second one shifted, and the downsampling to the next stage (None in the last)."""

    def __init__(self, dim: int, heads: int, window: int, drop_paths: Sequence[float], downsample: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(dim, heads, window, i % 2 == 1, p) for i, p in enumerate(drop_paths))
        self.downsample = PatchMerging(dim) if downsample else None


class PatchEmbed(nn.Module):
    """4x4 patches to tokens, with a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> (B, ceil(H / 4), ceil(W / 4), dim)."""
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """The backbone; `channels` are those of its maps at strides 4, 8, 16, 32."""

    def __init__(self, dim: int, depths: Sequence[int], heads: Sequence[int], window: int,
                 drop_path_rate: float = .2) -> None:
        super().__init__()
        self.channels = tuple(dim * 2 ** i for i in range(len(depths)))
        self.grad_checkpointing = False
        rates = [drop_path_rate * i / (sum(depths) - 1) for i in range(sum(depths))]
        self.patch_embed = PatchEmbed(dim)
        self.layers = nn.ModuleList()
        for i, depth in enumerate(depths):
            first = sum(depths[:i])
            self.layers.append(Stage(self.channels[i], heads[i], window, rates[first:first + depth],
                                     downsample=i < len(depths) - 1))
            self.add_module(f'norm{i}', nn.LayerNorm(self.channels[i]))
        self.apply(_init)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (B, 3, H, W) -> four maps (B, channels[i], H / 2^(i+2), W / 2^(i+2)), odd sides rounded up."""
        x, maps = self.patch_embed(x), []
        for i, stage in enumerate(self.layers):
            for block in stage.blocks:
                recompute = self.grad_checkpointing and self.training
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            maps.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return maps


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


SWINS = {
    'swin_v1_t': {'dim': 96, 'depths': (2, 2, 6, 2), 'heads': (3, 6, 12, 24), 'window': 7},
    'swin_v1_s': {'dim': 96, 'depths': (2, 2, 18, 2), 'heads': (3, 6, 12, 24), 'window': 7},
    'swin_v1_b': {'dim': 128, 'depths': (2, 2, 18, 2), 'heads': (4, 8, 16, 32), 'window': 12},
    'swin_v1_l': {'dim': 192, 'depths': (2, 2, 18, 2), 'heads': (6, 12, 24, 48), 'window': 12},
}


def build_swin(name: str) -> Backbone:
    """One of SWINS, with random weights."""
    net = SwinTransformer(**SWINS[name])
    return Backbone(net, net.channels, smallest=16)


def resize_bias_tables(weights: dict[str, Tensor], backbone: SwinTransformer) -> dict[str, Tensor]:
    """`weights` with relative-position tables of another window interpolated (bicubic) to the backbone's window."""
    own = backbone.state_dict()

    def fitted(key: str, table: Tensor) -> Tensor:
        if not key.endswith('relative_position_bias_table') or key not in own or own[key].shape == table.shape:
            return table
        old, new = (round(len(t) ** .5) for t in (table, own[key]))
        grid = table.float().T.reshape(1, -1, old, old)
        grid = F.interpolate(grid, size=(new, new), mode='bicubic', align_corners=False)
        return grid.reshape(-1, new * new).T.to(table.dtype)

    return {key: fitted(key, value) for key, value in weights.items()}
