"""Weighted F-measure (Margolin, Zelnik-Manor, Tal, CVPR 2014), from uint8 predictions, without a float image per step.

An error inside the mask counts less where the errors around it are small (a 7x7 Gaussian over the error image), one
outside counts more the farther it is from the mask. The Gaussian's result is used inside the mask only, so the errors
outside, each replaced by that of the nearest mask pixel, are needed within 3 pixels of the mask only.
"""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from evaluation.histograms import EPS, Levels

REACH = 3
STRIP = 64
# From this distance on 2 - exp(ln(.5) / 5 * d) is 2 in float64.
SATURATED = 280


class Surroundings(NamedTuple):
    """What weighted F needs of a mask: flat indices of the pixels outside within reach, those of their nearest mask
    pixels, and the weights (H, W) of errors outside, float64, 0 inside."""

    near: np.ndarray
    nearest: np.ndarray
    weights: np.ndarray


def surroundings(mask: np.ndarray) -> Surroundings:
    """Prepares a mask, uint8 of 0 and 255, that has a pixel set at least."""
    distance = cv2.distanceTransform(cv2.bitwise_not(mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    table = _weight_table()
    weights = np.empty(mask.shape)
    near, squared = [], []
    reached = cv2.dilate(mask, np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)) ^ mask
    for row in range(0, len(mask), STRIP):
        strip = distance[row:row + STRIP]
        # float32 holds squares up to the saturation closely enough to find the integer
        squares = np.minimum(np.rint(strip * strip), SATURATED ** 2).astype(np.intp)
        np.take(table, squares, out=weights[row:row + STRIP], mode='clip')  # 'raise' would go through a copy
        here = np.flatnonzero(reached[row:row + STRIP] > 0)
        near.append(here + row * mask.shape[1])
        squared.append(squares.ravel()[here])
    near = np.concatenate(near)
    return Surroundings(near, _nearest(mask, near, np.concatenate(squared)), weights)


@cache
def _weight_table() -> np.ndarray:
    """Weights by squared distance; 0 for the mask itself."""
    weights = 2 - np.exp(np.log(0.5) / 5 * np.sqrt(np.arange(SATURATED ** 2 + 1)))
    weights[0] = 0
    return weights


def _nearest(mask: np.ndarray, pixels: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """Flat indices of the mask pixels nearest to `pixels`, whose squared distances are known.

    Of several the one of the smallest column, then of the smallest row, as scipy's `distance_transform_edt` gives it.
    """
    pad = REACH + 1  # a mask pixel within reach is (3, 3) away at most, a nearest one at that distance (4, 0)
    padded = np.pad(mask, pad).ravel()
    stride = mask.shape[1] + 2 * pad
    rows, columns = np.divmod(pixels, mask.shape[1])
    centres = (rows + pad) * stride + columns + pad
    found = np.full(len(pixels), -1, np.int64)
    sides = range(-pad, pad + 1)
    for square in np.unique(squared):
        pending = np.flatnonzero(squared == square)
        for column, row in ((x, y) for x in sides for y in sides if x * x + y * y == square):
            hit = padded[centres[pending] + row * stride + column] > 0
            found[pending[hit]] = pixels[pending[hit]] + row * mask.shape[1] + column
            pending = pending[~hit]
    assert (found >= 0).all()
    return found


def weighted_f(prediction: np.ndarray, levels: Levels, mask: np.ndarray, foreground: int,
               around: Surroundings) -> float:
    """Weighted F (beta 1) of a uint8 prediction against a mask of 0 and 255 with `foreground` > 0 pixels."""
    span = levels.high - levels.low
    error = levels.high - prediction  # of the mask's pixels, in grey levels
    error.ravel()[around.near] = error.ravel()[around.nearest]
    inside = _damped_sum(error, mask) / span
    outside = (np.einsum('ij,ij->', prediction, around.weights) - levels.low * around.weights.sum()) / span
    true_positives = foreground - inside
    recall = 1 - inside / foreground
    precision = true_positives / (true_positives + outside + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def _damped_sum(error: np.ndarray, mask: np.ndarray) -> float:
    """Sum over the mask of the smaller of the error and its 7x7 Gaussian (sigma 5, zeros around the image).

    In strips, which stay in the cache, and without those where the prediction is right.
    """
    kernel = np.exp(-np.arange(-REACH, REACH + 1) ** 2 / 50)
    kernel /= kernel.sum()
    total = 0.0
    for row in range(0, len(error), STRIP):
        own = error[row:row + STRIP] & mask[row:row + STRIP]
        if own.any():
            top = max(row - REACH, 0)
            blurred = cv2.sepFilter2D(error[top:row + STRIP + REACH], cv2.CV_64F, kernel, kernel,
                                      borderType=cv2.BORDER_CONSTANT)[row - top:][:len(own)]
            total += float(np.minimum(blurred, own).sum())
    return total
