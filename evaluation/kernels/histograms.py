"""Metrics that follow from counts of grey values alone: S, MAE, MSE and E; counts by threshold.

A histogram is int64 (256,): pixels by grey value; `inside` counts the pixels of the mask, `outside`
the others. A region histogram stacks both, (2, 256). A curve is float64 (256,): index i is the
threshold q >= 255 - i on the normalised prediction q. Behind the 256 thresholds, histograms and
curves may have two more binary predictions: at the adaptive threshold, and above .5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

EPS = 2.0 ** -52
LEVELS = 256
# Where the further binary predictions are.
ADAPTIVE = LEVELS
BINARY = LEVELS + 1
# Values in 0..1 of the grey values.
EIGHT_BIT = np.arange(LEVELS) / 255


class Levels(NamedTuple):
    """The min-max normalisation of a prediction, as tables over its 256 grey values.

    Attributes:
        p: Normalised value in 0..1, float64 (256,).
        q: Normalised grey value in 0..255, uint8 (256,).
        low: Grey value that becomes 0.
        high: Grey value that becomes 1.
    """

    p: np.ndarray
    q: np.ndarray
    low: int
    high: int


@dataclass(frozen=True)
class ThresholdCounts:
    """Counts of a binary prediction, or at all thresholds, that E, F, IoU, ... follow from.

    Attributes:
        true_positives: int64, (), (256,), or (258,) with the adaptive and the binary prediction;
            (images, 258) for several images, or several masks in one image.
        false_positives: Of the same shape.
        foreground: Pixels of the mask; (images, 1) for several.
        size: Pixels of the image; (images, 1) for several.
    """

    true_positives: np.ndarray
    false_positives: np.ndarray
    foreground: int | np.ndarray
    size: int | np.ndarray

    @cached_property
    def background(self) -> int | np.ndarray:
        """Pixels outside the mask."""
        return self.size - self.foreground

    @cached_property
    def found(self) -> np.ndarray:
        """Positives, true and false."""
        return self.true_positives + self.false_positives

    @cached_property
    def precision(self) -> np.ndarray:
        """Share of the found pixels that belong to the mask; 0 where nothing is found."""
        return self.true_positives / np.maximum(self.found, 1)

    @cached_property
    def recall(self) -> np.ndarray:
        """Share of the mask's pixels that are found; 0 for an empty mask."""
        return self.true_positives / np.maximum(self.foreground, 1)

    @cached_property
    def specificity(self) -> np.ndarray:
        """Share of the background that is not found; 0 for a full mask."""
        return (self.background - self.false_positives) / np.maximum(self.background, 1)


def normalise(histogram: np.ndarray, x: np.ndarray = EIGHT_BIT) -> Levels:
    """Min-max normalises a prediction with this histogram (256,), in the published order of steps.

    A constant prediction is only divided by 255.

    Args:
        histogram: Pixels by grey value, (256,).
        x: The prediction's values by grey value before normalisation, float32 or float64 (256,).
            They are normalised in their own precision.
    """
    used = np.flatnonzero(histogram)
    low = int(used[0])
    high = int(used[-1])
    if low == high:
        return unnormalised()
    # In the published order: rounding decides on q.
    span = x[high] - x[low]
    stretched = (x - x[low]) / span
    p = np.clip(stretched, 0, 1)
    q = (255 * p).astype(np.uint8)
    return Levels(p.astype(np.float64), q, low, high)


def unnormalised() -> Levels:
    """The division by 255."""
    q = (255 * EIGHT_BIT).astype(np.uint8)
    return Levels(EIGHT_BIT, q, 0, 255)


def regroup(counts: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Turns counts by grey value (..., 256) into counts by normalised grey value."""
    regrouped = np.zeros_like(counts, dtype=np.int64)
    np.add.at(regrouped.T, q, counts.T)
    return regrouped


def threshold_counts(histogram: np.ndarray) -> ThresholdCounts:
    """Accumulates a region histogram by normalised value over all falling thresholds.

    Args:
        histogram: int64 (2, 256), or (2, 258) with true and false positives of the adaptive and
            the binary prediction behind it; (images, 2, ...) for several images or masks.
    """
    # What is found at each threshold, from the highest down; at the lowest it is everything.
    by_value = histogram[..., LEVELS - 1::-1]
    further = histogram[..., LEVELS:]
    falling = np.cumsum(by_value, axis=-1)
    totals = falling[..., -1]
    counts = np.concatenate((falling, further), axis=-1)

    # One mask.
    if histogram.ndim == 2:
        foreground, background = totals.tolist()
        size = foreground + background
        return ThresholdCounts(counts[0], counts[1], foreground, size)

    # Several, whose totals are columns.
    foreground = totals[:, :1]
    size = foreground + totals[:, 1:]
    return ThresholdCounts(counts[:, 0], counts[:, 1], foreground, size)


def concatenate(several: Sequence[ThresholdCounts]) -> ThresholdCounts:
    """Lists the rows of several, as those of the targets of several images."""
    return ThresholdCounts(
        np.concatenate([counts.true_positives for counts in several]),
        np.concatenate([counts.false_positives for counts in several]),
        np.concatenate([counts.foreground for counts in several]),
        np.concatenate([counts.size for counts in several]))


def add_up(counts: ThresholdCounts) -> ThresholdCounts:
    """Adds the rows, one for each image or target, at each threshold."""
    return ThresholdCounts(
        counts.true_positives.sum(axis=0),
        counts.false_positives.sum(axis=0),
        np.sum(counts.foreground),
        np.sum(counts.size))


def absolute_error(inside: np.ndarray, outside: np.ndarray, p: np.ndarray) -> float:
    """MAE: mean |p - g|."""
    inside_total = inside @ (1 - p)
    outside_total = outside @ p
    size = inside.sum() + outside.sum()
    return float((inside_total + outside_total) / size)


def squared_error(inside: np.ndarray, outside: np.ndarray, p: np.ndarray) -> float:
    """MSE: mean (p - g)^2."""
    inside_total = inside @ (1 - p) ** 2
    outside_total = outside @ p ** 2
    size = inside.sum() + outside.sum()
    return float((inside_total + outside_total) / size)


def s_measure(quadrants: np.ndarray, p: np.ndarray, alpha: float = 0.5) -> float:
    """S-measure (Fan et al., ICCV 2017).

    Args:
        quadrants: Counts (4, 2, 256): quadrant about the mask's centre, inside or outside the mask.
        p: The value of each grey value, (256,).
        alpha: Weight of the object term against the region term.
    """
    # An empty or a full mask has no structure: the mean decides.
    inside, outside = quadrants.sum(axis=0)
    size = quadrants.sum()
    foreground = inside.sum()
    if foreground in (0, size):
        mean = float((inside + outside) @ p / size)
        return mean if foreground else 1 - mean

    # How evenly mask and background are filled.
    share = foreground / size
    inside_score = _object_score(inside, p)
    outside_score = _object_score(outside, 1 - p)
    object_term = share * inside_score + (1 - share) * outside_score

    # How alike the structures are. The last quadrant's weight is the rest, as published.
    areas = quadrants.sum(axis=(1, 2))
    weights = list(areas[:3] / size)
    weights.append(1 - sum(weights))
    region_term = 0.0
    for weight, (inside, outside) in zip(weights, quadrants, strict=True):
        region_term += weight * _region_score(inside, outside, p)
    score = float(alpha * object_term + (1 - alpha) * region_term)
    return max(0.0, score)


def _object_score(counts: np.ndarray, x: np.ndarray) -> float:
    """O(x) = 2 m / (m^2 + 1 + s + eps); the standard deviation s of a single pixel is 0."""
    size = counts.sum()
    mean = counts @ x / size
    deviation = 0.0
    if size > 1:
        variance = counts @ (x - mean) ** 2 / (size - 1)
        deviation = np.sqrt(variance)
    return 2 * mean / (mean ** 2 + 1 + deviation + EPS)


def _region_score(inside: np.ndarray, outside: np.ndarray, p: np.ndarray) -> float:
    """SSIM of one quadrant.

    Where prediction or mask is constant, its variance and the covariance are exactly 0.
    """
    total = inside + outside
    size = total.sum()
    foreground = inside.sum()
    background = size - foreground
    if size <= 1:
        return 0.0

    # Variances and covariance, over N - 1.
    mean = total @ p / size
    share = foreground / size
    variance = 0.0
    if np.count_nonzero(total) > 1:
        variance = total @ (p - mean) ** 2 / (size - 1)
    mask_variance = foreground * background / size / (size - 1)
    covariance = 0.0
    if variance and mask_variance:
        contrast = inside @ p / foreground - outside @ p / background
        covariance = mask_variance * contrast

    # The product of luminance, contrast and structure.
    numerator = 4 * mean * share * covariance
    denominator = (mean ** 2 + share ** 2) * (variance + mask_variance)
    if numerator:
        return numerator / (denominator + EPS)
    return float(denominator == 0)


def e_measure(counts: ThresholdCounts) -> np.ndarray:
    """E-measure (Fan et al., IJCAI 2018): the sum over N - 1 + eps, as published."""
    true = counts.true_positives
    false = counts.false_positives
    foreground = counts.foreground
    size = counts.size
    divisor = size - 1 + EPS

    # Four kinds of pixels: found or not, inside the mask or not, each less its mean.
    mean = (true + false) / size
    share = foreground / size
    kinds = (
        (true, 1 - mean, 1 - share),
        (false, 1 - mean, -share),
        (foreground - true, -mean, 1 - share),
        (size - foreground - false, -mean, -share),
    )
    total = np.zeros(np.shape(true))
    for pixels, x, y in kinds:
        squares = x ** 2 + y ** 2
        alignment = 2 * x * y / (squares + EPS)
        enhanced = (alignment + 1) ** 2 / 4
        total = total + enhanced * pixels

    # An empty or a full mask: the pixels that are right.
    total = np.where(foreground == 0, size - false, total)
    total = np.where(foreground == size, true, total)
    return total / divisor
