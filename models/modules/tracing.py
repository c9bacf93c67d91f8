"""Helpers for exporters that trace all sizes at once.

Sizes are symbols then, which must not be compared or rounded.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true


def is_exporting() -> bool:
    """Whether torch.export is tracing, and not torch.compile.

    It is `torch.compiler.is_exporting`, which is new in torch 2.7.
    """
    if hasattr(torch.compiler, 'is_exporting'):
        return torch.compiler.is_exporting()
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def has_symbolic_size(x: Tensor) -> bool:
    """Whether an exporter traces x (B, ...) with symbols for some of its sizes but the first."""
    if not is_exporting():
        return False
    return any(isinstance(side, torch.SymInt) for side in x.shape[1:])


def count_to_cover(side: int, length: int) -> int:
    """ceil(side / length).

    A symbolic side that need not be a multiple of `length` yields a fresh symbol, because the
    exporter's reasoning about rounded sizes takes hours.
    """
    is_symbol = is_exporting() and isinstance(side, torch.SymInt)
    if not is_symbol or statically_known_true(side % length == 0):
        return (side + length - 1) // length
    last = _scalar_tensor(side) + (length - 1)
    return _fresh_symbol(last // length, 1)


def mark_divisible(image: Tensor, length: int) -> Tensor:
    """Returns image (B, C, H, W) unchanged, with H and W rewritten as `length` times a symbol.

    The exporter can then divide them. H and W must be at least 2 * length.
    """
    for axis in (2, 3):
        count = _fresh_symbol(_scalar_tensor(image.shape[axis]) // length, 2)
        everything = torch.arange(length * count, device=image.device)
        image = image.index_select(axis, everything)
    return image


def _fresh_symbol(number: Tensor, minimum: int) -> int:
    """A symbol for the value of `number`, of which the exporter knows the minimum alone."""
    symbol: Any = number.item()
    torch._check(symbol >= minimum)
    return symbol


def _scalar_tensor(value: int, device: torch.device | None = None) -> Tensor:
    """A number, perhaps a symbol, as int64 (): exporters know operators of two tensors best."""
    return torch.full((), value, dtype=torch.int64, device=device)


def rolled_index(count: int, shift: int, side: int, device: torch.device) -> Tensor:
    """(0..count-1 + shift) modulo `side`: (count,), int64, the indices of a rolled axis."""
    shifted = torch.arange(count, device=device) + shift
    return shifted % _scalar_tensor(side, device)


def gather_padded(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (rows[i], columns[j]) of x (B, H, W, C), zero outside: (B, rows, columns, C)."""
    # Sizes enter as tensors, so that they may be symbols.
    batch, height, width, channels = x.shape
    height_tensor = _scalar_tensor(height, x.device)
    width_tensor = _scalar_tensor(width, x.device)
    row = rows[:, None]
    is_inside = (row < height_tensor) & (columns < width_tensor)

    # Flat index of each pixel; those outside read the zeros behind the last.
    index = row * width_tensor + columns
    behind_last = _scalar_tensor(height * width, x.device)
    index = torch.where(is_inside, index, behind_last)

    flat = x.reshape(batch, height * width, channels)
    padded = F.pad(flat, (0, 0, 0, 1))
    pixels = padded.index_select(1, index.view(-1))
    return pixels.view(batch, rows.shape[0], columns.shape[0], channels)
