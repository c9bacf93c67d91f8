"""What exporters that trace all sizes at once need: sizes are then symbols, and must not be compared or rounded."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true


def traced_for_all_sizes(x: Tensor) -> bool:
    """Whether an exporter traces x (B, ...) with symbols for some of its sizes but the first."""
    return torch.compiler.is_exporting() and any(isinstance(side, torch.SymInt) for side in x.shape[1:])


def count_to_cover(side: int, length: int) -> int:
    """How many pieces of `length` cover `side`; for a symbol, unless it is a multiple of `length` whatever its value,
    as a new symbol: a tracer would reason for hours about how rounded sizes relate to each other."""
    if not (torch.compiler.is_exporting() and isinstance(side, torch.SymInt)) or \
            statically_known_true(side % length == 0):
        return (side + length - 1) // length
    count = ((torch.full((), side, dtype=torch.int64) + (length - 1)) // length).item()
    torch._check(count >= 1)
    return count


def gather_padded(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (rows[i], columns[j]) of a map x (B, H, W, C), zero outside of it: (B, len(rows), len(columns), C)."""
    batch, height, width, channels = x.shape
    inside = (rows[:, None] < height) & (columns < width)
    index = torch.where(inside, rows[:, None] * width + columns, height * width)
    pixels = F.pad(x.reshape(batch, height * width, channels), (0, 0, 0, 1))
    return pixels.index_select(1, index.view(-1)).view(batch, rows.shape[0], columns.shape[0], channels)
