"""Turns the network's probabilities into masks on disk.

Several times faster than F.interpolate and Pillow's PNG encoder.
"""

import os
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from utils import atomic_write

try:  # Intel's deflate compresses a mask ten times as fast as zlib to the same size
    from isal.isal_zlib import compress
except ImportError:
    from zlib import compress

# Before version 5, OpenCV rounds positions to a 32nd of a pixel.
EXACT_WARP = int(cv2.__version__.split('.')[0]) >= 5
STRIP_ROWS = 64  # resized at a time: the float values stay in the processor's cache
MAX_GAP = 256  # uniform columns between two spans that cost less to resize than one more call
MAX_SPAN = 8192  # columns of one call, because OpenCV's positions have single precision
# Makes OpenCV's rounding truncate. A hair short of half a level, so that 255 does not become 254.
TRUNCATE = -.49998


def to_mask(
    probability: np.ndarray,
    height: int,
    width: int,
    exact_warp: bool = EXACT_WARP,
) -> np.ndarray:
    """Resizes probabilities to an image's size, multiplies by 255 and truncates.

    Bilinear with aligned corners, as `F.interpolate(..., align_corners=True)`, but for rounding:
    a few in ten thousand pixels lie within a rounding error of a whole level, and may fall to
    either side of it.

    Args:
        probability: float32 (h, w), 0..1.
        height: of the mask, in pixels.
        width: of the mask, in pixels.
        exact_warp: use OpenCV's `warpAffine`, whose positions must not be rounded; otherwise
            F.interpolate.

    Returns:
        The mask, uint8 (height, width).
    """
    values = probability * np.float32(255)
    if values.shape == (height, width):
        return _truncated(values)
    if exact_warp:
        return _resize_by_warp(values, height, width)
    return _resize_by_interpolation(values, height, width)


def _resize_by_interpolation(values: np.ndarray, height: int, width: int) -> np.ndarray:
    # In double precision equal values stay equal, and 255 is not truncated to 254.
    tensor = torch.from_numpy(values)[None, None].double()
    resized = F.interpolate(tensor, (height, width), mode='bilinear', align_corners=True)
    return _truncated(resized[0, 0].float().numpy())


def _resize_by_warp(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolates where a mask is not uniform, and fills the rest, which is most of it."""
    scale_y = (values.shape[0] - 1) / max(height - 1, 1)
    scale_x = (values.shape[1] - 1) / max(width - 1, 1)
    source_columns = (np.arange(width) * scale_x).astype(np.intp)
    levels = _truncated(values)

    mask = np.empty((height, width), np.uint8)
    for top in range(0, height, STRIP_ROWS):
        strip = mask[top:top + STRIP_ROWS]
        rows = len(strip)
        first_source = int(top * scale_y)
        last_source = int((top + rows - 1) * scale_y) + 1
        level, is_uniform = _uniform_columns(levels[first_source:last_source + 1])
        strip[:] = level[source_columns]

        for left, right in _spans(~is_uniform[source_columns]):
            to_source = np.array([[scale_x, 0, left * scale_x], [0, scale_y, top * scale_y]])
            part = cv2.warpAffine(
                values,
                to_source,
                (right - left, rows),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            _truncated(part, out=strip[:, left:right])
    return mask


def _truncated(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """float32 in 0..255 -> uint8."""
    return cv2.convertScaleAbs(values, out, 1, TRUNCATE)


def _uniform_columns(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the columns that need no interpolation.

    Args:
        levels: uint8 (h, w).

    Returns:
        The lowest level of each column, uint8 (w,); and, bool (w,), whether the column and the
        next one have that level alone, so that all values interpolated between them have it too.
    """
    low = levels.min(0)
    high = levels.max(0)
    is_uniform = low == high
    next_is_equal = (low[1:] == low[:-1]) & (high[1:] == low[:-1])
    is_uniform[:-1] &= next_is_equal
    return low, is_uniform


def _spans(needed: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields start and end of each stretch of True in `needed`, bool (w,).

    Stretches less than MAX_GAP apart are joined, and those longer than MAX_SPAN divided.
    """
    columns = np.flatnonzero(needed)
    if not len(columns):
        return
    last_before_gap = np.flatnonzero(np.diff(columns) > MAX_GAP)
    firsts = columns[np.r_[0, last_before_gap + 1]].tolist()
    lasts = columns[np.r_[last_before_gap, -1]].tolist()
    for first, last in zip(firsts, lasts, strict=True):
        for left in range(first, last + 1, MAX_SPAN):
            yield left, min(left + MAX_SPAN, last + 1)


# --- PNG ------------------------------------------------------------------------------------------


def encode_png(mask: np.ndarray) -> bytes:
    """Encodes a mask, uint8 (H, W), as a grey PNG file.

    Rows are stored as differences to the row above, which are mostly zeros in a mask.
    """
    height, width = mask.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = 2  # the filter "up"
    rows[0, 1:] = mask[0]
    np.subtract(mask[1:], mask[:-1], out=rows[1:, 1:])

    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b''.join((
        b'\x89PNG\r\n\x1a\n',
        png_chunk(b'IHDR', header),
        png_chunk(b'IDAT', compress(rows, 1)),
        png_chunk(b'IEND', b''),
    ))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Builds a chunk of a PNG file (RFC 2083, section 3.2)."""
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', checksum)


def write_mask(path: str | os.PathLike, mask: np.ndarray) -> None:
    """Writes a mask, uint8 (H, W), as PNG, atomically."""
    with atomic_write(path) as file:
        file.write(encode_png(mask))
