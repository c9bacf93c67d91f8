"""Counting grey values by kind of pixel, quickly where an image equals its mask, as most of a good prediction does.

Images are seen as words: 8 pixels, in the order of rows, in one uint64; the last word is filled up.
"""

import cv2
import numpy as np

from evaluation.histograms import LEVELS

WORD = 8
# OpenCV returns histograms as float32, which is exact up to here.
EXACT_FLOAT32 = 1 << 24
INSIDE, OUTSIDE = 0, 1


def fill_up(image: np.ndarray, fill: int = 0) -> np.ndarray:
    """The pixels of a contiguous image in one row, as many as whole words need; a view where there are that many."""
    pixels = image.reshape(-1)
    missing = -pixels.size % WORD
    return np.append(pixels, np.full(missing, fill, pixels.dtype)) if missing else pixels


def as_words(image: np.ndarray, fill: int = 0) -> np.ndarray:
    """The words of a contiguous uint8 image, uint64."""
    return fill_up(image, fill).view(np.uint64)


def count_by_kind(values: np.ndarray, kinds: np.ndarray, number: int) -> np.ndarray:
    """Counts, int64 (`number`, 256), of uint8 `values` (N,) by uint8 `kinds` (N,), of kinds below `number`."""
    counts = np.zeros((number, LEVELS), np.int64)
    for start in range(0, len(values), EXACT_FLOAT32):
        part = slice(start, start + EXACT_FLOAT32)
        codes = cv2.merge([values[part], kinds[part]]).view(np.uint16).reshape(1, -1)  # little-endian: 256 kind + value
        found = cv2.calcHist([codes], [0], None, [counts.size], [0, counts.size])
        counts += found.reshape(counts.shape).astype(np.int64)
    return counts


class Counter:
    """Counts the grey values of images inside and outside a mask, in each of the four blocks about a cut.

    `mask`: uint8 (H, W) of 0 and 255, contiguous. `cut`: first row of the lower and first column of the right blocks.
    """

    def __init__(self, mask: np.ndarray, cut: tuple[int, int] = (0, 0)) -> None:
        self.words = as_words(mask)
        kinds = (mask == 0).view(np.uint8)  # INSIDE or OUTSIDE, and twice the block's number
        sizes = []
        for block, rows in enumerate((slice(cut[0]), slice(cut[0], None))):
            for side, columns in enumerate((slice(cut[1]), slice(cut[1], None))):
                outside = np.count_nonzero(kinds[rows, columns])
                sizes.append([kinds[rows, columns].size - outside, outside])
                kinds[rows, columns] += 2 * (2 * block + side)
        self._sizes = np.array(sizes)
        self._kinds = as_words(kinds, fill=self._sizes.size)

    def differing(self, words: np.ndarray) -> np.ndarray:
        """Indices of the words of an image that are not the mask's."""
        return np.flatnonzero(words != self.words)

    def outside(self, words: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The words of an image at `places`, `words`, with 0 inside the mask."""
        return words & ~self.words.take(places)

    def count(self, words: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Counts, int64 (4, 2, 256), by block, inside and outside the mask; `words` differ from it, at `places`."""
        kinds = self._kinds.take(places).view(np.uint8)
        counts = count_by_kind(words.view(np.uint8), kinds, self._sizes.size).reshape(4, 2, LEVELS)
        equal = self._sizes - counts.sum(axis=-1)
        counts[:, INSIDE, -1] += equal[:, INSIDE]
        counts[:, OUTSIDE, 0] += equal[:, OUTSIDE]
        return counts
