"""Opens images by Pillow, without its process-wide settings, and in spite of bad metadata."""

import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

from PIL import Image

from readers.deep import with_all_bits
from readers.metadata import PNG_START, is_whole_png, png_chunks, without_metadata
from readers.orientation import orientation_of, upright_image
from readers.reasons import EMPTY, UNKNOWN, reason_of, text_of
from readers.tiff import PREVIEW, TIFF_STARTS, is_preview, open_tiff

try:  # where the extra is installed
    from pillow_heif import HeifImageFile
except ImportError:
    HeifImageFile = None  # type: ignore[assignment, misc]

# The limit against decompression bombs. Pillow's own belongs to the program that we are part of:
# it is neither asked nor changed.
MAX_PIXELS = 500_000_000
START_BYTES = 16  # that show a file's format
END_BYTES = 64  # that show whether a file is whole
TAIL_BYTES = 1 << 16  # of a PNG that are searched for an orientation
# Files that may hold several pages or frames begin so, or, among PNG, have a chunk near the start.
PAGED_STARTS = (*TIFF_STARTS, b'GIF8', b'RIFF')
ANIMATION_CHUNK = b'acTL'
ANIMATION_BYTES = 4096
MOST_PROFILE = 1 << 25  # bytes of an ICC profile that is kept
END_OF_FILE: dict[str | None, bytes] = {
    'JPEG': b'\xff\xd9',
    'PNG': b'IEND\xaeB\x60\x82',
}
# In a PNG these may follow the pixels, where they are found by decoding only.
ORIENTATION_CHUNKS = (b'eXIf', b'Raw profile type', b'XML:com.adobe.xmp')

# Formats whose files may have room for an alpha that nobody has filled.
UNFILLED_ALPHA = frozenset({'BMP', 'DIB', 'DDS', 'ICO', 'TGA'})

# Formats that Pillow would have another program draw.
PROGRAMS = frozenset({'EPS'})
HEIF_STARTS = frozenset({
    b'ftypheic', b'ftypheix', b'ftypheim', b'ftypheis', b'ftyphevc', b'ftypmif1', b'ftypmsf1'})

Opener = Callable[[IO[bytes], str], Image.Image]
# A text says why a file that is known cannot be read.
Accepts = Callable[[bytes], bool | str]


class Readable(Protocol):
    """A file that is read as a whole, as a member of an archive is; `str` gives its name."""

    def read_bytes(self) -> bytes:
        """Returns the file's content."""
        ...


Source = str | os.PathLike | bytes | Readable


class TooManyPixels(ValueError):
    """An image larger than the limit, as decompression bombs are."""


def open_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens and fully decodes an image, upright by its EXIF or XMP orientation.

    Metadata that are damaged, or larger than Pillow takes, are left out.

    Args:
        source: a path, the bytes of a file, or what reads them.
        max_pixels: the largest number of pixels that is taken.

    Raises:
        ValueError: names the source, which is not an image, is truncated, or has more than
            `max_pixels` pixels.
        OSError: of the file system: the file is missing, or may not be read.
    """
    return decode(*load(source), max_pixels)


def load(source: Source) -> tuple[str, bytes]:
    """Returns what to call the source in a message, and its bytes."""
    if isinstance(source, bytes):
        return 'image data', source
    if not isinstance(source, (str, os.PathLike)):
        return str(source), source.read_bytes()
    return os.fspath(source), read_bytes(source)


def read_bytes(path: str | os.PathLike) -> bytes:
    """Reads a file.

    Raises:
        ValueError: names what is a pipe, a device or a socket.
        OSError: names the file, as an error in the midst of reading does not by itself.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def open_file(path: str | os.PathLike) -> IO[bytes]:
    """Opens a file for reading.

    Pipes and devices are opened where they are named as such: /dev/stdin, or /dev/fd/63 of a
    shell's <(command). Among images they would never end, and a pipe that nobody writes to would
    never open.

    Raises:
        ValueError: names what is a pipe, a device or a socket.
        OSError: the file is missing, or may not be read.
    """
    mode = os.stat(path).st_mode
    is_special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    if is_special and not os.fspath(path).startswith('/dev/'):
        raise ValueError(f'{os.fspath(path)}: a pipe, a device or a socket, not a file')
    return open(path, 'rb')


def decode(name: str, data: bytes, max_pixels: int) -> Image.Image:
    """Decodes an image as `open_image`, whose errors call it `name`."""
    try:
        return _decode(data, max_pixels)
    except TooManyPixels as error:
        raise TooManyPixels(f'{name}: {error}') from None
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged data
        image = _decode_in_spite_of(error, data, max_pixels)
        if image is None:
            reason = reason_of(error, data)
            raise ValueError(f'{name}: unreadable image ({reason})') from error
        return image


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    image = identify(io.BytesIO(data))
    check_size(image.size, max_pixels)
    if image.format == 'PNG' and not is_whole_png(data):
        raise ValueError('PNG: the file is cut off')
    if image.format == 'TIFF' and is_preview(image.tag_v2):  # type: ignore[attr-defined]
        raise ValueError(PREVIEW)
    image.load()
    if image.format == 'PNG':
        _scale_clear_grey(image, bits=data[24])
    has_alpha = image.format in UNFILLED_ALPHA and image.mode == 'RGBA'
    if has_alpha and not image.getchannel('A').getbbox():
        image = image.convert('RGB')
    return upright_image(with_all_bits(image, data))


def _scale_clear_grey(image: Image.Image, bits: int) -> None:
    """Scales the grey that is to be transparent like the pixels: Pillow scales those alone."""
    grey = image.info.get('transparency')
    if image.mode == 'L' and isinstance(grey, int) and grey < 1 << bits < 256:
        image.info['transparency'] = grey * 255 // ((1 << bits) - 1)


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raises TooManyPixels if an image of `size` is larger than the limit."""
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixels(f'{width}x{height} pixels are more than the limit of {max_pixels}')


def _decode_in_spite_of(error: Exception, data: bytes, max_pixels: int) -> Image.Image | None:
    """Decodes what Pillow refused, if only its metadata or its kind of TIFF were the reason."""
    if not data:
        return None
    bare = without_metadata(data)
    try:
        if data.startswith(TIFF_STARTS):
            return open_tiff(data, lambda size: check_size(size, max_pixels))
        if bare is None or bare == data:
            return None
        image = _decode(bare, max_pixels)
    except Exception:  # the first error says more
        return None
    profile = _png_profile(data) if data.startswith(PNG_START) else None
    if profile:
        image.info['icc_profile'] = profile
    return image


def _png_profile(data: bytes) -> bytes | None:
    """A PNG's ICC profile, which Pillow takes up to 1 MB; None if there is none, or a bad one."""
    for kind, start, end in png_chunks(data):
        if kind == b'iCCP':
            _, _, packed = data[start:end].partition(b'\0')
            try:
                # The first byte is the method of compression, of which there is one.
                return zlib.decompressobj().decompress(packed[1:], MOST_PROFILE)
            except zlib.error:
                return None
    return None


# --- Opening without decoding ---------------------------------------------------------------------


def identify(file: IO[bytes]) -> Image.Image:
    """Opens an image without decoding it, as `Image.open`, but whatever its number of pixels.

    Pillow's own limit is one of the whole process: changing it would change it for the program
    that this library is part of.

    Args:
        file: open for reading; it stays open, and is read again when the image is decoded.

    Raises:
        ValueError: the file is of no known format, or what Pillow says is wrong with it.
    """
    file.seek(0)
    start = file.read(START_BYTES)
    if not start:
        raise ValueError(EMPTY)
    # Some plugins fail on less.
    start = start.ljust(START_BYTES, b'\0')
    problem = None
    for name, opener, accepts in _plugins():
        accepted = accepts is None or accepts(start)
        if not accepted:
            continue
        if name in PROGRAMS:
            raise ValueError(f'{name} is not taken')
        if isinstance(accepted, str):  # what is missing
            problem = problem or accepted
            continue
        try:
            file.seek(0)
            return opener(file, '')
        except Exception as error:  # another plugin may know better
            if accepts is not None:
                problem = problem or f'{name}: {text_of(error)}'
    raise ValueError(problem or UNKNOWN)


def has_several_pages(data: bytes) -> bool:
    """Whether a readable file holds several pages or frames: TIFF, GIF, WebP, animated PNG."""
    is_animated_png = data.startswith(PNG_START) and ANIMATION_CHUNK in data[:ANIMATION_BYTES]
    if not is_animated_png and not data.startswith(PAGED_STARTS):
        return False
    try:
        return getattr(identify(io.BytesIO(data)), 'is_animated', False)
    except ValueError:  # read by other means than Pillow's
        return False


def _plugins() -> Iterator[tuple[str, Opener, Accepts | None]]:
    """Pillow's plugins, the common ones first: name, class, and what knows a file by its start."""
    seen: set[str] = set()
    for register in (Image.preinit, Image.init):
        register()
        for name in [name for name in Image.ID if name not in seen]:
            seen.add(name)
            yield name, *Image.OPEN[name]
    yield 'HEIF', HeifImageFile, _accepts_heif


def _accepts_heif(start: bytes) -> bool | str:
    is_heif = start[4:12] in HEIF_STARTS
    if is_heif and HeifImageFile is None:
        return 'HEIC needs pillow-heif, which is not installed'
    return is_heif


def open_header(file: IO[bytes]) -> tuple[Image.Image, int] | None:
    """Opens a JPEG or PNG whose last bytes say that it is whole, without decoding it.

    Returns:
        The image and its orientation, 1 (upright) to 8; from 5 on, width and height change places.
        None for all other files, and for those whose orientation only decoding shows.
    """
    try:
        image = identify(file)
        size = file.seek(0, os.SEEK_END)
        wanted = TAIL_BYTES if image.format == 'PNG' else END_BYTES
        file.seek(max(size - wanted, 0))
        tail = file.read()
    except Exception:  # a full decoding will say what is wrong, if anything is
        return None
    if image.format not in END_OF_FILE:
        return None
    is_whole = tail[-END_BYTES:].rstrip(b'\0').endswith(END_OF_FILE[image.format])
    is_late = image.format == 'PNG' and _has_late_orientation(image, tail)
    if is_late or not is_whole:
        return None
    return image, orientation_of(image)


def _has_late_orientation(image: Any, tail: bytes) -> bool:
    """Whether a PNG's last bytes name a chunk with an orientation that Pillow has not yet read."""
    if 'exif' in image.info or image.info.get('XML:com.adobe.xmp'):
        return False
    return any(name in tail for name in ORIENTATION_CHUNKS)
