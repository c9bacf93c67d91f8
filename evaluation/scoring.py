"""Scores of single pairs, their averages over a set, and accumulators like those of PySODMetrics.

    score_pair(pred, gt)                             -> {'sm': .86, 'mae': .03, ...}
    GroundTruth(gt).score(pred, {'sm', 'mae'})       one mask for many predictions
    metric = Smeasure(); metric.step(pred, gt); metric.get_results()['sm']

Predictions and masks are uint8 (H, W) or boolean. Predictions are min-max normalised (for all
metrics but HCE and mBA), masks are cut above 128.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation.kernels.histograms import threshold_counts
from evaluation.metrics import METRICS, select_metrics
from evaluation.prepared import PreparedMask, PreparedPrediction


class Measurement(NamedTuple):
    """What is measured on one pair; curves and averages follow from it.

    Attributes:
        values: Scores that do not follow from curves, by name.
        counts: Counts int64 (2, 256), inside and outside, by normalised grey value: 'pixels' of the
            mask, and 'boundary' of its boundary if a metric needs it.
    """

    values: dict[str, float]
    counts: dict[str, np.ndarray]


class Averages(NamedTuple):
    """Scores of several images.

    Attributes:
        values: Values of the images (images,) by score. Their mean, without NaN, is the score.
        curves: Curves averaged over the images, (256,), by name.
    """

    values: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]


class GroundTruth(PreparedMask):
    """A mask against which any number of predictions are scored.

    Args:
        gt: uint8 (H, W), foreground above 128, or boolean.
        skeleton_cache: Folder that keeps the mask's skeleton (for HCE) between runs.

    Raises:
        ValueError: For another type or shape.
    """

    def score(
        self, pred: np.ndarray, metrics: Collection[str] | None = None,
    ) -> dict[str, float]:
        """Computes scores of a prediction.

        Args:
            pred: uint8 (H, W) 0..255, or boolean.
            metrics: Names of scores ('maxFm') or metrics ('fm', with all its scores); None for all.

        Returns:
            Scores by name. mBA is NaN where the mask has no boundary.

        Raises:
            ValueError: For another size or type of the prediction, or an unknown name.
        """
        names = select_metrics(metrics)
        values = average([self.measure(pred, names)], names).values
        scores = {}
        for name in names:
            for score in METRICS[name].scores:
                if metrics is None or name in metrics or score.name in metrics:
                    scores[score.name] = float(values[score.name][0])
        return scores

    def measure(
        self, pred: np.ndarray, metrics: Collection[str] = tuple(METRICS),
    ) -> Measurement:
        """Measures a prediction for these metrics.

        Raises:
            ValueError: As `score`.
        """
        pair = PreparedPrediction(pred, self)
        values: dict[str, float] = {}
        counts = {'pixels': pair.pixel_counts}
        for name in metrics:
            metric = METRICS[name]
            values |= metric.measured_scores(pair)
            if metric.curve and metric.counts == 'boundary':
                counts['boundary'] = pair.boundary_counts
        return Measurement(values, counts)


def score_pair(pred: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """Computes all scores of a prediction against a mask.

    Args:
        pred: uint8 (H, W) 0..255, or boolean; min-max normalised for all metrics but HCE and mBA.
        gt: uint8 (H, W), foreground above 128, or boolean.

    Returns:
        Scores by name (`evaluation.metrics.SCORES`; docs/metrics.md has their sources). All lie in
        0..1, except HCE, a count, and E-measure, which may exceed 1 by 1 / (N - 1). mBA is NaN
        where the mask has no boundary.

    Raises:
        ValueError: For other types or differing sizes.
    """
    return GroundTruth(gt).score(pred)


def average(measurements: Sequence[Measurement], metrics: Collection[str]) -> Averages:
    """Turns measurements of several images into the scores and mean curves of these metrics."""
    records = [METRICS[name] for name in metrics]

    # Curves of each image. Metrics that read the same counts share the accumulation.
    curves: dict[str, list[np.ndarray]] = {}
    kinds = {metric.counts for metric in records if metric.curve}
    for measured in measurements:
        thresholds = {kind: threshold_counts(measured.counts[kind]) for kind in kinds}
        for metric in records:
            for name, curve in metric.curves.items():
                curves.setdefault(name, []).append(curve(thresholds[metric.counts]))
    stacked = {name: np.stack(points) for name, points in curves.items()}

    values = {}
    for metric in records:
        for score in metric.scores:
            if score.source == 'curve':
                assert score.reduce is not None, score.name
                values[score.name] = score.reduce(stacked[metric.name])
            else:
                values[score.name] = np.array([m.values[score.name] for m in measurements])
    means = {name: points.mean(axis=0) for name, points in stacked.items()}
    return Averages(values, means)


def mean_of_present(values: np.ndarray) -> float:
    """Averages values (images,) without NaN; NaN if there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float('nan')


class Accumulator:
    """Averages one metric over pairs that come one after another, as in PySODMetrics.

    Args:
        metric: Name in `evaluation.metrics.METRICS`.
    """

    def __init__(self, metric: str) -> None:
        [self.metric] = select_metrics([metric])
        self.measurements: list[Measurement] = []

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric."""
        return METRICS[self.metric].higher_is_better

    def step(self, pred: np.ndarray, gt: np.ndarray | GroundTruth) -> None:
        """Adds a pair; a `GroundTruth` may be shared by several predictions or metrics."""
        truth = gt if isinstance(gt, GroundTruth) else GroundTruth(gt)
        self.measurements.append(truth.measure(pred, [self.metric]))

    def merge(self, other: 'Accumulator') -> None:
        """Adds all pairs of another accumulator of the same metric."""
        if other.metric != self.metric:
            raise ValueError(f'cannot merge {other.metric} into {self.metric}')
        self.measurements.extend(other.measurements)

    def get_results(self) -> dict:
        """Averages over all pairs.

        Returns:
            `{'sm': mean}`, or for a metric with a curve `{'fm': {'curve': (256,), 'adp': mean}}`,
            the curve over falling thresholds, and 'adp' if the metric has an adaptive threshold.

        Raises:
            ValueError: Without a pair.
        """
        averages = self._averages()
        metric = METRICS[self.metric]
        means = {score.source: mean_of_present(averages.values[score.name])
                 for score in metric.scores}
        if metric.curve is None:
            return {self.metric: means['measure']}
        result: dict[str, Any] = {'curve': averages.curves[self.metric]}
        if 'adaptive' in means:
            result['adp'] = means['adaptive']
        return {self.metric: result}

    def _averages(self) -> Averages:
        if not self.measurements:
            raise ValueError(f'{self.metric}: no pair yet; call step first')
        return average(self.measurements, [self.metric])


class Smeasure(Accumulator):
    """S-measure, alpha .5 (Fan et al., ICCV 2017): `{'sm'}`."""

    def __init__(self) -> None:
        super().__init__('sm')


class MAE(Accumulator):
    """Mean absolute error: `{'mae'}`."""

    def __init__(self) -> None:
        super().__init__('mae')


class MSE(Accumulator):
    """Mean squared error: `{'mse'}`."""

    def __init__(self) -> None:
        super().__init__('mse')


class Emeasure(Accumulator):
    """E-measure (Fan et al., IJCAI 2018): `{'em': {'adp', 'curve'}}`."""

    def __init__(self) -> None:
        super().__init__('em')


class Fmeasure(Accumulator):
    """F-measure, beta^2 .3 (Achanta et al., CVPR 2009).

    `{'fm': {'adp', 'curve'}, 'pr': {'p', 'r'}}`.
    """

    def __init__(self) -> None:
        super().__init__('fm')

    def get_results(self) -> dict:
        """Averages over all pairs, with the curves of precision and recall."""
        curves = self._averages().curves
        return super().get_results() | {'pr': {'p': curves['precision'], 'r': curves['recall']}}


class WeightedFmeasure(Accumulator):
    """Weighted F-measure, beta 1 (Margolin et al., CVPR 2014): `{'wfm'}`."""

    def __init__(self) -> None:
        super().__init__('wfm')


class HumanCorrectionEffortMeasure(Accumulator):
    """Human correction effort, relax 5, epsilon 2 (Qin et al., ECCV 2022): `{'hce'}`."""

    def __init__(self) -> None:
        super().__init__('hce')


class MeanBoundaryAccuracy(Accumulator):
    """Mean boundary accuracy (Cheng et al., CVPR 2020): `{'mba'}`, of masks with a boundary."""

    def __init__(self) -> None:
        super().__init__('mba')


class BoundaryIoU(Accumulator):
    """Boundary IoU (Cheng et al., CVPR 2021): `{'biou': {'curve'}}`."""

    def __init__(self) -> None:
        super().__init__('biou')
