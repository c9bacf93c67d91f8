"""Context measure: Wang et al., arXiv 2512.07076, 2025, as PySODMetrics has it."""

import cv2
import numpy as np
from scipy.ndimage import correlate
from skimage.color import deltaE_ciede2000, rgb2lab


def context_measure(
    p: np.ndarray,
    g: np.ndarray,
    weights: np.ndarray | None = None,
    beta2: float = 1,
    alpha: float = 6,
) -> float:
    """F-measure of how much of the prediction lies in the mask's context, and the reverse.

    `weights` are those of the mask's pixels, in their order.
    """
    if not g.any() or p.sum() == 0:
        return 0.0
    kernel = _kernel(g, alpha)
    # How much of the prediction lies in the mask's context.
    mask_context = correlate(g.astype(float), kernel, mode='mirror')
    forward = (p * mask_context).sum() / p.sum()
    # How much of the mask lies in the prediction's context.
    around = correlate(p, kernel, mode='mirror')[g]
    inclusion = (1 - np.exp(-around)) / (1 - np.exp(-1))
    reverse = np.average(inclusion, weights=weights)

    # Their F-measure.
    if forward + reverse == 0:
        return 0.0
    numerator = (1 + beta2) * forward * reverse
    denominator = beta2 * forward + reverse
    return numerator / denominator


def _kernel(g: np.ndarray, alpha: float) -> np.ndarray:
    """A Gaussian with the covariance of the mask's pixels, scaled to a trace of alpha^2."""
    rows, columns = np.nonzero(g)
    if len(rows) == 1:
        covariance = np.eye(2) / 4
        reach = np.array([1, 1])
    else:
        covariance = np.cov(rows, columns) + 2.0 ** -52 * np.eye(2)
        covariance *= alpha ** 2 / np.trace(covariance)
        deviations = np.sqrt(np.diag(covariance))
        reach = np.round(3 * deviations).astype(int)

    # Offsets from the middle pixel, three standard deviations to each side.
    down, right = reach
    y, x = np.mgrid[-down:down + 1, -right:right + 1]

    # A line of pixels along a diagonal has a singular covariance.
    regular = covariance + 1e-12 * np.eye(2)
    inverse = np.linalg.inv(regular)
    (a, b), (_, c) = inverse
    squared_distance = a * y * y + 2 * b * x * y + c * x * x
    kernel = np.exp(-0.5 * squared_distance)
    return kernel / kernel.sum()


def camouflaged(p: np.ndarray, g: np.ndarray, image: np.ndarray) -> float:
    """Context measure of a camouflaged object; `image` is RGB, uint8 (H, W, 3)."""
    if not g.any():
        return 0.0
    return context_measure(p, g, _camouflage(image, g), beta2=1.2)


def _camouflage(image: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Weights of the mask's pixels: 1, and up to 1 more where the surroundings look like them."""
    # Patches of 7x7 on a grid of 3: the object's, and those of what is at most 10 pixels away.
    near = cv2.dilate(g.astype(np.uint8), np.ones((20, 20), np.uint8)) > 0
    own = _patches(g)
    others = _patches(near & ~g)
    if not own or not others:
        return np.ones(np.count_nonzero(g))

    # Each of the object's becomes the nearest of the others: in colour, and in place.
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(float)
    spread = np.std([*own, *others], axis=0)
    spread[spread == 0] = 1
    total = np.zeros(image.shape)
    count = np.zeros((*g.shape, 1))
    for corner in own:
        distances = []
        for other in others:
            colour = _patch(colours, corner) - _patch(colours, other)
            place = 20 * (np.array(corner) - other) / spread
            squared_colour = (colour ** 2).sum()
            squared_place = (place ** 2).sum()
            distances.append(squared_colour + squared_place)
        nearest = others[np.argmin(distances)]
        _patch(total, corner)[:] += _patch(image, nearest)
        _patch(count, corner)[:] += 1
    composed = np.round(total / np.maximum(count, 1)).astype(np.uint8)

    # The less it differs to the eye, the better it is camouflaged.
    before = rgb2lab(image)
    after = rgb2lab(composed)
    difference = deltaE_ciede2000(before, after)[g] / 100
    similarity = np.exp(-8 * np.minimum(difference, 1))
    lowest = np.exp(-8)
    return 1 + (similarity - lowest) / (1 - lowest)


def _patches(region: np.ndarray) -> list[tuple[int, int]]:
    """Upper left corners of the patches of the grid that lie in a region."""
    height, width = region.shape
    corners = []
    for row in range(0, height - 6, 3):
        for column in range(0, width - 6, 3):
            if _patch(region, (row, column)).all():
                corners.append((row, column))
    return corners


def _patch(picture: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    row, column = corner
    return picture[row:row + 7, column:column + 7]
