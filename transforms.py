"""Paired augmentations of an image, uint8 (H, W, 3) RGB, and its mask, uint8 (H, W).

Every random draw comes from the generator that is passed in; no function changes its inputs, and any may return them
unchanged. What Pillow defines (rotation and the four enhancements) is computed with OpenCV and look-up tables, and
agrees with Pillow within 2 grey levels.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

Pixels = np.ndarray
Augmentation = Callable[[Pixels, Pixels, np.random.Generator], tuple[Pixels, Pixels]]

FLIP_PROBABILITY = 0.5
ROTATE_PROBABILITY = 0.2
ROTATE_DEGREES = (-15, 15)  # integers, the upper bound left out
CROP_SHARE = 10  # each side loses up to a tenth of the shorter one
# Tenths of the factor of each enhancement, both bounds included.
BRIGHTNESS_TENTHS = (5, 15)
CONTRAST_TENTHS = (5, 15)
COLOUR_TENTHS = (0, 20)
SHARPNESS_TENTHS = (0, 30)
PEPPER_SHARE = 0.0015  # of the pixels
# Of the background colour of `replace_background`; what remains is any colour.
GREY_PROBABILITY = 0.4
NEAR_FOREGROUND_PROBABILITY = 0.4
NEAR_FOREGROUND_SHARE = 0.2  # how far towards black or white the mean colour moves

# By name, in the order in which they are applied, which is that of their definitions.
AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(function: Augmentation) -> Augmentation:
    """Registers an augmentation under the name of the function, to be applied after those before.

    The function takes and returns an image, uint8 (H, W, 3), and its mask, uint8 (H, W), and draws
    from the generator that it is given. The name must also stand in `Augmentation` of config.py, so
    that `preproc_methods` can ask for it.

    Raises:
        ValueError: if an augmentation of that name is registered already.
    """
    name = function.__name__
    if name in AUGMENTATIONS:
        raise ValueError(f'an augmentation {name} is registered already; give the function another name')
    AUGMENTATIONS[name] = function
    return function

# Pillow truncates a blend where OpenCV rounds it. A little less than a half keeps whole numbers what they are.
TRUNCATE = -0.49


@augmentation
def flip(image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Mirrors left and right with probability .5."""
    if rng.random() >= FLIP_PROBABILITY:
        return image, mask
    return cv2.flip(image, 1), cv2.flip(mask, 1)


@augmentation
def crop(image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Keeps a centred window, each side shortened by up to 10% of the shorter one, and resizes it back to (H, W)."""
    height, width = mask.shape
    most = min(height, width) // CROP_SHARE
    window_height = height - int(rng.integers(most + 1))
    window_width = width - int(rng.integers(most + 1))
    top = (height - window_height) // 2
    left = (width - window_width) // 2
    window = np.s_[top:top + window_height, left:left + window_width]
    cropped_image = cv2.resize(image[window], (width, height))
    cropped_mask = cv2.resize(mask[window], (width, height))
    return cropped_image, cropped_mask


@augmentation
def rotate(image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Rotates by an integer angle in [-15, 15) degrees with probability .2."""
    if rng.random() >= ROTATE_PROBABILITY:
        return image, mask
    degrees = int(rng.integers(*ROTATE_DEGREES))
    return rotated(image, mask, degrees)


@augmentation
def enhance(image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Changes brightness and contrast by .5..1.5, colour by 0..2 and sharpness by 0..3, in steps of .1."""
    changes = (
        (brightness, BRIGHTNESS_TENTHS),
        (contrast, CONTRAST_TENTHS),
        (colour, COLOUR_TENTHS),
        (sharpness, SHARPNESS_TENTHS),
    )
    for change, (low, high) in changes:
        factor = rng.integers(low, high, endpoint=True) / 10
        image = change(image, factor)
    return image, mask


@augmentation
def pepper(image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Sets .15% of the image's pixels to black or white."""
    count = int(PEPPER_SHARE * mask.size)
    peppered = image.copy()
    positions = rng.integers(mask.size, size=count)
    black_or_white = 255 * rng.integers(2, size=(count, 1), dtype=np.uint8)
    peppered.reshape(-1, 3)[positions] = black_or_white
    return peppered, mask


def augment(image: Pixels, mask: Pixels, rng: np.random.Generator, methods: Sequence[str],
            background_color_synthesis: bool = False) -> tuple[Pixels, Pixels]:
    """Applies the augmentations named in `methods`, in the order of `AUGMENTATIONS`, after the background synthesis."""
    if background_color_synthesis:
        image, mask = replace_background(image, mask, rng)
    for name, function in AUGMENTATIONS.items():
        if name in methods:
            image, mask = function(image, mask, rng)
    return image, mask


def replace_background(image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Composites the foreground, with the mask as its alpha, over a flat colour.

    The colour is a grey (p .4), the foreground's mean colour moved by up to 20% towards black or white (p .4),
    or any (p .2).
    """
    kind = rng.random()
    if kind < GREY_PROBABILITY:
        background = np.full(3, rng.integers(256), np.float32)
    elif kind < GREY_PROBABILITY + NEAR_FOREGROUND_PROBABILITY:
        foreground = (mask > 127).astype(np.uint8)
        mean = np.array(cv2.mean(image, foreground)[:3], np.float32)
        black_or_white = 255 * rng.integers(2)
        share = rng.uniform(0, NEAR_FOREGROUND_SHARE)
        background = mean + np.float32(share) * (black_or_white - mean)
    else:
        background = rng.integers(256, size=3).astype(np.float32)
    flat = np.empty_like(image)
    flat[:] = np.rint(background)
    alpha = mask.astype(np.float32) * np.float32(1 / 255)
    return cv2.blendLinear(image, flat, alpha, 1 - alpha), mask


def rotated(image: Pixels, mask: Pixels, degrees: float) -> tuple[Pixels, Pixels]:
    """Both rotated counter-clockwise about their centre: Pillow's `rotate(degrees, BICUBIC)`, black outside.

    Pillow's bicubic kernel has a = -1, OpenCV's a = -.75. In one dimension the kernel is linear in a, and at a = 0 it
    is linear interpolation with smoothed fractions, so Pillow's is 4/3 of OpenCV's less 1/3 of that. In two dimensions
    this leaves out a term of a^2, small enough to keep within 2 grey levels but for a pixel in 10^5 at hard edges.
    """
    if degrees % 360 == 0:
        return image, mask
    size = height, width = mask.shape
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn, centre = np.array([[cos, -sin], [sin, cos]]), np.array([width / 2, height / 2])
    to_source = np.column_stack([turn, centre - turn @ (centre - 0.5) - 0.5])
    inverse_warp = {'M': to_source, 'dsize': size[::-1]}

    pair = cv2.insertChannel(mask, cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), 3)
    cubic = cv2.warpAffine(pair, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
                           **inverse_warp)
    # Padding by hand: OpenCV's remap is twice as fast with its default border, which then is never seen.
    padded = cv2.copyMakeBorder(pair, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    hermite = cv2.remap(padded, *(_smoothed(row, size) for row in to_source + np.array([0, 0, 1])),
                        cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.ones(size, np.uint8), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, **inverse_warp)
    pair = cv2.copyTo(cv2.addWeighted(cubic, 4 / 3, hermite, -1 / 3, TRUNCATE), inside)
    return cv2.cvtColor(pair, cv2.COLOR_RGBA2RGB), cv2.extractChannel(pair, 3)


def _smoothed(row: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One coordinate of an affine map over a grid of `size`, its fraction t replaced by 3 t^2 - 2 t^3; float32.

    With u = t - 1/2 that adds u/2 - 2 u^3. In place, as this is a fifth of a rotation's time.
    """
    height, width = size
    down, right = row[1] * np.arange(height), row[0] * np.arange(width) + row[2] - 0.5
    middle = np.add.outer(down.astype(np.float32), right.astype(np.float32))
    u = middle - np.rint(middle)
    middle += 0.5
    change = u * u
    change *= -2
    change += 0.5
    change *= u
    middle += change
    return middle


def brightness(image: Pixels, factor: float) -> Pixels:
    """Pillow's `ImageEnhance.Brightness`: a blend with black."""
    return cv2.LUT(image, _blend_table(0, factor))


def contrast(image: Pixels, factor: float) -> Pixels:
    """Pillow's `ImageEnhance.Contrast`: a blend with the mean of the grey image."""
    grey_mean = int(np.dot(cv2.mean(image)[:3], (0.299, 0.587, 0.114)) + 0.5)
    return cv2.LUT(image, _blend_table(grey_mean, factor))


def colour(image: Pixels, factor: float) -> Pixels:
    """Pillow's `ImageEnhance.Color`: a blend with the grey image."""
    to_grey = np.tile((0.299, 0.587, 0.114), (3, 1))
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * to_grey)


def sharpness(image: Pixels, factor: float) -> Pixels:
    """Pillow's `ImageEnhance.Sharpness`: a blend with the image smoothed by a 3x3 kernel of ones around a 5.

    That kernel is 9/13 of the box filter and 4/13 of the image; Pillow leaves the outermost pixels unsmoothed.
    """
    smooth = (1 - factor) * 9 / 13
    sharp = cv2.addWeighted(image, 1 - smooth, cv2.blur(image, (3, 3)), smooth, TRUNCATE)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        sharp[edge] = image[edge]
    return sharp


def _blend_table(degenerate: int, factor: float) -> np.ndarray:
    """Look-up table of `degenerate + factor * (value - degenerate)`, clipped and truncated as Pillow does, uint8."""
    values = np.arange(256, dtype=np.float32)
    return np.clip(degenerate + np.float32(factor) * (values - degenerate), 0, 255).astype(np.uint8)
