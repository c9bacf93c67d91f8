"""The registry of metrics: one record each, read by evaluator, tables, validation, card, report.

To add a metric, write its definition (definitions.py) and, where that is too slow, a kernel
(kernels/), then its record here. There are two kinds:

- `curve`: a function of threshold counts. Its values at all thresholds, their maximum and mean, and
  the value at the adaptive threshold follow from counts that all such metrics share.
- `measure`: a function of a prepared pair (prepared.py). It reads the intermediate results it
  needs, which are computed once for all metrics.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from evaluation.kernels import boundary, hce, histograms, weighted_f
from evaluation.kernels.histograms import ThresholdCounts
from evaluation.prepared import PreparedPrediction

Curve = Callable[[ThresholdCounts], np.ndarray]


def at_best_threshold(curves: np.ndarray) -> np.ndarray:
    """Reads curves (images, 256) at the one threshold where their mean is highest; (images,)."""
    return curves[:, curves.mean(axis=0).argmax()]


def over_thresholds(curves: np.ndarray) -> np.ndarray:
    """Averages each of the curves (images, 256); (images,)."""
    return curves.mean(axis=1)


@dataclass(frozen=True)
class Score:
    """One number of a metric.

    Attributes:
        name: Key in results, e.g. 'maxFm'.
        column: Heading in tables.
        source: Where it comes from: the metric's `measure`, its curve at the adaptive threshold, or
            its curves, which `reduce` turns into a value for each image.
        reduce: Function from curves (images, 256) to values (images,).
    """

    name: str
    column: str
    source: Literal['measure', 'adaptive', 'curve'] = 'measure'
    reduce: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Everything that the project knows of a metric.

    Attributes:
        name: Key in stores and results.
        option: Name in `--metrics`.
        scores: The numbers it yields.
        headline: The score that stands for the metric where there is place for one.
        higher_is_better: Direction.
        unit_interval: Whether scores lie in 0..1. Tables then print no 0 before the point, and
            nothing above 1.
        digits: Digits after the point in tables.
        in_validation: Whether validation during training computes the headline score.
        measure: Computes the score of a pair; for metrics with one score that is no curve's.
        curve: Computes the metric from threshold counts.
        counts: The counts that `curve` reads: of all pixels, or of those of the boundaries.
        further_curves: Curves that the report draws beside the metric's own.
    """

    name: str
    option: str
    scores: tuple[Score, ...]
    headline: str
    higher_is_better: bool = True
    unit_interval: bool = True
    digits: int = 3
    in_validation: bool = False
    measure: Callable[[PreparedPrediction], float] | None = None
    curve: Curve | None = None
    counts: Literal['pixels', 'boundary'] = 'pixels'
    further_curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def curves(self) -> dict[str, Curve]:
        """All curves by name; none for a metric without thresholds."""
        if self.curve is None:
            return {}
        return {self.name: self.curve, **self.further_curves}

    def measured_scores(self, pair: PreparedPrediction) -> dict[str, float]:
        """Computes the scores of one pair that do not follow from its curves."""
        found = {}
        for score in self.scores:
            if score.source == 'measure':
                assert self.measure is not None, self.name
                found[score.name] = float(self.measure(pair))
            elif score.source == 'adaptive':
                assert self.curve is not None, self.name
                found[score.name] = float(self.curve(pair.adaptive_counts))
        return found


def curve_scores(suffix: str) -> tuple[Score, Score]:
    """The maximum and the mean of a metric over all thresholds."""
    return (
        Score(f'max{suffix}', f'max{suffix}', 'curve', at_best_threshold),
        Score(f'mean{suffix}', f'mean{suffix}', 'curve', over_thresholds),
    )


def _s_measure(pair: PreparedPrediction) -> float:
    return histograms.s_measure(pair.quadrants, pair.levels.p)


def _absolute_error(pair: PreparedPrediction) -> float:
    inside, outside = pair.histogram
    return histograms.absolute_error(inside, outside, pair.levels.p)


def _squared_error(pair: PreparedPrediction) -> float:
    inside, outside = pair.histogram
    return histograms.squared_error(inside, outside, pair.levels.p)


def _weighted_f(pair: PreparedPrediction) -> float:
    truth = pair.truth
    if truth.foreground_count == 0:
        return 0.0
    words, places = pair.differing_words
    excess = truth.regions.outside(words, places)
    return weighted_f.weighted_f(
        pair.pred, excess, places, pair.levels, truth.foreground_count, truth.surroundings)


def _correction_effort(pair: PreparedPrediction) -> float:
    truth = pair.truth
    return hce.correction_effort(
        pair.packed_binary, truth.packed_mask, truth.skeleton, truth.shape)


def _boundary_accuracy(pair: PreparedPrediction) -> float:
    truth = pair.truth
    return boundary.boundary_accuracy(
        pair.packed_binary, truth.packed_mask, truth.accuracy_bands)


RECORDS = (
    Metric(
        name='sm',
        option='S',
        scores=(Score('sm', 'Smeasure'),),
        headline='sm',
        in_validation=True,
        measure=_s_measure,
    ),
    Metric(
        name='wfm',
        option='wF',
        scores=(Score('wfm', 'wFmeasure'),),
        headline='wfm',
        in_validation=True,
        measure=_weighted_f,
    ),
    Metric(
        name='fm',
        option='F',
        scores=(*curve_scores('Fm'), Score('adpFm', 'adpFm', 'adaptive')),
        headline='maxFm',
        in_validation=True,
        curve=histograms.f_measure,
        further_curves={'precision': histograms.precision, 'recall': histograms.recall},
    ),
    Metric(
        name='em',
        option='E',
        scores=(*curve_scores('Em'), Score('adpEm', 'adpEm', 'adaptive')),
        headline='meanEm',
        in_validation=True,
        curve=histograms.e_measure,
    ),
    Metric(
        name='mae',
        option='MAE',
        scores=(Score('mae', 'MAE'),),
        headline='mae',
        higher_is_better=False,
        in_validation=True,
        measure=_absolute_error,
    ),
    Metric(
        name='mse',
        option='MSE',
        scores=(Score('mse', 'MSE'),),
        headline='mse',
        higher_is_better=False,
        in_validation=True,
        measure=_squared_error,
    ),
    Metric(
        name='hce',
        option='HCE',
        scores=(Score('hce', 'HCE'),),
        headline='hce',
        higher_is_better=False,
        unit_interval=False,
        digits=0,
        measure=_correction_effort,
    ),
    Metric(
        name='mba',
        option='mBA',
        scores=(Score('mba', 'mBA'),),
        headline='mba',
        measure=_boundary_accuracy,
    ),
    Metric(
        name='biou',
        option='BIoU',
        scores=curve_scores('BIoU'),
        headline='maxBIoU',
        curve=histograms.iou,
        counts='boundary',
    ),
)

METRICS = {metric.name: metric for metric in RECORDS}
# The metric of each score, and its column in tables.
SCORES = {score.name: metric for metric in RECORDS for score in metric.scores}
COLUMNS = {score.name: score.column for metric in RECORDS for score in metric.scores}
HEADLINES = tuple(metric.headline for metric in RECORDS)
VALIDATION_SCORES = tuple(metric.headline for metric in RECORDS if metric.in_validation)


def metric_of(score: str) -> Metric:
    """Returns the metric that a score belongs to. Raises ValueError for an unknown one."""
    if score not in SCORES:
        raise ValueError(f'unknown score {score!r}; known: {", ".join(SCORES)}')
    return SCORES[score]


def higher_is_better(score: str) -> bool:
    """Returns whether more is better. Raises ValueError for an unknown score."""
    return metric_of(score).higher_is_better


def select_metrics(names: Collection[str] | None) -> list[str]:
    """Returns the names of the metrics with these names or scores, in the registry's order.

    Args:
        names: Metrics or scores; None for all metrics.

    Raises:
        ValueError: Naming what is unknown.
    """
    if names is None:
        return list(METRICS)
    unknown = sorted(set(names) - set(METRICS) - set(SCORES))
    if unknown:
        known = dict.fromkeys((*METRICS, *SCORES))
        raise ValueError(f'unknown metrics {unknown}; known: {", ".join(known)}')
    wanted = {SCORES[name].name if name in SCORES else name for name in names}
    return [name for name in METRICS if name in wanted]


def parse_metrics(text: str) -> list[str]:
    """Parses `--metrics`: options, metrics, scores or columns in any case joined by +, or `all`.

    Raises:
        ValueError: Naming what is unknown.
    """
    if text.lower() == 'all':
        return list(METRICS)
    known = {}
    for metric in RECORDS:
        for name in (metric.name, metric.option):
            known[name.lower()] = metric.name
        for score in metric.scores:
            known[score.name.lower()] = metric.name
            known[score.column.lower()] = metric.name
    names = [known.get(name.lower(), name) for name in text.split('+')]
    try:
        return select_metrics(names)
    except ValueError as error:
        options = ', '.join(metric.option for metric in RECORDS)
        raise ValueError(
            f'--metrics {text}: {error}; or {options}, all; join several by +') from None
