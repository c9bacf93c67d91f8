"""From the network's probabilities to masks on disk, several times quicker than F.interpolate and Pillow's PNG."""

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
STRIP = 64  # rows resized at a time: the float values stay in the processor's cache
GAP = 256  # even columns between two uneven spans that cost less to resize than a further call does
WIDEST = 8192  # columns that a call resizes: OpenCV's positions are of single precision
# What OpenCV's rounding takes to truncate. It is a hair short of half a level, so that 255 does not become 254.
TRUNCATE = -.49998


def to_mask(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """probability (h, w), float32 in 0..1 -> mask (height, width), uint8: resized, times 255, truncated.

    Bilinear with aligned corners, as `F.interpolate(..., align_corners=True)`, but for rounding: a few in ten thousand
    pixels lie within a rounding error of a whole level, and may fall to either side of it.
    """
    values = probability * np.float32(255)
    if values.shape == (height, width):
        return _truncated(values)
    if not EXACT_WARP:
        # In double precision equal values stay equal, and 255 is not truncated to 254.
        resized = F.interpolate(torch.from_numpy(values)[None, None].double(), (height, width), mode='bilinear',
                                align_corners=True)
        return _truncated(resized[0, 0].float().numpy())
    mask = np.empty((height, width), np.uint8)
    levels = _truncated(values)
    scale_y, scale_x = ((source - 1) / max(target - 1, 1) for source, target in zip(values.shape, mask.shape,
                                                                                   strict=True))
    sources = (np.arange(width) * scale_x).astype(np.intp)
    for top in range(0, height, STRIP):
        strip = mask[top:top + STRIP]
        level, even = _even_columns(levels[int(top * scale_y):int((top + len(strip) - 1) * scale_y) + 2])
        strip[:] = level[sources]
        for left, right in _spans(~even[sources]):
            to_source = np.array([[scale_x, 0, left * scale_x], [0, scale_y, top * scale_y]])
            part = cv2.warpAffine(values, to_source, (right - left, len(strip)), borderMode=cv2.BORDER_REPLICATE,
                                  flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            _truncated(part, strip[:, left:right])
    return mask


def _truncated(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """float32 in 0..255 -> uint8."""
    return cv2.convertScaleAbs(values, out, 1, TRUNCATE)


def _even_columns(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """levels (h, w) -> the lowest of each column, and whether all of it and of the next column are that level, as most
    of a mask is: then all that is interpolated between the two is that level too."""
    low, high = levels.min(0), levels.max(0)
    even = low == high
    even[:-1] &= (low[1:] == low[:-1]) & (high[1:] == low[:-1])
    return low, even


def _spans(needed: np.ndarray) -> Iterator[tuple[int, int]]:
    """Starts and ends of the stretches of True, those less than GAP apart as one, none longer than WIDEST."""
    columns = np.flatnonzero(needed)
    if not len(columns):
        return
    cuts = np.flatnonzero(np.diff(columns) > GAP)
    for first, last in zip(columns[np.r_[0, cuts + 1]].tolist(), columns[np.r_[cuts, -1]].tolist(), strict=True):
        yield from ((left, min(left + WIDEST, last + 1)) for left in range(first, last + 1, WIDEST))


def encode_png(mask: np.ndarray) -> bytes:
    """mask (H, W), uint8 -> a grey PNG file. Rows are stored as differences to the row above: masks become zeros."""
    height, width = mask.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = 2
    rows[0, 1:] = mask[0]
    np.subtract(mask[1:], mask[:-1], out=rows[1:, 1:])
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    chunks = (b'IHDR', header), (b'IDAT', compress(rows, 1)), (b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in chunks)


def write_mask(path: str | os.PathLike, mask: np.ndarray) -> None:
    """Writes a mask (H, W), uint8, as PNG, atomically."""
    with atomic_write(path) as file:
        file.write(encode_png(mask))
