"""Measures of the boundary: mean boundary accuracy (mBA) and boundary IoU."""

import cv2
import numpy as np

from evaluation import bits
from evaluation.counting import Counter, as_words


def accuracy_bands(foreground: np.ndarray, shape: tuple[int, int]) -> list[np.ndarray]:
    """The five bands about the boundary of a packed mask in which mBA compares (CascadePSP, CVPR 2020), packed.

    Band k is the morphological gradient by an ellipse of radius 1 + int(((H + W)/300 - 1)/5 k).
    """
    inside = bits.valid(shape)
    background = ~foreground & inside
    radii = [1 + int(((shape[0] + shape[1]) / 300 - 1) / 5 * k) for k in range(5)]
    gradients = {radius: bits.dilate_ellipse(foreground, radius) & bits.dilate_ellipse(background, radius) & inside
                 for radius in set(radii)}
    return [gradients[radius] for radius in radii]


def boundary_accuracy(prediction: np.ndarray, foreground: np.ndarray, bands: list[np.ndarray]) -> float:
    """mBA of packed masks; NaN for a mask without a boundary, to be left out of means."""
    wrong = prediction ^ foreground
    sizes = [bits.count(band) for band in bands]
    if not all(sizes):
        return float('nan')
    return float(np.mean([1 - bits.count(wrong & band) / size for band, size in zip(bands, sizes, strict=True)]))


def boundary(image: np.ndarray) -> np.ndarray:
    """A uint8 image less itself eroded by .02 of the diagonal, zeros around it (Cheng et al., CVPR 2021)."""
    distance = max(1, round(0.02 * np.hypot(*image.shape)))
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return image - cv2.erode(image, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def boundary_histogram(normalised: np.ndarray, mask_boundary: Counter) -> np.ndarray:
    """Counts (2, 256) of a normalised prediction's boundary inside and outside the mask's."""
    words = as_words(boundary(normalised))
    differing = mask_boundary.differing(words)
    return mask_boundary.count(words.take(differing), differing).sum(axis=0)
