"""From the network's probabilities to masks on disk, several times quicker than F.interpolate and Pillow's PNG."""

import os
import struct
import zlib

import cv2
import numpy as np

from utils import atomic_write

try:  # Intel's deflate compresses a mask ten times as fast as zlib to the same size
    from isal.isal_zlib import compress
except ImportError:
    from zlib import compress

TILE = (64, 8192)  # rows and columns resized at a time: the float values stay in the processor's cache


def to_mask(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """probability (h, w), float32 in 0..1 -> mask (height, width), uint8: resized, times 255, truncated.

    Bilinear with aligned corners, as `F.interpolate(..., align_corners=True)`.
    """
    mask = np.empty((height, width), np.uint8)
    if probability.shape == mask.shape:
        np.multiply(probability, np.float32(255), out=mask, casting='unsafe')
        return mask
    scale_y, scale_x = ((source - 1) / max(target - 1, 1)
                        for source, target in zip(probability.shape, mask.shape, strict=True))
    for top in range(0, height, TILE[0]):
        for left in range(0, width, TILE[1]):
            tile = mask[top:top + TILE[0], left:left + TILE[1]]
            to_source = np.array([[scale_x, 0, left * scale_x], [0, scale_y, top * scale_y]])
            values = cv2.warpAffine(probability, to_source, tile.shape[::-1], borderMode=cv2.BORDER_REPLICATE,
                                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            np.multiply(values, np.float32(255), out=tile, casting='unsafe')
    return mask


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
