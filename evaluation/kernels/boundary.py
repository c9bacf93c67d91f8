"""Boundary metrics: mean boundary accuracy (mBA) and the boundaries of boundary IoU."""

import cv2
import numpy as np

from evaluation.kernels import bits
from evaluation.kernels.region_histogram import RegionHistogram, as_words

BANDS = 5


def accuracy_bands(packed_mask: np.ndarray, shape: tuple[int, int]) -> list[np.ndarray]:
    """Builds the five bands about a mask's boundary in which mBA compares (CascadePSP, CVPR 2020).

    Band k is the morphological gradient by an ellipse of radius 1 + int(((H + W)/300 - 1)/5 k).

    Returns:
        Packed masks.
    """
    # Radii that grow with the image; in a small one several are equal.
    inside_image = bits.valid(shape)
    background = ~packed_mask & inside_image
    spacing = (sum(shape) / 300 - 1) / BANDS
    radii = [1 + int(spacing * k) for k in range(BANDS)]

    # A gradient is what lies near both sides.
    gradients = {}
    for radius in set(radii):
        near_foreground = bits.dilate_ellipse(packed_mask, radius)
        near_background = bits.dilate_ellipse(background, radius)
        gradients[radius] = near_foreground & near_background & inside_image
    return [gradients[radius] for radius in radii]


def boundary_accuracy(
    prediction: np.ndarray, packed_mask: np.ndarray, bands: list[np.ndarray],
) -> float:
    """Computes mBA of packed masks; NaN for a mask without a boundary, which means leave out."""
    wrong = prediction ^ packed_mask
    accuracies = []
    for band in bands:
        size = bits.count(band)
        if size == 0:
            return float('nan')
        errors = bits.count(wrong & band)
        accuracies.append(1 - errors / size)
    return float(np.mean(accuracies))


def boundary(image: np.ndarray) -> np.ndarray:
    """Subtracts from a uint8 image its erosion by .02 of the diagonal (Cheng et al., CVPR 2021).

    Pixels outside the image count as 0.
    """
    diagonal = np.hypot(*image.shape)
    distance = max(1, round(0.02 * diagonal))
    size = 2 * distance + 1
    kernel = np.ones((size, size), np.uint8)
    eroded = cv2.erode(image, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return image - eroded


def boundary_histogram(normalised: np.ndarray, mask_boundary: RegionHistogram) -> np.ndarray:
    """Counts (2, 256) of a normalised prediction's boundary inside and outside the mask's."""
    words = as_words(boundary(normalised))
    differing = mask_boundary.differing(words)
    by_quadrant = mask_boundary.count(words.take(differing), differing)
    return by_quadrant.sum(axis=0)
