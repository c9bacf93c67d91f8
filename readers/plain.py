"""Fast decoding of what most files are: a JPEG, or a PNG of 8 bits."""

import io

import cv2
import numpy as np

from readers.metadata import is_whole_png, png_chunks, without_metadata
from readers.opening import open_header
from readers.orientation import upright

try:  # Intel's inflate reads a mask four times as fast as zlib
    from isal.isal_zlib import decompressobj
except ImportError:
    decompressobj = None  # type: ignore[assignment]

try:  # the same pixels as by OpenCV, in two thirds of the time
    import simplejpeg
except ImportError:
    simplejpeg = None

IMREAD_RGB = getattr(cv2, 'IMREAD_COLOR_RGB', cv2.IMREAD_COLOR)  # OpenCV before 4.11 has BGR only


def decode_plain(data: bytes, mode: str, max_pixels: int) -> np.ndarray | None:
    """Decodes an 8-bit JPEG or PNG of Pillow's `mode` ('RGB' or 'L'), upright.

    simplejpeg and OpenCV give the same pixels as Pillow in half of its time. None for all others,
    damaged ones among them.
    """
    opened = open_header(io.BytesIO(data))
    if opened is None:
        return None
    header, orientation = opened
    if header.mode != mode or header.width * header.height > max_pixels:
        return None
    if header.format == 'PNG':
        bits_per_channel = data[24]
        if bits_per_channel != 8 or not is_whole_png(data):
            return None

    pixels = None
    if header.format == 'JPEG' and simplejpeg:
        pixels = _decode_jpeg(data, mode)
    else:
        if header.format == 'PNG' and mode == 'L' and decompressobj is not None:
            pixels = _decode_grey_png(data, *header.size)
        if pixels is None:
            # Of metadata that libpng does not like it would print a warning.
            bare = without_metadata(data) if header.info else None
            pixels = _decode_by_opencv(bare or data, mode)
    return None if pixels is None else upright(pixels, orientation)


def _decode_by_opencv(data: bytes, mode: str) -> np.ndarray | None:
    colour = IMREAD_RGB if mode == 'RGB' else cv2.IMREAD_GRAYSCALE
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    has_bgr = mode == 'RGB' and IMREAD_RGB == cv2.IMREAD_COLOR
    if pixels is None or not has_bgr:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _decode_jpeg(data: bytes, mode: str) -> np.ndarray | None:
    try:
        pixels = simplejpeg.decode_jpeg(data, 'RGB' if mode == 'RGB' else 'GRAY')
    except ValueError:  # damaged: Pillow may yet make something of it
        return None
    return pixels if mode == 'RGB' else pixels[..., 0]


def _decode_grey_png(data: bytes, width: int, height: int) -> np.ndarray | None:
    """Decodes an 8-bit grey PNG whose rows are filtered as those of masks mostly are.

    That is: not, by the pixel before, or by the row above (RFC 2083, section 6). None for all
    others, damaged ones among them.
    """
    inflater = decompressobj()
    size = height * (1 + width)
    try:
        inflated = inflater.decompress(_png_data(data), size + 1)
    except Exception:  # a full decoding will say what is wrong
        return None
    if len(inflated) != size or not inflater.eof:  # interlaced, cut off, or too much
        return None

    # Each row is its filter's number and its bytes.
    rows = np.frombuffer(inflated, np.uint8).reshape(height, 1 + width)
    filters = rows[:, 0]
    pixels = rows[:, 1:].copy()
    if filters.max() > 2:
        return None
    by_pixel_before = filters == 1
    pixels[by_pixel_before] = np.cumsum(pixels[by_pixel_before], 1, np.uint8)
    by_row_above = filters[1:] == 2  # above the first row all is 0
    for row in np.flatnonzero(by_row_above):
        pixels[row + 1] += pixels[row]
    return pixels


def _png_data(data: bytes) -> bytes:
    """The compressed pixels of a PNG: the contents of its IDAT chunks."""
    parts = [data[start:end] for kind, start, end in png_chunks(data) if kind == b'IDAT']
    return b''.join(parts)
