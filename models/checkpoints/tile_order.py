"""The order of the image's tiles on channels: read from weights, and converted.

A decoder level sees the image as n x n tiles, stacked on channels (`models.modules.reference`).
Weights published before November 2024 count these channels by (column, row, channel of the image),
later ones by (channel, row, column). Inside, everything has the later order, 'row'.
"""

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

# Deviations from which evidence counts. Below DOUBT an order has left no trace; from CLEAR on it
# has. By chance, about one untrained network in 3,000,000 reaches CLEAR.
CLEAR = 5.
DOUBT = 3.5


class TileEvidence(NamedTuple):
    """What weights show of their order: standard deviations over what chance gives, for each."""

    row: float
    column: float

    @property
    def order(self) -> str:
        """The order, or '' where the weights show none, or traces of both."""
        strong, weak = max(self), min(self)
        if strong < CLEAR or weak > DOUBT:
            return ''
        return 'row' if self.row > self.column else 'column'

    def __str__(self) -> str:
        if self.order:
            return f'its weights show {self.order} ({max(self):.0f} deviations)'
        figures = f'row {self.row:.1f}, column {self.column:.1f} deviations'
        if min(self) > DOUBT:
            return f'its weights show traces of both orders ({figures})'
        return f'its weights show none, as hardly trained ones ({figures})'


def read_tile_order(state: Mapping[str, Tensor]) -> TileEvidence:
    """What a state dict shows of its tile order.

    The colours of one tile see nearly the same picture, so that their filters grow alike, more than
    those of neighbouring tiles. Where a tile's colours lie is what the two orders differ in:

    - 'row': a whole image's tiles apart. So filters at this distance are compared with those that
      are three channels nearer or farther, which is the same colour and another tile in either
      order.
    - 'column': side by side, in threes. So neighbours within a group of three are compared with
      neighbours across its border.

    Where the other order is the true one, either comparison gives zero but for chance. Each filter
    of a convolution gives one value; their mean over its standard error is the evidence of a level,
    and the sum of these over the root of their number that of all.
    """
    row, column = [], []
    for weight in tile_weights(state).values():
        filters = _standardized(weight)
        row.append(_deviations(_row_contrast(filters)))
        column.append(_deviations(_column_contrast(filters)))
    if not row:
        return TileEvidence(0., 0.)
    levels = len(row) ** .5
    return TileEvidence(sum(row) / levels, sum(column) / levels)


def tile_weights(state: Mapping[str, Tensor]) -> State:
    """Those tensors of a state dict whose input channels are tiles."""
    found = {}
    for key, value in state.items():
        if TILE_KEY.fullmatch(key) and value.ndim == 4 and value.shape[1] > COLOURS:
            found[key] = value
    return found


def _grid(weight: Tensor) -> int:
    """Tiles on a side, from a convolution's 3 * n * n input channels."""
    return round((weight.shape[1] / COLOURS) ** .5)


def _standardized(weight: Tensor) -> Tensor:
    """weight (out, channels, 3, 3) -> (out, channels, 9): mean 0 over channels, deviation 1."""
    filters = weight.float().flatten(2)
    filters = filters - filters.mean(1, keepdim=True)
    energy = filters.square().mean((1, 2), keepdim=True)
    return filters / energy.sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def _products(filters: Tensor, distance: int) -> Tensor:
    """Agreement (out, channels - distance) of each channel with the one `distance` further."""
    return (filters[:, :-distance] * filters[:, distance:]).mean(2)


def _row_contrast(filters: Tensor) -> Tensor:
    """(out, channels, 9) -> (out,)."""
    image = filters.shape[1] // COLOURS
    contrast = 0
    for distance in (image, 2 * image):
        contrast = contrast + _products(filters, distance).mean(1)
        contrast = contrast - _products(filters, distance - COLOURS).mean(1) / 2
        contrast = contrast - _products(filters, distance + COLOURS).mean(1) / 2
    return contrast


def _column_contrast(filters: Tensor) -> Tensor:
    """(out, channels, 9) -> (out,)."""
    side = round((filters.shape[1] // COLOURS) ** .5)
    contrast = 0
    for distance in (1, 2):
        agreement = _products(filters, distance)
        start = torch.arange(agreement.shape[1])
        within = start % COLOURS + distance < COLOURS
        # In row order, these are neighbours in a row of tiles, but for the ends of rows.
        in_one_row = start % side + distance < side
        contrast = contrast + agreement[:, within & in_one_row].mean(1)
        contrast = contrast - agreement[:, ~within & in_one_row].mean(1)
    return contrast


def _deviations(values: Tensor) -> float:
    """The mean of values (n,) over its standard error."""
    error = values.std() / len(values) ** .5
    return (values.mean() / error.clamp_min(torch.finfo(torch.float32).tiny)).item()


# --- Conversion -----------------------------------------------------------------------------------


def convert_tile_order(state: Mapping[str, Tensor], to: str) -> State:
    """Converts a state dict from the other tile order to `to`, 'row' or 'column'.

    The network that a tool builds in that order then computes what it computed in the other. This
    moves channels and changes no value; back and forth gives the same bits.

    Raises ValueError for an order that is not one of these.
    """
    if to not in ORDERS:
        raise ValueError(f'tile order {to!r}: give one of {", ".join(ORDERS)}')
    converted = dict(state)
    for key, weight in tile_weights(state).items():
        side = _grid(weight)
        shape = (COLOURS, side, side) if to == 'column' else (side, side, COLOURS)
        tiles = weight.unflatten(1, shape)
        # (channel, row, column) and (column, row, channel) are each other's reverse.
        converted[key] = tiles.transpose(1, 3).reshape(weight.shape)
    return converted
