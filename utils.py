"""Small leaf helpers: reading images, writing files atomically, progress of long loops."""

import codecs
import errno
import io
import json
import os
import re
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

try:  # Intel's inflate reads a mask four times as fast as zlib
    from isal.isal_zlib import decompressobj
except ImportError:
    decompressobj = None  # type: ignore[assignment]

try:  # the same pixels as by OpenCV, in two thirds of the time
    import simplejpeg
except ImportError:
    simplejpeg = None

# The signals by which schedulers end a process. Windows has the first only.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name))

STRIDE = 32  # the network takes sides that are multiples of this
# Of the network's RGB input, in 0..1.
IMAGENET_MEAN = (.485, .456, .406)
IMAGENET_STD = (.229, .224, .225)

IMAGE_SUFFIXES = frozenset(
    '.jpg .jpeg .jpe .jfif .png .bmp .tif .tiff .webp .gif .ppm .pgm .pbm .jp2 .avif .heic .heif'
    .split())
IMREAD_RGB = getattr(cv2, 'IMREAD_COLOR_RGB', cv2.IMREAD_COLOR)  # OpenCV before 4.11 has BGR only

# `max_pixels` below refuses decompression bombs with a message of ours; Pillow's own limit stays
# out of the way.
Image.MAX_IMAGE_PIXELS = None
MAX_PIXELS = 500_000_000
END_OF_FILE: dict[str | None, bytes] = {
    'JPEG': b'\xff\xd9',
    'PNG': b'IEND\xaeB\x60\x82',
}
# Pillow warns of corrupt EXIF data, palette transparency and the like. `catch_warnings` would not
# be safe in threads.
warnings.filterwarnings('ignore', module=r'PIL\.')


# How pixels of each EXIF orientation are brought upright.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: partial(cv2.flip, flipCode=1),
    3: partial(cv2.flip, flipCode=-1),
    4: partial(cv2.flip, flipCode=0),
    5: cv2.transpose,
    6: partial(cv2.rotate, rotateCode=cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: partial(cv2.rotate, rotateCode=cv2.ROTATE_90_COUNTERCLOCKWISE),
}


class TooManyPixels(ValueError):
    """An image larger than the limit, as decompression bombs are."""


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def round_up(value: int, multiple: int) -> int:
    """The next multiple of `multiple` that is not below `value`."""
    return ceil_div(value, multiple) * multiple


def epoch_of(path: Path) -> int | None:
    """The epoch in a checkpoint's name, ours or a published one, e.g. BiRefNet_DIS_ep580.pth."""
    found = re.search(r'ep(?:och_)?(\d+)', path.stem)
    return int(found.group(1)) if found else None


def find_images(folder: str | os.PathLike) -> list[Path]:
    """Finds the image files directly in `folder`, sorted by name.

    They are recognised by their suffix, in any case. Hidden files are left out.
    """
    found = []
    for path in Path(folder).iterdir():
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        is_hidden = path.name.startswith('.')
        if is_image and not is_hidden and path.is_file():
            found.append(path)
    return sorted(found)


# ---- reading images ----


def open_image(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens and fully decodes an image, upright by its EXIF orientation.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: the largest number of pixels that is taken.

    Raises:
        ValueError: names the source, which is not an image, is truncated, or has more than
            `max_pixels` pixels.
        OSError: of the file system: the file is missing, or may not be read.
    """
    return _decode(*_load(source), max_pixels)


def _load(source: str | os.PathLike | bytes) -> tuple[str, bytes]:
    """What to call the source in a message, and its bytes."""
    if isinstance(source, bytes):
        return 'image data', source
    return os.fspath(source), Path(source).read_bytes()


def _decode(name: str, data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > max_pixels:
            raise TooManyPixels(f'{name}: {image.width}x{image.height} pixels are more than '
                                f'the limit of {max_pixels}')
        if image.format == 'EPS':  # a program, which Pillow would have Ghostscript run
            raise ValueError('EPS is not taken')
        image.load()
        return ImageOps.exif_transpose(image)
    except TooManyPixels:
        raise
    except UnidentifiedImageError as error:  # whose message shows an object of ours
        raise ValueError(f'{name}: unreadable image (of no known format)') from error
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged data
        raise ValueError(f'{name}: unreadable image ({error or type(error).__name__})') from error


def open_header(file: IO[bytes]) -> tuple[Image.Image, int] | None:
    """Opens a JPEG or PNG whose last bytes say that it is whole, without decoding it.

    Returns:
        The image and its EXIF orientation, 1 (upright) to 8; from 5 on, width and height change
        places. None for all other files.
    """
    try:
        image = Image.open(file)
        # Pillow would decode a PNG to look for EXIF data behind its pixels.
        has_exif = image.format == 'JPEG' or 'exif' in image.info
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if has_exif else 1
        file.seek(-64, os.SEEK_END)
        whole = file.read().rstrip(b'\0').endswith(END_OF_FILE[image.format])
        return (image, orientation) if whole else None
    except Exception:  # a full decoding will say what is wrong, if anything is
        return None


def _decode_plain(data: bytes, mode: str, max_pixels: int) -> np.ndarray | None:
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
    if header.format == 'PNG' and data[24] != 8:  # bits per channel
        return None

    pixels = None
    if header.format == 'JPEG' and simplejpeg:
        pixels = _decode_jpeg(data, mode)
    else:
        if header.format == 'PNG' and mode == 'L' and decompressobj is not None:
            pixels = _decode_grey_png(data, *header.size)
        if pixels is None:
            pixels = _decode_by_opencv(data, mode)
    if pixels is None or orientation not in UPRIGHT:
        return pixels
    return UPRIGHT[orientation](pixels)


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
    parts = []
    at = len(b'\x89PNG\r\n\x1a\n')
    while at + 8 <= len(data):
        length = int.from_bytes(data[at:at + 4])
        kind = data[at + 4:at + 8]
        if kind == b'IDAT':
            parts.append(data[at + 8:at + 8 + length])
        at += length + 12  # with its length, its name and its checksum
    return b''.join(parts)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Converts 16-bit, 32-bit and float grey images to 8 bits; all others stay as they are."""
    if not image.mode.startswith(('I', 'F')):
        return image
    values = np.asarray(image)
    if image.mode == 'F':
        # 0..1 if all values fit in there, else 0..255.
        scale = 255 if values.max(initial=0) <= 1 else 1
        grey = np.clip(values * scale, 0, 255)
    else:
        grey = np.clip(values, 0, 65535).astype(np.uint16) >> 8
    return Image.fromarray(grey.astype(np.uint8))


def read_image(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image of any kind, upright, without its alpha.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: the largest number of pixels that is taken.

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        ValueError, OSError: as `open_image`.
    """
    name, data = _load(source)
    pixels = _decode_plain(data, 'RGB', max_pixels)
    if pixels is None:
        pixels = to_rgb(_decode(name, data, max_pixels))
    return pixels


def to_rgb(image: Image.Image) -> np.ndarray:
    """Pixels of an image of any mode as RGB, uint8, (H, W, 3)."""
    return np.asarray(_to_8_bit(image).convert('RGB'))


def read_mask(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a mask, upright. Colour becomes grey as in OpenCV.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: the largest number of pixels that is taken.

    Returns:
        Grey, uint8 (H, W).

    Raises:
        ValueError, OSError: as `open_image`.
    """
    name, data = _load(source)
    pixels = _decode_plain(data, 'L', max_pixels)
    if pixels is not None:
        return pixels
    image = _to_8_bit(_decode(name, data, max_pixels))
    if image.mode in ('L', '1'):
        return np.asarray(image.convert('L'))
    return cv2.cvtColor(np.asarray(image.convert('RGB')), cv2.COLOR_RGB2GRAY)


# ---- writing files ----


# What file systems answer that lack an operation, as some network shares do.
LACKING = frozenset([errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP])
# And what they answer when they do not rename over a file that exists.
NO_REPLACE = LACKING | {errno.EEXIST, errno.EPERM, errno.EACCES}


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = 'wb') -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`.

    It replaces `path`, synced to disk, only when the block ends without error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(path)
    try:
        # Opened like any other file, so that it has the rights that the user's umask leaves.
        with open(temporary, mode.replace('w', 'x'), encoding=encoding_of(mode)) as file:
            yield file
            file.flush()
            sync_file(file.fileno())
        replace_file(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def encoding_of(mode: str) -> str | None:
    """The encoding in which files of a mode are written: none if it is binary."""
    return None if 'b' in mode else 'utf-8'


def _temporary_beside(path: Path) -> Path:
    """A new hidden name in the folder of `path`; short, because names end at 255 bytes."""
    return path.with_name(f'.{secrets.token_hex(8)}.tmp')


def sync_file(handle: int) -> None:
    """Waits until a file is on the disk, where the file system knows how to."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in LACKING:
            raise


def replace_file(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Moves a file over another one, in two steps where the file system refuses the one."""
    target = Path(target)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno not in NO_REPLACE or not target.is_file():
            raise
        _move_aside_and_replace(Path(source), target)


def _move_aside_and_replace(source: Path, target: Path) -> None:
    aside = _temporary_beside(target)
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except BaseException:
        os.rename(aside, target)
        raise
    aside.unlink()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically.

    Names of files that are not UTF-8 are written as escapes, which reading gives back.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if printable(text) != text:
        text = json.dumps(value, indent=2)
    with atomic_write(path, 'w') as file:
        file.write(text + '\n')


def printable(text: str) -> str:
    """Makes of a text what any UTF-8 file takes: bytes of names that are not UTF-8 as escapes."""
    return text.encode('utf-8', 'backslashreplace').decode()


def read_lines(path: str | os.PathLike) -> list[str]:
    """Reads the lines of a text that any editor or shell has written.

    That is: in UTF-8, or in UTF-16 with a byte order mark, with any line ends. Bytes that are not
    UTF-8 stay what they are as names of files.

    Raises:
        ValueError: the file is no text.
    """
    data = Path(path).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode('utf-16', 'replace')
    else:
        text = data.decode('utf-8-sig', 'surrogateescape')
    if '\0' in text:
        raise ValueError(f'{path}: no list, as it is no text')
    lines = text.replace('\r\n', '\n').replace('\r', '\n').split('\n')
    return [line for line in lines if line]


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes a uint8 array, (H, W) grey or (H, W, 3) RGB or (H, W, 4) RGBA, as PNG, atomically."""
    if pixels.ndim == 3:
        conversions = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        pixels = cv2.cvtColor(pixels, conversions[pixels.shape[2]])
    ok, data = cv2.imencode('.png', pixels)
    if not ok:
        raise ValueError(f'{path}: PNG encoding failed for {pixels.shape} {pixels.dtype}')
    with atomic_write(path) as file:
        file.write(data.tobytes())


# ---- progress ----


def print_error(line: str) -> None:
    """Prints a line to the standard error at once, also where that is a file."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Progress of a long loop: a bar on a terminal; elsewhere, as in a log or in CI, lines.

    A line comes with the first unit of work that is done `INTERVAL` seconds or more after the line
    before.
    """

    INTERVAL = 20.  # with units of up to 10 s, no reader waits more than 30 s

    def __init__(
        self,
        total: int,
        title: str,
        unit: str,
        *,
        done: int = 0,
        quiet: bool = False,
        say: Callable[[str], None] = print_error,
    ) -> None:
        """Begins the progress.

        Args:
            total: units of work in all.
            title: what is done.
            unit: what is counted.
            done: units that are done already.
            quiet: show nothing.
            say: takes each line.
        """
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=unit,
            dynamic_ncols=True,
            disable=True if quiet else None,  # None: shown on a terminal only
        )
        self._says_lines = self._bar.disable and not quiet
        self._total = total
        self._title = title
        self._unit = unit
        self._done = done
        self._say = say
        self._note = ''
        self._last = time.monotonic()

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def note(self, text: str) -> None:
        """Shows `text` behind the count from now on."""
        self._note = f', {text}'
        self._bar.set_postfix_str(text)

    def update(self, count: int = 1) -> None:
        """Counts `count` more units as done."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._says_lines and now - self._last >= self.INTERVAL:
            self._last = now
            count_text = f'{self._unit} {self._done} of {self._total}'
            self._say(f'{self._title}: {count_text}{self._note}')
