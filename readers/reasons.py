"""Why a file is no image, in words that tell its owner what it is instead."""

import os
import struct

from readers.tiff import TIFF_STARTS

EMPTY = 'the file is empty'
CUT_OFF = 'the file is cut off'
UNKNOWN = 'of no known format'
# What Pillow's plugins raise where bytes are missing.
CUT_OFF_ERRORS = (struct.error, IndexError, EOFError)
RAW = 'a raw photograph; develop it first'
# What else has the name of an image, by the first bytes.
STRANGERS = {
    b'version https://git-lfs': 'a pointer of Git LFS; `git lfs pull` gets the file itself',
    b'\x89PNG': 'a PNG damaged by a conversion of line ends, as git and FTP may do it',
    b'%PDF': 'a PDF',
    b'PK\3\4': 'a zip archive or an office document',
    b'\x1f\x8b': 'packed by gzip',
    b'\x1aE\xdf\xa3': 'a video (WebM or MKV)',
    b'v/1\1': 'OpenEXR, which is not taken',
    b'#?RADIANCE': 'Radiance HDR, which is not taken',
    b'\xff\x0a': 'JPEG XL, which is not taken',
    b'\0\0\0\x0cJXL ': 'JPEG XL, which is not taken',
    b'FUJIFILMCCD-RAW': RAW,
    b'IIRO': RAW,
    b'IIU\0': RAW,
}
VIDEO_BOX = b'ftyp'  # of MP4 and MOV, behind four bytes
PAGE_STARTS = ('<!doctype html', '<html')
FEW_BYTES = 8  # that tell nothing
TEXT_BYTES = 256  # by which texts are recognised
SHOWN_LETTERS = 40
NO_LETTER = '\ufffd'  # what bytes become that are no UTF-8


def first_bytes(path: str | os.PathLike) -> bytes:
    """Reads as much of a file as `stranger` looks at."""
    with open(path, 'rb') as file:
        return file.read(TEXT_BYTES)


def text_of(error: Exception) -> str:
    """What an error of a decoder says."""
    if isinstance(error.__cause__ or error, CUT_OFF_ERRORS):
        return CUT_OFF
    return str(error) or type(error).__name__


def reason_of(error: Exception, data: bytes) -> str:
    """Says why a file cannot be decoded.

    Args:
        error: the decoder's.
        data: the file's bytes.
    """
    if not data:
        return EMPTY
    if _is_cut_off(data):
        return CUT_OFF
    text = text_of(error)
    return stranger(data) if text == UNKNOWN else text


def _is_cut_off(data: bytes) -> bool:
    """Whether a WebP or a TIFF states that it goes on behind its end."""
    if data.startswith(b'RIFF') and data[8:12] == b'WEBP':
        return 8 + int.from_bytes(data[4:8], 'little') > len(data)
    if data.startswith(TIFF_STARTS):
        is_little = data.startswith(b'II')
        first_directory = int.from_bytes(data[4:8], 'little' if is_little else 'big')
        return first_directory >= len(data)
    return False


def stranger(data: bytes) -> str:
    """What a file is, by its first bytes, that no decoder knows."""
    if not data:
        return EMPTY
    for start, what in STRANGERS.items():
        if data.startswith(start):
            return what
    if data[4:8] == VIDEO_BOX:
        return 'a video (MP4 or MOV), or a kind of HEIF that is not known'
    if not data.strip(b'\0'):
        return 'nothing but zeros, as an interrupted copy leaves'
    if len(data) < FEW_BYTES:
        return f'{CUT_OFF} after {len(data)} bytes'
    text = _text_in(data)
    if text.lower().startswith(PAGE_STARTS):
        return 'a web page, as sites send that ask for a login'
    if text:
        shown = ' '.join(text[:SHOWN_LETTERS].split())
        return f'a text: {shown!r}'
    return UNKNOWN


def _text_in(data: bytes) -> str:
    """The beginning of a text; '' if it is none."""
    text = data[:TEXT_BYTES].decode('utf-8-sig', 'replace')
    text = text.rstrip(NO_LETTER).strip()  # the last letter may be cut
    is_text = NO_LETTER not in text and all(
        letter.isprintable() or letter.isspace() for letter in text)
    return text if is_text else ''
