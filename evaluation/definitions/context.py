"""Context measure: Wang et al., arXiv 2512.07076, 2025, as PySODMetrics has it."""

import numpy as np
from scipy.ndimage import correlate


def context_measure(p: np.ndarray, g: np.ndarray) -> float:
    """Harmonic mean of how much of the prediction lies in the mask's context, and the reverse."""
    if not g.any() or p.sum() == 0:
        return 0.0
    kernel = _kernel(g)
    # How much of the prediction lies in the mask's context.
    mask_context = correlate(g.astype(float), kernel, mode='mirror')
    forward = (p * mask_context).sum() / p.sum()
    # How much of the mask lies in the prediction's context.
    around = correlate(p, kernel, mode='mirror')[g]
    inclusion = (1 - np.exp(-around)) / (1 - np.exp(-1))
    reverse = inclusion.mean()
    if forward + reverse == 0:
        return 0.0
    return 2 * forward * reverse / (forward + reverse)


def _kernel(g: np.ndarray) -> np.ndarray:
    """A Gaussian with the covariance of the mask's pixels, scaled to a trace of 6^2."""
    rows, columns = np.nonzero(g)
    if len(rows) == 1:
        covariance = np.eye(2) / 4
        reach = np.array([1, 1])
    else:
        covariance = np.cov(rows, columns) + 2.0 ** -52 * np.eye(2)
        covariance *= 36 / np.trace(covariance)
        deviations = np.sqrt(np.diag(covariance))
        reach = np.round(3 * deviations).astype(int)

    # Offsets from the middle pixel, three standard deviations to each side.
    down, right = reach
    y, x = np.mgrid[-down:down + 1, -right:right + 1]

    # A line of pixels along a diagonal has a singular covariance.
    inverse = np.linalg.inv(covariance + 1e-12 * np.eye(2))
    (a, b), (_, c) = inverse
    squared_distance = a * y * y + 2 * b * x * y + c * x * x
    kernel = np.exp(-0.5 * squared_distance)
    return kernel / kernel.sum()
