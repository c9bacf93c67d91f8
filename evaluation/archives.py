"""Zip and tar archives as downloaded: their images are read in place, nothing is unpacked to disk.

Archives in archives are read in place too, as streams. Names of members are never paths of this
machine. An archive is refused in one line if it is damaged or encrypted, if a name leads out of it,
or if it states images too large for any mask.
"""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from runtime.fingerprints import State, digest_of, state_of
from utils import IMAGE_SUFFIXES

SUFFIXES = ('.zip', '.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tbz2', '.tbz', '.tar.xz', '.txz')
# No part of Python reads these.
FOREIGN_SUFFIXES = ('.rar', '.7z')
# A packed image that states more is a decompression bomb: twice this are all pixels of a mask.
MOST_BYTES = 1 << 29
MOST_HEADER = 1 << 24  # bytes: names of members, comments
MOST_OPEN = 64  # archives that a process keeps open
DEEPEST = 3  # archives in archives
MOST_RATIO = 200  # of the sizes of a large archive in a zip, unpacked and packed
LARGE = 1 << 24  # bytes
# Of a zip: stored, deflated, bzip2, LZMA.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ZIP_START = b'PK'
ENCRYPTED = 1
UTF8_NAME = 1 << 11
STREAMS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b'\x1f\x8b': gzip.open,
    b'BZh': bz2.open,
    b'\xfd7zXZ': lzma.open,
}


class Step(NamedTuple):
    """An archive in an archive: its place and size there, as of `Member`."""

    place: int
    size: int


# The way from an archive on the disk to one in it.
Nest = tuple[Step, ...]


class Member(NamedTuple):
    """An image or archive in an archive.

    Attributes:
        name: Its path in the archive, with forward slashes.
        size: In bytes, as stated.
        stamp: Changes with the content: the CRC in a zip, in a tar a digest of the archive.
        place: Its number in a zip, in a tar where its bytes begin.
    """

    name: str
    size: int
    stamp: int
    place: int


class Contents(NamedTuple):
    """The images of an archive, and the archives that lie in it, in their order."""

    images: list[Member]
    archives: list[Member]


def archive_stem(name: str) -> str | None:
    """Returns an archive's name without its suffix; None for other files."""
    lower = name.lower()
    fitting = [suffix for suffix in (*SUFFIXES, *FOREIGN_SUFFIXES) if lower.endswith(suffix)]
    if not fitting:
        return None
    longest = max(fitting, key=len)
    return name[:-len(longest)]


def list_contents(path: Path, nest: Nest = ()) -> Contents:
    """Lists the images and archives of an archive. Its members are read, but not decoded.

    Args:
        path: The archive on the disk.
        nest: The way to the archive in it that is meant.

    Raises:
        ValueError: In one line: damaged, encrypted, of no known kind, too large, or with names
            that lead out of it.
        OSError: If it cannot be read.
    """
    try:
        return _list_contents(path, nest)
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f'damaged archive ({error})') from None
    except Exception as error:  # damaged archives raise whatever they like
        raise ValueError(_reason(error)) from None


def read_member(path: Path, place: int, size: int, nest: Nest = ()) -> bytes:
    """Reads a member of `list_contents` by its place and size.

    Archives stay open between calls, since that of a compressed tar reads on from where it is.

    Raises:
        ValueError: The archive is damaged there, or has changed.
    """
    state = state_of(path)
    with _lock:
        try:
            opened = _open(path, nest, state)
            data = _read(opened.archive, place, size)
        except Exception as error:  # damaged archives raise whatever they like
            raise ValueError(_reason(error)) from None
    if len(data) != size:
        raise ValueError('damaged archive (it ends before)')
    return data


# Several threads may read one archive.
_lock = threading.Lock()


class _Opened:
    """An archive, or one in it, that stays open for as long as this is kept."""

    def __init__(self, file: IO[bytes], nest: Nest) -> None:
        self._file = file
        self.archive = _open_in(file, nest)

    def __del__(self) -> None:
        self._file.close()


@lru_cache(maxsize=MOST_OPEN)
def _open(path: Path, nest: Nest, _state: State) -> _Opened:
    """Opens an archive for reading members; `_state` notices that it was replaced."""
    return _Opened(open(path, 'rb'), nest)


def _open_in(file: IO[bytes], nest: Nest) -> Any:
    """Opens an archive, or the one in it that is meant: a ZipFile, or the stream of a tar."""
    opened = _open_stream(file)
    for step in nest:
        opened = _open_stream(_stream_of(opened, step))
    return opened


def _stream_of(opened: Any, step: Step) -> IO[bytes]:
    """The bytes of an archive that lies in another one, from which they are read as needed."""
    if isinstance(opened, zipfile.ZipFile):
        return opened.open(opened.infolist()[step.place])
    return io.BufferedReader(_Part(opened, step))


class _Part(io.RawIOBase):
    """Some bytes of a stream as a stream."""

    def __init__(self, stream: IO[bytes], step: Step) -> None:
        self._stream = stream
        self._start, self._size = step
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from any place."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place."""
        origins = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._size,
        }
        place = origins[whence] + offset
        self._position = max(0, place)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Reads what there is, at most as much as the buffer takes."""
        left = max(0, self._size - self._position)
        wanted = min(left, len(buffer))
        self._stream.seek(self._start + self._position)
        data = self._stream.read(wanted)
        length = len(data)
        buffer[:length] = data
        self._position += length
        return length


def _read(opened: Any, place: int, size: int) -> bytes:
    if isinstance(opened, zipfile.ZipFile):
        member = opened.infolist()[place]
        return opened.read(member)
    opened.seek(place)
    return opened.read(size)


def _list_contents(path: Path, nest: Nest) -> Contents:
    with open(path, 'rb') as file:
        opened = _open_in(file, nest)
        if isinstance(opened, zipfile.ZipFile):
            members = list(_zip_members(opened))
        else:
            members = list(_tar_members(opened, digest_of(path)))
    contents = Contents([], [])
    for member in members:
        _check_name(member.name)
        if _is_image(member.name):
            if member.size > MOST_BYTES:
                raise ValueError(
                    f'{member.name} states {member.size:,} bytes, more than {MOST_BYTES:,}, as '
                    'decompression bombs do')
            contents.images.append(member)
        elif _is_archive(member.name):
            if len(nest) == DEEPEST:
                raise ValueError(
                    f'{member.name}: more than {DEEPEST} archives in archives, as decompression '
                    'bombs have')
            contents.archives.append(member)
    return contents


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for place, member in enumerate(archive.infolist()):
        if member.is_dir():
            continue
        name = _zip_name(member)
        if _is_image(name) or _is_archive(name):
            _check_packing(name, member)
        yield Member(name, member.file_size, member.CRC, place)


def _check_packing(name: str, member: zipfile.ZipInfo) -> None:
    """Refuses what cannot be read, and archives packed smaller than any archive of images."""
    if member.flag_bits & ENCRYPTED:
        raise ValueError('encrypted archive; unpack it with its password')
    if member.compress_type not in METHODS:
        raise ValueError(
            f'packed by a method of zip that Python lacks ({member.compress_type}); unpack it')
    is_small = member.file_size <= max(LARGE, MOST_RATIO * member.compress_size)
    if _is_archive(name) and not is_small:
        raise ValueError(
            f'{name} states {member.file_size:,} bytes, packed into {member.compress_size:,}, as '
            'decompression bombs do')


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name. Many programs write UTF-8 without saying so, or backslashes."""
    name = member.filename
    if not member.flag_bits & UTF8_NAME:
        try:
            name = name.encode('cp437').decode('utf-8')
        except UnicodeError:
            name = member.filename
    return name.replace('\\', '/')


def _tar_members(stream: IO[bytes], stamp: int) -> Iterator[Member]:
    with _open_tar(stream) as archive:
        for member in archive:
            # Links and devices are no images, and lead out of the archive.
            if member.isreg() and not member.issparse():
                yield Member(member.name, member.size, stamp, member.offset_data)


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


def _open_stream(file: IO[bytes]) -> Any:
    """Opens an archive: a ZipFile, or the stream of a tar, unpacked if it is compressed."""
    start = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    for magic, opener in STREAMS.items():
        if start.startswith(magic):
            return opener(file)
    # The end of a tar may look like that of a zip that lies in it.
    if not _begins_tar(start) and zipfile.is_zipfile(file):
        return zipfile.ZipFile(file)
    if start.startswith(ZIP_START):
        raise ValueError('damaged archive (a zip that is cut off)')
    file.seek(0)
    return file


def _begins_tar(start: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(start, 'utf-8', 'surrogateescape')
    except tarfile.HeaderError:
        return False
    return True


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    has_drive = re.match(r'[A-Za-z]:', name)
    if path.is_absolute() or '..' in path.parts or has_drive:
        raise ValueError(f'its member {name!r} leads out of the archive; such archives are refused')


def _is_image(name: str) -> bool:
    """Whether a member is an image that is not hidden."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in IMAGE_SUFFIXES and not _is_hidden(name)


def _is_archive(name: str) -> bool:
    """Whether a member is an archive that is not hidden."""
    return archive_stem(name) is not None and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    """Whether a member is hidden, or what macOS adds."""
    parts = PurePosixPath(name).parts
    return any(part.startswith('.') or part == '__MACOSX' for part in parts)


def _reason(error: Exception) -> str:
    """Describes in one line what is wrong with an archive."""
    text = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return text
    return f'damaged archive, or none ({text})'
