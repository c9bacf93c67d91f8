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

    # A cell of each scale is a range of codes: those that agree in their upper bits.
    cells = np.zeros(SCALES, np.int64)
    for rows, columns in _tiles(edges.shape):
        codes = _sorted_codes(edges[rows, columns])
        for scale in range(SCALES):
            cell_codes = codes >> (2 * scale)
            cells[scale] += np.count_nonzero(_starts(cell_codes))
    return TrueEdges(edges, cells)


def multiscale_iou(
    prediction: np.ndarray, truth: TrueEdges, scales: Sequence[int] = range(SCALES),
) -> np.ndarray:
    """Computes MSIoU of the pixels from each grey value upwards, float64 (257,); last of none.

    Args:
        prediction: uint8 (H, W).
        truth: The mask's edges.
        scales: The scales that count, rising, of 0 (cells of 1 pixel) to 9 (of 512 a side).
    """
    height, width = prediction.shape
    padded = np.full((height + 2, width + 2), OUTSIDE, np.uint16)
    padded[1:-1, 1:-1] = prediction

    # A pixel in a constant neighbourhood has no edge at any threshold.
    neighbourhood = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(padded, neighbourhood)
    lowest = cv2.erode(padded, neighbourhood)
    is_busy = (highest != lowest)[1:-1, 1:-1]

    # Cells with a true and a predicted edge, tile by tile, each from its lower right corner.
    hits = np.zeros((SCALES, OUTSIDE + 1), np.int64)
    for rows, columns in _tiles(prediction.shape):
        busy = np.nonzero(_turned(is_busy[rows, columns]))
        if len(busy[0]) == 0:
            continue
        true = _sorted_codes(truth.edges[rows, columns])
        if len(true) == 0:
            continue
        padded_rows = slice(rows.start, rows.stop + 2)
        padded_columns = slice(columns.start, columns.stop + 2)
        tile = _turned(padded[padded_rows, padded_columns])
        _count_hits(tile, busy, true, hits)

    # The area under the ratios over the scales, by trapezoids: the outer two count half.
    denominators = _denominators(truth.cells)
    ratios = (hits + 1) / denominators[:, None]
    counted = ratios[list(scales)]
    outer = (counted[0] + counted[-1]) / 2
    area = counted.sum(axis=0) - outer
    return area / (len(counted) - 1)


def _denominators(cells: np.ndarray) -> np.ndarray:
    """The cells plus 1, in half precision as published; exact where that overflows."""
    with np.errstate(over='ignore'):
        half_precision = cells.astype(np.float16) + np.float16(1)
    rounded = half_precision.astype(np.float64)
    overflows = np.isinf(rounded)
    return np.where(overflows, cells + 1, rounded)


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yields tiles of the largest cells. Cells begin at the lower right corner."""
    height, width = shape
    for bottom in range(height, 0, -LARGEST_CELL):
        for right in range(width, 0, -LARGEST_CELL):
            top = max(bottom - LARGEST_CELL, 0)
            left = max(right - LARGEST_CELL, 0)
            yield slice(top, bottom), slice(left, right)


def _turned(tile: np.ndarray) -> np.ndarray:
    """Turns a tile by 180 degrees, so that its cells begin at its first pixel."""
    return tile[::-1, ::-1]


def _sorted_codes(edges: np.ndarray) -> np.ndarray:
    """Computes the sorted codes of the edges in a tile, boolean (H, W)."""
    pixels = np.nonzero(_turned(edges))
    return np.sort(_codes(pixels))


def _codes(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Interleaves the bits of rows and columns, so that each cell is a range of codes."""
    rows, columns = pixels
    spread = _spread()
    return spread[rows] << 1 | spread[columns]


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
    # The pixels in the order of their codes, so that those of a cell lie together.
    codes = _codes(busy)
    order = np.argsort(codes)
    codes = codes[order]
    rows = busy[0][order]
    columns = busy[1][order]

    # The thresholds at which each is an edge, a part at a time for the cache.
    parts = []
    for start in range(0, len(codes), EDGES_AT_A_TIME):
        part = slice(start, start + EDGES_AT_A_TIME)
        edge_sets = _edge_sets(tile, rows[part], columns[part])
        parts.append(edge_sets)
    sets = np.concatenate(parts)

    for scale in range(SCALES):
        # Four cells become one: an edge in any of them is an edge of it.
        if scale:
            codes = codes >> 2
            true = true >> 2
            first = np.flatnonzero(_starts(codes))
            sets = np.bitwise_or.reduceat(sets, first, axis=0)
            codes = codes[first]
            true = true[_starts(true)]
        # Only cells with a true edge count.
        places = np.searchsorted(true, codes)
        nearest = true[np.minimum(places, len(true) - 1)]
        _add_bits(sets[nearest == codes], hits[scale])


def _add_bits(sets: np.ndarray, counts: np.ndarray) -> None:
    """Adds up how many of the sets (N, 4) have each of the 256 bits."""
    for start in range(0, len(sets), EDGES_AT_A_TIME):
        some = sets[start:start + EDGES_AT_A_TIME]
        octets = some.view(np.uint8)
        bits = np.unpackbits(octets, axis=1, bitorder='little')
        sums = np.add.reduce(bits, axis=0, dtype=np.int64)
        counts[:OUTSIDE] += sums


@cache
def _upward_sets() -> np.ndarray:
    """For each grey value the set of thresholds that it reaches, (257, 4); none outside."""
    thresholds = np.arange(OUTSIDE)
    values = np.arange(OUTSIDE + 1)
    reached = thresholds <= values[:, None]
    reached[OUTSIDE] = False
    octets = np.packbits(reached, axis=1, bitorder='little')
    return octets.view('<u8')


def _edge_sets(tile: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Computes at which thresholds pixels are edges: sets, uint64 (N, 4)."""
    # The thresholds that each of the eight neighbours reaches; the tile has a border of one pixel.
    table = _upward_sets()

    def reached(row: int, column: int) -> np.ndarray:
        values = tile[rows + row, columns + column]
        return table[values]

    top_left = reached(0, 0)
    top_right = reached(0, 2)
    bottom_left = reached(2, 0)
    bottom_right = reached(2, 2)

    # An edge is where opposite sides have different sums.
    left = _sobel_side(top_left, reached(1, 0), bottom_left)
    right = _sobel_side(top_right, reached(1, 2), bottom_right)
    top = _sobel_side(top_left, reached(0, 1), top_right)
    bottom = _sobel_side(bottom_left, reached(2, 1), bottom_right)
    differs = np.zeros_like(left[0])
    for one, other in zip(left + top, right + bottom, strict=True):
        differs |= one ^ other
    return differs


def _sobel_side(
    first: np.ndarray, middle: np.ndarray, last: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """first + 2 middle + last at all thresholds at once: the three binary digits of the sums."""
    carry = first & last
    ones = first ^ last
    twos = middle ^ carry
    fours = middle & carry
    return ones, twos, fours
