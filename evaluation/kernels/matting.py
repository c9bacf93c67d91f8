"""Errors of mattes on the soft ground truth, whole or in a region (a trimap's unknown part).

Rhemann et al., "A perceptually motivated online benchmark for image matting", CVPR 2009. Mattes are
uint8; values are divided by 255 and not normalised. Sums are given in thousands.
"""

from collections.abc import Iterator

import cv2
import numpy as np

THOUSAND = 1000
SIGMA = 1.4
# Where the Gaussian falls below .01, as the benchmark's code cuts it.
RADIUS = 4
STRIP_ROWS = 128
# Connectivity: ten steps of .1, and the distance from which a pixel counts as disconnected.
STEPS = 10
FAR = 0.15

Region = np.ndarray | None


def absolute_sum(pred: np.ndarray, alpha: np.ndarray, region: Region) -> float:
    """SAD: sum of absolute differences, in thousands."""
    counts = _differences(pred, alpha, region)
    total = float(counts @ np.arange(256))
    return total / 255 / THOUSAND


def absolute_mean(pred: np.ndarray, alpha: np.ndarray, region: Region) -> float:
    """MAD: mean of absolute differences; NaN for an empty region."""
    counts = _differences(pred, alpha, region)
    return _mean(counts, np.arange(256) / 255)


def squared_mean(pred: np.ndarray, alpha: np.ndarray, region: Region) -> float:
    """MSE: mean of squared differences; NaN for an empty region."""
    counts = _differences(pred, alpha, region)
    values = np.arange(256) / 255
    return _mean(counts, values ** 2)


def _differences(pred: np.ndarray, alpha: np.ndarray, region: Region) -> np.ndarray:
    """Counts the absolute differences, int64 (256,)."""
    difference = cv2.absdiff(pred, alpha)
    if region is None:
        values = difference.reshape(-1)
    else:
        values = difference[region]
    return np.bincount(values, minlength=256)


def _mean(counts: np.ndarray, values: np.ndarray) -> float:
    size = counts.sum()
    if size == 0:
        return float('nan')
    total = counts @ values
    return float(total / size)


def gradient(pred: np.ndarray, alpha: np.ndarray, region: Region) -> float:
    """Sum of squared differences of the gradients' magnitudes, in thousands.

    The gradient is by first-order Gaussian derivatives, sigma 1.4, of filters of norm 1; at the
    border the outermost pixels are repeated.
    """
    total = 0.0
    for rows, padded in _differing_strips(pred, alpha):
        inner = slice(rows.start - padded.start, rows.stop - padded.start)
        predicted = _magnitude(pred[padded])[inner]
        true = _magnitude(alpha[padded])[inner]
        difference = predicted - true
        if region is not None:
            difference = difference[region[rows]]
        total += float(np.vdot(difference, difference))
    return total / THOUSAND


def _differing_strips(pred: np.ndarray, alpha: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Yields strips of rows whose gradients may differ, and the same with the filter's reach."""
    height = len(pred)
    for start in range(0, height, STRIP_ROWS):
        stop = min(start + STRIP_ROWS, height)
        rows = slice(start, stop)
        first = max(start - RADIUS, 0)
        last = min(stop + RADIUS, height)
        padded = slice(first, last)
        if not np.array_equal(pred[padded], alpha[padded]):
            yield rows, padded


def _magnitude(matte: np.ndarray) -> np.ndarray:
    """The gradient's magnitude, float64."""
    # The Gaussian and its derivative, which also divides the values by 255.
    x = np.arange(-RADIUS, RADIUS + 1, dtype=float)
    variance = SIGMA ** 2
    gauss = np.exp(-x ** 2 / (2 * variance))
    slope = x * gauss
    gauss /= np.linalg.norm(gauss)
    slope /= np.linalg.norm(slope) * 255

    border = cv2.BORDER_REPLICATE
    across = cv2.sepFilter2D(matte, cv2.CV_64F, slope, gauss, borderType=border)
    down = cv2.sepFilter2D(matte, cv2.CV_64F, gauss, slope, borderType=border)
    return cv2.magnitude(across, down)


def connectivity(pred: np.ndarray, alpha: np.ndarray, region: Region) -> float:
    """Sum of differences of connectivity, in thousands.

    A pixel's level is the highest threshold, in steps of .1, at which it belongs to the largest
    component (four neighbours) of what both mattes have. It is connected unless its value is
    above the level by .15 or more; then less by that distance.
    """
    both = cv2.min(pred, alpha)
    losses = _connectivity_losses()

    # Pixels that belong to the largest component at all thresholds so far, as flat indices.
    inside = np.arange(pred.size)
    total = 0.0
    for step in range(1, STEPS + 1):
        # The threshold in grey levels, rounded up.
        threshold = -(-255 * step // STEPS)
        main = _largest_component(both >= threshold).reshape(-1)
        # The pixels that leave the component here had the level of the step before.
        is_kept = main.take(inside)
        left = inside[~is_kept]
        total += _lost(pred, alpha, region, left, losses[step - 1])
        inside = inside[is_kept]
    total += _lost(pred, alpha, region, inside, losses[STEPS])
    return total / THOUSAND


def _connectivity_losses() -> np.ndarray:
    """1 less the connectivity, by level and value, (11, 256)."""
    steps = np.arange(STEPS + 1)
    levels = steps[:, None] / STEPS
    values = np.arange(256) / 255
    distance = values - levels
    return np.where(distance >= FAR, distance, 0)


def _largest_component(binary: np.ndarray) -> np.ndarray:
    """The largest component of four neighbours, boolean; of equal ones the first."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        binary.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if len(areas) == 0:
        return np.zeros(binary.shape, bool)
    largest = 1 + areas.argmax()
    return labels == largest


def _lost(
    pred: np.ndarray, alpha: np.ndarray, region: Region, pixels: np.ndarray, loss: np.ndarray,
) -> float:
    """Adds the differences of connectivity of pixels of one level."""
    if region is not None:
        is_inside = region.reshape(-1).take(pixels)
        pixels = pixels[is_inside]
    predicted = loss.take(pred.take(pixels))
    true = loss.take(alpha.take(pixels))
    difference = predicted - true
    return float(np.abs(difference).sum())
