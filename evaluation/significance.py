"""Tests pairs of methods on the images of the test sets, corrected for the number of pairs.

The difference of the means has a 95% interval by the paired bootstrap over images (Efron and
Tibshirani 1993). The p-value is that of Wilcoxon's signed-rank test (1945; scipy.stats.wilcoxon,
two-sided, without pairs that are equal), corrected as Holm proposes (1979). The effect is the
matched-pairs rank-biserial correlation (Kerby 2014): the share of the ranks in favour of the better
method minus the share against it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import stats

from evaluation.metrics import higher_is_better
from evaluation.summary import MethodScores

RESAMPLES = 2000
INTERVAL = (0.025, 0.975)
FEWEST_IMAGES = 5  # a bootstrap over fewer gives no meaningful interval
DIGITS = 12  # what differs less does so by rounding


class PairTest(NamedTuple):
    """Two methods, the one of the better mean first.

    Attributes:
        better: The better method.
        worse: The other one.
        lead: Difference of the means; not below 0, whatever the direction of the score.
        low: Lower bound of its 95% interval; NaN for fewer than FEWEST_IMAGES images.
        high: Upper bound.
        p: P-value of the pair by itself.
        corrected: P-value corrected for the number of pairs.
        effect: Rank-biserial correlation, -1..1; 1 if the better method leads on every image.
    """

    better: str
    worse: str
    lead: float
    low: float
    high: float
    p: float
    corrected: float
    effect: float


def compare_pairs(
    scored: Mapping[str, Sequence[MethodScores]],
    score: str,
    against: str | None = None,
    seed: int = 7,
) -> list[PairTest]:
    """Tests all pairs of methods, or one method against every other.

    Args:
        scored: Scores of each method in each set, the sets in the same order. Means are averaged
            over the sets; p-values and effects are of the images of all sets.
        score: Name of the score.
        against: The method that is in every pair; None for all pairs.
        seed: Of the bootstrap, which draws the same images for all methods.

    Returns:
        The pairs in the order of the methods.

    Raises:
        ValueError: If two methods were scored on different images.
    """
    values = _values_by_set(scored, score)
    means = np.mean([of_set.mean(axis=1) for of_set in values], axis=0)
    resampled = _resampled_means(values, np.random.default_rng(seed))
    images = np.hstack(values)
    fewest = min(of_set.shape[1] for of_set in values)

    tests = []
    methods = list(scored)
    for first, second in combinations(range(len(methods)), 2):
        if against is not None and against not in (methods[first], methods[second]):
            continue
        better, worse = first, second
        if means[second] > means[first]:
            better, worse = second, first

        # The lead, with its interval if there are images enough.
        lead = float(means[better] - means[worse])
        low, high = math.nan, math.nan
        if fewest >= FEWEST_IMAGES:
            leads = resampled[better] - resampled[worse]
            low, high = np.quantile(leads, INTERVAL).tolist()

        # The test, which is corrected when all pairs are known.
        p, effect = signed_rank(images[better] - images[worse])
        test = PairTest(
            better=methods[better],
            worse=methods[worse],
            lead=lead,
            low=low,
            high=high,
            p=p,
            corrected=p,
            effect=effect)
        tests.append(test)

    corrected = holm([test.p for test in tests])
    final = []
    for test, p in zip(tests, corrected, strict=True):
        final.append(test._replace(corrected=p))
    return final


def _values_by_set(
    scored: Mapping[str, Sequence[MethodScores]], score: str,
) -> list[np.ndarray]:
    """Values (methods, images) of each set, higher is better, of images that all methods have."""
    sign = 1 if higher_is_better(score) else -1
    by_set = []
    for of_methods in zip(*scored.values(), strict=True):
        # Only the same images can be compared.
        names = of_methods[0].names
        differing = []
        for method, found in zip(scored, of_methods, strict=True):
            if found.names != names:
                differing.append(method)
        if differing:
            first = next(iter(scored))
            raise ValueError(
                f'{", ".join(differing)}: not scored on the images of {first}; '
                'run eval_existingOnes.py again')

        # Images that have the score.
        values = sign * np.array([found.values[score] for found in of_methods])
        present = ~np.isnan(values).any(axis=0)
        if not present.any():
            raise ValueError(f'{score} is not defined on any image of a set; test by another score')
        by_set.append(values[:, present])
    return by_set


def _resampled_means(values: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Computes the means of each method in RESAMPLES samples of images, (methods, RESAMPLES).

    Each set is resampled by itself. How often an image is drawn has a multinomial distribution.
    """
    means = np.zeros((len(values[0]), RESAMPLES))
    for found in values:
        size = found.shape[1]
        equal_chances = np.full(size, 1 / size)
        times_drawn = rng.multinomial(size, equal_chances, size=RESAMPLES)
        means += found @ times_drawn.T / size
    return means / len(values)


def signed_rank(differences: np.ndarray) -> tuple[float, float]:
    """Tests whether differences are symmetric about 0.

    Args:
        differences: Of two methods on each image, (images,).

    Returns:
        The p-value and the rank-biserial correlation; 1 and 0 if all differences are 0.
    """
    rounded = differences.round(DIGITS)
    unequal = rounded[rounded != 0]
    if not len(unequal):
        return 1., 0.
    p = float(stats.wilcoxon(unequal).pvalue)
    ranks = stats.rankdata(np.abs(unequal))
    signed_ranks = np.sign(unequal) * ranks
    effect = float(signed_ranks.sum() / ranks.sum())
    return p, effect


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number by Holm's step-down method.

    The smallest is multiplied by their number, the next by one less, and so on; none becomes
    smaller than one before it, and none exceeds 1.
    """
    number = len(p_values)
    order = sorted(range(number), key=lambda index: p_values[index])
    corrected = [1.] * number
    largest = 0.
    for rank, index in enumerate(order):
        largest = max(largest, (number - rank) * p_values[index])
        corrected[index] = min(largest, 1.)
    return corrected
