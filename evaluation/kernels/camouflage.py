"""How well each pixel of an object is camouflaged, for the camouflage version of context measure.

Wang et al., "Context-measure: contextualizing metric for camouflage", arXiv 2512.07076, 2025, with
the values of PySODMetrics: the object is composed anew of patches of its surroundings, and the more
it looks like before, the better it is camouflaged.
"""

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

PATCH = 7
STRIDE = 3
REACH = 20  # pixels of the surroundings, on both sides together
SPATIAL_WEIGHT = 20
GAMMA = 8
BETA2 = 1.2
# Distances of this many values at a time.
BLOCK = 1 << 22

# CIE 1931, D65: of linear sRGB.
TO_XYZ = np.array([
    [0.412453, 0.357580, 0.180423],
    [0.212671, 0.715160, 0.072169],
    [0.019334, 0.119193, 0.950227]])
WHITE = np.array([0.95047, 1.0, 1.08883])


def weights(
    image: np.ndarray,
    inside: np.ndarray,
    gamma: float = GAMMA,
    spatial_weight: float = SPATIAL_WEIGHT,
) -> np.ndarray:
    """Computes the weights of an object's pixels: 2 if they are camouflaged, 1 if they stand out.

    Args:
        image: RGB, uint8 (H, W, 3).
        inside: The object, boolean (H, W).
        gamma: How soon a difference in colour is seen.
        spatial_weight: Weight of places against colours, when similar patches are looked for.

    Returns:
        float64 (pixels of the object,), in their order. They are equal where the object or its
        surroundings are too small for a patch.
    """
    # Patches of the object, and of what is near it.
    reach = np.ones((REACH, REACH), np.uint8)
    near = cv2.dilate(inside.astype(np.uint8), reach) > 0
    own = _whole_patches(inside)
    others = _whole_patches(near & ~inside)
    if len(own) == 0 or len(others) == 0:
        return np.ones(np.count_nonzero(inside))

    # The object, composed of its surroundings.
    nearest = _most_similar(image, own, others, spatial_weight)
    composed = _compose(image, own, others[nearest])

    # How much it differs from before.
    before = lab(image[inside])
    after = lab(composed[inside])
    difference = ciede2000(before, after)
    distance = np.minimum(difference / 100, 1)

    # Falls from 1 to 0.
    lowest = np.exp(-gamma)
    likeness = (np.exp(-gamma * distance) - lowest) / (1 - lowest)
    return 1 + likeness


def _whole_patches(region: np.ndarray) -> np.ndarray:
    """Upper left corners (patches, 2) of the patches of the grid that lie in a region."""
    if min(region.shape) < PATCH:
        return np.empty((0, 2), int)
    windows = sliding_window_view(region, (PATCH, PATCH))
    on_grid = windows[::STRIDE, ::STRIDE]
    whole = on_grid.all(axis=(2, 3))
    return np.argwhere(whole) * STRIDE


def _most_similar(
    image: np.ndarray, own: np.ndarray, others: np.ndarray, spatial_weight: float,
) -> np.ndarray:
    """Finds for each of the object's patches the nearest other one, in colour and in place."""
    # Colours are in 8 bits; their sums of products are below 2^24, so exact in float32.
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    own_colours = _read(colours, own)
    other_colours = _read(colours, others)

    # Places in standard deviations of all patches.
    corners = np.concatenate((own, others)).astype(float)
    deviations = corners.std(axis=0)
    deviations[deviations == 0] = 1
    centred = corners - corners.mean(axis=0)
    places = spatial_weight * centred / deviations
    own_places, other_places = np.split(places, [len(own)])

    # Of |a - b|^2 = |a|^2 - 2 (ab - |b|^2 / 2) the brackets are largest where b is nearest.
    half_squares = (_squares(other_colours) + _squares(other_places)) / 2
    nearest = []
    step = max(1, BLOCK // len(others))
    for start in range(0, len(own), step):
        block = slice(start, start + step)
        nearness = own_places[block] @ other_places.T
        nearness += own_colours[block] @ other_colours.T
        nearness -= half_squares
        nearest.append(nearness.argmax(axis=1))
    return np.concatenate(nearest)


def _read(picture: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The values of patches, (patches, 7 * 7 * channels)."""
    windows = sliding_window_view(picture, (PATCH, PATCH), axis=(0, 1))
    rows, columns = corners.T
    patches = windows[rows, columns]
    return patches.reshape(len(corners), -1)


def _squares(vectors: np.ndarray) -> np.ndarray:
    return np.einsum('ij,ij->i', vectors, vectors, dtype=np.float64)


def _compose(image: np.ndarray, own: np.ndarray, similar: np.ndarray) -> np.ndarray:
    """Puts similar patches in the places of the object's own; averages where they overlap.

    Where there is none, the image is black.
    """
    total = np.zeros(image.shape)
    count = np.zeros((*image.shape[:2], 1))
    # Pixel by pixel of the patch. No two patches have theirs in the same place.
    for down in range(PATCH):
        for right in range(PATCH):
            offset = np.array((down, right))
            rows, columns = (own + offset).T
            from_rows, from_columns = (similar + offset).T
            pixels = image[from_rows, from_columns]
            total[rows, columns] += pixels
            count[rows, columns] += 1
    divisor = np.maximum(count, 1)
    means = total / divisor
    return np.rint(means).astype(np.uint8)


# --- Colours --------------------------------------------------------------------------------------


def _linear_levels() -> np.ndarray:
    """sRGB's 256 levels as linear light, (256,)."""
    level = np.arange(256) / 255
    bright = ((level + 0.055) / 1.055) ** 2.4
    dark = level / 12.92
    return np.where(level > 0.04045, bright, dark)


LINEAR = _linear_levels()


def lab(colours: np.ndarray) -> np.ndarray:
    """Converts sRGB, uint8 (N, 3), to CIELAB, float64 (N, 3)."""
    linear = LINEAR[colours]
    xyz = linear @ TO_XYZ.T / WHITE

    # About as the eye sees them: a cube root, but a line near black.
    dark = 7.787 * xyz + 16 / 116
    f = np.where(xyz > 0.008856, np.cbrt(xyz), dark)
    x, y, z = f.T
    lightness = 116 * y - 16
    a = 500 * (x - y)
    b = 200 * (y - z)
    return np.stack((lightness, a, b), axis=1)


def ciede2000(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Computes differences of colours (N, 3) in CIELAB, (N,), by ISO/CIE 11664-6."""
    lightness1, a1, b1 = first.T
    lightness2, a2, b2 = second.T

    # Neutral colours are spread out.
    plain_chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    spread = 1 + 0.5 * (1 - _saturation(plain_chroma))
    a1 = a1 * spread
    a2 = a2 * spread
    chroma1 = np.hypot(a1, b1)
    chroma2 = np.hypot(a2, b2)
    hue1 = _hue(a1, b1)
    hue2 = _hue(a2, b2)

    # Hues are angles, and a grey has none.
    turn = hue2 - hue1
    turn -= 360 * np.rint(turn / 360)
    is_grey = chroma1 * chroma2 == 0
    turn[is_grey] = 0
    mean_hue = hue1 + turn / 2
    mean_hue[is_grey] = (hue1 + hue2)[is_grey]

    # Differences in lightness, chroma and hue, by how much of each is seen.
    mean_lightness = (lightness1 + lightness2) / 2
    mean_chroma = (chroma1 + chroma2) / 2
    far = (mean_lightness - 50) ** 2
    lightness = lightness2 - lightness1
    lightness /= 1 + 0.015 * far / np.sqrt(20 + far)
    chroma = chroma2 - chroma1
    chroma /= 1 + 0.045 * mean_chroma
    hue = 2 * np.sqrt(chroma1 * chroma2) * _sine(turn / 2)
    hue /= 1 + 0.015 * mean_chroma * _hue_factor(mean_hue)

    # Blues are turned.
    from_blue = (mean_hue % 360 - 275) / 25
    angle = 60 * np.exp(-(from_blue ** 2))
    rotation = -2 * _saturation(mean_chroma) * _sine(angle)
    square = lightness ** 2 + chroma ** 2 + hue ** 2
    square += rotation * chroma * hue
    return np.sqrt(np.maximum(square, 0))


def _saturation(chroma: np.ndarray) -> np.ndarray:
    """Rises from 0 of greys to 1 of strong colours."""
    power = chroma ** 7
    return np.sqrt(power / (power + 25.0 ** 7))


def _hue(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.arctan2(b, a)) % 360


def _hue_factor(hue: np.ndarray) -> np.ndarray:
    return (
        1
        - 0.17 * _cosine(hue - 30)
        + 0.24 * _cosine(2 * hue)
        + 0.32 * _cosine(3 * hue + 6)
        - 0.20 * _cosine(4 * hue - 63))


def _sine(degrees: np.ndarray) -> np.ndarray:
    return np.sin(np.radians(degrees))


def _cosine(degrees: np.ndarray) -> np.ndarray:
    return np.cos(np.radians(degrees))
