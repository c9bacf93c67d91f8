"""Paired augmentations of an image, uint8 (H, W, 3) RGB, and its mask, uint8 (H, W).

Every random draw comes from the generator that is passed in. No function changes its inputs, and
any may return them unchanged. What Pillow defines (rotation and the four enhancements) is computed
with OpenCV and look-up tables, and agrees with Pillow within 2 grey levels.
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

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # of R, G and B
# Pillow truncates a blend, OpenCV rounds it. Adding a little less than -1/2 before makes OpenCV
# truncate, and keeps whole numbers what they are.
TRUNCATE = -0.49

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
        raise ValueError(
            f'an augmentation {name} is registered already; give the function another name')
    AUGMENTATIONS[name] = function
    return function


@augmentation
def flip(image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Mirrors left and right with probability .5."""
    if rng.random() >= FLIP_PROBABILITY:
        return image, mask
    return cv2.flip(image, 1), cv2.flip(mask, 1)


@augmentation
def crop(image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Keeps a centred window and resizes it back to (H, W).

    Each side of the window is shortened by up to 10% of the image's shorter side.
    """
    # The window's size is random, its place is not.
    height, width = mask.shape
    most = min(height, width) // CROP_SHARE
    window_height = height - int(rng.integers(most + 1))
    window_width = width - int(rng.integers(most + 1))
    top = (height - window_height) // 2
    left = (width - window_width) // 2
    bottom = top + window_height
    right = left + window_width
    window = np.s_[top:bottom, left:right]

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
    """Changes brightness, contrast (.5..1.5), colour (0..2) and sharpness (0..3) in steps of .1."""
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
    pixels = peppered.reshape(-1, 3)  # a view: what is set in it is set in the image
    pixels[positions] = black_or_white
    return peppered, mask


def augment(
    image: Pixels,
    mask: Pixels,
    rng: np.random.Generator,
    methods: Sequence[str],
    background_color_synthesis: bool = False,
) -> tuple[Pixels, Pixels]:
    """Applies augmentations in the order of `AUGMENTATIONS`.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W).
        rng: source of every random draw.
        methods: names of the augmentations; their order does not matter.
        background_color_synthesis: replace the background by a flat colour first.

    Returns:
        Image and mask of the same sizes and types.
    """
    if background_color_synthesis:
        image, mask = replace_background(image, mask, rng)
    for name, function in AUGMENTATIONS.items():
        if name in methods:
            image, mask = function(image, mask, rng)
    return image, mask


def replace_background(
    image: Pixels, mask: Pixels, rng: np.random.Generator,
) -> tuple[Pixels, Pixels]:
    """Composites the foreground, with the mask as its alpha, over a flat colour.

    The colour is a grey (p .4), the foreground's mean colour moved by up to 20% towards black or
    white (p .4), or any (p .2).
    """
    # The colour, float32 (3,).
    kind = rng.random()
    if kind < GREY_PROBABILITY:
        grey = rng.integers(256)
        background = np.full(3, grey, np.float32)
    elif kind < GREY_PROBABILITY + NEAR_FOREGROUND_PROBABILITY:
        foreground = (mask > 127).astype(np.uint8)
        channel_means = cv2.mean(image, foreground)[:3]
        mean = np.array(channel_means, np.float32)
        black_or_white = 255 * rng.integers(2)
        share = np.float32(rng.uniform(0, NEAR_FOREGROUND_SHARE))
        background = mean + share * (black_or_white - mean)
    else:
        background = rng.integers(256, size=3).astype(np.float32)

    # The composite.
    flat = np.empty_like(image)
    flat[:] = np.rint(background)
    alpha = mask.astype(np.float32) * np.float32(1 / 255)
    composite = cv2.blendLinear(image, flat, alpha, 1 - alpha)
    return composite, mask


# --- Rotation -------------------------------------------------------------------------------------


def rotated(image: Pixels, mask: Pixels, degrees: float) -> tuple[Pixels, Pixels]:
    """Rotates both counter-clockwise about their centre, as Pillow's `rotate(degrees, BICUBIC)`.

    What comes from outside is black. Pillow's bicubic kernel has a = -1, OpenCV's a = -.75. In one
    dimension the kernel is linear in a, and at a = 0 it is linear interpolation with smoothed
    fractions, so Pillow's is 4/3 of OpenCV's less 1/3 of that. In two dimensions this leaves out a
    term of a^2, small enough to keep within 2 grey levels but for a pixel in 10^5 at hard edges.
    """
    if degrees % 360 == 0:
        return image, mask
    height, width = mask.shape
    to_source = _rotation_to_source(height, width, degrees)
    size = (width, height)

    # Image and mask as one image of four channels.
    rgba = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    pair = cv2.insertChannel(mask, rgba, 3)
    cubic = cv2.warpAffine(
        pair,
        to_source,
        size,
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )

    # OpenCV's remap is twice as fast with its default border. A border of one pixel keeps that
    # border out of sight, and moves all positions by one.
    padded = cv2.copyMakeBorder(pair, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    columns, rows = to_source + np.array([0, 0, 1])
    map_x = _smoothed(columns, height, width)
    map_y = _smoothed(rows, height, width)
    hermite = cv2.remap(padded, map_x, map_y, cv2.INTER_LINEAR)

    # The blend of both, black where the source lies outside of the image.
    ones = np.ones((height, width), np.uint8)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(ones, to_source, size, flags=flags)
    blend = cv2.addWeighted(cubic, 4 / 3, hermite, -1 / 3, TRUNCATE)
    pair = cv2.copyTo(blend, inside)

    # Apart again.
    rotated_image = cv2.cvtColor(pair, cv2.COLOR_RGBA2RGB)
    rotated_mask = cv2.extractChannel(pair, 3)
    return rotated_image, rotated_mask


def _rotation_to_source(height: int, width: int, degrees: float) -> np.ndarray:
    """The affine map, float64 (2, 3), from a rotated image's pixel (x, y, 1) to the original's."""
    angle = math.radians(degrees)
    cos = math.cos(angle)
    sin = math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([width / 2, height / 2])
    turned_centre = turn @ (centre - 0.5)
    shift = centre - turned_centre - 0.5  # pixels' centres are at halves
    return np.column_stack([turn, shift])


def _smoothed(coefficients: np.ndarray, height: int, width: int) -> np.ndarray:
    """One coordinate of an affine map over a grid, its fraction t replaced by 3 t^2 - 2 t^3.

    With u = t - 1/2 that adds u/2 - 2 u^3. It is computed in place, because this is a fifth of a
    rotation's time.

    Returns:
        float32 (height, width).
    """
    by_x, by_y, constant = coefficients
    down = by_y * np.arange(height)
    right = by_x * np.arange(width) + constant - 0.5
    middle = np.add.outer(down.astype(np.float32), right.astype(np.float32))

    # u, then the change that it asks for.
    u = middle - np.rint(middle)
    middle += 0.5
    change = u * u
    change *= -2
    change += 0.5
    change *= u
    middle += change
    return middle


# --- Pillow's enhancements ------------------------------------------------------------------------


def brightness(image: Pixels, factor: float) -> Pixels:
    """Pillow's `ImageEnhance.Brightness`: a blend with black."""
    return cv2.LUT(image, _blend_table(0, factor))


def contrast(image: Pixels, factor: float) -> Pixels:
    """Pillow's `ImageEnhance.Contrast`: a blend with the mean of the grey image."""
    channel_means = cv2.mean(image)[:3]
    grey_mean = np.dot(channel_means, GREY_WEIGHTS)
    rounded = int(grey_mean + 0.5)
    return cv2.LUT(image, _blend_table(rounded, factor))


def colour(image: Pixels, factor: float) -> Pixels:
    """Pillow's `ImageEnhance.Color`: a blend with the grey image."""
    to_grey = np.tile(GREY_WEIGHTS, (3, 1))
    matrix = factor * np.eye(3) + (1 - factor) * to_grey
    return cv2.transform(image, matrix)


def sharpness(image: Pixels, factor: float) -> Pixels:
    """Pillow's `ImageEnhance.Sharpness`: a blend with a smoothed image.

    It is smoothed by a 3x3 kernel of ones around a 5, which is 9/13 of the box filter and 4/13
    of the image. Pillow leaves the outermost pixels unsmoothed.
    """
    smooth = (1 - factor) * 9 / 13
    blurred = cv2.blur(image, (3, 3))
    sharp = cv2.addWeighted(image, 1 - smooth, blurred, smooth, TRUNCATE)

    # Top and bottom rows, left and right columns.
    sharp[0] = image[0]
    sharp[-1] = image[-1]
    sharp[:, 0] = image[:, 0]
    sharp[:, -1] = image[:, -1]
    return sharp


def _blend_table(degenerate: int, factor: float) -> np.ndarray:
    """Look-up table of a blend of each grey level with `degenerate`, uint8 (256,).

    Clipped and truncated as Pillow does.
    """
    values = np.arange(256, dtype=np.float32)
    blended = degenerate + np.float32(factor) * (values - degenerate)
    in_range = np.clip(blended, 0, 255)
    return in_range.astype(np.uint8)
