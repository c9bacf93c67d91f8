"""Measures that follow from counts alone: S, MAE, MSE, the curves and adaptive values of E and F, boundary IoU.

A histogram is int64, (256,): pixels by grey value. `inside` counts the pixels of the mask, `outside` the rest. A curve
is float64, (256,): index i is the threshold q >= 255 - i on the normalised prediction q.
"""

from typing import NamedTuple

import numpy as np

EPS = 2.0 ** -52
LEVELS = 256


class Levels(NamedTuple):
    """What each grey value of a prediction becomes: `p` in 0..1 (float64) and `q` in 0..255 (uint8), (256,) each."""

    p: np.ndarray
    q: np.ndarray
    low: int
    high: int


def normalise(total: np.ndarray) -> Levels:
    """Min-max normalisation (unless constant) of a prediction with these counts, in the published order of operations.

    `low` and `high` are the grey values that become 0 and 1.
    """
    used = np.flatnonzero(total)
    low, high = int(used[0]), int(used[-1])
    p = np.arange(LEVELS) / 255
    if low == high:
        low, high = 0, 255
    else:
        p = np.clip((p - p[low]) / (p[high] - p[low]), 0, 1)
    return Levels(p, (255 * p).astype(np.uint8), low, high)


def absolute_error(inside: np.ndarray, outside: np.ndarray, p: np.ndarray) -> float:
    """MAE: mean |p - g|."""
    return float((inside @ (1 - p) + outside @ p) / (inside.sum() + outside.sum()))


def squared_error(inside: np.ndarray, outside: np.ndarray, p: np.ndarray) -> float:
    """MSE: mean (p - g)^2."""
    return float((inside @ (1 - p) ** 2 + outside @ p ** 2) / (inside.sum() + outside.sum()))


def s_measure(blocks: np.ndarray, p: np.ndarray, alpha: float = 0.5) -> float:
    """S-measure (Fan et al., ICCV 2017), from counts (4, 2, 256): block about the mask's centre, inside or outside."""
    inside, outside = blocks.sum(axis=0)
    size, foreground = blocks.sum(), inside.sum()
    if foreground in (0, size):
        mean = float((inside + outside) @ p / size)
        return mean if foreground else 1 - mean
    share = foreground / size
    objects = share * _object_score(inside, p) + (1 - share) * _object_score(outside, 1 - p)
    weights = blocks.sum(axis=(1, 2))[:3] / size
    weights = [*weights, 1 - weights.sum()]
    regions = sum(weight * _region_score(*block, p) for weight, block in zip(weights, blocks, strict=True))
    return max(0.0, float(alpha * objects + (1 - alpha) * regions))


def _object_score(counts: np.ndarray, x: np.ndarray) -> float:
    """O(x) = 2 m / (m^2 + 1 + sd + eps); the deviation of a single pixel is 0."""
    size = counts.sum()
    mean = counts @ x / size
    deviation = np.sqrt(counts @ (x - mean) ** 2 / (size - 1)) if size > 1 else 0.0
    return 2 * mean / (mean ** 2 + 1 + deviation + EPS)


def _region_score(inside: np.ndarray, outside: np.ndarray, p: np.ndarray) -> float:
    """SSIM of one block. Where prediction or mask is constant, its variance and the covariance are exactly 0."""
    total = inside + outside
    size, foreground = total.sum(), inside.sum()
    if size <= 1:
        return 0.0
    mean, share = total @ p / size, foreground / size
    variance = total @ (p - mean) ** 2 / (size - 1) if np.count_nonzero(total) > 1 else 0.0
    mask_variance = foreground * (size - foreground) / size / (size - 1)
    covariance = 0.0
    if variance and mask_variance:
        covariance = mask_variance * (inside @ p / foreground - outside @ p / (size - foreground))
    a = 4 * mean * share * covariance
    b = (mean ** 2 + share ** 2) * (variance + mask_variance)
    return a / (b + EPS) if a else float(b == 0)


def regroup(counts: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Counts by normalised value, from counts by grey value."""
    out = np.zeros(LEVELS, np.int64)
    np.add.at(out, q, counts)
    return out


def positives(counts: np.ndarray) -> np.ndarray:
    """Pixels at or above each threshold, along a curve; `counts` (..., 256) by normalised value."""
    return np.cumsum(counts[..., ::-1], axis=-1)


def precision_recall(true: np.ndarray, false: np.ndarray, foreground: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision (0 without positives) and recall, from true and false positives."""
    return true / np.maximum(true + false, 1), true / np.maximum(foreground, 1)


def f_measure(true: np.ndarray, false: np.ndarray, foreground: int, beta2: float = 0.3) -> np.ndarray:
    """F-measure (Achanta et al., CVPR 2009) from true and false positives; 0 where nothing is found."""
    precision, recall = precision_recall(true, false, foreground)
    numerator = (1 + beta2) * precision * recall
    return numerator / np.where(numerator == 0, 1, beta2 * precision + recall)


def e_measure(true: np.ndarray, false: np.ndarray, foreground: int, size: int) -> np.ndarray:
    """E-measure (Fan et al., IJCAI 2018) from true and false positives: 1 / (N - 1 + eps) of the sum, as published."""
    if foreground == 0:
        return (size - false) / (size - 1 + EPS)
    if foreground == size:
        return true / (size - 1 + EPS)
    background = size - foreground
    mean, share = (true + false) / size, foreground / size
    total = np.zeros(np.shape(true))
    for pixels, x, y in ((true, 1 - mean, 1 - share), (false, 1 - mean, -share),
                         (foreground - true, -mean, 1 - share), (background - false, -mean, -share)):
        alignment = 2 * x * y / (x ** 2 + y ** 2 + EPS)
        total = total + (alignment + 1) ** 2 / 4 * pixels
    return total / (size - 1 + EPS)


def iou(true: np.ndarray, false: np.ndarray, foreground: int) -> np.ndarray:
    """Intersection over union from true and false positives."""
    return true / (np.maximum(foreground, 1) + false)
