"""Multi-scale IoU: Ahmadzadeh et al., "Multiscale IOU", ICIP 2021, as PySODMetrics computes it."""

from itertools import pairwise

import numpy as np
from scipy.ndimage import sobel


def _edges(b: np.ndarray) -> np.ndarray:
    image = b.astype(float)
    return (sobel(image, 0, mode='constant') != 0) | (sobel(image, 1, mode='constant') != 0)


def _cells(edges: np.ndarray, size: int) -> np.ndarray:
    """Which cells have an edge; the image is filled up at its upper left."""
    height, width = edges.shape
    padded = np.pad(edges, ((-height % size, 0), (-width % size, 0)))
    rows, columns = padded.shape
    return np.any(padded.reshape(rows // size, size, columns // size, size), axis=(1, 3))


def msiou(b: np.ndarray, g: np.ndarray) -> float:
    """Area under the ratios over ten scales. The denominators are in half precision."""
    ratios = []
    for scale in range(10):
        found = _cells(_edges(b), 2 ** scale)
        true = _cells(_edges(g), 2 ** scale)
        denominator = np.float16(np.float16(true.sum()) + np.float16(1))
        if np.isinf(denominator):
            denominator = true.sum() + 1
        ratios.append(((found & true).sum() + 1) / float(denominator))
    return float(np.mean([(a + b) / 2 for a, b in pairwise(ratios)]))


def scores(p: np.ndarray, q: np.ndarray, g: np.ndarray) -> dict[str, float]:
    """Scores over the thresholds 0 to 256, at the adaptive threshold and above .5."""
    curve = np.array([msiou(q >= threshold, g) for threshold in range(257)])
    return {
        'maxMSIoU': curve.max(),
        'meanMSIoU': curve.mean(),
        'adpMSIoU': msiou(p >= min(2 * p.mean(), 1), g),
        'binMSIoU': msiou(p > 0.5, g),
    }
