"""Scores of a binary prediction `b` of a mask `g`, both boolean (H, W); areas under curves.

Where a denominator is 0, the quotient is 0.
"""

from collections.abc import Callable, Sequence

import numpy as np

Binary = np.ndarray
BinaryMetric = Callable[[Binary, Binary], float]


def _quotient(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def precision(b: Binary, g: Binary) -> float:
    """Share of the found pixels that belong to the mask."""
    return _quotient((b & g).sum(), b.sum())


def recall(b: Binary, g: Binary) -> float:
    """Share of the mask's pixels that are found; also called sensitivity."""
    return _quotient((b & g).sum(), g.sum())


def specificity(b: Binary, g: Binary) -> float:
    """Share of the background that is not found."""
    return _quotient((~b & ~g).sum(), (~g).sum())


def false_positive_rate(b: Binary, g: Binary) -> float:
    """Share of the background that is found."""
    return _quotient((b & ~g).sum(), (~g).sum())


def f_measure(b: Binary, g: Binary) -> float:
    """F-measure with beta^2 .3: Achanta et al., "Frequency-tuned salient region detection",
    CVPR 2009.
    """
    p = precision(b, g)
    r = recall(b, g)
    return _quotient(1.3 * p * r, 0.3 * p + r)


def dice(b: Binary, g: Binary) -> float:
    """Dice coefficient: Dice, "Measures of the amount of ecologic association", Ecology 1945."""
    hits = (b & g).sum()
    return _quotient(2 * hits, b.sum() + g.sum())


def iou(b: Binary, g: Binary) -> float:
    """Intersection over union: Jaccard, "Étude comparative de la distribution florale", 1901."""
    return _quotient((b & g).sum(), (b | g).sum())


def balanced_error_rate(b: Binary, g: Binary) -> float:
    """Balanced error rate, as shadow detection uses it: Vicente et al., ECCV 2016, as a share."""
    right_share = (recall(b, g) + specificity(b, g)) / 2
    return 1 - right_share


def overall_accuracy(b: Binary, g: Binary) -> float:
    """Share of the pixels that are right."""
    return (b == g).mean()


def kappa(b: Binary, g: Binary) -> float:
    """Kappa as PySODMetrics computes it: with the right pixels in place of the background."""
    right = (b == g).sum()
    return _beyond_chance(b, g, right)


def cohen_kappa(b: Binary, g: Binary) -> float:
    """Cohen, "A coefficient of agreement for nominal scales", 1960."""
    background = (~g).sum()
    return _beyond_chance(b, g, background)


def _beyond_chance(b: Binary, g: Binary, negatives: int) -> float:
    """(accuracy - chance) / (1 - chance), both times the square of the number of pixels.

    The counts are Python's integers, whose products do not overflow.
    """
    size = int(g.size)
    found = int(b.sum())
    foreground = int(g.sum())
    right = int((b == g).sum())
    rejected = size - found
    chance = found * foreground + rejected * int(negatives)
    beyond = size * right - chance
    possible = size ** 2 - chance
    return _quotient(beyond, possible)


def average_precision(q: np.ndarray, g: Binary) -> float:
    """Area under the precision-recall curve over the 256 grey values, without interpolation.

    Davis and Goadrich, "The relationship between precision-recall and ROC curves", ICML 2006, show
    that straight lines between its points would be too optimistic. NaN for an empty mask.
    """
    if not g.any():
        return np.nan
    area = 0.0
    before = 0.0
    for threshold in range(255, -1, -1):
        b = q >= threshold
        found = recall(b, g)
        area += (found - before) * precision(b, g)
        before = found
    return area


def roc_auc(q: np.ndarray, g: Binary) -> float:
    """Area under the ROC curve over the 256 grey values.

    It is the share of pairs of a mask and a background pixel in which the mask's is brighter;
    equally bright pairs count half (Hanley and McNeil, Radiology 1982). NaN for an empty or full
    mask.
    """
    if not g.any() or g.all():
        return np.nan
    background = q[~g]
    wins = []
    for value in q[g]:
        # The share of the background that is darker, and half of what is equal.
        darker = (background < value).mean()
        equal = (background == value).mean()
        wins.append(darker + equal / 2)
    return np.mean(wins)


METRICS: dict[str, BinaryMetric] = {
    'Fm': f_measure,
    'Precision': precision,
    'Recall': recall,
    'Specificity': specificity,
    'FPR': false_positive_rate,
    'Dice': dice,
    'IoU': iou,
    'BER': balanced_error_rate,
    'OA': overall_accuracy,
    'Kappa': kappa,
    'CohenKappa': cohen_kappa,
}
# Metrics whose lowest value over thresholds is a score too.
LOWER_IS_BETTER = ('FPR', 'BER')


def threshold_scores(p: np.ndarray, q: np.ndarray, g: Binary) -> dict[str, float]:
    """Computes all threshold scores of one image: p in 0..1, and q the same in 0..255."""
    # The binary predictions: at the adaptive threshold, above .5, and at the 256 thresholds.
    threshold = min(2 * p.mean(), 1)
    adaptive = p >= threshold
    above_half = p > 0.5
    binaries = [q >= threshold for threshold in range(255, -1, -1)]

    # The areas under curves, and each metric of all binary predictions.
    scores = {
        'aucPR': average_precision(q, g),
        'aucROC': roc_auc(q, g),
    }
    for name, metric in METRICS.items():
        curve = np.array([metric(b, g) for b in binaries])
        scores[f'max{name}'] = curve.max()
        scores[f'mean{name}'] = curve.mean()
        scores[f'adp{name}'] = metric(adaptive, g)
        scores[f'bin{name}'] = metric(above_half, g)
        if name in LOWER_IS_BETTER:
            scores[f'min{name}'] = curve.min()
    return scores


def pooled_scores(pairs: Sequence[tuple[np.ndarray, np.ndarray, Binary]]) -> dict[str, float]:
    """Computes the scores over the pooled pixels of several images (p, q, g).

    All images are strung together to one. The adaptive threshold, which each image has for
    itself, is left out.
    """
    p = np.concatenate([p.ravel() for p, _, _ in pairs])
    q = np.concatenate([q.ravel() for _, q, _ in pairs])
    g = np.concatenate([g.ravel() for _, _, g in pairs])
    scores = {}
    for name, value in threshold_scores(p, q, g).items():
        if name.startswith('adp'):
            continue
        capitalised = name[0].upper() + name[1:]
        scores[f'pooled{capitalised}'] = value
    return scores
