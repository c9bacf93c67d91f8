"""Ranks checkpoints by one score or several weighted ones."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from evaluation.metrics import higher_is_better
from evaluation.results import Results

TIE = 1e-12


class Ranking(NamedTuple):
    """Methods from the best to the worst, their criteria (higher is better), and all best ones."""

    methods: list[str]
    criteria: list[float]
    ties: list[str]


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
