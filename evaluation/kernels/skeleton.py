"""Skeletons of masks: scikit-image's, pixel for pixel, in a tenth of its time; and a cache on disk.

Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", CACM 27(3), 1984, with
the removal table of scikit-image (BSD licence), which differs from the paper's. The human
correction effort is defined on that skeleton.
"""

import hashlib
import os
import warnings
from pathlib import Path

import cv2
import numpy as np

from utils import atomic_write

# When a pixel is removed, by the code of its eight neighbours: never (0), in the first half of a
# round (1), in the second (2), in either (3).
REMOVAL = np.array([int(digit) for digit in (
    '0001001300311013000000002020303300000000300000000000000020003022'
    '0000000000000000000000000000000020000000200020003000000030003020'
    '0031001300000001000000000000000131000000000000002000000000000000'
    '2313001300000001000000000000000023010001000000003301000022002000'
)], np.uint8)
# The neighbours in the order of the code's bits: clockwise from the upper left.
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
# The bits of the four straight neighbours. The table never removes a pixel that has them all.
STRAIGHT = np.uint8(0b10101010)


def skeletonize(mask: np.ndarray) -> np.ndarray:
    """Computes the skeleton of a boolean mask (H, W) as `skimage.morphology.skeletonize` does.

    Only pixels that lack a straight neighbour can be removed. They are kept in a list beside an
    image of neighbour codes, so that the work is proportional to the area once, instead of to the
    area times the thickness.

    Returns:
        Boolean (H, W).
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    stride = padded.shape[1]
    codes = _neighbour_codes(padded).ravel()

    # What the first and the second half of a round remove.
    halves = []
    for removing in ((1, 3), (2, 3)):
        is_removing = np.isin(REMOVAL, removing)
        halves.append(is_removing.astype(np.uint8))

    # Offsets from the upper left neighbour, and the bit by which each neighbour sees this pixel:
    # that of the opposite direction.
    updates = []
    for bit, (row, column) in enumerate(NEIGHBOURS):
        opposite = (bit + 4) % 8
        offset = (row + 1) * stride + column + 1
        own_bit = np.uint8(1 << opposite)
        updates.append((offset, own_bit))

    # The border: the pixels that lack a straight neighbour.
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = cv2.erode(padded, cross)
    # The corner of the padding is never removed; OpenCV takes no empty array.
    lacking = np.flatnonzero(padded != inside)
    border = np.append(0, lacking)

    # Rounds, until two halves after one another remove nothing.
    idle_halves = 0
    while idle_halves < 2:
        for table in halves:
            border_codes = codes.take(border)
            is_removed = cv2.LUT(border_codes, table).reshape(-1).view(bool)
            removed = border.compress(is_removed)
            idle_halves = 0 if len(removed) else idle_halves + 1

            # The removed pixels' neighbours may become part of the border.
            upper_left = removed - (stride + 1)
            parts = [border.compress(~is_removed)]
            for offset, own_bit in updates:
                uncovered = _clear_neighbour(codes[offset:], upper_left, own_bit)
                parts.append(uncovered + offset)
            border = np.concatenate(parts)

    # What is left: the border, and pixels that never came to lie on it.
    skeleton = codes & STRAIGHT == STRAIGHT
    skeleton[border] = True
    whole = skeleton.reshape(padded.shape)
    return whole[1:-1, 1:-1]


def _neighbour_codes(padded: np.ndarray) -> np.ndarray:
    """Computes the code of each pixel's neighbours; 0 for the background, uint8.

    A pixel that is removed later keeps its code, which is not read again.
    """
    kernel = np.zeros((3, 3), np.float32)
    for bit, (row, column) in enumerate(NEIGHBOURS):
        kernel[row + 1, column + 1] = 1 << bit
    codes = cv2.filter2D(padded, cv2.CV_8U, kernel, borderType=cv2.BORDER_CONSTANT)
    return codes * padded


def _clear_neighbour(codes: np.ndarray, pixels: np.ndarray, bit: np.uint8) -> np.ndarray:
    """Clears a neighbour's bit of `pixels` (all different); returns those new to the border.

    New are those that had all straight neighbours before.
    """
    before = codes.take(pixels)
    codes[pixels] = before & ~bit
    if not bit & STRAIGHT:
        return pixels[:0]
    had_all = before & STRAIGHT == STRAIGHT
    return pixels.compress(had_all)


def cached_skeleton(mask: np.ndarray, folder: str | os.PathLike | None) -> np.ndarray:
    """Returns `skeletonize(mask)`, cached in `folder` under a digest of the mask.

    A damaged file is replaced. Without a folder (None) nothing is cached.
    """
    if folder is None:
        return skeletonize(mask)

    # The file's name follows from the mask alone.
    content = repr(mask.shape).encode() + np.packbits(mask).tobytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    path = Path(folder, digest[:2], f'{digest}.npy')

    skeleton = np.zeros(mask.shape, bool)
    try:
        pixels = np.load(path, allow_pickle=False)
        skeleton.reshape(-1)[pixels] = True
    except (OSError, ValueError, IndexError, EOFError):
        skeleton = skeletonize(mask)
        _write_cached(path, skeleton)
    return skeleton


def _write_cached(path: Path, skeleton: np.ndarray) -> None:
    """Writes a skeleton, or warns once that there is no place for it."""
    try:
        with atomic_write(path) as file:
            np.save(file, np.flatnonzero(skeleton).astype(np.int32))
    except OSError as error:
        warnings.warn(f'skeletons are not kept for the next run, which takes longer ({error})')
