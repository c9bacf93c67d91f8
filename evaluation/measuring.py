"""Scores of single pairs, and their averages over a set.

    score_pair(pred, gt)                             -> {'sm': .86, 'mae': .03, ...}
    GroundTruth(gt).score(pred, {'sm', 'mae'})       one mask for many predictions

Predictions and masks are uint8 (H, W) or boolean. Predictions are min-max normalised (for all
metrics but HCE and mBA), masks are cut above 128.
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.kernels.histograms import LEVELS
from evaluation.metrics import METRICS, Metric, select_metrics
from evaluation.prepared import PreparedMask, PreparedPrediction
from evaluation.set_counts import SetCounts, set_counts


class Measurement(NamedTuple):
    """What is measured on one pair; curves and averages follow from it.

    Attributes:
        values: Scores that do not follow from counts, by name, and such curves by their metrics'.
        counts: Counts int64 inside and outside, by normalised grey value: 'pixels' of the mask,
            (2, 258) with the adaptive and the binary prediction behind, and 'boundary' of its
            boundary, (2, 256), or 'targets' of its targets, (targets, 2, 258), if a metric needs
            them.
    """

    values: dict[str, float | list[float]]
    counts: dict[str, np.ndarray]


class Averages(NamedTuple):
    """Scores of several images.

    Attributes:
        values: Values of the images (images,) by score. Their mean, without NaN, is the score.
        image_curves: Curves of the images, (images, 256) or more, by name.
    """

    values: dict[str, np.ndarray]
    image_curves: dict[str, np.ndarray]

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """Curves averaged over the images, (256,), by name."""
        means = {}
        for name, points in self.image_curves.items():
            by_threshold = points[:, :LEVELS]
            means[name] = by_threshold.mean(axis=0)
        return means


class GroundTruth(PreparedMask):
    """A mask against which any number of predictions are scored.

    Args:
        gt: uint8 (H, W), foreground above 128, or boolean.
        skeleton_cache: Folder that keeps the mask's skeleton (for HCE) between runs.
        trimap: uint8 (H, W), about 128 where the matte is unknown; for errors of mattes there.
        image: RGB, uint8 (H, W, 3), for the camouflage context measure.

    Raises:
        ValueError: For another type or shape.
    """

    def score(
        self, pred: np.ndarray, metrics: Collection[str] | None = None,
    ) -> dict[str, float]:
        """Computes scores of a prediction.

        Args:
            pred: uint8 (H, W) 0..255, or boolean.
            metrics: Names of scores ('maxFm') or metrics ('fm', with all its scores); None for all
                that the mask has what they need for.
                Scores over pooled pixels, which are those of the image here, only by name.

        Returns:
            Scores by name. mBA is NaN where the mask has no boundary.

        Raises:
            ValueError: For another size or type of the prediction, or an unknown name.
        """
        names = select_metrics(metrics)
        if metrics is None:
            names = [name for name in names if self.has(METRICS[name].needs)]
        measured = self.measure(pred, names)
        values = average([measured], names).values

        # A metric stands for its scores of images; those over pooled pixels are named themselves.
        named = set(metrics or ())
        scores = {}
        for name in names:
            is_whole = metrics is None or name in named
            for score in METRICS[name].scores:
                follows = is_whole and not score.pooled_from
                if follows or score.name in named:
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
        records = [METRICS[name] for name in metrics]
        return measure_pair(pair, records)


def measure_pair(pair: PreparedPrediction, metrics: Sequence[Metric]) -> Measurement:
    """Measures a pair for these metrics."""
    values: dict[str, float | list[float]] = {}
    counts = {'pixels': pair.pixel_counts}
    for metric in metrics:
        values |= metric.measured_scores(pair)
        if metric.counts == 'boundary':
            counts['boundary'] = pair.boundary_counts
        elif metric.counts in ('targets', 'boxes'):
            counts['targets'] = pair.target_counts
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
    """Turns measurements of several images into the scores and mean curves of these metrics.

    Scores over pooled pixels are those of each image by itself here; `pool` has those of the set.
    """
    return average_records(measurements, [METRICS[name] for name in metrics])


def average_records(measurements: Sequence[Measurement], records: Sequence[Metric]) -> Averages:
    """As `average`, for metrics that the registry need not have."""
    counts = _counts_by_kind(measurements, records)
    values = {}
    curves = {}
    for metric in records:
        # Curves that follow from counts, and those that were measured.
        for name, curve in metric.curves.items():
            curves[name] = counts[metric.counts].image_curves(curve)
        if metric.measure_curve:
            measured = [m.values[metric.name] for m in measurements]
            curves[metric.name] = np.array(measured)

        # Scores: measured, read off the curve, or those of images for those of pooled pixels.
        for score in metric.scores:
            if score.reduce is None:
                present = [m.values.get(score.name, math.nan) for m in measurements]
                values[score.name] = np.array(present)
            elif score.pooled_from is None:
                values[score.name] = score.reduce(curves[metric.name])
            else:
                values[score.name] = values[score.pooled_from]
    return Averages(values, curves)


def pool(measurements: Sequence[Measurement], metrics: Collection[str]) -> dict[str, float]:
    """Computes the scores over the pooled pixels of several images."""
    records = [METRICS[name] for name in metrics]

    # The scores are read off one curve of each metric.
    counts = _counts_by_kind(measurements, records)
    scores = {}
    for metric in records:
        wanted = [score for score in metric.scores if score.pooled_from]
        if metric.curve is None or not wanted:
            continue
        curve = counts[metric.counts].pooled_curve(metric.curve)[None]
        for score in wanted:
            assert score.reduce is not None, score.name
            scores[score.name] = float(score.reduce(curve)[0])
    return scores


def _counts_by_kind(
    measurements: Sequence[Measurement], records: Sequence[Metric],
) -> dict[str, SetCounts]:
    """Accumulates the counts that the metrics' curves read."""
    images = [measured.counts for measured in measurements]
    kinds = {metric.counts for metric in records if metric.curve}
    return {kind: set_counts(images, kind) for kind in kinds}


def mean_of_present(values: np.ndarray) -> float:
    """Averages values (images,) without NaN; NaN if there is none."""
    present = values[~np.isnan(values)]
    if len(present) == 0:
        return math.nan
    return float(present.mean())
