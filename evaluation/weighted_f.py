"""Weighted F-measure (Margolin, Zelnik-Manor, Tal, CVPR 2014), from uint8 predictions, without a float image per step.

An error inside the mask counts less where the errors around it are small (a 7x7 Gaussian over the error image), one
outside counts more the farther it is from the mask. The Gaussian's result is used where there is an error inside only,
so the errors outside, each replaced by that of the nearest mask pixel, are needed within 3 pixels of the mask only.
"""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from evaluation.counting import WORD, fill_up
from evaluation.histograms import EPS, Levels

REACH = 3
# Images are padded for the Gaussian and for looks at the neighbours: a mask pixel within reach is (3, 3) away at most,
# a nearest one at that distance (4, 0).
MARGIN = REACH + 1
# The Gaussian is computed in blocks of this many rows by one word, CHUNK of them side by side, and weights are looked
# up for BATCH words at a time: what is at work stays in the processor's cache.
STRIP, CHUNK = 16, 256
BATCH = 16384
# No sum of two squares, so what is saturated to it is farther off, and its weight, 2 - exp(ln(.5) / 5 * d), is 2.
SATURATED = 2 ** 16 - 1
# From version 5 on, OpenCV looks up 16-bit values too, in a fraction of NumPy's time.
WIDE_LUT = int(cv2.__version__.split('.')[0]) >= 5


class Surroundings(NamedTuple):
    """What weighted F needs of a mask.

    `padded`: the mask, uint8, MARGIN rows and a WORD of columns around it at least, whole words a row and whole strips.
    `near`, `nearest`: flat indices therein of the pixels outside within reach and of their nearest mask pixels.
    `squares`: squared distances to the mask, uint16 (words, WORD), saturated.
    """

    padded: np.ndarray
    near: np.ndarray
    nearest: np.ndarray
    squares: np.ndarray


def surroundings(mask: np.ndarray) -> Surroundings:
    """Prepares a mask, uint8 of 0 and 255, that has a pixel set at least."""
    distance = cv2.distanceTransform(cv2.bitwise_not(mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # float32 holds squares up to the saturation closely enough to find the integer
    squares = cv2.multiply(distance, distance, dtype=cv2.CV_16U)
    reached = cv2.dilate(mask, np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)) ^ mask
    near = np.flatnonzero(reached > 0)
    padded = _pad(mask)
    width, stride = mask.shape[1], padded.shape[1]
    inner = near + (near // width * (stride - width) + MARGIN * stride + WORD)
    return Surroundings(padded, inner, _nearest(padded, inner, squares.take(near)),
                        fill_up(squares).reshape(-1, WORD))


def _pad(image: np.ndarray) -> np.ndarray:
    """The image with zeros around, as in Surroundings."""
    rows, columns = image.shape
    return np.pad(image, ((MARGIN, MARGIN + -rows % STRIP), (WORD, WORD + -columns % WORD)))


def weights(squares: np.ndarray) -> np.ndarray:
    """Weights of errors by squared distance (uint16, 2D), float64; 0 on the mask itself."""
    table = _weight_table()
    return cv2.LUT(squares, table) if WIDE_LUT else table.take(squares)


@cache
def _weight_table() -> np.ndarray:
    table = 2 - np.exp(np.log(0.5) / 5 * np.sqrt(np.arange(SATURATED + 1)))
    table[0], table[SATURATED] = 0, 2
    return table[None]


def _nearest(padded: np.ndarray, pixels: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """Flat indices of the mask pixels nearest to `pixels`, whose squared distances are known.

    Each has a mask pixel within REACH rows and columns, so the squares are 2 REACH^2 at most. Of several the one of the
    smallest column, then of the smallest row, as scipy's `distance_transform_edt` gives it.
    """
    flat, stride = padded.reshape(-1), padded.shape[1]
    found = np.full(len(pixels), -1, np.int64)
    sides = range(-MARGIN, MARGIN + 1)
    for square in range(1, 2 * REACH ** 2 + 1):
        pending = np.flatnonzero(squared == square)
        for column, row in ((x, y) for x in sides for y in sides if x * x + y * y == square):
            candidates = pixels[pending] + row * stride + column
            hit = flat.take(candidates) > 0
            found[pending.compress(hit)] = candidates.compress(hit)
            pending = pending.compress(~hit)
    assert (found >= 0).all()
    return found


def weighted_f(prediction: np.ndarray, excess: np.ndarray, places: np.ndarray, levels: Levels, foreground: int,
               around: Surroundings) -> float:
    """Weighted F (beta 1) of a uint8 prediction against a mask with `foreground` > 0 pixels.

    `excess`: words of the prediction with 0 inside the mask, among them all that are not 0, from `places`.
    """
    span = levels.high - levels.low
    error = _pad(levels.high - prediction)  # of the mask's pixels, in grey levels
    error.reshape(-1)[around.near] = error.take(around.nearest)
    inside = _damped_sum(error, error & around.padded) / span
    outside = _weighted_sum(excess, places, levels.low, around.squares) / span
    true_positives = foreground - inside
    recall = 1 - inside / foreground
    precision = true_positives / (true_positives + outside + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def _weighted_sum(words: np.ndarray, places: np.ndarray, low: int, squares: np.ndarray) -> float:
    """Weighted sum of the values, less `low`, of words from `places` in an image; words of zeros are left out."""
    busy = np.flatnonzero(words)
    total = 0.0
    for start in range(0, len(busy), BATCH):
        some = busy[start:start + BATCH]
        values = words.take(some).view(np.uint8) - np.uint8(low)  # inside this may wrap, but the weight is 0
        total += float(np.einsum('i,i->', values, weights(squares.take(places.take(some), axis=0).reshape(1, -1))[0]))
    return total


def _damped_sum(error: np.ndarray, own: np.ndarray) -> float:
    """Sum of the smaller of `own`, the errors inside the mask, and of `error`'s 7x7 Gaussian (sigma 5); both padded.

    Only blocks with an error inside are looked at, and one word on each side, within the filter's reach, all side by
    side: the filter's wrong values at the seams fall on words without an error.
    """
    kernel = np.exp(-np.arange(-REACH, REACH + 1) ** 2 / 50)
    kernel /= kernel.sum()
    error, own = error.view(np.uint64), own.view(np.uint64)
    busy = np.bitwise_or.reduce(own[MARGIN:-MARGIN].reshape(-1, STRIP, own.shape[1]), axis=1) != 0
    kept = busy.copy()
    kept[:, 1:] |= busy[:, :-1]
    kept[:, :-1] |= busy[:, 1:]
    strips, columns = np.nonzero(kept)
    rows = strips * STRIP + np.arange(MARGIN - REACH, MARGIN + STRIP + REACH)[:, None]
    places = rows * own.shape[1] + columns
    error, own = error.take(places).view(np.uint8), own.take(places[REACH:-REACH]).view(np.uint8)
    total = 0.0
    for start in range(WORD, own.shape[1] - WORD, CHUNK * WORD):
        stop = min(start + CHUNK * WORD, own.shape[1] - WORD)
        blurred = cv2.sepFilter2D(error[:, start - WORD:stop + WORD], cv2.CV_64F, kernel, kernel,
                                  borderType=cv2.BORDER_CONSTANT)[REACH:-REACH, WORD:-WORD]
        total += float(cv2.min(blurred, own[:, start:stop].astype(np.float64)).sum())
    return total
