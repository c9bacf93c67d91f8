"""Binary masks packed 64 pixels to a word: logic, dilations and counts of 5 megapixels in under a millisecond.

A packed mask is uint64, (H, W // 64 + 1); bit j of word k is column 64 k + j. The bits past the last column, at least
one, are padding: `pack` leaves them 0, shifts and dilations may set them, and `valid` masks them out before the next.
"""

import cv2
import numpy as np

WORD = 64
ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)  # of each byte
ONE, LAST = np.uint64(1), np.uint64(WORD - 1)


def pack(mask: np.ndarray) -> np.ndarray:
    """Packs a boolean mask (H, W)."""
    rows, columns = mask.shape
    packed = np.zeros((rows, (columns // WORD + 1) * 8), np.uint8)
    packed[:, :-(-columns // 8)] = np.packbits(mask, axis=1, bitorder='little')
    return packed.view('<u8')


def unpack(bits: np.ndarray, columns: int) -> np.ndarray:
    """The uint8 mask (H, `columns`) of zeros and ones behind a packed one."""
    return np.unpackbits(bits.view(np.uint8), axis=1, count=columns, bitorder='little')


def valid(shape: tuple[int, int]) -> np.ndarray:
    """One packed row (1, words) with a bit for every column of an image of `shape`."""
    return pack(np.ones((1, shape[1]), bool))


def ones(bits: np.ndarray) -> np.ndarray:
    """Numbers of set pixels, uint8, in order along each row: of each word, or of each byte before NumPy 2."""
    return np.bitwise_count(bits) if hasattr(np, 'bitwise_count') else ONES.take(bits.view(np.uint8))


def count(bits: np.ndarray) -> int:
    """The number of set pixels."""
    return int(ones(bits).sum(dtype=np.int64))


def lookup(bits: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Whether the pixels at (rows, columns) are set: boolean, of the shape of `rows`."""
    return ((bits[rows, columns // WORD] >> (columns % WORD).astype(np.uint64)) & ONE).astype(bool)


def shift_columns(bits: np.ndarray, distance: int) -> np.ndarray:
    """The mask moved right by `distance` columns (left if negative), zeros coming in."""
    words, rest = divmod(abs(distance), WORD)
    out = np.zeros_like(bits)
    kept = bits.shape[1] - words
    if kept <= 0:
        return out
    if distance >= 0:
        out[:, words:] = bits[:, :kept] << np.uint64(rest)
        if rest:
            out[:, words + 1:] |= bits[:, :kept - 1] >> np.uint64(WORD - rest)
    else:
        out[:, :kept] = bits[:, words:] >> np.uint64(rest)
        if rest:
            out[:, :kept - 1] |= bits[:, words + 1:] << np.uint64(WORD - rest)
    return out


def dilate_cross(bits: np.ndarray, allowed: np.ndarray, steps: int = 1) -> np.ndarray:
    """`steps` dilations by the 3x3 plus sign, each cut to the mask `allowed`; nothing comes in from outside the image.

    The padding of both must be 0.
    """
    source, out, moved = bits.copy(), np.empty_like(bits), np.empty_like(bits)
    for _ in range(steps):
        np.left_shift(source, ONE, out=out)
        np.right_shift(source, ONE, out=moved)
        out |= source
        out |= moved
        # What passes from word to word: at a row's ends it is padding.
        lost, flat, carried = source.reshape(-1), out.reshape(-1), moved.reshape(-1)[1:]
        np.right_shift(lost[:-1], LAST, out=carried)
        flat[1:] |= carried
        np.left_shift(lost[1:], LAST, out=carried)
        flat[:-1] |= carried
        out[1:] |= source[:-1]
        out[:-1] |= source[1:]
        out &= allowed
        source, out = out, source
    return source


def dilate_ellipse(bits: np.ndarray, radius: int) -> np.ndarray:
    """Dilation by OpenCV's ellipse of size 2 radius + 1, whose rows are centred runs; nothing comes in from outside."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    half_widths = kernel.sum(axis=1, dtype=int) // 2
    rows = len(bits)
    out, grown = np.zeros_like(bits), bits.copy()
    for width in range(radius + 1):
        if width:
            grown |= shift_columns(bits, width) | shift_columns(bits, -width)
        for step in np.flatnonzero(half_widths == width) - radius:
            if abs(step) < rows:
                out[max(step, 0):rows + min(step, 0)] |= grown[max(-step, 0):rows - max(step, 0)]
    return out
