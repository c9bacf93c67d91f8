"""Refining masks, and the colour of the foreground where it is mixed with the background."""

from itertools import product

import cv2
import numpy as np

MATTING = ('blur-fusion', 'multi-level')
BLUR_FUSION_SIZES = (90, 6)  # side of the box filter, coarse to fine, as published
TILE = 256  # side of the part worked on at a time: only parts with soft edges are, and they stay in the cache
SURE = 254  # of 255, from which a pixel's colour is the foreground's to a rounding


def refine_mask(mask: np.ndarray, threshold: int | None = None, fill_holes: int = 0, min_object: int = 0,
                offset: int = 0, blur: float = 0) -> np.ndarray:
    """mask (H, W), uint8 -> the same, refined in the order of the arguments.

    Values above `threshold` become 255 and all others 0; holes and objects of fewer pixels than `fill_holes` and
    `min_object` are filled and removed (at mask > 127); `offset` pixels are added all round or, if negative, taken
    away; and the edge is blurred by a Gaussian of `blur` pixels.
    """
    if threshold is not None:
        mask = np.where(mask > threshold, np.uint8(255), np.uint8(0))
    if fill_holes:
        mask = np.maximum(mask, 255 * _small_parts(mask <= 127, fill_holes))
    if min_object:
        mask = mask * (1 - _small_parts(mask > 127, min_object, remove_rest=True))
    if offset:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(offset) + 1,) * 2)
        mask = (cv2.dilate if offset > 0 else cv2.erode)(mask, kernel)
    if blur:
        mask = cv2.GaussianBlur(mask, (0, 0), blur)
    return mask


def _small_parts(region: np.ndarray, size: int, remove_rest: bool = False) -> np.ndarray:
    """(H, W), uint8: 1 on connected parts of fewer than `size` pixels; with `remove_rest` also where the nearest part
    of `region`, whose soft edge it may be, is such a part."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < size
    small[0] = False
    if not remove_rest or count == 1:
        return small[labels].astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels((~region).astype(np.uint8), cv2.DIST_L2, 5,
                                                 labelType=cv2.DIST_LABEL_PIXEL)
    part = np.zeros(nearest.max() + 1, np.intp)
    part[nearest[region]] = labels[region]
    return small[part[nearest]].astype(np.uint8)


def estimate_foreground(image: np.ndarray, mask: np.ndarray, method: str = 'blur-fusion') -> np.ndarray:
    """image (H, W, 3) and mask (H, W), uint8 -> the foreground's own colour, uint8 (H, W, 3).

    'blur-fusion' is Forte, "Approximate fast foreground colour estimation" (ICIP 2021); 'multi-level' is Germer et al.,
    "Fast multi-level foreground estimation" (ICPR 2020), by pymatting, if that is installed. ValueError otherwise.
    """
    if method == 'multi-level':
        return _multi_level(image, mask)
    if method != 'blur-fusion':
        raise ValueError(f'matting {method}: take {" or ".join(MATTING)}')
    result = image.copy()
    soft = (mask > 0) & (mask < SURE)
    reach = sum(size // 2 for size in BLUR_FUSION_SIZES)  # how far away a pixel can matter
    for top, left in product(range(0, mask.shape[0], TILE), range(0, mask.shape[1], TILE)):
        inner = slice(top, top + TILE), slice(left, left + TILE)
        if soft[inner].any():
            outer = tuple(slice(max(part.start - reach, 0), part.stop + reach) for part in inner)
            colour = _blur_fusion(image[outer], mask[outer])
            result[inner] = colour[top - outer[0].start:, left - outer[1].start:][:TILE, :TILE]
    return result


def _blur_fusion(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    pixels, alpha = image.astype(np.float32), mask.astype(np.float32)[..., None] * np.float32(1 / 255)
    foreground = background = pixels
    for size in BLUR_FUSION_SIZES:
        foreground, background = _blur_fusion_step(pixels, foreground, background, alpha, size)
    return cv2.convertScaleAbs(foreground)


def _blur_fusion_step(image: np.ndarray, foreground: np.ndarray, background: np.ndarray, alpha: np.ndarray,
                 size: int) -> tuple[np.ndarray, np.ndarray]:
    """One step (equations 4 to 6): means of both colours, weighted by their shares, then the foreground corrected so
    that the two add up to the image."""
    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (size, size)).reshape(*values.shape[:2], -1)

    share = mean(alpha)
    foreground = mean(foreground * alpha) / (share + 1e-5)
    background = mean(background * (1 - alpha)) / (1 - share + 1e-5)
    error = image - alpha * foreground - (1 - alpha) * background
    return np.clip(foreground + alpha * error, 0, 255), background


def _multi_level(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    try:
        from pymatting import estimate_foreground_ml
    except ImportError as error:
        raise ValueError('matting multi-level needs the package pymatting: pip install pymatting') from error
    return cv2.convertScaleAbs(estimate_foreground_ml(image / 255., mask / 255.), alpha=255)
