"""Zip and tar archives as downloaded: their images are read in place, nothing is unpacked to disk.

Names of members are never paths of this machine. An archive is refused in one line if it is
damaged or encrypted, if a name leads out of it, or if it states images too large for any mask.
"""

import bz2
import gzip
import lzma
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from utils import IMAGE_SUFFIXES

SUFFIXES = ('.zip', '.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tbz2', '.tbz', '.tar.xz', '.txz')
# No part of Python reads these.
FOREIGN_SUFFIXES = ('.rar', '.7z')
# A packed image that states more is a decompression bomb: twice this are all pixels of a mask.
MOST_BYTES = 1 << 29
MOST_HEADER = 1 << 24  # bytes: names of members, comments
MOST_OPEN = 64  # archives that a process keeps open
# Of a zip: stored, deflated, bzip2, LZMA.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ZIP_START = b'PK'
ENCRYPTED = 1
UTF8_NAME = 1 << 11
STREAMS: dict[bytes, Callable[[Path], Any]] = {
    b'\x1f\x8b': gzip.open,
    b'BZh': bz2.open,
    b'\xfd7zXZ': lzma.open,
}


class Member(NamedTuple):
    """An image in an archive.

    Attributes:
        name: Its path in the archive, with forward slashes.
        size: In bytes, as stated.
        stamp: Changes with the content: the CRC in a zip, in a tar the time of the last change.
        place: Its number in a zip, in a tar where its bytes begin.
    """

    name: str
    size: int
    stamp: int
    place: int


def archive_stem(name: str) -> str | None:
    """Returns an archive's name without its suffix; None for other files."""
    lower = name.lower()
    fitting = [suffix for suffix in (*SUFFIXES, *FOREIGN_SUFFIXES) if lower.endswith(suffix)]
    if not fitting:
        return None
    longest = max(fitting, key=len)
    return name[:-len(longest)]


def list_images(path: Path) -> list[Member]:
    """Lists the images of an archive in its order. Its members are read, but not decoded.

    Raises:
        ValueError: In one line: damaged, encrypted, of no known kind, too large, or with names
            that lead out of it.
        OSError: If it cannot be read.
    """
    try:
        return list(_list_images(path))
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f'{path}: damaged archive ({error})') from None
    except Exception as error:  # damaged archives raise whatever they like
        raise ValueError(f'{path}: {_reason(error)}') from None


def read_member(path: Path, place: int, size: int) -> bytes:
    """Reads a member of `list_images` by its place and size.

    Archives stay open between calls, since that of a compressed tar reads on from where it is.

    Raises:
        ValueError: The archive is damaged there, or has changed.
    """
    status = path.stat()
    with _lock:
        opened = _open(path, status.st_size, status.st_mtime_ns)
        try:
            data = _read(opened, place, size)
        except Exception as error:  # damaged archives raise whatever they like
            raise ValueError(_reason(error)) from None
    if len(data) != size:
        raise ValueError('damaged archive (it ends before)')
    return data


# Several threads may read one archive.
_lock = threading.Lock()


@lru_cache(maxsize=MOST_OPEN)
def _open(path: Path, _size: int, _changed: int) -> Any:
    """Opens an archive for reading members; the other arguments notice that it was replaced."""
    if zipfile.is_zipfile(path):
        return zipfile.ZipFile(path)
    return _open_stream(path)


def _read(opened: Any, place: int, size: int) -> bytes:
    if isinstance(opened, zipfile.ZipFile):
        member = opened.infolist()[place]
        return opened.read(member)
    opened.seek(place)
    return opened.read(size)


def _list_images(path: Path) -> Iterator[Member]:
    if path.name.lower().endswith(FOREIGN_SUFFIXES):
        raise ValueError('no zip or tar; unpack it')
    is_zip = zipfile.is_zipfile(path)
    if not is_zip and _start_of(path).startswith(ZIP_START):
        raise ValueError('damaged archive (a zip that is cut off)')
    members = _zip_members(path) if is_zip else _tar_members(path)
    for member in members:
        _check_name(member.name)
        if not _is_image(member.name):
            continue
        if member.size > MOST_BYTES:
            raise ValueError(
                f'{member.name} states {member.size:,} bytes, more than {MOST_BYTES:,}, as '
                'decompression bombs do')
        yield member


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for place, member in enumerate(archive.infolist()):
            if member.is_dir():
                continue
            name = _zip_name(member)
            if _is_image(name) and member.flag_bits & ENCRYPTED:
                raise ValueError('encrypted archive; unpack it with its password')
            if _is_image(name) and member.compress_type not in METHODS:
                raise ValueError(
                    f'packed by a method of zip that Python lacks ({member.compress_type}); '
                    'unpack it')
            yield Member(name, member.file_size, member.CRC, place)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name. Many programs write UTF-8 without saying so, or backslashes."""
    name = member.filename
    if not member.flag_bits & UTF8_NAME:
        try:
            name = name.encode('cp437').decode('utf-8')
        except UnicodeError:
            name = member.filename
    return name.replace('\\', '/')


def _tar_members(path: Path) -> Iterator[Member]:
    changed = path.stat().st_mtime_ns
    with _open_stream(path) as stream, _open_tar(stream) as archive:
        for member in archive:
            # Links and devices are no images, and lead out of the archive.
            if member.isreg() and not member.issparse():
                yield Member(member.name, member.size, changed, member.offset_data)


def _open_tar(stream: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=_Headers(stream), mode='r:')  # type: ignore[call-overload]


class _Headers:
    """The stream of a tar of which headers are read, and members are passed over."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        """Reads a header. Its size is only stated, and tarfile would believe it."""
        if not 0 <= size <= MOST_HEADER:
            raise ValueError(f'it states a header of {size:,} bytes, as decompression bombs do')
        return self._stream.read(size)


def _open_stream(path: Path) -> IO[bytes]:
    start = _start_of(path)
    for magic, opener in STREAMS.items():
        if start.startswith(magic):
            return opener(path)
    return open(path, 'rb')


def _start_of(path: Path) -> bytes:
    with open(path, 'rb') as file:
        return file.read(8)


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    has_drive = re.match(r'[A-Za-z]:', name)
    if path.is_absolute() or '..' in path.parts or has_drive:
        raise ValueError(f'its member {name!r} leads out of the archive; such archives are refused')


def _is_image(name: str) -> bool:
    """Whether a member is an image, and neither hidden nor what macOS adds."""
    path = PurePosixPath(name)
    is_hidden = any(part.startswith('.') or part == '__MACOSX' for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden


def _reason(error: Exception) -> str:
    """Describes in one line what is wrong with an archive."""
    text = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return text
    return f'damaged archive, or none ({text})'
