"""Multi-scale IoU: Ahmadzadeh et al., "Multiscale IOU", ICIP 2021, as PySODMetrics computes it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.ndimage import sobel


def _edges(b: np.ndarray) -> np.ndarray:
    image = b.astype(float)
    down = sobel(image, 0, mode='constant')
    across = sobel(image, 1, mode='constant')
    return (down != 0) | (across != 0)


def _cells(edges: np.ndarray, size: int) -> np.ndarray:
    """Which cells have an edge; the image is filled up at its upper left."""
    height, width = edges.shape
    missing_rows = -height % size
    missing_columns = -width % size
    padded = np.pad(edges, ((missing_rows, 0), (missing_columns, 0)))
    rows = (height + missing_rows) // size
    columns = (width + missing_columns) // size
    cells = padded.reshape(rows, size, columns, size)
    return np.any(cells, axis=(1, 3))


def msiou(b: np.ndarray, g: np.ndarray, scales: Sequence[int] = range(10)) -> float:
    """Area under the ratios over the scales; cells of scale s have 2^s pixels a side.

    The denominators are in half precision.
    """
    edges = _edges(b)
    true_edges = _edges(g)
    ratios = []
    for scale in scales:
        # The share of the cells with a true edge that have a found one too.
        size = 2 ** scale
        found = _cells(edges, size)
        true = _cells(true_edges, size)
        hits = (found & true).sum()
        number = true.sum()
        denominator = np.float16(np.float16(number) + np.float16(1))
        if np.isinf(denominator):
            denominator = number + 1
        ratios.append((hits + 1) / float(denominator))

    # The area by trapezoids.
    trapezoids = [(left + right) / 2 for left, right in pairwise(ratios)]
    return float(np.mean(trapezoids))


def scores(p: np.ndarray, q: np.ndarray, g: np.ndarray) -> dict[str, float]:
    """Scores over the thresholds 0 to 256, at the adaptive threshold and above .5."""
    adaptive = p >= min(2 * p.mean(), 1)
    above_half = p > 0.5
    curve = np.array([msiou(q >= threshold, g) for threshold in range(257)])
    return {
        'maxMSIoU': curve.max(),
        'meanMSIoU': curve.mean(),
        'adpMSIoU': msiou(adaptive, g),
        'binMSIoU': msiou(above_half, g),
    }
