"""Size-invariant scores: of each object by itself, so that a large one does not hide a small one.

Li et al., "Size-invariance matters: rethinking metrics and losses for imbalanced multi-object
salient object detection", ICML 2024, as PySODMetrics computes it. A target is a component of the
mask (four neighbours) of at least 50 pixels; if there is none, the largest ones are. Its score is
that of mask and prediction within its bounding box, where all outside the box is background and
0.
"""

from typing import NamedTuple

import cv2
import numpy as np

from evaluation.kernels.histograms import LEVELS, Levels, regroup
from evaluation.kernels.region_histogram import OUTSIDE, histogram_by_label

SMALLEST = 50
# The label of pixels that belong to a box.
IN_A_BOX = 2


class Targets(NamedTuple):
    """The bounding boxes of a mask's targets.

    Attributes:
        boxes: Rows and columns of each; for an empty mask the whole image.
        labels: 0 inside and 1 outside the mask, and IN_A_BOX within any box, uint8 (H, W).
        between: Pixels in no box.
    """

    boxes: list[tuple[slice, slice]]
    labels: np.ndarray
    between: int


def find_targets(mask: np.ndarray) -> Targets:
    """Finds the targets of a mask, uint8 (H, W) of 0 and 255."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    components = stats[1:]
    areas = components[:, cv2.CC_STAT_AREA]
    large = components[areas >= min(SMALLEST, areas.max(initial=0))]
    boxes = []
    for left, top, width, height, _ in large.tolist():
        boxes.append((slice(top, top + height), slice(left, left + width)))
    if not boxes:
        boxes.append((slice(0, mask.shape[0]), slice(0, mask.shape[1])))

    labels = (mask == 0).view(np.uint8)
    for box in boxes:
        labels[box] = IN_A_BOX
    between = int(np.count_nonzero(labels != IN_A_BOX))
    return Targets(boxes, labels, between)


def box_histograms(
    prediction: np.ndarray, mask: np.ndarray, boxes: list[tuple[slice, slice]],
) -> np.ndarray:
    """Counts the grey values in each box, inside and outside the mask: int64 (targets, 2, 256)."""
    histograms = []
    for box in boxes:
        labels = (mask[box] == 0).view(np.uint8)
        histograms.append(histogram_by_label(prediction[box].ravel(), labels.ravel(), 2))
    return np.stack(histograms)


def target_counts(histograms: np.ndarray, levels: Levels, size: int) -> np.ndarray:
    """Counts (targets, 2, 258) in the boxes; the last two found by a target's own thresholds.

    Args:
        histograms: As of `box_histograms`.
        levels: The prediction's normalisation.
        size: Pixels of the image. Those outside the box count as 0 in the mean that gives the
            adaptive threshold, and are found only if that is 0.
    """
    means = histograms.sum(axis=1) @ levels.p / size
    thresholds = np.minimum(2 * means, 1)
    adaptive = (histograms * (levels.p >= thresholds[:, None, None])).sum(axis=2)
    adaptive[thresholds <= 0, OUTSIDE] += size - histograms.sum(axis=(1, 2))[thresholds <= 0]
    binary = histograms @ (levels.p > 0.5)
    found = np.stack((adaptive, binary), axis=2)
    return np.concatenate((regroup(histograms, levels.q), found), axis=2)


def in_image(counts: np.ndarray, size: int) -> np.ndarray:
    """Adds the pixels outside each box, which are background and 0, to counts in the boxes."""
    whole = counts.copy()
    whole[:, OUTSIDE, 0] += size - counts[..., :LEVELS].sum(axis=(1, 2))
    return whole


def absolute_error(
    prediction: np.ndarray, targets: Targets, histograms: np.ndarray, levels: Levels,
) -> float:
    """SI-MAE: the boxes' mean errors, and that between the boxes.

    What is between them weighs as its area over the area of the boxes.
    """
    errors = np.stack((1 - levels.p, levels.p))
    box_errors = (histograms * errors).sum(axis=(1, 2)) / histograms.sum(axis=(1, 2))
    if targets.between == 0:
        return float(box_errors.mean())
    rest = histogram_by_label(prediction.ravel(), targets.labels.ravel(), IN_A_BOX)
    rest_error = (rest * errors).sum() / targets.between
    weight = targets.between / (prediction.size - targets.between)
    return float((box_errors.sum() + weight * rest_error) / (len(box_errors) + weight))
