"""Weighted F-measure (Margolin, Zelnik-Manor, Tal, CVPR 2014), computed from uint8 predictions.

An error inside the mask counts less where the errors around it are small (a 7x7 Gaussian of the
error image). An error outside counts more the farther it is from the mask. The Gaussian is needed
only where there is an error inside the mask, so the errors outside, each replaced by the error at
the nearest mask pixel, are needed only within 3 pixels of the mask.
"""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from evaluation.kernels.histograms import EPS, Levels
from evaluation.kernels.region_histogram import PIXELS_PER_WORD, pad_to_words

REACH = 3
# Rows of padding. A mask pixel within reach is (3, 3) away at most; the nearest one at that
# distance may be (4, 0) away.
MARGIN = REACH + 1
# The Gaussian is computed in blocks of STRIP_ROWS rows by one word, BLOCKS_AT_A_TIME side by side,
# and weights are looked up for WORDS_AT_A_TIME words, so that the data stay in the cache.
STRIP_ROWS = 16
BLOCKS_AT_A_TIME = 256
WORDS_AT_A_TIME = 16384
# Squared distances saturate here. The weight 2 - exp(ln(.5) / 5 d) is 2 in float64 from there on,
# and no squared distance of two pixels has exactly this value.
SATURATED = 2 ** 16 - 1
# From version 5 on, OpenCV looks up 16-bit values too, in a fraction of NumPy's time.
WIDE_LUT = int(cv2.__version__.split('.')[0]) >= 5


class Surroundings(NamedTuple):
    """What weighted F needs to know of a mask.

    Attributes:
        padded: The mask, uint8, with at least MARGIN rows and one word of columns of zeros around
            it; whole words a row and whole strips.
        near: Flat indices into `padded` of the background pixels within REACH of the mask.
        nearest: Flat indices of their nearest mask pixels.
        squares: Squared distances to the mask, saturated, uint16 (words, PIXELS_PER_WORD).
    """

    padded: np.ndarray
    near: np.ndarray
    nearest: np.ndarray
    squares: np.ndarray


def surroundings(mask: np.ndarray) -> Surroundings:
    """Prepares a mask, uint8 (H, W) of 0 and 255, with at least one pixel set."""
    # float32 distances are exact enough for their squares to round to the right integer.
    background = cv2.bitwise_not(mask)
    distance = cv2.distanceTransform(background, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    squares = cv2.multiply(distance, distance, dtype=cv2.CV_16U)

    # The background pixels whose errors the Gaussian reaches from the mask.
    size = 2 * REACH + 1
    square = np.ones((size, size), np.uint8)
    reached = cv2.dilate(mask, square) ^ mask
    near = np.flatnonzero(reached > 0)

    # The same pixels, as indices into the padded mask.
    padded = _pad(mask)
    width = mask.shape[1]
    stride = padded.shape[1]
    offset = MARGIN * stride + PIXELS_PER_WORD
    row_gaps = near // width * (stride - width)
    near_padded = near + row_gaps + offset

    nearest = _nearest(padded, near_padded, squares.take(near))
    squares_by_word = pad_to_words(squares).reshape(-1, PIXELS_PER_WORD)
    return Surroundings(padded, near_padded, nearest, squares_by_word)


def _pad(image: np.ndarray) -> np.ndarray:
    """Pads an image with zeros as `Surroundings.padded`."""
    rows, columns = image.shape
    missing_rows = -rows % STRIP_ROWS
    missing_columns = -columns % PIXELS_PER_WORD
    row_padding = (MARGIN, MARGIN + missing_rows)
    column_padding = (PIXELS_PER_WORD, PIXELS_PER_WORD + missing_columns)
    return np.pad(image, (row_padding, column_padding))


def weights(squares: np.ndarray) -> np.ndarray:
    """Returns the weights of errors by squared distance (uint16, 2D), float64; 0 on the mask."""
    table = _weight_table()
    return cv2.LUT(squares, table) if WIDE_LUT else table.take(squares)


@cache
def _weight_table() -> np.ndarray:
    distances = np.sqrt(np.arange(SATURATED + 1))
    table = 2 - np.exp(np.log(0.5) / 5 * distances)
    table[0] = 0
    table[SATURATED] = 2
    return table[None]


def _nearest(padded: np.ndarray, pixels: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """Finds the mask pixels nearest to `pixels`, whose squared distances are known.

    Of several the one of the smallest column, then of the smallest row is taken, as by scipy's
    `distance_transform_edt`.

    Returns:
        Flat indices into `padded`.
    """
    flat = padded.reshape(-1)
    stride = padded.shape[1]
    found = np.full(len(pixels), -1, np.int64)
    sides = range(-MARGIN, MARGIN + 1)

    # Each pixel has a mask pixel within REACH rows and columns, which bounds the squared distance.
    for square in range(1, 2 * REACH ** 2 + 1):
        pending = np.flatnonzero(squared == square)
        for column in sides:
            for row in sides:
                if column * column + row * row != square:
                    continue
                candidates = pixels[pending] + row * stride + column
                hit = flat.take(candidates) > 0
                found[pending.compress(hit)] = candidates.compress(hit)
                pending = pending.compress(~hit)
    assert (found >= 0).all()
    return found


def weighted_f(
    prediction: np.ndarray,
    excess: np.ndarray,
    places: np.ndarray,
    levels: Levels,
    foreground_count: int,
    around: Surroundings,
    beta: float = 1,
    blocks_at_a_time: int = BLOCKS_AT_A_TIME,
    words_at_a_time: int = WORDS_AT_A_TIME,
) -> float:
    """Computes weighted F.

    Args:
        prediction: uint8 (H, W).
        excess: Words of the prediction with 0 inside the mask; words that are missing are 0.
        places: Indices of these words in the image.
        levels: The prediction's normalisation.
        foreground_count: Pixels of the mask, at least 1.
        around: The mask's surroundings.
        beta: Weight of recall; PySODMetrics does not square it.
        blocks_at_a_time: Blocks that are filtered at a time.
        words_at_a_time: Words whose weights are looked up at a time.
    """
    span = levels.high - levels.low

    # Errors of mask pixels in grey levels; beside the mask, the error at the nearest mask pixel.
    error = _pad(levels.high - prediction)
    error.reshape(-1)[around.near] = error.take(around.nearest)

    # The weighted errors inside and outside the mask, from grey levels to 0..1.
    own = error & around.padded
    damped = _damped_sum(error, own, blocks_at_a_time)
    weighted = _weighted_sum(excess, places, levels.low, around.squares, words_at_a_time)
    missed = damped / span
    false_positives = weighted / span

    # Their F-measure.
    true_positives = foreground_count - missed
    recall = 1 - missed / foreground_count
    precision = true_positives / (true_positives + false_positives + EPS)
    numerator = (1 + beta) * recall * precision
    return float(numerator / (recall + beta * precision + EPS))


def _weighted_sum(
    words: np.ndarray,
    places: np.ndarray,
    low: int,
    squares: np.ndarray,
    at_a_time: int,
) -> float:
    """Sums the values less `low` of words from `places`, each times the weight of its distance."""
    busy = np.flatnonzero(words)
    total = 0.0
    for start in range(0, len(busy), at_a_time):
        some = busy[start:start + at_a_time]
        # Inside the mask the difference may wrap, but there the weight is 0.
        values = words.take(some).view(np.uint8) - np.uint8(low)
        distances = squares.take(places.take(some), axis=0).reshape(1, -1)
        weighted = np.einsum('i,i->', values, weights(distances)[0])
        total += float(weighted)
    return total


def _damped_sum(error: np.ndarray, own: np.ndarray, at_a_time: int) -> float:
    """Sums the smaller of each error inside the mask and of the 7x7 Gaussian (sigma 5) there.

    Args:
        error: Errors, padded, uint8.
        own: The errors inside the mask, 0 elsewhere.
        at_a_time: Blocks that are filtered at a time.
    """
    offsets = np.arange(-REACH, REACH + 1)
    kernel = np.exp(-offsets ** 2 / 50)
    kernel /= kernel.sum()

    # Both images as words, so that a block is a column of STRIP_ROWS numbers.
    word = PIXELS_PER_WORD
    error = error.view(np.uint64)
    own = own.view(np.uint64)
    row_words = own.shape[1]

    # Blocks with an error inside the mask, and both neighbours for the filter's reach.
    strips_of_own = own[MARGIN:-MARGIN].reshape(-1, STRIP_ROWS, row_words)
    busy = np.bitwise_or.reduce(strips_of_own, axis=1) != 0
    kept = busy.copy()
    kept[:, 1:] |= busy[:, :-1]
    kept[:, :-1] |= busy[:, 1:]

    # All kept blocks side by side. The filter is wrong at the seams, in words without error.
    strips, columns = np.nonzero(kept)
    first_row = MARGIN - REACH
    last_row = MARGIN + STRIP_ROWS + REACH
    strip_rows = np.arange(first_row, last_row)
    rows = strips * STRIP_ROWS + strip_rows[:, None]
    places = rows * row_words + columns
    own_places = places[REACH:-REACH]
    error_blocks = error.take(places).view(np.uint8)
    own_blocks = own.take(own_places).view(np.uint8)

    # A part at a time, filtered with one more block on either side.
    total = 0.0
    last = own_blocks.shape[1] - word
    step = at_a_time * word
    for start in range(word, last, step):
        stop = min(start + step, last)
        part = error_blocks[:, start - word:stop + word]
        blurred = cv2.sepFilter2D(
            part, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
        inner = blurred[REACH:-REACH, word:-word]
        unblurred = own_blocks[:, start:stop].astype(np.float64)
        smaller = cv2.min(inner, unblurred)
        total += float(smaller.sum())
    return total
