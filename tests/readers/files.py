"""Image files for tests, as bytes."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2


def disc() -> np.ndarray:
    """A disc of ones, uint8 (40, 48), off the centre."""
    rows, columns = np.mgrid[:40, :48]
    return (np.hypot(rows - 17, columns - 28) < 11).astype(np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str = 'PNG', **options) -> bytes:
    """The file of an image of Pillow, or of pixels."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_opencv(values: np.ndarray, suffix: str) -> bytes:
    """The file of values of any type, which Pillow would not write."""
    # OpenCV of old releases writes floating point by its logarithm unless it is not to compress.
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if suffix == '.tif' else []
    _, data = cv2.imencode(suffix, values, options)
    return data.tobytes()


def palette_image(indices: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    """An image with a palette, black where `colours` has no colour."""
    palette = np.zeros((256, 3), np.uint8)
    for index, colour in colours.items():
        palette[index] = colour
    image = Image.frombytes('P', indices.shape[::-1], indices.tobytes())
    image.putpalette(palette.tobytes())
    return image


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + body)
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', checksum)


def with_last_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk, behind its pixels."""
    end = len(data) - len(chunk(b'IEND', b''))
    return data[:end] + chunk(kind, body) + data[end:]


def tiff(values: np.ndarray, **tags: int | str | bytes | tuple) -> bytes:
    """An uncompressed TIFF of (H, W) or (H, W, 3), with further tags by number."""
    height, width = values.shape[:2]
    count = values.size // (height * width)
    directory = ImageFileDirectory_v2()
    directory[256], directory[257] = width, height
    directory[258] = (8 * values.itemsize,) * count
    directory[259], directory[262] = 1, 2 if count == 3 else 1
    directory[273], directory[277] = 0, count
    directory[278], directory[279] = height, values.nbytes
    for name, value in tags.items():
        directory[int(name.removeprefix('tag_'))] = value
    return b'II*\0\x08\0\0\0' + directory.tobytes(8) + values.tobytes()
