"""Scores that follow from counts of true and false positives: precision, F, IoU, kappa, ...

Each is a function of threshold counts and returns one value per threshold. Where a denominator
is 0, the quotient is 0.
"""

import numpy as np

from evaluation.kernels.histograms import ThresholdCounts


def precision(counts: ThresholdCounts) -> np.ndarray:
    """Share of the found pixels that belong to the mask; 0 where nothing is found."""
    return counts.precision


def recall(counts: ThresholdCounts) -> np.ndarray:
    """Share of the mask's pixels that are found (sensitivity); 0 for an empty mask."""
    return counts.recall


def specificity(counts: ThresholdCounts) -> np.ndarray:
    """Share of the background that is not found; 0 for a full mask."""
    return counts.specificity


def false_positive_rate(counts: ThresholdCounts) -> np.ndarray:
    """Share of the background that is found; 0 for a full mask."""
    return counts.false_positives / np.maximum(counts.background, 1)


def f_measure(counts: ThresholdCounts, beta2: float = 0.3) -> np.ndarray:
    """F-measure (Achanta et al., CVPR 2009); 0 where no pixel of the mask is found."""
    p = counts.precision
    r = counts.recall
    numerator = (1 + beta2) * p * r
    denominator = beta2 * p + r
    return numerator / np.where(numerator == 0, 1, denominator)


def dice(counts: ThresholdCounts) -> np.ndarray:
    """Dice coefficient, 2 |b and g| / (|b| + |g|) (Dice, Ecology 1945)."""
    areas = counts.found + counts.foreground
    return 2 * counts.true_positives / np.maximum(areas, 1)


def iou(counts: ThresholdCounts) -> np.ndarray:
    """Intersection over union (Jaccard, 1901)."""
    union = counts.foreground + counts.false_positives
    return counts.true_positives / np.maximum(union, 1)


def balanced_error_rate(counts: ThresholdCounts) -> np.ndarray:
    """BER: 1 less the mean of recall and specificity."""
    right_shares = counts.recall + counts.specificity
    return 1 - 0.5 * right_shares


def overall_accuracy(counts: ThresholdCounts) -> np.ndarray:
    """Share of the pixels that are right."""
    return _right(counts) / counts.size


def kappa(counts: ThresholdCounts) -> np.ndarray:
    """Kappa as PySODMetrics computes it: accuracy beyond (found g + rejected right) / N^2.

    Cohen's, `cohen_kappa`, has the background in the place of the right pixels.
    """
    return _beyond_chance(counts, _right(counts))


def cohen_kappa(counts: ThresholdCounts) -> np.ndarray:
    """Cohen's kappa (1960): accuracy beyond that expected by chance."""
    return _beyond_chance(counts, counts.background)


def _right(counts: ThresholdCounts) -> np.ndarray:
    """Counts the pixels that are right."""
    return counts.background - counts.false_positives + counts.true_positives


def _beyond_chance(counts: ThresholdCounts, negatives: np.ndarray | int) -> np.ndarray:
    """(accuracy - chance) / (1 - chance), numerator and denominator times N^2.

    The products are floating point: those of a whole set exceed 64 bits.
    """
    size = 1.0 * counts.size
    found = 1.0 * counts.found
    rejected = size - found
    chance = found * counts.foreground + rejected * negatives
    denominator = size * size - chance
    numerator = size * _right(counts) - chance
    divisor = np.where(denominator == 0, 1, denominator)
    return numerator / divisor


def precision_recall_area(counts: ThresholdCounts) -> np.ndarray:
    """What each threshold adds to the area under the precision-recall curve; NaN without a mask.

    Its sum over thresholds is the average precision: the sum of the gains of recall, each times
    the precision there. Nothing is interpolated, which would be too optimistic (Davis and
    Goadrich, ICML 2006).
    """
    gains = _gains(counts.true_positives)
    return gains * counts.precision / _positive(counts.foreground)


def roc_area(counts: ThresholdCounts) -> np.ndarray:
    """What each threshold adds to the area under the ROC curve; NaN for an empty or full mask.

    The area is that of trapezoids, which is exact: pixels of one grey value count half.
    """
    hits = counts.true_positives
    middle = hits - 0.5 * _gains(hits)
    steps = _gains(counts.false_positives)
    size = _positive(counts.foreground) * _positive(counts.background)
    return steps * middle / size


def _gains(counts: np.ndarray) -> np.ndarray:
    """Differences along falling thresholds, the first from 0."""
    gains = counts.copy()
    gains[..., 1:] -= counts[..., :-1]
    return gains


def _positive(number: np.ndarray | int) -> np.ndarray:
    """The number as float64; NaN for 0."""
    return np.where(np.equal(number, 0), np.nan, number)
