"""Which checkpoint is best, by one score or by several weighted ones, and whether it is really better than the next."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.metrics import higher_is_better
from evaluation.summary import MethodScores

TIE = 1e-12
RESAMPLES = 2000
# A bootstrap over fewer images than these only looks like an interval.
FEWEST = 5


class Ranking(NamedTuple):
    """Methods from the best on with their criteria (higher is better), and those that share the first place."""

    methods: list[str]
    criteria: list[float]
    ties: list[str]


class Comparison(NamedTuple):
    """By how much the best leads the runner-up in the mean over all images, with the bounds of a 95% interval.

    Positive is better, whichever way the score goes. The bounds are NaN where a set has fewer than FEWEST images.
    """

    lead: float
    low: float
    high: float


def rank(results: Mapping[str, Mapping[str, Mapping[str, float]]], weights: Mapping[str, float]) -> Ranking:
    """Ranks methods by the sum over the sets; `results` are scores by set and method, `weights` by score.

    Only methods that have all sets take part. With several weighted scores each is standardised over the methods first,
    so that an HCE of thousands and an S-measure below 1 can be added. Of equals the first stays first. Raises
    ValueError where no method has all sets or a score is missing.
    """
    first, *rest = results.values()
    methods = [method for method in first if all(method in scores for scores in rest)]
    if not methods:
        raise ValueError(f'no method has scores of all of {", ".join(results)}; run eval_existingOnes.py on all')
    criteria = np.zeros(len(methods))
    for score, weight in weights.items():
        sums = np.array([_sum(results, method, score) for method in methods])
        if len(weights) > 1:
            sums = (sums - sums.mean()) / (sums.std() or 1)
        criteria += weight * (sums if higher_is_better(score) else -sums)
    order = sorted(range(len(methods)), key=lambda index: -criteria[index])
    ties = [methods[index] for index in order if criteria[order[0]] - criteria[index] <= TIE * abs(criteria[order[0]])]
    return Ranking([methods[index] for index in order], [float(criteria[index]) for index in order], ties)


def _sum(results: Mapping[str, Mapping[str, Mapping[str, float]]], method: str, score: str) -> float:
    values = [scores[method].get(score, math.nan) for scores in results.values()]
    if any(map(math.isnan, values)):
        raise ValueError(f'{method} has no {score} in every set; run eval_existingOnes.py with --metrics all')
    return sum(values)


def compare(best: Sequence[MethodScores], other: Sequence[MethodScores], score: str, seed: int = 7) -> Comparison:
    """Paired bootstrap over the images of each set (the same images drawn for both methods), means summed over sets."""
    rng = np.random.default_rng(seed)
    lead, leads, fewest = 0.0, np.zeros(RESAMPLES), math.inf
    for ours, theirs in zip(best, other, strict=True):
        differences = ours.values[score] - theirs.values[score]
        differences = differences[~np.isnan(differences)] * (1 if higher_is_better(score) else -1)
        fewest = min(fewest, len(differences))
        lead += differences.mean()
        leads += _resampled_means(differences, rng)
    low, high = np.quantile(leads, (0.025, 0.975)) if fewest >= FEWEST else (math.nan, math.nan)
    return Comparison(float(lead / len(best)), float(low / len(best)), float(high / len(best)))


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of RESAMPLES samples of (N,) values, drawn with replacement, some at a time to spare memory."""
    size = len(values)
    means = []
    for drawn in np.array_split(np.arange(RESAMPLES), RESAMPLES * size // (1 << 20) + 1):
        means.append(values[rng.integers(size, size=(len(drawn), size))].mean(axis=1))
    return np.concatenate(means)
