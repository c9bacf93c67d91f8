"""Multi-scale IoU: how many cells with a true edge have a found one, of 1 to 512 pixels.

Ahmadzadeh et al., "Multiscale IOU: a metric for evaluation of salient object detection with fine
structures", ICIP 2021, as PySODMetrics computes it. Edges of the prediction at all thresholds are
sets of 256 bits, one for each grey value, so that one pass serves all thresholds.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

SCALES = 10
LARGEST_CELL = 1 << (SCALES - 1)
WORDS = 4
OUTSIDE = 256
EDGES_AT_A_TIME = 1 << 14


class TrueEdges(NamedTuple):
    """The edges of a mask.

    Attributes:
        edges: Boolean (H, W).
        cells: Cells with an edge at each scale, int64 (10,).
    """

    edges: np.ndarray
    cells: np.ndarray


def true_edges(mask: np.ndarray) -> TrueEdges:
    """Finds the edges of a mask, uint8 (H, W) of 0 and 255: where a Sobel filter is not 0."""
    binary = (mask > 0).view(np.uint8)
    across = cv2.Sobel(binary, cv2.CV_16S, 1, 0, borderType=cv2.BORDER_CONSTANT)
    down = cv2.Sobel(binary, cv2.CV_16S, 0, 1, borderType=cv2.BORDER_CONSTANT)
    edges = (across != 0) | (down != 0)
    cells = np.zeros(SCALES, np.int64)
    for rows, columns in _tiles(mask.shape):
        codes = np.sort(_codes(np.nonzero(edges[rows, columns][::-1, ::-1])))
        for scale in range(SCALES):
            cells[scale] += np.count_nonzero(_starts(codes >> (2 * scale)))
    return TrueEdges(edges, cells)


def multiscale_iou(prediction: np.ndarray, truth: TrueEdges) -> np.ndarray:
    """Computes MSIoU of the pixels from each grey value upwards, float64 (257,); last of none.

    Args:
        prediction: uint8 (H, W).
        truth: The mask's edges.
    """
    hits = np.zeros((SCALES, OUTSIDE + 1), np.int64)
    padded = np.full((prediction.shape[0] + 2, prediction.shape[1] + 2), OUTSIDE, np.uint16)
    padded[1:-1, 1:-1] = prediction
    # A pixel in a constant neighbourhood has no edge at any threshold.
    ring = np.ones((3, 3), np.uint8)
    is_busy = (cv2.dilate(padded, ring) != cv2.erode(padded, ring))[1:-1, 1:-1]
    for rows, columns in _tiles(prediction.shape):
        tile = padded[rows.start:rows.stop + 2, columns.start:columns.stop + 2][::-1, ::-1]
        busy = np.nonzero(is_busy[rows, columns][::-1, ::-1])
        true = np.nonzero(truth.edges[rows, columns][::-1, ::-1])
        if len(busy[0]) and len(true[0]):
            _count_hits(tile, busy, np.sort(_codes(true)), hits)
    ratios = (hits + 1) / _denominators(truth.cells)[:, None]
    return (ratios.sum(axis=0) - (ratios[0] + ratios[-1]) / 2) / (SCALES - 1)


def _denominators(cells: np.ndarray) -> np.ndarray:
    """The cells plus 1, in half precision as published; exact where that overflows."""
    with np.errstate(over='ignore'):
        rounded = (cells.astype(np.float16) + np.float16(1)).astype(np.float64)
    return np.where(np.isinf(rounded), cells + 1, rounded)


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yields tiles of the largest cells. Cells begin at the lower right corner."""
    height, width = shape
    for bottom in range(height, 0, -LARGEST_CELL):
        for right in range(width, 0, -LARGEST_CELL):
            yield (slice(max(bottom - LARGEST_CELL, 0), bottom),
                   slice(max(right - LARGEST_CELL, 0), right))


def _codes(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Interleaves the bits of rows and columns, so that each cell is a range of codes."""
    rows, columns = pixels
    return _spread()[rows] << 1 | _spread()[columns]


@cache
def _spread() -> np.ndarray:
    """The numbers below 512 with a 0 between each two bits."""
    numbers = np.arange(LARGEST_CELL)
    spread = np.zeros(LARGEST_CELL, np.int64)
    for bit in range(SCALES - 1):
        spread |= (numbers >> bit & 1) << (2 * bit)
    return spread


def _starts(keys: np.ndarray) -> np.ndarray:
    """Marks the first of equal sorted keys."""
    starts = np.ones(len(keys), bool)
    starts[1:] = keys[1:] != keys[:-1]
    return starts


def _count_hits(
    tile: np.ndarray,
    busy: Sequence[np.ndarray],
    true: np.ndarray,
    hits: np.ndarray,
) -> None:
    """Adds a tile's cells with a true and a predicted edge to `hits` (10, 257).

    Args:
        tile: Grey values with a border of one pixel.
        busy: Rows and columns of the pixels that may be edges.
        true: Sorted codes of the true edges.
        hits: Counts by scale and grey value.
    """
    codes = _codes(busy)
    order = np.argsort(codes)
    codes = codes[order]
    rows, columns = busy[0][order], busy[1][order]
    parts = []
    for start in range(0, len(codes), EDGES_AT_A_TIME):
        part = slice(start, start + EDGES_AT_A_TIME)
        parts.append(_edge_sets(tile, rows[part], columns[part]))
    sets = np.concatenate(parts)
    for scale in range(SCALES):
        if scale:
            codes, true = codes >> 2, true >> 2
            first = np.flatnonzero(_starts(codes))
            sets = np.bitwise_or.reduceat(sets, first, axis=0)
            codes = codes[first]
            true = true[_starts(true)]
        near = np.minimum(np.searchsorted(true, codes), len(true) - 1)
        _add_bits(sets[true[near] == codes], hits[scale])


def _add_bits(sets: np.ndarray, counts: np.ndarray) -> None:
    """Adds up how many of the sets (N, 4) have each of the 256 bits."""
    for start in range(0, len(sets), EDGES_AT_A_TIME):
        octets = sets[start:start + EDGES_AT_A_TIME].view(np.uint8)
        bits = np.unpackbits(octets, axis=1, bitorder='little')
        counts[:OUTSIDE] += np.add.reduce(bits, axis=0, dtype=np.int64)


@cache
def _upward_sets() -> np.ndarray:
    """For each grey value the set of thresholds that it reaches, (257, 4); none outside."""
    reached = np.arange(OUTSIDE) <= np.arange(OUTSIDE + 1)[:, None]
    reached[OUTSIDE] = False
    return np.packbits(reached, axis=1, bitorder='little').view('<u8')


def _edge_sets(tile: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Computes at which thresholds pixels are edges: sets, uint64 (N, 4)."""
    table = _upward_sets()
    around = {}
    for row in range(3):
        for column in range(3):
            if (row, column) != (1, 1):
                around[row, column] = table[tile[rows + row, columns + column]]
    left = _sobel_side(around[0, 0], around[1, 0], around[2, 0])
    right = _sobel_side(around[0, 2], around[1, 2], around[2, 2])
    top = _sobel_side(around[0, 0], around[0, 1], around[0, 2])
    bottom = _sobel_side(around[2, 0], around[2, 1], around[2, 2])
    differs = np.zeros_like(left[0])
    for one, other in zip(left + top, right + bottom, strict=True):
        differs |= one ^ other
    return differs


def _sobel_side(
    first: np.ndarray, middle: np.ndarray, last: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """first + 2 middle + last at all thresholds at once: the three binary digits of the sums."""
    carry = first & last
    return first ^ last, middle ^ carry, middle & carry
