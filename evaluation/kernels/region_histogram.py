"""Histograms of grey values by region, fast where an image equals its mask.

Most pixels of a good prediction do. Images are compared 8 pixels at a time: as uint64
words in row order, the last one padded.
"""

import cv2
import numpy as np

from evaluation.kernels.histograms import LEVELS

PIXELS_PER_WORD = 8
# OpenCV returns histograms as float32, in which integers are exact up to this number.
EXACT_FLOAT32 = 1 << 24
INSIDE = 0
OUTSIDE = 1


def pad_to_words(image: np.ndarray, fill: int = 0) -> np.ndarray:
    """Flattens a contiguous image and pads it to whole words; returns a view if none is missing."""
    pixels = image.reshape(-1)
    missing = -pixels.size % PIXELS_PER_WORD
    if not missing:
        return pixels
    return np.append(pixels, np.full(missing, fill, pixels.dtype))


def as_words(image: np.ndarray, fill: int = 0) -> np.ndarray:
    """Views a contiguous uint8 image as uint64 words."""
    return pad_to_words(image, fill).view(np.uint64)


def histogram_by_label(
    values: np.ndarray, labels: np.ndarray, number: int, chunk: int = EXACT_FLOAT32,
) -> np.ndarray:
    """Counts values by label.

    Args:
        values: uint8 (N,).
        labels: uint8 (N,); pixels with a label of `number` or more are left out.
        number: How many labels there are.
        chunk: Pixels counted at a time.

    Returns:
        int64 (number, 256).
    """
    counts = np.zeros((number, LEVELS), np.int64)
    for start in range(0, len(values), chunk):
        part = slice(start, start + chunk)
        # Little-endian pairs of bytes read as one 16-bit code: 256 label + value.
        pairs = cv2.merge([values[part], labels[part]])
        words = pairs.view(np.uint16)
        codes = words.reshape(1, -1)
        bins = counts.size
        found = cv2.calcHist([codes], [0], None, [bins], [0, bins])
        by_label = found.reshape(counts.shape)
        counts += by_label.astype(np.int64)
    return counts


class RegionHistogram:
    """Counts grey values inside and outside a mask, in each of the four quadrants about a centre.

    Args:
        mask: uint8 (H, W) of 0 and 255, contiguous.
        centre: First row of the lower and first column of the right quadrants.
    """

    def __init__(self, mask: np.ndarray, centre: tuple[int, int] = (0, 0)) -> None:
        self.words = as_words(mask)
        row, column = centre
        quadrants = (
            (slice(row), slice(column)),
            (slice(row), slice(column, None)),
            (slice(row, None), slice(column)),
            (slice(row, None), slice(column, None)),
        )

        # The label of each pixel is INSIDE or OUTSIDE, plus twice its quadrant.
        labels = (mask == 0).view(np.uint8)
        sizes = []
        for quadrant, (rows, columns) in enumerate(quadrants):
            part = labels[rows, columns]
            outside = np.count_nonzero(part)
            sizes.append([part.size - outside, outside])
            part += 2 * quadrant
        self._sizes = np.array(sizes)
        self._labels = as_words(labels, fill=self._sizes.size)

    def differing(self, words: np.ndarray) -> np.ndarray:
        """Returns the indices of the words of an image that differ from the mask's."""
        return np.flatnonzero(words != self.words)

    def outside(self, words: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Sets the pixels inside the mask to 0 in `words`, which lie at `places` of an image."""
        return words & ~self.words.take(places)

    def count(self, words: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Counts an image's grey values from the words in which it differs from the mask.

        Args:
            words: The differing words, uint64.
            places: Their indices in the image.

        Returns:
            int64 (4, 2, 256): quadrant, inside or outside the mask, grey value.
        """
        values = words.view(np.uint8)
        labels = self._labels.take(places).view(np.uint8)
        by_label = histogram_by_label(values, labels, self._sizes.size)
        counts = by_label.reshape(4, 2, LEVELS)
        # All other pixels equal the mask: 255 inside, 0 outside.
        differing = counts.sum(axis=-1)
        equal = self._sizes - differing
        counts[:, INSIDE, -1] += equal[:, INSIDE]
        counts[:, OUTSIDE, 0] += equal[:, OUTSIDE]
        return counts
