"""Binary masks packed into 64-bit words: logic, dilations and counts of 5 megapixels in under 1 ms.

A packed mask is uint64 (H, W // 64 + 1). Bit j of word k is column 64 k + j. The bits after the
last column (there is always at least one) are padding. `pack` clears them, shifts and dilations may
set them, and `valid` masks them out again.
"""

import cv2
import numpy as np

BITS_PER_WORD = 64
BYTES_PER_WORD = 8
ONE = np.uint64(1)
TOP_BIT = np.uint64(BITS_PER_WORD - 1)
# Set bits of each byte.
BYTE_COUNTS = np.array([byte.bit_count() for byte in range(256)], np.uint8)


def pack(mask: np.ndarray) -> np.ndarray:
    """Packs a boolean mask (H, W)."""
    rows, columns = mask.shape
    words = columns // BITS_PER_WORD + 1
    used = np.packbits(mask, axis=1, bitorder='little')
    packed = np.zeros((rows, words * BYTES_PER_WORD), np.uint8)
    packed[:, :used.shape[1]] = used
    return packed.view('<u8')


def unpack(packed: np.ndarray, columns: int) -> np.ndarray:
    """Unpacks to a uint8 mask (H, `columns`) of zeros and ones."""
    return np.unpackbits(packed.view(np.uint8), axis=1, count=columns, bitorder='little')


def valid(shape: tuple[int, int]) -> np.ndarray:
    """Returns one packed row (1, words) with a set bit for every column of an image of `shape`."""
    return pack(np.ones((1, shape[1]), bool))


def counts(packed: np.ndarray) -> np.ndarray:
    """Counts the set pixels of each word, or before NumPy 2 of each byte; uint8, (H, ...)."""
    if hasattr(np, 'bitwise_count'):
        return np.bitwise_count(packed)
    return BYTE_COUNTS.take(packed.view(np.uint8))


def count(packed: np.ndarray) -> int:
    """Counts the set pixels."""
    return int(counts(packed).sum(dtype=np.int64))


def lookup(packed: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns whether the pixels at (rows, columns) are set: boolean, of the shape of `rows`."""
    words = packed[rows, columns // BITS_PER_WORD]
    positions = (columns % BITS_PER_WORD).astype(np.uint64)
    found = (words >> positions) & ONE
    return found.astype(bool)


def shift_columns(packed: np.ndarray, distance: int) -> np.ndarray:
    """Moves the mask right by `distance` columns (left if negative) and fills with zeros."""
    # By whole words, of which some leave the image, and by the bits that remain.
    words, rest = divmod(abs(distance), BITS_PER_WORD)
    shifted = np.zeros_like(packed)
    kept = packed.shape[1] - words
    if kept <= 0:
        return shifted

    # Bits move within each word, and from word to word.
    inner = np.uint64(rest)
    carried = np.uint64(BITS_PER_WORD - rest)
    if distance >= 0:
        shifted[:, words:] = packed[:, :kept] << inner
        if rest:
            shifted[:, words + 1:] |= packed[:, :kept - 1] >> carried
    else:
        shifted[:, :kept] = packed[:, words:] >> inner
        if rest:
            shifted[:, :kept - 1] |= packed[:, words + 1:] << carried
    return shifted


def dilate_cross(packed: np.ndarray, allowed: np.ndarray, steps: int = 1) -> np.ndarray:
    """Dilates `steps` times by the 3x3 plus sign, each time restricted to the mask `allowed`.

    Pixels outside the image count as unset. The padding of both masks must be clear.
    """
    source = packed.copy()
    grown = np.empty_like(packed)
    moved = np.empty_like(packed)
    for _ in range(steps):
        # Columns: one bit to either side within each word.
        np.left_shift(source, ONE, out=grown)
        np.right_shift(source, ONE, out=moved)
        grown |= source
        grown |= moved
        # The bits that cross from word to word. Between two rows only clear padding crosses.
        flat_source = source.reshape(-1)
        flat_grown = grown.reshape(-1)
        carried = moved.reshape(-1)[1:]
        np.right_shift(flat_source[:-1], TOP_BIT, out=carried)
        flat_grown[1:] |= carried
        np.left_shift(flat_source[1:], TOP_BIT, out=carried)
        flat_grown[:-1] |= carried
        # Rows: the neighbours above and below.
        grown[1:] |= source[:-1]
        grown[:-1] |= source[1:]
        grown &= allowed
        source, grown = grown, source
    return source


def dilate_ellipse(packed: np.ndarray, radius: int) -> np.ndarray:
    """Dilates by OpenCV's ellipse of size 2 radius + 1, whose rows are centred runs.

    Pixels outside the image count as unset.
    """
    size = 2 * radius + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    half_widths = kernel.sum(axis=1, dtype=int) // 2

    # One width after the other, for all rows of the ellipse that have it.
    rows = len(packed)
    dilated = np.zeros_like(packed)
    widened = packed.copy()
    for width in range(radius + 1):
        # `widened` is the mask dilated by a horizontal run of 2 width + 1 pixels.
        if width:
            widened |= shift_columns(packed, width)
            widened |= shift_columns(packed, -width)
        steps = np.flatnonzero(half_widths == width) - radius
        for step in steps.tolist():
            if abs(step) >= rows:
                continue
            target = slice(max(step, 0), rows + min(step, 0))
            origin = slice(max(-step, 0), rows - max(step, 0))
            dilated[target] |= widened[origin]
    return dilated
