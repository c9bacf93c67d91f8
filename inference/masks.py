"""From the network's probabilities to masks on disk, several times quicker than F.interpolate and Pillow's PNG."""

import os
import struct
import zlib
from itertools import product

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
TILE = (64, 8192)  # rows and columns resized at a time: the float values stay in the processor's cache


def to_mask(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """probability (h, w), float32 in 0..1 -> mask (height, width), uint8: resized, times 255, truncated.

    Bilinear with aligned corners, as `F.interpolate(..., align_corners=True)`.
    """
    mask = np.empty((height, width), np.uint8)
    if probability.shape == mask.shape:
        np.multiply(probability, np.float32(255), out=mask, casting='unsafe')
        return mask
    if not EXACT_WARP:
        values = F.interpolate(torch.from_numpy(probability)[None, None], (height, width), mode='bilinear',
                               align_corners=True)
        np.multiply(values[0, 0].numpy(), np.float32(255), out=mask, casting='unsafe')
        return mask
    for top, left in product(range(0, height, TILE[0]), range(0, width, TILE[1])):
        tile = mask[top:top + TILE[0], left:left + TILE[1]]
        values = _warp(probability, mask.shape, (top, left), tile.shape)
        np.multiply(values, np.float32(255), out=tile, casting='unsafe')
    return mask


def _warp(values: np.ndarray, whole: tuple[int, int], start: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """The part of `shape` that begins at `start`, row and column, of `values` resized to `whole`."""
    scale_y, scale_x = ((source - 1) / max(target - 1, 1) for source, target in zip(values.shape, whole, strict=True))
    to_source = np.array([[scale_x, 0, start[1] * scale_x], [0, scale_y, start[0] * scale_y]])
    return cv2.warpAffine(values, to_source, shape[::-1], borderMode=cv2.BORDER_REPLICATE,
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


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
