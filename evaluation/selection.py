"""Ranks checkpoints by one score or several weighted ones, and tests whether the best one leads."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.metrics import higher_is_better
from evaluation.results import Results
from evaluation.summary import MethodScores

TIE = 1e-12
RESAMPLES = 2000
# A bootstrap over fewer images gives no meaningful interval.
FEWEST_IMAGES = 5
DRAWS_AT_A_TIME = 1 << 20


class Ranking(NamedTuple):
    """Methods from the best to the worst, their criteria (higher is better), and all best ones."""

    methods: list[str]
    criteria: list[float]
    ties: list[str]


class Comparison(NamedTuple):
    """The lead of the best over the runner-up, with the bounds of a 95% interval.

    Attributes:
        lead: Difference of the means over all images; positive is better, whatever the direction.
        low: Lower bound; NaN where a set has fewer than FEWEST_IMAGES images.
        high: Upper bound.
    """

    lead: float
    low: float
    high: float


def rank(results: Results, weights: Mapping[str, float]) -> Ranking:
    """Ranks the methods that have all sets by the sum over the sets.

    Several weighted scores are standardised over the methods first, so that an HCE of thousands and
    an S-measure below 1 can be added. Equal methods keep their order.

    Args:
        results: Scores by set and method.
        weights: Weight of each score.

    Raises:
        ValueError: If no method has all sets, or a score is missing.
    """
    # Only methods that all sets have can be compared.
    first, *rest = results.values()
    methods = [method for method in first if all(method in scores for scores in rest)]
    if not methods:
        raise ValueError(
            f'no method has scores of all of {", ".join(results)}; '
            'run eval_existingOnes.py on all')

    # The criterion: the weighted sum of the scores, higher is better.
    criteria = np.zeros(len(methods))
    for score, weight in weights.items():
        sums = np.array([_sum_over_sets(results, method, score) for method in methods])
        if len(weights) > 1:
            deviation = sums.std() or 1
            sums = (sums - sums.mean()) / deviation
        sign = 1 if higher_is_better(score) else -1
        criteria += weight * sign * sums

    # From the best to the worst, and those that equal the best.
    order = np.argsort(-criteria, kind='stable')
    ranked = [methods[index] for index in order]
    falling = criteria[order]
    best = falling[0]
    is_tie = best - falling <= TIE * abs(best)
    ties = [method for method, tied in zip(ranked, is_tie, strict=True) if tied]
    return Ranking(ranked, falling.tolist(), ties)


def _sum_over_sets(results: Results, method: str, score: str) -> float:
    for name, scores in results.items():
        if score not in scores[method]:
            raise ValueError(
                f'{method} has no {score} on {name}; '
                'run eval_existingOnes.py with --metrics all')
        if math.isnan(scores[method][score]):
            raise ValueError(
                f'{score} is not defined on {name}, as no mask there has what it '
                'measures; choose by another score')
    return sum(scores[method][score] for scores in results.values())


def compare(
    best: Sequence[MethodScores], other: Sequence[MethodScores], score: str, seed: int = 7,
) -> Comparison:
    """Compares two methods by a paired bootstrap over the images of each set.

    The same images are drawn for both methods; the means are averaged over the sets.

    Args:
        best: The best method's scores in each set.
        other: The other method's, in the same order.
        score: Name of the score.
        seed: Of the random draws.
    """
    # The lead in the images and in the samples of them, added up over the sets.
    rng = np.random.default_rng(seed)
    sign = 1 if higher_is_better(score) else -1
    lead = 0.0
    leads = np.zeros(RESAMPLES)
    fewest = math.inf
    for best_scores, other_scores in zip(best, other, strict=True):
        ours = best_scores.values[score]
        theirs = other_scores.values[score]
        differences = sign * (ours - theirs)
        differences = differences[~np.isnan(differences)]
        fewest = min(fewest, len(differences))
        lead += differences.mean()
        leads += _resampled_means(differences, rng)

    # The interval is that of the middle 95% of the samples.
    low, high = math.nan, math.nan
    if fewest >= FEWEST_IMAGES:
        low, high = np.quantile(leads, (0.025, 0.975))
    sets = len(best)
    return Comparison(float(lead / sets), float(low / sets), float(high / sets))


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Computes the means of RESAMPLES samples of (N,) values, drawn with replacement."""
    size = len(values)
    # A few samples at a time, to limit the memory.
    parts = RESAMPLES * size // DRAWS_AT_A_TIME + 1
    means = []
    for samples in np.array_split(np.arange(RESAMPLES), parts):
        drawn = rng.integers(size, size=(len(samples), size))
        means.append(values[drawn].mean(axis=1))
    return np.concatenate(means)
