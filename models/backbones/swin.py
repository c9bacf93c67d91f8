"""Swin Transformer (Liu et al., arXiv 2103.14030) as detectors use it.

It takes any input size, and has a norm on every stage's output. It is our own, because the
published weights need padding before the cyclic shift; timm shifts first, which differs whenever a
map is not a multiple of the window. Parameter names are those of the official checkpoints.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.backbones.base import Backbone
from models.backbones.registry import (
    Shapes,
    Size,
    State,
    count_children,
    register_backbones,
    width_of,
)
from models.modules.tracing import (
    count_to_cover,
    gather_padded,
    has_symbolic_size,
    is_exporting,
    rolled_index,
)

CPU = torch.device('cpu')
MASKED = -100.  # as published: far enough from any logit, and finite in half precision


def _constant(maxsize: int) -> Callable:
    """Decorator: caches the tensors that a function of hashable arguments returned last.

    They are made outside of inference_mode, so that training can use what inference has cached.
    What compilers and exporters trace with (symbolic sizes, fake tensors) is not cached.
    """
    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        cached = lru_cache(maxsize)(torch.inference_mode(False)(function))

        @wraps(function)
        def call(*args: Any) -> Tensor:
            if torch.compiler.is_compiling():
                return function(*args)
            return cached(*args)

        return call

    return decorate


@_constant(maxsize=16)
def relative_position_index(window: int, device: torch.device = CPU) -> Tensor:
    """Row of the bias table for each (query, key) of a window: (w*w, w*w), int64.

    The row is (dy + w - 1)(2w - 1) + dx + w - 1 with (dy, dx) = query - key.
    """
    token = torch.arange(window * window, device=device)
    y = token // window
    x = token % window
    dy = y[:, None] - y
    dx = x[:, None] - x
    row = dy + window - 1
    column = dx + window - 1
    return row * (2 * window - 1) + column


@_constant(maxsize=16)
def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Attention mask of a shifted, padded map: (windows, w*w, w*w), float32, 0 or MASKED.

    It separates tokens that the cyclic shift brought together from opposite borders.
    """
    shift = window // 2

    def stripes(side: int) -> Tensor:
        """For each row or column: 0 before the last window, 1 in it, 2 where it came around."""
        position = torch.arange(-side, 0, device=device)
        in_last_window = (position >= -window).long()
        came_around = (position >= -shift).long()
        return in_last_window + came_around

    # Tokens of the same region may attend to each other.
    region = 3 * stripes(height)[:, None] + stripes(width)
    region = _to_windows(region.reshape(1, height, width, 1), window)[..., 0]
    is_same = region[:, :, None] == region[:, None]
    return torch.where(is_same, 0., MASKED)


def _to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, window * window, C)."""
    batch, height, width, channels = x.shape
    rows = height // window
    columns = width // window
    x = x.reshape(batch, rows, window, columns, window, channels)
    x = x.transpose(2, 3)
    return x.reshape(-1, window * window, channels)


def _from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """(B * windows, window * window, C) -> (B, height, width, C)."""
    channels = x.shape[-1]
    rows = height // window
    columns = width // window
    x = x.reshape(-1, rows, columns, window, window, channels)
    x = x.transpose(2, 3)
    return x.reshape(-1, height, width, channels)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.window = window
        self.heads = heads
        positions = (2 * window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(positions, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def bias(self) -> Tensor:
        """Bias of each head for each (query, key): (heads, w*w, w*w)."""
        index = relative_position_index(self.window, self.relative_position_bias_table.device)
        return self.relative_position_bias_table[index].permute(2, 0, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B * windows, w*w, C), mask (windows, w*w, w*w) or None -> the shape of x."""
        count, tokens, channels = x.shape
        width = channels // self.heads
        qkv = self.qkv(x).reshape(count, tokens, 3, self.heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B * windows, heads, w*w, C / heads) each

        bias = self.bias().to(q.dtype)[None]
        if mask is not None:
            # Windows join the heads, so that the bias broadcasts over the batch.
            heads = mask.shape[0] * self.heads  # len(mask) would fix a symbol
            bias = bias + mask[:, None].to(q.dtype)
            bias = bias.reshape(1, heads, tokens, tokens)
            q = q.reshape(-1, heads, tokens, width)
            k = k.reshape(-1, heads, tokens, width)
            v = v.reshape(-1, heads, tokens, width)

        # The heads' outputs are side by side in each token.
        x = _attend(q, k, v, bias)
        x = x.reshape(count, self.heads, tokens, -1)
        x = x.transpose(1, 2)
        x = x.reshape(count, tokens, channels)
        return self.proj(x)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Scaled dot-product attention of (B, heads, tokens, C / heads)."""
    if is_exporting():
        # Exporters take the fused operator apart, and trip over its memory layout.
        scale = q.shape[-1] ** -.5
        products = q * scale @ k.transpose(-2, -1)
        logits = products + bias
        return logits.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


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
    """Stochastic depth (Huang et al., ECCV 2016).

    In training, each sample's residual path is left out with probability `drop_prob`, and the
    others are scaled so that the mean stays.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...) -> the same shape."""
        if not self.training or not self.drop_prob:
            return x
        # The same for all values of a sample.
        keep_prob = 1 - self.drop_prob
        one_per_sample = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = x.new_empty(one_per_sample).bernoulli_(keep_prob)
        return x * kept.div_(keep_prob)


class SwinBlock(nn.Module):
    """Window attention, shifted by half a window if `shifted`, and an MLP, both residual."""

    def __init__(self, dim: int, heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, C) -> the same shape."""
        # A name for either branch would keep its map alive longer than it is needed.
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        """Pads bottom and right to whole windows, then rolls, attends, rolls back and crops."""
        height, width = x.shape[1:3]
        if has_symbolic_size(x):
            return self._attend_traced(x)

        # Padding comes before the roll, as in the published networks.
        right = -width % self.window
        bottom = -height % self.window
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = self._attend_in_windows(x)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _attend_traced(self, x: Tensor) -> Tensor:
        """The same for exporters that trace all sizes at once.

        Indices do what padding, rolling and cropping do.
        """
        # The padded, rolled map.
        window = self.window
        height, width = x.shape[1:3]
        padded_height = count_to_cover(height, window) * window
        padded_width = count_to_cover(width, window) * window
        rows = rolled_index(padded_height, self.shift, padded_height, x.device)
        columns = rolled_index(padded_width, self.shift, padded_width, x.device)
        x = self._attend_in_windows(gather_padded(x, rows, columns))

        # Rolled back and cropped.
        rows = rolled_index(height, -self.shift, padded_height, x.device)
        columns = rolled_index(width, -self.shift, padded_width, x.device)
        x = x.index_select(1, rows)
        return x.index_select(2, columns)

    def _attend_in_windows(self, x: Tensor) -> Tensor:
        """x (B, H, W, C), sides multiples of the window -> the same shape."""
        height, width = x.shape[1:3]
        mask = None
        if self.shift:
            mask = shift_mask(height, width, self.window, x.device)
        windows = _to_windows(x, self.window)
        windows = self.attn(windows, mask)
        return _from_windows(windows, self.window, height, width)


class PatchMerging(nn.Module):
    """Halves the map and doubles the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        # Odd sides get a row or column of zeros.
        batch, height, width, channels = x.shape
        rows = count_to_cover(height, 2)
        columns = count_to_cover(width, 2)
        if has_symbolic_size(x):
            every_row = torch.arange(2 * rows, device=x.device)
            every_column = torch.arange(2 * columns, device=x.device)
            x = gather_padded(x, every_row, every_column)
        else:
            right = 2 * columns - width
            bottom = 2 * rows - height
            x = F.pad(x, (0, 0, 0, right, 0, bottom))

        # Four pixels to one, the column before the row.
        x = x.view(batch, rows, 2, columns, 2, channels)
        x = x.permute(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, rows, columns, 4 * channels)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Blocks, every second one shifted, and the downsampling behind them (None in the last)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        drop_paths: Sequence[float],
        downsample: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for i, drop_path in enumerate(drop_paths):
            shifted = i % 2 == 1
            self.blocks.append(SwinBlock(dim, heads, window, shifted, drop_path))
        self.downsample = PatchMerging(dim) if downsample else None


class PatchEmbed(nn.Module):
    """4x4 patches to tokens, with a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> (B, ceil(H / 4), ceil(W / 4), dim)."""
        height, width = x.shape[2:]
        right = -width % 4
        bottom = -height % 4
        x = F.pad(x, (0, right, 0, bottom))
        x = self.proj(x)
        return self.norm(x.permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """The backbone; `channels` are those of its maps at strides 4, 8, 16, 32."""

    def __init__(
        self,
        dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        drop_path_rate: float = .2,
    ) -> None:
        super().__init__()
        self.channels = tuple(dim * 2 ** i for i in range(len(depths)))
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(dim)
        self.layers = nn.ModuleList()

        # The rate of stochastic depth rises linearly over all blocks.
        count = sum(depths)
        rates = [drop_path_rate * i / (count - 1) for i in range(count)]
        for i, depth in enumerate(depths):
            first = sum(depths[:i])
            own_rates = rates[first:first + depth]
            is_last = i == len(depths) - 1
            width = self.channels[i]
            stage = Stage(width, heads[i], window, own_rates, downsample=not is_last)
            self.layers.append(stage)
            self.add_module(f'norm{i}', nn.LayerNorm(width))
        self.apply(_init)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass."""
        self.grad_checkpointing = enable

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (B, 3, H, W) -> four maps (B, channels[i], H / 2^(i+2), W / 2^(i+2)).

        Odd sides are rounded up.
        """
        x = self.patch_embed(x)
        maps = []
        stage: Any  # a Stage: a ModuleList does not say what it holds
        for i, stage in enumerate(self.layers):
            for block in stage.blocks:
                if self.grad_checkpointing and self.training:
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)

            # The norm is for the map that leaves here; the next stage reads the tokens without it.
            norm = self.get_submodule(f'norm{i}')
            channels_first = norm(x).permute(0, 3, 1, 2)
            maps.append(channels_first.contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return maps


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# --- Registration ---------------------------------------------------------------------------------

class Settings(TypedDict):
    """Arguments of SwinTransformer."""

    dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int


SWINS: dict[str, Settings] = {
    'swin_v1_t': {'dim': 96, 'depths': (2, 2, 6, 2), 'heads': (3, 6, 12, 24), 'window': 7},
    'swin_v1_s': {'dim': 96, 'depths': (2, 2, 18, 2), 'heads': (3, 6, 12, 24), 'window': 7},
    'swin_v1_b': {'dim': 128, 'depths': (2, 2, 18, 2), 'heads': (4, 8, 16, 32), 'window': 12},
    'swin_v1_l': {'dim': 192, 'depths': (2, 2, 18, 2), 'heads': (6, 12, 24, 48), 'window': 12},
}


def infer_swin(shapes: Shapes) -> str:
    """One of SWINS, or ''."""
    width = width_of(shapes, 'patch_embed.proj.weight')
    depth = count_children(shapes, 'layers.2.blocks')
    for name, swin in SWINS.items():
        if (swin['dim'], swin['depths'][2]) == (width, depth):
            return name
    return ''


def resize_bias_tables(state: State, net: nn.Module) -> State:
    """`state` with relative-position tables interpolated (bicubic) to the window of `net`."""
    own = net.state_dict()
    resized = {}
    for key, value in state.items():
        is_table = key.endswith('relative_position_bias_table') and key in own
        if is_table and value.shape != own[key].shape:
            value = _resize_table(value, len(own[key]))
        resized[key] = value
    return resized


def _resize_table(table: Tensor, length: int) -> Tensor:
    """table (n * n, heads) -> (length, heads)."""
    old_side = round(len(table) ** .5)
    new_side = round(length ** .5)
    grid = table.float().T.reshape(1, -1, old_side, old_side)
    grid = F.interpolate(grid, size=(new_side, new_side), mode='bicubic', align_corners=False)
    rows = grid.reshape(-1, length).T
    return rows.to(table.dtype)


PRETRAINED_SWINS = {
    'swin_v1_t': 'swin_tiny_patch4_window7_224_22kto1k_finetune.pth',
    'swin_v1_s': 'swin_small_patch4_window7_224_22kto1k_finetune.pth',
    'swin_v1_b': 'swin_base_patch4_window12_384_22kto1k.pth',
    'swin_v1_l': 'swin_large_patch4_window12_384_22kto1k.pth',
}


# Classifiers, whose files are the pretrained ones, have no norms between the stages.
@register_backbones(
    *SWINS,
    infer=infer_swin,
    rename_pretrained=resize_bias_tables,
    pretrained_files=PRETRAINED_SWINS,
    on_hub=False,
    untrained=r'norm\d\.',
    official_index=True,
)
def build_swin(name: str, pretrained: bool = False, sizes: Sequence[Size] = ()) -> Backbone:
    """One of SWINS, with random weights. Raises ValueError if they are to be downloaded."""
    if pretrained:
        raise ValueError(f'bb_weights=hub: {name} takes a local file, {PRETRAINED_SWINS[name]}')
    net = SwinTransformer(**SWINS[name])
    return Backbone(net, net.channels, smallest=16)
