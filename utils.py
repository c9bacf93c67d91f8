"""Small leaf helpers: finding images, writing files atomically, progress of long loops."""

import codecs
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np
from tqdm import tqdm

import published

if not TYPE_CHECKING:  # which would take every name for one of this module
    __getattr__ = functools.partial(published.look_up, __name__)

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

LONGEST_NAME = 255  # bytes, on most file systems


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

    They are recognised by their suffix, in any case. Hidden files are left out. Links that lead
    nowhere are not: reading will name them.
    """
    found = []
    for path in Path(folder).iterdir():
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        is_hidden = path.name.startswith('.')
        if is_image and not is_hidden and (path.is_file() or path.is_symlink()):
            found.append(path)
    return sorted(found)


def check_state_dict(
    state: Mapping[str, Any], unwanted_prefixes: Sequence[str] = ('module.', '_orig_mod.'),
) -> dict[str, Any]:
    """Drops prefixes, repeated and in any order, wherever wrappers put them.

    With them goes the counter that torch's AveragedModel puts beside a network. The names are the
    publication's.
    """
    prefixes = '|'.join(map(re.escape, unwanted_prefixes))
    wrappers = re.compile(f'(?<![^.])({prefixes})+')
    stripped = {}
    for key, value in state.items():
        if key != 'n_averaged':
            stripped[wrappers.sub('', key)] = value
    return stripped


# --- Writing files --------------------------------------------------------------------------------


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
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            _name_file(error, temporary, path)
        raise


def _name_file(error: OSError, temporary: Path, path: Path) -> None:
    """Lets an error name the file that is meant. One without a number would show no reason then."""
    if error.errno is not None and error.filename in (None, str(temporary)):
        error.filename = str(path)
        del error.filename2  # of renaming; the message would name the file twice


def encoding_of(mode: str) -> str | None:
    """The encoding in which files of a mode are written: none if it is binary."""
    return None if 'b' in mode else 'utf-8'


@contextmanager
def errors_naming(path: str | os.PathLike) -> Iterator[None]:
    """Lets an error of the system inside the block name a file, as those of reads do not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def system_error(error: BaseException | None) -> OSError | None:
    """The error of the system that led to `error`, which libraries may hide behind their own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _temporary_beside(path: Path) -> Path:
    """A new hidden name in the folder of `path`; short, because names end at 255 bytes."""
    return path.with_name(f'.{secrets.token_hex(8)}.tmp')


def fitting_name(stem: str, ending: str) -> str:
    """Joins a file's name, shortened where it is longer than file systems take.

    Names that differ stay different: a digest takes the place of what is left out.
    """
    name = stem + ending
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    ending = f'~{digest}{ending}'
    while len(os.fsencode(stem + ending)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + ending


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


def folder_problem(folder: Path) -> str:
    """Says why no file can be written into a folder, which need not exist yet; '' if one can."""
    candidates = (folder, *folder.absolute().parents)
    existing = next(path for path in candidates if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return ''
    return f'{existing}: not a folder that can be written to'


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically.

    Names of files that are not UTF-8 are written as escapes, which reading gives back.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if printable(text) != text:
        text = json.dumps(value, indent=2)
    with atomic_write(path, 'w') as file:
        file.write(text + '\n')


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the fields of a JSON file.

    Raises:
        ValueError: names the file, which holds none.
        OSError: if it cannot be read.
    """
    try:
        with errors_naming(path):
            content = json.loads(Path(path).read_text(encoding='utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not JSON ({error})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: holds no fields by name')
    return content


def printable(text: str) -> str:
    """Makes of a text what any UTF-8 file takes: bytes of names that are not UTF-8 as escapes."""
    return text.encode('utf-8', 'backslashreplace').decode()


def read_lines(path: str | os.PathLike) -> list[str]:
    """Reads the lines of a text that any editor or shell has written.

    That is: in UTF-8, or in UTF-16 with a byte order mark, with any line ends. Bytes that are not
    UTF-8 stay what they are as names of files.

    Raises:
        ValueError: the file is not a text.
    """
    with errors_naming(path):
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


# --- Progress -------------------------------------------------------------------------------------


def print_error(line: str) -> None:
    """Prints a line to the standard error at once, also where that is a file.

    Work goes on where no line can be written, as on a full disk. It is one write: Ctrl-C between
    two would leave the next line behind this one.
    """
    with suppress(OSError):
        print(line + '\n', end='', file=sys.stderr, flush=True)


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
        says_time_left: bool = False,
        delay: float = 0.,
        say: Callable[[str], None] = print_error,
    ) -> None:
        """Begins the progress.

        Args:
            total: units of work in all.
            title: what is done.
            unit: what is counted.
            done: units that are done already.
            quiet: show nothing.
            says_time_left: whether lines end with the time left, as bars do anyway.
            delay: seconds before a bar is shown, for work that is mostly done by then.
            say: takes each line.
        """
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=unit,
            dynamic_ncols=True,
            delay=delay,
            disable=True if quiet else None,  # None: shown on a terminal only
        )
        self._says_lines = self._bar.disable and not quiet
        self._total = total
        self._title = title
        self._unit = unit
        self._done = done
        self._say = say
        self._note = ''
        self._says_time_left = says_time_left
        self._undone = total - done
        self._last = self._start = time.monotonic()

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
            left = self._time_left(now) if self._says_time_left else ''
            self._say(f'{self._title}: {count_text}{self._note}{left}')

    def _time_left(self, now: float) -> str:
        """The time left, if the rest goes on as what was done since the start."""
        rest = self._total - self._done
        seconds = (now - self._start) * rest / max(self._undone - rest, 1)
        return f', {tqdm.format_interval(seconds)} left'
