"""Values of more than 8 bits, and what of them is black and white.

A file of 16 bits may hold what a scanner of 12 bits saw, or a mask of 0 and 255, or of 0 and 1. The
largest value shows the depth: the smallest usual one into which it fits.
"""

import cv2
import numpy as np
from PIL import Image

from readers.metadata import without_metadata

DEPTHS = (8, 10, 12, 14, 16, 24, 32)
# Of a network's masks.
SOFT_DEPTHS = (8, 16, 32)
FULL_VALUES = (1, 255, 65535)  # of floating point
# Interpolation and rounding leave the range by a little.
OVERSHOOT = 1.5
# In photographs in which 1 is white, lamps and reflections are brighter.
HIGHLIGHTS = 16

UPPER_BYTE_OF_14_BITS = 1 << 6  # what fits into 14 bits is below

BITS_PER_SAMPLE = 258  # tags of TIFF
COMPRESSION = 259
PHOTOMETRIC = 262
PLANAR = 284
SAMPLE_FORMAT = 339
UNCOMPRESSED = 1
WHITE_IS_ZERO = 0
SEPARATE = 2
UNSIGNED = 1
PLANES = 'colours of 16 bits in separate planes, which are not taken; save them interleaved'


def grey_values(image: Image.Image) -> np.ndarray | None:
    """Returns an image's grey values, of 16 or 32 bits or floating point; None for 8 bits."""
    if not image.mode.startswith(('I', 'F')):
        return None
    values = np.asarray(image)
    tags = getattr(image, 'tag_v2', None)
    if tags is None:
        return values
    is_unsigned = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED
    if values.dtype == np.int32 and is_unsigned:
        values = values.view(np.uint32)  # Pillow knows signed ones only
    # Pillow turns values of 8 bits alone.
    if values.dtype.kind == 'u' and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = np.iinfo(values.dtype).max - values
    return values


def to_8_bit(values: np.ndarray, is_soft: bool = False) -> np.ndarray:
    """Brings integers or floating point of any range to uint8, 0..255.

    Integers of more than 8 bits are shifted, so that 16 bits keep their upper 8. Floating point is
    0..1, 0..255 or 0..65535, by its largest value. Negative values and NaN become 0, infinity the
    largest value.

    Args:
        values: of any shape.
        is_soft: whether they are a network's mask, which may be weak all over, so that integers are
            of 8, 16 or 32 bits only, and floating point well above 1 is not of 0..1.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == 'f':
        return _float_to_8_bit(values, is_soft)
    highest = int(values.max(initial=0))
    values = np.maximum(values, 0)
    if highest <= 1 and not is_soft:
        return values.astype(np.uint8) * 255
    depth = _depth(highest, is_soft)
    return (values >> (depth - 8)).astype(np.uint8)


def _depth(highest: int, is_soft: bool) -> int:
    """Bits of the range to which the highest value of an image belongs."""
    bits = highest.bit_length()
    is_white = highest == (1 << bits) - 1  # all bits are set, as in a signed 32767
    if is_white and bits > 8 and not is_soft:
        return bits
    depths = SOFT_DEPTHS if is_soft else DEPTHS
    return next(depth for depth in depths if bits <= depth)


def full_value(values: np.ndarray, is_soft: bool = False) -> int:
    """Returns which value of a floating point image is white: 1, 255 or 65535."""
    highest = values.max(initial=0, where=np.isfinite(values))
    if highest < HIGHLIGHTS and not is_soft:
        return 1
    for full in FULL_VALUES:
        if highest < full * OVERSHOOT:
            return full
    return FULL_VALUES[-1]


def _float_to_8_bit(values: np.ndarray, is_soft: bool) -> np.ndarray:
    full = full_value(values, is_soft)
    finite = np.nan_to_num(values, nan=0, posinf=full, neginf=0)
    grey = np.clip(finite * (255 / full), 0, 255)
    return grey.astype(np.uint8)


# --- Colours --------------------------------------------------------------------------------------


def with_all_bits(image: Image.Image, data: bytes) -> Image.Image:
    """Looks again at colours of 16 bits, of which Pillow keeps the upper 8.

    Args:
        image: decoded by Pillow.
        data: its file.

    Returns:
        The image itself, or one of the lower bits if they are all that it holds.

    Raises:
        ValueError: the colours are in separate planes of a TIFF, as neither Pillow nor OpenCV read
            them.
    """
    if image.mode not in ('RGB', 'RGBA', 'LA') or not _has_16_bits(image, data):
        return image
    tags = getattr(image, 'tag_v2', {})
    is_planar = tags.get(PLANAR) == SEPARATE
    if is_planar and tags.get(COMPRESSION) == UNCOMPRESSED:
        raise ValueError(PLANES)
    upper_bytes = np.asarray(image)
    if image.mode.endswith('A'):
        upper_bytes = upper_bytes[..., :-1]
    if upper_bytes.max() >= UPPER_BYTE_OF_14_BITS:
        return image
    if is_planar:
        raise ValueError(PLANES)
    bare = without_metadata(data)  # of which libpng might print a warning
    values = cv2.imdecode(np.frombuffer(bare or data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] != image.size[::-1]:
        return image
    deep = image_of(values)
    deep.info = image.info
    return deep


def _has_16_bits(image: Image.Image, data: bytes) -> bool:
    if image.format == 'PNG':
        return data[24] == 16
    tags = getattr(image, 'tag_v2', {})
    return 16 in tags.get(BITS_PER_SAMPLE, ())


def image_of(values: np.ndarray) -> Image.Image:
    """Makes an image of OpenCV's values of any type: (H, W), or (H, W, 3) BGR, or (H, W, 4)."""
    if values.ndim == 2:
        return Image.fromarray(values)
    colours = to_8_bit(values[..., 2::-1])
    if values.shape[2] == 4:
        alpha = to_8_bit(values[..., 3:])
        colours = np.concatenate([colours, alpha], axis=2)
    return Image.fromarray(np.ascontiguousarray(colours))
