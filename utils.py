"""Small leaf helpers: finding images, writing files atomically, progress of long loops."""

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from tqdm import tqdm

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


# ---- writing files ----


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current


UMASK = _umask()  # once, before there are threads: two of them at it could leave a wrong one


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = 'wb') -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`.

    It replaces `path`, synced to disk, only when the block ends without error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if 'b' in mode else 'utf-8') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_write(path, 'w') as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write('\n')


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes a uint8 array, (H, W) grey or (H, W, 3) RGB or (H, W, 4) RGBA, as PNG, atomically."""
    if pixels.ndim == 3:
        conversions = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        pixels = cv2.cvtColor(pixels, conversions[pixels.shape[2]])
    ok, data = cv2.imencode('.png', pixels)
    assert ok, f'{path}: PNG encoding failed for {pixels.shape} {pixels.dtype}'
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
