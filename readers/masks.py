"""What a mask means: files of every kind as grey values from 0 to 255."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from readers.deep import (
    FULL_VALUES,
    PHOTOMETRIC,
    WHITE_IS_ZERO,
    full_value,
    grey_values,
    to_8_bit,
)
from readers.metadata import JPEG_START, PNG_START
from readers.opening import MAX_PIXELS, Source, decode, has_several_pages, load
from readers.plain import decode_plain

# Channels of a grey pixel differ by less than this, after JPEG too.
COLOUR_SPREAD = 32
COLOUR_SHARE = 0.01  # of the pixels that are not black: fewer coloured ones are noise
MOST_FLAT_COLOURS = 256  # label colours are few, those of photographs many
# Behind JPEG label colours are many, but nearly all pixels are close to a few of them.
MOST_LABELS = 8
LABEL_SHARE = .9
LABEL_STEP = 32  # the colours of DAVIS and VOC are multiples of it
PLAIN_16_BITS = 1 << 15  # a largest value from here on is one of 16 bits or more
SOFTWARE = 305  # a tag of TIFF
VOID_INDEX = 255
VOID_COLOUR = (224, 224, 192)  # of the borders between the objects of PASCAL VOC
VOC_STEP = 64  # all colours of its labels are multiples of it
# Masks that are drawn in grey hold little but black and white.
DARK = 64
BRIGHT = 191
DRAWN_SHARE = 0.95
OPAQUE = 128  # alpha above this shows a pixel

# What is said of masks that need an interpretation, behind 'N masks'.
ZERO_ONE = 'hold no values but 0 and 1; 1 is taken as foreground'
WIDE = 'hold low values in 16 or 32 bits; the largest value tells which is white'
CLIPPED = 'are floating point and leave the range from 0 to 1 or 255; they are clipped'
NOT_FINITE = 'hold NaN or infinity; NaN is taken as background'
LABELS = 'are in label colours; all but the background colour is taken as foreground'
NO_BLACK = (
    'are in label colours without black; the colour of most of the border is taken as background')
LOST = 'hold values that are all too low to be seen'
COLOURED = 'are pictures in colour, not masks; their brightness is taken'
BOOLEAN = 'are bits by tifffile, which states that 1 is black; 1 is taken as foreground'
PAGED = 'have several pages or frames; the first is taken'
ALPHA = 'are transparent; their alpha is taken as the mask'


class Interpretation(NamedTuple):
    """A mask, and what had to be assumed to read it."""

    grey: np.ndarray  # uint8 (H, W)
    notes: list[str]


def read_mask(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a ground truth mask, upright, whose foreground may be marked in any usual way.

    The range is that of the values: 0/1, 0..255, or that of 10 to 32 bits, in files of any depth,
    or 0..1 in floating point. Label colours (palettes of DAVIS and VOC) are foreground, the alpha
    of a cut-out is its mask, and colour becomes grey as in OpenCV.

    Args:
        source: a path, the bytes of a file, or what reads them.
        max_pixels: the largest number of pixels that is taken.

    Returns:
        Grey, uint8 (H, W).

    Raises:
        ValueError, OSError: as `open_image`; and for floating point values that are no mask's.
    """
    return interpret(source, max_pixels).grey


def read_soft_mask(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a mask as a network makes it: as `read_mask`, but low values stay low.

    Such a mask may be dark all over, so that its largest value does not tell its range: 0 and 1 in
    8 bits are nearly black, and 16 bits are 0..65535, unless all values are below 256.
    """
    return interpret(source, max_pixels, is_soft=True).grey


def interpret(
    source: Source,
    max_pixels: int = MAX_PIXELS,
    is_soft: bool = False,
) -> Interpretation:
    """Reads a mask as `read_mask`, or as `read_soft_mask`, and says what was assumed."""
    name, data = load(source)
    found = _read(name, data, max_pixels, is_soft)
    if has_several_pages(data):
        found.notes.append(PAGED)
    # In a JPEG 1 is the noise of an empty mask.
    if is_soft or data.startswith(JPEG_START):
        return found
    return _stretched(found, _smallest_value(data))


def _read(name: str, data: bytes, max_pixels: int, is_soft: bool) -> Interpretation:
    pixels = decode_plain(data, 'L', max_pixels)
    if pixels is not None:
        return Interpretation(pixels, [])
    image = decode(name, data, max_pixels)
    values = grey_values(image)
    if values is None:
        return _from_picture(image)
    try:
        return _from_values(values, is_soft)
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error


def _smallest_value(data: bytes) -> int:
    """The value that 1 becomes: more than 1 in a grey PNG of 2 or 4 bits."""
    is_grey_png = data.startswith(PNG_START) and data[25] == 0
    return {2: 85, 4: 17}.get(data[24], 1) if is_grey_png else 1


def _stretched(found: Interpretation, smallest: int) -> Interpretation:
    """Makes 255 of `smallest` where there is nothing else but 0."""
    grey, notes = found
    if grey.max(initial=0) != smallest:
        return found
    return Interpretation((grey > 0) * np.uint8(255), [*notes, ZERO_ONE])


def _from_picture(image: Image.Image) -> Interpretation:
    grey, notes = _from_colours(image)
    has_alpha = image.mode in ('LA', 'PA', 'RGBA')
    # One grey that is to be transparent changes nothing: it is the background, most likely.
    has_clear_colour = image.mode in ('P', 'RGB') and image.has_transparency_data
    if has_alpha or has_clear_colour:
        alpha = np.asarray(image.convert('RGBA').getchannel('A'))
        found = _from_alpha(grey, alpha, is_grey=not notes)
        if found is not None:
            return Interpretation(found, [ALPHA])
    return Interpretation(grey, notes)


def _from_values(values: np.ndarray, is_soft: bool) -> Interpretation:
    if values.dtype.kind != 'f':
        is_plain = values.max(initial=0) >= PLAIN_16_BITS or not values.any()
        return _visible(values, to_8_bit(values, is_soft), [] if is_plain else [WIDE])
    finite = values[np.isfinite(values)]
    full = full_value(values, is_soft)
    lowest = finite.min(initial=0)
    highest = finite.max(initial=0)
    # Interpolation falls short of black by less.
    is_signed = lowest < -max(highest, 1) / 4
    if is_signed or highest > 2 * FULL_VALUES[-1]:
        raise ValueError(
            f'a mask of floating point values from {lowest:g} to {highest:g}; '
            'save it as 0..1 (of logits the sigmoid) or as 0..255')
    notes = []
    if lowest < 0 or highest > full:
        notes.append(CLIPPED)
    if finite.size < values.size:
        notes.append(NOT_FINITE)
    return _visible(values, to_8_bit(values, is_soft), notes)


def _visible(values: np.ndarray, grey: np.ndarray, notes: list[str]) -> Interpretation:
    """Adds to the notes if nothing is left of a mask's values."""
    if not grey.any() and np.nan_to_num(values).any():
        notes = [*notes, LOST]
    return Interpretation(grey, notes)


# --- Colours --------------------------------------------------------------------------------------


def _from_colours(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """Grey values of an image of 8 bits, without its alpha, and notes."""
    if image.mode in ('1', 'L', 'LA'):
        grey = np.asarray(image.convert('L'))
        return (255 - grey, [BOOLEAN]) if _is_boolean_array(image) else (grey, [])
    if image.mode in ('P', 'PA'):
        return _from_palette(image)
    rgb = np.asarray(image.convert('RGB'))
    if rgb.max(initial=0) < COLOUR_SPREAD:  # numbers of labels, in one channel or in all
        return rgb.max(axis=2), []
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if not _is_coloured(rgb):
        return grey, []
    if _count_colours(rgb) > MOST_FLAT_COLOURS and not _is_noisy_label(rgb):
        return grey, [COLOURED]
    background, notes = _background_of(rgb)
    # What is nearly of the background's colour is the noise of JPEG.
    distances = cv2.absdiff(rgb, background)
    is_labelled = (distances >= COLOUR_SPREAD).any(axis=2) & (rgb != VOID_COLOUR).any(axis=2)
    return is_labelled * np.uint8(255), notes


def _is_boolean_array(image: Image.Image) -> bool:
    """Whether tifffile wrote an array of booleans, whose True it states to be black."""
    tags = getattr(image, 'tag_v2', {})
    is_inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    return image.mode == '1' and is_inverted and 'tifffile' in tags.get(SOFTWARE, '')


def _background_of(rgb: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The background among label colours, uint8 like `rgb`, and notes.

    It is black. Masks that were drawn on white, or saved by Matplotlib in its own colours, have
    none. Those of VOC need not either: objects may fill the image.
    """
    is_black = (rgb < COLOUR_SPREAD).all(axis=2)
    is_label = (rgb % VOC_STEP == 0).all(axis=2) | (rgb == VOID_COLOUR).all(axis=2)
    if is_black.any() or is_label.all():
        return np.zeros_like(rgb), [LABELS]
    return np.zeros_like(rgb) + _most_frequent(_border_of(rgb)), [NO_BLACK]


def _border_of(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _most_frequent(values: np.ndarray) -> np.ndarray:
    found, counts = np.unique(values, axis=0, return_counts=True)
    return found[counts.argmax()]


def _from_palette(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """A palette of greys is grey. In others the background is index 0 if it is black.

    Else it is what is black, or, where nothing is, the colour of most of the border.
    """
    indices = np.asarray(image.getchannel(0))
    colours = _palette(image)
    is_used = np.bincount(indices.ravel(), minlength=256) > 0
    notes = [LABELS]
    is_black = np.asarray(~colours.any(axis=1))
    is_background = is_black & is_used
    if is_black[0]:
        is_background = np.arange(256) == 0
    elif not is_background.any():
        is_background = np.arange(256) == _most_frequent(_border_of(indices))
        notes = [NO_BLACK]
    if tuple(colours[VOID_INDEX]) == VOID_COLOUR:
        is_background[VOID_INDEX] = True
        is_used[VOID_INDEX] = False

    used = colours[is_used]
    # Where a palette gives all the same colour, or ends before, the indices are all there is.
    is_told_apart = len(used) < 2 or np.ptp(used, axis=0).any()
    # One of the label colours is grey too, but none is white.
    is_bright = used.max(initial=0) > BRIGHT
    if is_told_apart and (_is_grey(colours) or (is_bright and _is_grey(used))):
        table = cv2.cvtColor(colours[None], cv2.COLOR_RGB2GRAY)[0]
        table[is_background & ~is_used] = 0
        return cv2.LUT(indices, table), []
    table = np.where(is_background, np.uint8(0), np.uint8(255))
    return cv2.LUT(indices, table), notes


def _is_grey(colours: np.ndarray) -> bool:
    """Whether all colours, uint8 (N, 3), are greys."""
    spreads = np.ptp(colours, axis=1)
    return bool(spreads.max(initial=0) < COLOUR_SPREAD)


def _palette(image: Image.Image) -> np.ndarray:
    """The colours of an image's palette, uint8 (256, 3)."""
    values = image.getpalette('RGB') or []
    colours = np.zeros(256 * 3, np.uint8)
    colours[:len(values)] = values
    return colours.reshape(256, 3)


def _is_coloured(rgb: np.ndarray) -> bool:
    red, green, blue = cv2.split(rgb)
    highest = cv2.max(cv2.max(red, green), blue)
    lowest = cv2.min(cv2.min(red, green), blue)
    coloured = np.count_nonzero(highest - lowest >= COLOUR_SPREAD)
    visible = np.count_nonzero(highest >= COLOUR_SPREAD)
    return bool(coloured > COLOUR_SHARE * visible)


def _count_colours(rgb: np.ndarray) -> int:
    place_values = np.array([1 << 16, 1 << 8, 1], np.int32)
    numbers = rgb @ place_values
    is_seen = np.zeros(1 << 24, bool)
    is_seen[numbers] = True
    return int(np.count_nonzero(is_seen))


def _is_noisy_label(rgb: np.ndarray) -> bool:
    """Whether nearly all pixels are close to black or to one of a few colours, as behind JPEG."""
    steps = (rgb.astype(np.int32) + LABEL_STEP // 2) // LABEL_STEP
    base = 256 // LABEL_STEP + 1
    numbers = steps @ np.array([base * base, base, 1])
    counts = np.bincount(numbers.ravel(), minlength=base ** 3)
    has_background = counts[0] == counts.max()
    nearest = np.sort(counts)[-MOST_LABELS:].sum()
    return bool(has_background and nearest >= LABEL_SHARE * numbers.size)


def _from_alpha(grey: np.ndarray, alpha: np.ndarray, is_grey: bool) -> np.ndarray | None:
    """The mask of a transparent file; None if its alpha is the same everywhere.

    Of a cut-out it is the alpha. Where the visible pixels are drawn in black and white, they are
    the mask.
    """
    if alpha.min() == alpha.max():
        return None
    visible = grey[alpha > OPAQUE]
    dark = np.count_nonzero(visible < DARK)
    bright = np.count_nonzero(visible > BRIGHT)
    is_drawn = dark and bright and dark + bright > DRAWN_SHARE * visible.size
    if is_grey and is_drawn:
        return cv2.multiply(grey, alpha, scale=1 / 255)
    return alpha
