"""What exporters that trace all sizes at once need: sizes are then symbols, and must not be compared or rounded."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true


def is_exporting() -> bool:
    """Whether torch.export is tracing, not torch.compile; before torch 2.7, whether it does so non-strictly."""
    if hasattr(torch.compiler, 'is_exporting'):
        return torch.compiler.is_exporting()
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def traced_for_all_sizes(x: Tensor) -> bool:
    """Whether an exporter traces x (B, ...) with symbols for some of its sizes but the first."""
    return is_exporting() and any(isinstance(side, torch.SymInt) for side in x.shape[1:])


def count_to_cover(side: int, length: int) -> int:
    """How many pieces of `length` cover `side`; for a symbol, unless it is a multiple of `length` whatever its value,
    as a new symbol: a tracer would reason for hours about how rounded sizes relate to each other."""
    if not (is_exporting() and isinstance(side, torch.SymInt)) or \
            statically_known_true(side % length == 0):
        return (side + length - 1) // length
    return _new_symbol((_number(side) + (length - 1)) // length, 1)


def in_multiples(image: Tensor, length: int) -> Tensor:
    """image (B, C, H, W) itself, where H and W are 2 * `length` at least, with sizes that an exporter knows as
    `length` times a symbol, so that halves and tiles of them are whole numbers to it."""
    for axis in (2, 3):
        count = _new_symbol(_number(image.shape[axis]) // length, 2)
        image = image.index_select(axis, torch.arange(length * count, device=image.device))
    return image


def _new_symbol(number: Tensor, least: int) -> int:
    symbol = number.item()
    torch._check(symbol >= least)
    return symbol


def _number(value: int, device: torch.device | None = None) -> Tensor:
    """A number, perhaps a symbol, as a tensor (), int64: exporters know the operators of two tensors best."""
    return torch.full((), value, dtype=torch.int64, device=device)


def rolled(count: int, shift: int, side: int, device: torch.device) -> Tensor:
    """The places, 0 to side - 1, that lie `shift` ahead of 0 to count - 1 on a circle of `side`: (count,), int64."""
    return (torch.arange(count, device=device) + shift) % _number(side, device)


def gather_padded(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (rows[i], columns[j]) of a map x (B, H, W, C), zero outside of it: (B, len(rows), len(columns), C)."""
    batch, height, width, channels = x.shape
    inside = (rows[:, None] < _number(height, x.device)) & (columns < _number(width, x.device))
    index = rows[:, None] * _number(width, x.device) + columns
    index = torch.where(inside, index, _number(height * width, x.device))
    pixels = F.pad(x.reshape(batch, height * width, channels), (0, 0, 0, 1))
    return pixels.index_select(1, index.view(-1)).view(batch, rows.shape[0], columns.shape[0], channels)
