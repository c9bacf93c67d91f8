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
    # Components that are large enough; the first in OpenCV's list is the background.
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    components = stats[1:]
    areas = components[:, cv2.CC_STAT_AREA]
    smallest = min(SMALLEST, areas.max(initial=0))
    large = components[areas >= smallest]

    # Their bounding boxes.
    boxes = []
    for left, top, width, height, _ in large.tolist():
        rows = slice(top, top + height)
        columns = slice(left, left + width)
        boxes.append((rows, columns))
    if not boxes:
        height, width = mask.shape
        boxes.append((slice(0, height), slice(0, width)))

    # Which pixels lie in no box.
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
        values = prediction[box].ravel()
        histogram = histogram_by_label(values, labels.ravel(), 2)
        histograms.append(histogram)
    return np.stack(histograms)


def target_counts(
    histograms: np.ndarray, levels: Levels, means: np.ndarray, size: int,
) -> np.ndarray:
    """Counts (targets, 2, 258) in the boxes; the last two found by a target's own thresholds.

    Args:
        histograms: As of `box_histograms`.
        levels: The prediction's normalisation.
        means: Means of the prediction, (targets,), whose pixels outside the box count as 0.
        size: Pixels of the image. Those outside the box are found only at a threshold of 0.
    """
    # Each target's adaptive threshold.
    thresholds = np.minimum(2 * means, 1)

    # What is found at it in the box, and at a threshold of 0 all around the box too.
    is_found = levels.p >= thresholds[:, None, None]
    adaptive = (histograms * is_found).sum(axis=2)
    areas = histograms.sum(axis=(1, 2))
    finds_all = thresholds <= 0
    adaptive[finds_all, OUTSIDE] += size - areas[finds_all]

    # Behind the counts by grey value.
    binary = histograms @ (levels.p > 0.5)
    found = np.stack((adaptive, binary), axis=2)
    by_value = regroup(histograms, levels.q)
    return np.concatenate((by_value, found), axis=2)


def in_image(counts: np.ndarray, size: int) -> np.ndarray:
    """Adds the pixels outside each box, which are background and 0, to counts in the boxes."""
    whole = counts.copy()
    areas = counts[..., :LEVELS].sum(axis=(1, 2))
    whole[:, OUTSIDE, 0] += size - areas
    return whole


def absolute_error(
    prediction: np.ndarray, targets: Targets, histograms: np.ndarray, levels: Levels,
) -> float:
    """SI-MAE: the boxes' mean errors, and that between the boxes.

    What is between them weighs as its area over the area of the boxes.
    """
    # The mean error in each box, from the error of each grey value inside and outside the mask.
    errors = np.stack((1 - levels.p, levels.p))
    box_sums = (histograms * errors).sum(axis=(1, 2))
    areas = histograms.sum(axis=(1, 2))
    box_errors = box_sums / areas
    between = targets.between
    if between == 0:
        return float(box_errors.mean())

    # The mean error between the boxes.
    rest = histogram_by_label(prediction.ravel(), targets.labels.ravel(), IN_A_BOX)
    rest_error = (rest * errors).sum() / between

    weight = between / (prediction.size - between)
    total = box_errors.sum() + weight * rest_error
    return float(total / (len(box_errors) + weight))
