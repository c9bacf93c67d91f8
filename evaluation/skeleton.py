"""Skeletons of masks: scikit-image's, pixel for pixel, in a tenth of its time; and kept on disk.

Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", CACM 27(3), 1984, with the removal table of
scikit-image (BSD licence), which differs from the paper's: the human correction effort is defined on that skeleton.
"""

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np

from utils import atomic_write

# By the code of a pixel's eight neighbours, when it goes: in the first half of a round (1), the second (2), either (3).
REMOVAL = np.array([int(digit) for digit in (
    '0001001300311013000000002020303300000000300000000000000020003022'
    '0000000000000000000000000000000020000000200020003000000030003020'
    '0031001300000001000000000000000131000000000000002000000000000000'
    '2313001300000001000000000000000023010001000000003301000022002000'
)], np.uint8)
# The neighbours in the order of the code's bits: clockwise from the upper left.
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
# The bits of the four straight neighbours. A pixel that has them all stays, by the table.
STRAIGHT = np.uint8(0b10101010)


def skeletonize(mask: np.ndarray) -> np.ndarray:
    """The skeleton of a boolean mask (H, W), boolean: the same pixels as `skimage.morphology.skeletonize`.

    Only pixels without one of their straight neighbours can go, so these are kept in a list, beside an image of
    neighbour codes: the work is proportional to the area once, instead of to the area times the thickness.
    """
    stride = mask.shape[1] + 2
    padded = np.pad(mask.astype(np.uint8), 1)
    kernel = np.zeros((3, 3), np.float32)
    for bit, (row, column) in enumerate(NEIGHBOURS):
        kernel[row + 1, column + 1] = 1 << bit
    # Background has code 0; what is removed keeps its own, which is not asked for again.
    codes = (cv2.filter2D(padded, cv2.CV_8U, kernel, borderType=cv2.BORDER_CONSTANT) * padded).ravel()
    # The neighbour in direction k sees this pixel in the opposite direction, bit (k + 4) % 8.
    updates = [((row + 1) * stride + column + 1, np.uint8(1 << (bit + 4) % 8))
               for bit, (row, column) in enumerate(NEIGHBOURS)]
    tables = [np.isin(REMOVAL, removing).astype(np.uint8) for removing in ((1, 3), (2, 3))]

    inside = cv2.erode(padded, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    # The corner of the padding stays, and spares OpenCV an empty array.
    border = np.append(0, np.flatnonzero(padded != inside))
    idle = 0
    while idle < 2:
        for table in tables:
            goes = cv2.LUT(codes.take(border), table).reshape(-1).view(bool)
            removed = border.compress(goes)
            idle = 0 if len(removed) else idle + 1
            removed -= stride + 1  # the upper left neighbour
            border = np.concatenate([border.compress(~goes), *(_expose(codes[step:], removed, bit) + step
                                                               for step, bit in updates)])
    skeleton = codes & STRAIGHT == STRAIGHT
    skeleton[border] = True
    return skeleton.reshape(padded.shape)[1:-1, 1:-1]


def _expose(codes: np.ndarray, pixels: np.ndarray, bit: np.uint8) -> np.ndarray:
    """Clears one neighbour's bit of `pixels` (all different); returns those that had all straight ones till now."""
    before = codes.take(pixels)
    codes[pixels] = before & ~bit
    return pixels.compress(before & STRAIGHT == STRAIGHT) if bit & STRAIGHT else pixels[:0]


def cached_skeleton(mask: np.ndarray, folder: str | os.PathLike | None) -> np.ndarray:
    """`skeletonize(mask)`, kept in `folder` (None: not kept) under a digest of the mask. A damaged file is replaced."""
    if folder is None:
        return skeletonize(mask)
    digest = hashlib.blake2b(repr(mask.shape).encode() + np.packbits(mask).tobytes(), digest_size=16).hexdigest()
    path = Path(folder, digest[:2], f'{digest}.npy')
    skeleton = np.zeros(mask.shape, bool)
    try:
        skeleton.reshape(-1)[np.load(path, allow_pickle=False)] = True
    except (OSError, ValueError, IndexError, EOFError):
        skeleton = skeletonize(mask)
        with atomic_write(path) as file:
            np.save(file, np.flatnonzero(skeleton).astype(np.int32))
    return skeleton
