"""Errors of mattes: Rhemann et al., "A perceptually motivated online benchmark for image matting",
CVPR 2009. Sums are in thousands. `p` and `a` are prediction and ground truth in 0..1, not
normalised; `region` is boolean, True everywhere or in the unknown part of a trimap.
"""

import numpy as np
from scipy.ndimage import convolve, label


def absolute_sum(p: np.ndarray, a: np.ndarray, region: np.ndarray) -> float:
    """SAD."""
    return np.abs(p - a)[region].sum() / 1000


def absolute_mean(p: np.ndarray, a: np.ndarray, region: np.ndarray) -> float:
    """MAD; NaN for an empty region."""
    return np.abs(p - a)[region].mean() if region.any() else np.nan


def squared_mean(p: np.ndarray, a: np.ndarray, region: np.ndarray) -> float:
    """MSE; NaN for an empty region."""
    return ((p - a) ** 2)[region].mean() if region.any() else np.nan


def gradient(p: np.ndarray, a: np.ndarray, region: np.ndarray) -> float:
    """Squared differences of gradient magnitudes; Gaussian derivatives, sigma 1.4."""
    difference = _magnitude(p) - _magnitude(a)
    squares = difference ** 2
    return squares[region].sum() / 1000


def _magnitude(x: np.ndarray) -> np.ndarray:
    steps = np.arange(-4, 5)
    gauss = np.exp(-steps ** 2 / (2 * 1.4 ** 2))
    slope = -steps * gauss
    kernel = np.outer(gauss, slope)
    kernel /= np.sqrt((kernel ** 2).sum())
    across = convolve(x, kernel, mode='nearest')
    down = convolve(x, kernel.T, mode='nearest')
    return np.hypot(across, down)


def connectivity(p: np.ndarray, a: np.ndarray, region: np.ndarray) -> float:
    """Differences of connectivity, in steps of .1."""
    # The level of each pixel: the last threshold before it leaves the largest component.
    level = np.full(p.shape, -1.0)
    for step in range(1, 11):
        threshold = step / 10
        both = (p >= threshold) & (a >= threshold)
        is_open = level == -1
        leaves = is_open & ~_largest(both)
        level[leaves] = (step - 1) / 10
    level[level == -1] = 1

    # Where the mattes are connected differently.
    difference = _connected(p, level) - _connected(a, level)
    return np.abs(difference)[region].sum() / 1000


def _largest(binary: np.ndarray) -> np.ndarray:
    """The largest component of four neighbours; none if there is none."""
    components, number = label(binary)
    if number == 0:
        return np.zeros(binary.shape, bool)
    sizes = np.bincount(components.ravel())[1:]
    return components == 1 + sizes.argmax()


def _connected(x: np.ndarray, level: np.ndarray) -> np.ndarray:
    distance = x - level
    return 1 - distance * (distance >= 0.15)


METRICS = {
    'sad': absolute_sum,
    'mad': absolute_mean,
    'alphamse': squared_mean,
    'grad': gradient,
    'conn': connectivity,
}


def scores(
    pred: np.ndarray, alpha: np.ndarray, unknown: np.ndarray | None = None,
) -> dict[str, float]:
    """Computes all errors of uint8 mattes; those in the unknown part are NaN without a trimap."""
    p = pred / 255
    a = alpha / 255
    everywhere = np.ones(p.shape, bool)
    found = {}
    for name, metric in METRICS.items():
        found[name] = metric(p, a, everywhere)
        found[f'{name}u'] = np.nan if unknown is None else metric(p, a, unknown)
    return found
