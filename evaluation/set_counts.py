"""Counts of all images of a set, and the curves that follow from them.

Where an image has one row of counts, a curve of all images is computed at once. Where it has a row
for each target, it is computed image by image, since a mask may have hundreds of targets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.kernels.histograms import (
    BINARY,
    LEVELS,
    ThresholdCounts,
    add_up,
    concatenate,
    threshold_counts,
)
from evaluation.kernels.targets import in_image

# Computes a metric at all thresholds.
Curve = Callable[[ThresholdCounts], np.ndarray]


@dataclass(frozen=True)
class ImageCounts:
    """Counts with one row for each image, (images, 258)."""

    rows: ThresholdCounts

    def image_curves(self, curve: Curve) -> np.ndarray:
        """Computes the curve of each image, (images, 258)."""
        return curve(self.rows)

    def pooled_curve(self, curve: Curve) -> np.ndarray:
        """Computes the curve of all pixels, (258,)."""
        return curve(add_up(self.rows))


@dataclass(frozen=True)
class TargetCounts:
    """Counts with one row for each target of an image, (targets, 258), by image."""

    by_image: list[ThresholdCounts]

    def image_curves(self, curve: Curve) -> np.ndarray:
        """Computes the mean curve of each image's targets, (images, 258)."""
        means = [_mean_of_targets(curve(targets)) for targets in self.by_image]
        return np.array(means)

    def pooled_curve(self, curve: Curve) -> np.ndarray:
        """Computes the mean curve of all targets, (258,).

        As in PySODMetrics, the binary prediction is scored by the sum over all targets instead.
        """
        targets = concatenate(self.by_image)
        points = _mean_of_targets(curve(targets))
        points[BINARY] = curve(add_up(targets))[BINARY]
        return points


SetCounts = ImageCounts | TargetCounts


def set_counts(images: Sequence[Mapping[str, np.ndarray]], kind: str) -> SetCounts:
    """Accumulates the images' counts over the thresholds.

    Args:
        images: The counts of each image, as of `Measurement`.
        kind: What `Metric.counts` names.
    """
    if kind == 'boxes':
        return of_targets(counts['targets'] for counts in images)
    if kind == 'targets':
        return of_targets(_targets_in_image(counts) for counts in images)
    return of_images([counts[kind] for counts in images])


def of_images(histograms: Sequence[np.ndarray]) -> ImageCounts:
    """Accumulates the region histograms of images, each (2, 256) or (2, 258)."""
    rows = threshold_counts(np.stack(histograms))
    return ImageCounts(rows)


def of_targets(histograms: Iterable[np.ndarray]) -> TargetCounts:
    """Accumulates the region histograms of images' targets, each (targets, 2, 258)."""
    by_image = [threshold_counts(targets) for targets in histograms]
    return TargetCounts(by_image)


def _targets_in_image(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The targets' counts with all pixels outside their boxes as background, (targets, 2, 258)."""
    by_value = counts['pixels'][:, :LEVELS]
    size = int(by_value.sum())
    return in_image(counts['targets'], size)


def _mean_of_targets(points: np.ndarray) -> np.ndarray:
    """Averages curves (targets, 258) without those that are NaN; NaN if there is none."""
    is_missing = np.isnan(points[:, 0])
    present = points[~is_missing]
    if len(present) == 0:
        return points[0]
    return present.mean(axis=0)
