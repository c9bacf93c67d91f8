"""Files without the metadata at which a decoder gives up, because the pixels may be good."""

import zlib
from collections.abc import Iterator

PNG_START = b'\x89PNG\r\n\x1a\n'
JPEG_START = b'\xff\xd8'

PNG_PIXELS = frozenset({b'IHDR', b'PLTE', b'IDAT', b'IEND'})
# What the pixels mean. Whatever else there is, texts above all, may be left out.
PNG_MEANING = frozenset({b'tRNS', b'gAMA', b'cHRM', b'sRGB', b'cICP', b'eXIf', b'tEXt'})
# The chunks of colours have one length, in bytes. Decoders refuse files with others.
PNG_COLOURS = {b'gAMA': 4, b'cHRM': 32, b'sRGB': 1, b'cICP': 4}
MOST_TEXT = 1 << 20  # bytes of a text that stays

# Markers of JPEG: JFIF's and Adobe's segments say how colours are stored.
JPEG_SCAN = 0xda
JPEG_COLOURS = frozenset({0xe0, 0xee})
JPEG_METADATA = frozenset({*range(0xe0, 0xf0), 0xfe}) - JPEG_COLOURS


def without_metadata(data: bytes) -> bytes | None:
    """Returns a PNG or JPEG without texts, profiles and the like; None for all other files."""
    if data.startswith(PNG_START):
        return _bare_png(data)
    if data.startswith(JPEG_START):
        return _bare_jpeg(data)
    return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Walks through a PNG: the name of each chunk, and where its contents begin and end."""
    at = len(PNG_START)
    while at + 8 <= len(data):
        length = int.from_bytes(data[at:at + 4], 'big')
        kind = data[at + 4:at + 8]
        start = at + 8
        yield kind, start, start + length
        at = start + length + 4  # with its checksum


def is_whole_png(data: bytes) -> bool:
    """Whether a PNG has all of its chunks, to the last.

    Pillow reads some that are cut off as if nothing were. OpenCV believes the length that a chunk
    states: it takes gigabytes for a damaged file of a few bytes.
    """
    for kind, _, end in png_chunks(data):
        if kind == b'IEND':
            return end <= len(data)
    return False


def _bare_png(data: bytes) -> bytes:
    parts = [PNG_START]
    for kind, start, end in png_chunks(data):
        chunk = data[start - 8:end + 4]
        is_kept = kind in PNG_PIXELS
        has_length = PNG_COLOURS.get(kind, end - start) == end - start
        if kind in PNG_MEANING and has_length and len(chunk) < MOST_TEXT:
            checksum = zlib.crc32(chunk[4:-4])
            is_kept = chunk[-4:] == checksum.to_bytes(4, 'big')
        if is_kept:
            parts.append(chunk)
    return b''.join(parts)


def _bare_jpeg(data: bytes) -> bytes:
    parts = [JPEG_START]
    at = len(JPEG_START)
    while at + 4 <= len(data) and data[at] == 0xff:
        marker = data[at + 1]
        if marker == JPEG_SCAN:
            break
        end = at + 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        if marker not in JPEG_METADATA:
            parts.append(data[at:end])
        at = end
    parts.append(data[at:])
    return b''.join(parts)
