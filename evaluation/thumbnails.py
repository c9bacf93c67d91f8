"""Images, masks and error maps as small pictures, which together take a given number of bytes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from evaluation.files import File
from evaluation.inputs import read_prediction
from readers import read_image, read_mask

# Pixels of the longer side: about twice those on the page, for dense screens and for print.
LARGEST_SIDE = 640
SMALLEST_SIDE = 16
# Chromium puts JPEG into a PDF as it is, WebP as bare pixels.
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 80, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
# What a pixel of the longer side, squared, takes in all panels: an estimate, to begin with.
BYTES_PER_SQUARE = 0.25

OUTSIDE = np.array([250, 250, 250], np.float32)
INSIDE = np.array([205, 205, 205], np.float32)
RED = np.array([213, 40, 30], np.float32)
BLUE = np.array([0, 90, 200], np.float32)


# On the disk, or also in an archive.
AnyFile = Path | File


class Thumbnail(NamedTuple):
    """A JPEG file and its size in pixels."""

    data: bytes
    width: int
    height: int


def draw(
    image: AnyFile | None,
    mask: AnyFile,
    predictions: Sequence[tuple[AnyFile, bool]],
    budget: int,
) -> list[Thumbnail]:
    """Draws an image (if given), its mask, and each prediction with its errors.

    Args:
        image: File of the image.
        mask: File of its mask.
        predictions: Files of its predictions, each with whether it holds but 0 and 1.
        budget: Bytes that all panels together may take. They are made smaller until they do.

    Returns:
        Panels of one size.

    Raises:
        ValueError, OSError: If a file cannot be read.
    """
    # The size that probably keeps to the budget.
    truth = read_mask(mask)
    expected_side = int(math.sqrt(budget / BYTES_PER_SQUARE))
    side = max(SMALLEST_SIDE, min(LARGEST_SIDE, expected_side))
    size = _fit(truth, side)

    # The panels in their order.
    panels = []
    if image:
        pixels = read_image(image)
        panels.append(_shrink(pixels, size))
    panels.append(_shrink(truth, size))
    for file, is_zero_one in predictions:
        prediction = read_prediction(file, truth.shape, is_zero_one)
        panels.append(_shrink(prediction, size))
        panels.append(error_map(prediction, truth, size))
    return _encode_within(panels, budget)


def error_map(prediction: np.ndarray, truth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draws false positives in red and false negatives in blue over the mask in light grey.

    Errors are averaged, not the masks, so that none cancel out in a small picture.

    Args:
        prediction: uint8 (H, W).
        truth: Mask, uint8 (H, W).
        size: (width, height) of the picture.

    Returns:
        RGB, uint8 (height, width, 3).
    """
    # Shares of each small pixel's area; the differences of uint8 saturate at 0.
    too_much = cv2.subtract(prediction, truth)
    too_little = cv2.subtract(truth, prediction)
    excess = _share(too_much, size)
    missing = _share(too_little, size)
    inside = _share(truth, size)
    found = inside - missing
    empty = 1 - inside - excess

    # The mean colour of what each pixel stands for.
    right = INSIDE * found + OUTSIDE * empty
    wrong = RED * excess + BLUE * missing
    colors = right + wrong
    return colors.round().astype(np.uint8)


def _share(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Means of uint8 values over the pixels of a smaller picture, as 0..1, (height, width, 1)."""
    means = _shrink(values, size).astype(np.float32)
    return means[..., None] / 255


def _fit(picture: np.ndarray, side: int) -> tuple[int, int]:
    """The size (width, height) at which the longer side is at most `side`."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    scale = min(1.0, side / longer)
    fitted_width = max(1, round(width * scale))
    fitted_height = max(1, round(height * scale))
    return fitted_width, fitted_height


def _shrink(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _encode_within(panels: Sequence[np.ndarray], budget: int) -> list[Thumbnail]:
    """Encodes panels of one size, and shrinks them for as long as they exceed the budget."""
    side = max(panels[0].shape[:2])
    while True:
        size = _fit(panels[0], side)
        files = []
        total = 0
        for panel in panels:
            file = _jpeg(_shrink(panel, size))
            files.append(file)
            total += len(file.data)
        if total <= budget or side <= SMALLEST_SIDE:
            return files

        # Small pictures need more bytes for a pixel, hence a little less than the ratio says.
        ratio = math.sqrt(budget / total)
        side = max(SMALLEST_SIDE, int(side * ratio * 0.95))


def _jpeg(panel: np.ndarray) -> Thumbnail:
    height, width = panel.shape[:2]
    if panel.ndim == 3:
        panel = panel[..., ::-1]  # RGB to OpenCV's BGR
    ok, data = cv2.imencode('.jpg', panel, JPEG)
    assert ok
    return Thumbnail(data.tobytes(), width, height)
