"""Where a run reports: the terminal and log.txt, log.jsonl for programs, TensorBoard."""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from utils import errors_naming, printable, sync_file

logger = logging.getLogger(__name__)


class _BarHandler(logging.Handler):
    """Writes above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Ctrl-C within `write` as that makes its lock would be hidden by another error.
            tqdm.tqdm.get_lock()
            # One write: Ctrl-C between two would leave the next line behind this one.
            line = self.format(record) + '\n'
            tqdm.tqdm.write(line, file=sys.stderr, end='')
        except OSError:  # as of a full disk, which is no reason to stop working
            self.handleError(record)


def setup_logging(folder: Path | None = None, level: int = logging.INFO) -> None:
    """Sends messages of `level` and above to the terminal and, with `folder`, to its log.txt."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()

    handlers: list[logging.Handler] = [_BarHandler()]
    if folder:
        # Names of files may hold bytes that are not UTF-8.
        handlers.append(logging.FileHandler(
            folder / 'log.txt', encoding='utf-8', errors='backslashreplace'))
    formatter = logging.Formatter('%(asctime)s %(message)s', '%m-%d %H:%M:%S')
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level)


def print_messages(program: str, function: Callable) -> None:
    """Prints what the package of `function` reports, as lines of a program, to standard error.

    For programs: a library leaves this to those who use it.
    """
    package = function.__module__.rpartition('.')[0]
    logging.basicConfig(format=f'{program}: %(message)s')
    logging.getLogger(package).setLevel(logging.INFO)


def _open_board(folder: Path, purge_step: int) -> Any:
    """Opens TensorBoard's writer; returns None, with a warning, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning('tensorboard is not installed: '
                       'the run is logged in log.txt and log.jsonl only')
        return None
    try:
        return SummaryWriter(str(folder), purge_step=purge_step)
    except (OSError, UnicodeError) as error:  # it takes folders of UTF-8 names alone
        logger.warning('%s: %s: the run is logged in log.txt and log.jsonl only', folder, error)
        return None


class RunLog:
    """Writes log.jsonl, one JSON object a line, and TensorBoard.

    log.jsonl holds no times, so that a resumed run reproduces it byte for byte.

    Args:
        folder: the run's folder.
        position: `position` as it was when the state to resume from was saved. Opening the log
            drops what a killed run wrote after it.
        step: the optimizer step of that state, after which TensorBoard drops the same.
    """

    def __init__(self, folder: Path, position: int = 0, step: int = 0) -> None:
        self.path = folder / 'log.jsonl'
        self._file = open(self.path, 'ab')  # noqa: SIM115 the log outlives this function
        length = self._file.seek(0, os.SEEK_END)
        self._file.truncate(min(position, length))
        self._file.seek(0, os.SEEK_END)
        self._board = _open_board(folder / 'tensorboard', step + 1)

    @property
    def position(self) -> int:
        """Bytes written so far, after they have reached the disk."""
        with errors_naming(self.path):
            self._file.flush()
            sync_file(self._file.fileno())
        return self._file.tell()

    def write(self, **values: Any) -> None:
        """Appends one line."""
        line = json.dumps(values) + '\n'
        with errors_naming(self.path):
            self._file.write(line.encode())
            self._file.flush()

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """Adds a point to the curve of each value in TensorBoard."""
        for name, value in values.items():
            self._call_board('add_scalar', f'{group}/{name}', value, step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Adds an image, uint8 (H, W, 3), to TensorBoard."""
        tag = printable(f'pictures/{name}')
        self._call_board('add_image', tag, pixels, step, dataformats='HWC')

    def _call_board(self, method: str, *arguments: Any, **options: Any) -> None:
        """Calls a method of TensorBoard's writer, which is given up where it cannot write."""
        if self._board is None:
            return
        try:
            getattr(self._board, method)(*arguments, **options)
        except OSError as error:
            logger.warning('TensorBoard gets no more points: %s', error)
            self._board = None

    def close(self) -> None:
        """Closes both files."""
        self._call_board('close')
        with errors_naming(self.path):  # what a full disk has refused is tried once more
            self._file.close()
