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
    return _quotient(2 * (b & g).sum(), b.sum() + g.sum())


def iou(b: Binary, g: Binary) -> float:
    """Intersection over union: Jaccard, "Étude comparative de la distribution florale", 1901."""
    return _quotient((b & g).sum(), (b | g).sum())


def balanced_error_rate(b: Binary, g: Binary) -> float:
    """Balanced error rate, as shadow detection uses it: Vicente et al., ECCV 2016, as a share."""
    return 1 - (recall(b, g) + specificity(b, g)) / 2


def overall_accuracy(b: Binary, g: Binary) -> float:
    """Share of the pixels that are right."""
    return (b == g).mean()


def kappa(b: Binary, g: Binary) -> float:
    """Kappa as PySODMetrics computes it: with the right pixels in place of the background."""
    return _beyond_chance(b, g, (b == g).sum())


def cohen_kappa(b: Binary, g: Binary) -> float:
    """Cohen, "A coefficient of agreement for nominal scales", 1960."""
    return _beyond_chance(b, g, (~g).sum())


def _beyond_chance(b: Binary, g: Binary, negatives: int) -> float:
    size = int(g.size)
    chance = int(b.sum()) * int(g.sum()) + int((~b).sum()) * int(negatives)
    return _quotient(size * int((b == g).sum()) - chance, size ** 2 - chance)


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
        area += (recall(b, g) - before) * precision(b, g)
        before = recall(b, g)
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
    wins = [(background < value).mean() + (background == value).mean() / 2 for value in q[g]]
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
    adaptive = p >= min(2 * p.mean(), 1)
    binaries = [q >= threshold for threshold in range(255, -1, -1)]
    scores = {'aucPR': average_precision(q, g), 'aucROC': roc_auc(q, g)}
    for name, metric in METRICS.items():
        curve = np.array([metric(b, g) for b in binaries])
        scores[f'max{name}'] = curve.max()
        scores[f'mean{name}'] = curve.mean()
        scores[f'adp{name}'] = metric(adaptive, g)
        scores[f'bin{name}'] = metric(p > 0.5, g)
        if name in LOWER_IS_BETTER:
            scores[f'min{name}'] = curve.min()
    return scores


def pooled_scores(pairs: Sequence[tuple[np.ndarray, np.ndarray, Binary]]) -> dict[str, float]:
    """Computes the scores over the pooled pixels of several images (p, q, g).

    All images are strung together to one. The adaptive threshold, which each image has for
    itself, is left out.
    """
    p, q, g = (np.concatenate([pair[part].ravel() for pair in pairs]) for part in range(3))
    scores = {}
    for name, value in threshold_scores(p, q, g).items():
        if not name.startswith('adp'):
            scores[f'pooled{name[0].upper()}{name[1:]}'] = value
    return scores
