"""Context measure: Wang et al., "Context-measure: contextualizing metric for camouflage", 2025.

arXiv 2512.07076, as PySODMetrics computes it. Images are filtered in float32; sums are in
float64.
"""

from typing import NamedTuple

import cv2
import numpy as np

ALPHA = 6.0
# Brings 1 - exp(-1) to 1.
SCALE = 1 / (1 - np.exp(-1))
EPS = 2.0 ** -52


class Context(NamedTuple):
    """What the context measure needs to know of a mask.

    Attributes:
        kernel: Gaussian of the mask's shape, float32.
        forward: The mask filtered by it, float32 (H, W).
        inside: Boolean (H, W).
    """

    kernel: np.ndarray
    forward: np.ndarray
    inside: np.ndarray


def prepare(mask: np.ndarray, alpha: float = ALPHA) -> Context:
    """Prepares a mask, uint8 (H, W) of 0 and 255, with at least one pixel set.

    `alpha` is the size of the kernel: the root of its covariance's trace.
    """
    inside = mask > 0
    covariance, row_radius, column_radius = shape_of(inside, alpha)
    kernel = gaussian(covariance, row_radius, column_radius).astype(np.float32)
    forward = _filter(inside.astype(np.float32), kernel)
    return Context(kernel, forward, inside)


def shape_of(inside: np.ndarray, alpha: float) -> tuple[np.ndarray, int, int]:
    """Covariance of a mask's rows and columns, of trace alpha^2, and the kernel's radii."""
    rows, columns = np.nonzero(inside)
    if len(rows) == 1:
        return np.eye(2) / 4, 1, 1
    covariance = np.cov(rows, columns) + EPS * np.eye(2)
    trace = np.trace(covariance)
    covariance *= alpha ** 2 / trace
    deviations = np.sqrt(np.diag(covariance))
    radii = np.round(3 * deviations).astype(int)
    row_radius, column_radius = radii.tolist()
    return covariance, row_radius, column_radius


def gaussian(covariance: np.ndarray, row_radius: int, column_radius: int) -> np.ndarray:
    """A Gaussian with sum 1. A degenerate one, of a diagonal line of pixels, is that line."""
    # Offsets from the middle.
    row_range = np.arange(-row_radius, row_radius + 1)
    column_range = np.arange(-column_radius, column_radius + 1)
    rows, columns = np.meshgrid(row_range, column_range, indexing='ij')
    offsets = np.stack((rows, columns), axis=-1)
    regular = covariance + 1e-12 * np.eye(2)
    inverse = np.linalg.inv(regular)
    squared_distances = np.einsum('...i,ij,...j', offsets, inverse, offsets)
    kernel = np.exp(-0.5 * squared_distances)
    return kernel / kernel.sum()


def context_measure(
    prediction: np.ndarray,
    p: np.ndarray,
    context: Context,
    weights: np.ndarray | None = None,
    beta2: float = 1,
) -> float:
    """Computes the context measure.

    Args:
        prediction: uint8 (H, W).
        p: Normalised value of each grey value, (256,).
        context: The mask's.
        weights: Of the mask's pixels, float64 in their order; None for equal ones.
        beta2: Weight of the mask's share that lies in the prediction's context.
    """
    values = cv2.LUT(prediction, p.astype(np.float32))
    total = values.sum(dtype=np.float64)
    if total == 0:
        return 0.0

    # How much of the prediction lies in the mask's context.
    explained = np.einsum('ij,ij->', values, context.forward, dtype=np.float64)
    forward = float(explained) / total

    # How much of the mask lies in the prediction's context.
    around = _filter(values, context.kernel)[context.inside]
    inclusion = SCALE * -np.expm1(-around)
    reverse = float(np.average(inclusion.astype(np.float64), weights=weights))

    # Their F-measure.
    if forward + reverse == 0:
        return 0.0
    numerator = (1 + beta2) * forward * reverse
    denominator = beta2 * forward + reverse
    return numerator / denominator


def _filter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.filter2D(image, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)
