"""Refines masks, and estimates the foreground's colour where the background shows through."""

from collections.abc import Iterator

import cv2
import numpy as np

MATTING = ('blur-fusion', 'multi-level')
BLUR_FUSION_SIZES = (90, 6)  # side of the box filter, coarse to fine, as published
TILE = 256  # side of the parts that are worked on at a time: they stay in the processor's cache
SURE = 254  # mask value from which a pixel's colour is the foreground's, to rounding


def refine_mask(
    mask: np.ndarray,
    threshold: int | None = None,
    fill_holes: int = 0,
    min_object: int = 0,
    offset: int = 0,
    blur: float = 0,
) -> np.ndarray:
    """Refines a mask, step by step in the order of the arguments.

    Args:
        mask: uint8 (H, W).
        threshold: values above it become 255, all others 0; default: the mask stays soft.
        fill_holes: fills holes of fewer pixels (at mask > 127).
        min_object: removes objects of fewer pixels (at mask > 127), with their soft edges.
        offset: grows the mask by so many pixels or, if negative, shrinks it.
        blur: standard deviation of a Gaussian, in pixels.

    Returns:
        The refined mask, uint8 (H, W).
    """
    if threshold is not None:
        mask = np.where(mask > threshold, np.uint8(255), np.uint8(0))
    if fill_holes:
        holes = _small_parts(mask <= 127, fill_holes)
        mask = np.maximum(mask, 255 * holes)
    if min_object:
        objects = _small_parts(mask > 127, min_object, with_surroundings=True)
        mask = mask * (1 - objects)
    if offset:
        side = 2 * abs(offset) + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        change = cv2.dilate if offset > 0 else cv2.erode
        mask = change(mask, kernel)
    if blur:
        mask = cv2.GaussianBlur(mask, (0, 0), blur)
    return mask


def _small_parts(region: np.ndarray, size: int, with_surroundings: bool = False) -> np.ndarray:
    """Marks the connected parts of `region`, bool (H, W), of fewer than `size` pixels.

    Args:
        region: bool (H, W).
        size: pixels of the smallest part that is not marked.
        with_surroundings: also mark the pixels outside `region` whose nearest part is small,
            because they may be its soft edge.

    Returns:
        uint8 (H, W), 0 or 1.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        region.astype(np.uint8), connectivity=8)
    is_small = stats[:, cv2.CC_STAT_AREA] < size
    is_small[0] = False  # what lies outside the region
    if not with_surroundings or count == 1:
        return is_small[labels].astype(np.uint8)

    # `nearest` numbers the pixels of the region, and gives each other pixel its nearest one's.
    outside = (~region).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(
        outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    label_of = np.zeros(nearest.max() + 1, np.intp)
    label_of[nearest[region]] = labels[region]
    return is_small[label_of[nearest]].astype(np.uint8)


def estimate_foreground(
    image: np.ndarray,
    mask: np.ndarray,
    method: str = 'blur-fusion',
    tile: int = TILE,
) -> np.ndarray:
    """Estimates the foreground's own colour at soft edges.

    'blur-fusion' is Forte, "Approximate fast foreground colour estimation" (ICIP 2021).
    'multi-level' is Germer et al., "Fast multi-level foreground estimation" (ICPR 2020), by the
    package pymatting.

    Args:
        image: uint8 RGB (H, W, 3).
        mask: uint8 (H, W).
        method: one of MATTING.
        tile: side, in pixels, of the parts that blur fusion works on; parts without soft edges
            are left out.

    Returns:
        The image with the foreground's colours, uint8 RGB (H, W, 3).

    Raises:
        ValueError: the method is unknown, or pymatting is not installed.
    """
    if method == 'multi-level':
        return _multi_level(image, mask)
    if method != 'blur-fusion':
        raise ValueError(f'matting {method}: take {" or ".join(MATTING)}')

    result = image.copy()
    is_soft = (mask > 0) & (mask < SURE)
    reach = sum(size // 2 for size in BLUR_FUSION_SIZES)  # how far away a pixel can matter
    for top, left in _tiles(mask.shape, tile):
        inner = slice(top, top + tile), slice(left, left + tile)
        if not is_soft[inner].any():
            continue
        outer_top = max(top - reach, 0)
        outer_left = max(left - reach, 0)
        outer = (slice(outer_top, top + tile + reach), slice(outer_left, left + tile + reach))
        colour = _blur_fusion(image[outer], mask[outer])
        result[inner] = colour[top - outer_top:, left - outer_left:][:tile, :tile]
    return result


def _tiles(shape: tuple[int, ...], side: int) -> Iterator[tuple[int, int]]:
    """Top and left of the tiles that cover (H, W)."""
    height, width = shape
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield top, left


def _blur_fusion(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    pixels = image.astype(np.float32)
    alpha = mask.astype(np.float32)[..., None] * np.float32(1 / 255)
    foreground = background = pixels
    for size in BLUR_FUSION_SIZES:
        foreground, background = _blur_fusion_step(pixels, foreground, background, alpha, size)
    return cv2.convertScaleAbs(foreground)


def _blur_fusion_step(
    image: np.ndarray,
    foreground: np.ndarray,
    background: np.ndarray,
    alpha: np.ndarray,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes one step (equations 4 to 6) on (H, W, 3) and alpha (H, W, 1), float32.

    Both colours become means that are weighted by their shares. The foreground is then corrected
    so that the two colours add up to the image.
    """
    def mean(values: np.ndarray) -> np.ndarray:
        height, width = values.shape[:2]
        return cv2.blur(values, (size, size)).reshape(height, width, -1)

    share = mean(alpha)
    foreground = mean(foreground * alpha) / (share + 1e-5)
    background = mean(background * (1 - alpha)) / (1 - share + 1e-5)
    error = image - alpha * foreground - (1 - alpha) * background
    corrected = foreground + alpha * error
    return np.clip(corrected, 0, 255), background


def _multi_level(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    try:
        from pymatting import estimate_foreground_ml
    except ImportError as error:
        message = 'matting multi-level needs the package pymatting: pip install pymatting'
        raise ValueError(message) from error
    if mask.size == 1:  # by the logarithm of which it divides
        return image.copy()
    foreground = estimate_foreground_ml(image / 255., mask / 255.)
    return cv2.convertScaleAbs(foreground, alpha=255)
