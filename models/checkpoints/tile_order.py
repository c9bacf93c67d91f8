"""The order of the image's tiles on channels: read from weights, and converted.

A decoder level sees the image as n x n tiles, stacked on channels (`models.modules.reference`).
Weights published before November 2024 count these channels by (column, row, channel of the image),
later ones by (channel, row, column). Inside, everything has the later order, 'row'.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from models.backbones.registry import State

ORDERS = ('row', 'column')
# Weights (out, channels, 3, 3) of the convolutions that see tiles, by official names and ours.
TILE_KEY = re.compile(
    r'(.*\.)?decoder\.(ipt_blk[2-5]\.conv1|levels\.\d\.reference\.conv_in)\.weight')
COLOURS = 3
# Of independent weights of deviation 1: the product of two means, times this squared, then varies
# as much as the sum of the nine products.
EVEN = 27 ** .5
TINY = torch.finfo(torch.float32).tiny  # for a division by what may be 0

# Standard deviations from which an order has left a trace. By chance, one untrained network in
# 12,000 goes beyond (Student's t of 64 filters, one-sided).
CLEAR = 4.
# From which the other order has, too, beside one that is clear: by chance in one of 500. A network
# that is fine-tuned in the wrong order works better in it from about here on (benchmarks/LOG.md).
TRACE = 3.
# Share of the stronger evidence from which the weaker counts besides it. Long training brings out
# small differences between places of the image, which are no trace of an order.
SHARE = .2


class TileEvidence(NamedTuple):
    """What weights show of their order: standard deviations beyond chance, for each order."""

    row: float
    column: float

    @property
    def order(self) -> str:
        """The order, or '' where the weights show none, or traces of both."""
        strong = max(self)
        if strong < CLEAR or self.is_mixed:
            return ''
        return 'row' if self.row == strong else 'column'

    @property
    def is_mixed(self) -> bool:
        """Whether the weights show both orders: trained in one, fine-tuned in the other."""
        strong, weak = max(self), min(self)
        counts_from = max(TRACE, SHARE * strong)
        return strong >= CLEAR and weak >= counts_from

    def __str__(self) -> str:
        if self.order:
            return f'its weights show {self.order} ({max(self):.0f} deviations)'
        figures = f'row {self.row:.1f}, column {self.column:.1f} deviations'
        if self.is_mixed:
            return f'its weights show both orders, as if fine-tuned in the wrong one ({figures})'
        return f'its weights show none, as hardly trained ones ({figures})'


def read_tile_order(state: Mapping[str, Tensor]) -> TileEvidence:
    """What a state dict shows of its tile order.

    The colours of one tile see nearly the same picture, so that their filters grow alike, more than
    those of other tiles. Where a tile's colours lie is what the two orders differ in:

    - 'row': a whole image's tiles apart. So filters at this distance are compared with those three
      channels nearer or farther: in either order the same colours, but of other tiles.
    - 'column': side by side, in threes. So neighbours within such a group are compared with
      neighbours across its border.

    In a network of the other order, either comparison gives zero but for chance. (To compare how
    much alike filters are in one reading and in the other would not do: neighbouring tiles see
    similar pictures, too.)

    What training adds to the nine weights of a filter has mostly one sign, unlike the random
    numbers that they begin as, so that their mean counts as much as all nine (`EVEN`).

    Each filter of a convolution gives one value. Their mean over its standard error is what a level
    shows. The levels' mean is weighted by their channels, since training shows in this proportion:
    it moves all weights by the same steps, and those of many channels begin small.
    """
    # One figure for each level and each order.
    row, column, channels = [], [], []
    for weight in tile_weights(state).values():
        if weight.is_meta:
            continue
        filters = _standardized(weight.cpu())
        row_contrast = _row_contrast(filters)
        column_contrast = _column_contrast(filters)
        row.append(_deviations(row_contrast))
        column.append(_deviations(column_contrast))
        channels.append(weight.shape[1])
    if not channels:
        return TileEvidence(0., 0.)

    # Their weighted mean, scaled to deviation 1 again.
    weights = torch.tensor(channels, dtype=torch.float64, device='cpu')
    levels = torch.tensor([row, column], dtype=torch.float64, device='cpu')
    levels = levels.nan_to_num(posinf=0, neginf=0)  # what is not finite shows nothing
    deviations = levels @ weights / weights.norm()
    return TileEvidence(*deviations.tolist())


def tile_weights(state: Mapping[str, Tensor]) -> State:
    """Those tensors of a state dict whose input channels are tiles."""
    found = {}
    for key, value in state.items():
        if TILE_KEY.fullmatch(key) and value.ndim == 4 and _grid(value.shape[1]) > 1:
            found[key] = value
    return found


def _grid(channels: int) -> int:
    """Tiles on a side: n of 3 * n * n channels; 0 for other numbers."""
    side = math.isqrt(channels // COLOURS)
    return side if channels == COLOURS * side * side else 0


def _standardized(weight: Tensor) -> Tensor:
    """weight (out, channels, 3, 3) -> (out, channels, 10): nine weights, and their mean times EVEN.

    Each third of the channels gets mean 0 and deviation 1. In row order the thirds are the image's
    colours, which then count alike.
    """
    thirds = weight.float().unflatten(1, (COLOURS, -1)).flatten(3)
    thirds = thirds - thirds.mean(2, keepdim=True)
    energy = thirds.square().mean((2, 3), keepdim=True)
    filters = (thirds / energy.sqrt().clamp_min(TINY)).flatten(1, 2)
    even = EVEN * filters.mean(2, keepdim=True)
    return torch.cat([filters, even], 2)


def _products(filters: Tensor, distance: int) -> Tensor:
    """Agreement (out, channels - distance) of each channel with the one `distance` further."""
    return (filters[:, :-distance] * filters[:, distance:]).mean(2)


def _row_contrast(filters: Tensor) -> Tensor:
    """(out, channels, 9) -> (out,)."""
    image = filters.shape[1] // COLOURS
    contrast = filters.new_zeros(len(filters))
    for distance in (image, 2 * image):
        same_tile = _products(filters, distance).mean(1)
        nearer = _products(filters, distance - COLOURS).mean(1)
        farther = _products(filters, distance + COLOURS).mean(1)
        contrast = contrast + same_tile
        contrast = contrast - nearer / 2
        contrast = contrast - farther / 2
    return contrast


def _column_contrast(filters: Tensor) -> Tensor:
    """(out, channels, 9) -> (out,)."""
    contrast = filters.new_zeros(len(filters))
    for distance in (1, 2):
        agreement = _products(filters, distance)
        start = torch.arange(agreement.shape[1], device=agreement.device)
        # In row order these are neighbours in a row of tiles. Its ends, at multiples of a power of
        # 2, fall on all places of a group of three alike.
        within = start % COLOURS + distance < COLOURS
        same_group = agreement[:, within].mean(1)
        across_border = agreement[:, ~within].mean(1)
        contrast = contrast + same_group
        contrast = contrast - across_border
    return contrast


def _deviations(values: Tensor) -> float:
    """The mean of values (n,) over its standard error."""
    error = values.std() / len(values) ** .5
    deviations = values.mean() / error.clamp_min(TINY)
    return deviations.item()


# --- Conversion -----------------------------------------------------------------------------------


def convert_tile_order(state: Mapping[str, Tensor], to: str) -> State:
    """Converts a state dict from the other tile order to `to`, 'row' or 'column'.

    The network that a tool builds in that order then computes what it computed in the other. This
    moves channels and changes no value; back and forth gives the same bits.

    Raises ValueError for an order that is not one of these, and for what is no state dict.
    """
    if to not in ORDERS:
        raise ValueError(f'tile order {to!r}: give one of {", ".join(ORDERS)}')
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError('convert_tile_order: no tensors by name; of a checkpoint that holds more '
                         f'than weights, give the part with the weights: {list(state)[:4]}')
    converted = dict(state)
    for key, weight in tile_weights(state).items():
        side = _grid(weight.shape[1])
        shape = (COLOURS, side, side) if to == 'column' else (side, side, COLOURS)
        tiles = weight.unflatten(1, shape)
        # (channel, row, column) and (column, row, channel) are each other's reverse.
        converted[key] = tiles.transpose(1, 3).reshape(weight.shape)
    return converted
