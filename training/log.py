"""What a run tells: log.txt to read, log.jsonl for programs, TensorBoard."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

logger = logging.getLogger(__name__)


class _BarHandler(logging.Handler):
    """Writes above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.tqdm.write(self.format(record), file=sys.stderr)


def setup_logging(folder: Path | None = None, level: int = logging.INFO) -> None:
    """Messages of `level` and above to the terminal and, with `folder`, appended to its log.txt."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [_BarHandler()]
    if folder:
        handlers.append(logging.FileHandler(folder / 'log.txt', encoding='utf-8'))
    for handler in handlers:
        handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%m-%d %H:%M:%S'))
        root.addHandler(handler)
    root.setLevel(level)


def _open_board(folder: Path, purge_step: int) -> Any:
    """A writer for TensorBoard; None, with one warning, where that is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning('tensorboard is not installed: the run is logged in log.txt and log.jsonl alone')
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)


class RunLog:
    """log.jsonl, one JSON object a line and nothing in it that depends on the clock, and TensorBoard.

    `position` is saved with the run's state; opening the log there drops what a killed run had written after it, and
    after `step` in TensorBoard.
    """

    def __init__(self, folder: Path, position: int = 0, step: int = 0) -> None:
        self.path = folder / 'log.jsonl'
        self._file = open(self.path, 'ab')  # noqa: SIM115 the log outlives this function
        self._file.truncate(min(position, self._file.seek(0, os.SEEK_END)))
        self._file.seek(0, os.SEEK_END)
        self._board = _open_board(folder / 'tensorboard', step + 1)

    @property
    def position(self) -> int:
        """Bytes written so far, safely on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def write(self, **values: Any) -> None:
        """Appends one line."""
        self._file.write((json.dumps(values) + '\n').encode())
        self._file.flush()

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """Draws values over steps in TensorBoard."""
        if self._board is None:
            return
        for name, value in values.items():
            self._board.add_scalar(f'{group}/{name}', value, step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 (H, W, 3), in TensorBoard."""
        if self._board is not None:
            self._board.add_image(f'pictures/{name}', pixels, step, dataformats='HWC')

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
