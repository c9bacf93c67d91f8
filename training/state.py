"""The state of a run on disk. The previous one is kept until the new one is complete."""

import logging
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from models.checkpoints.files import save_atomically
from utils import errors_naming, replace_file, system_error

logger = logging.getLogger(__name__)

LAST = 'last.pt'
PREVIOUS = 'last.previous.pt'
MESSAGE_LENGTH = 100
# Fields that a resumed run may change: where files are and what is reported, not what is computed.
FREE_FIELDS = frozenset([
    'bb_weights', 'cache_dir', 'ckpt_root', 'data_root', 'device', 'dry_run', 'early_stop',
    'load_all', 'log_step', 'num_workers', 'pred_root', 'preset', 'resume', 'save_dir',
    'save_every', 'save_last', 'save_step', 'skip_bad', 'testsets', 'val_ema', 'val_metric',
    'weights',
])


@dataclass(frozen=True)
class RunState:
    """All that a run needs to go on exactly: what last.pt holds.

    Args:
        trainer: `Trainer.state_dict()`, whose entries lie beside the other fields in the file.
        best: `Best.state_dict()`.
        log_position: where log.jsonl ended.
        config: every field of the run's config.
        world_size: the number of ranks, on which the order of images depends.
        images: the number of training images, likewise; None in states of earlier versions.
    """

    trainer: dict[str, Any]
    best: dict[str, Any]
    log_position: int
    config: dict[str, Any]
    world_size: int
    images: int | None = None

    def save(self, folder: Path) -> None:
        """Writes the state of the run in `folder`; errors as of `save_state`."""
        own = {name: getattr(self, name) for name in _RUN_KEYS}
        save_state(folder, {**self.trainer, **own})

    @classmethod
    def load(cls, folder: Path) -> 'RunState | None':
        """Reads the run's newest state that is whole, as of `load_state`.

        Raises ValueError if it is not the state of a run.
        """
        saved = load_state(folder)
        if saved is None:
            return None
        saved.setdefault('images', None)
        missing = [name for name in _RUN_KEYS if name not in saved]
        if missing:
            raise ValueError(f'{folder / LAST} is not the state of a run: '
                             f'it holds no {", ".join(missing)}')
        own = {name: saved.pop(name) for name in _RUN_KEYS}
        return cls(trainer=saved, **own)

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and batch."""
        return self.trainer['epoch'], self.trainer['batch']

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError that lists the fields in which the run's config and `config` differ.

        Fields that do not change what is computed may differ.
        """
        conflicts = []
        for name, value in config.items():
            if name in FREE_FIELDS or name not in self.config:
                continue
            before = self.config[name]
            if before != value:
                conflicts.append(
                    f'{name}: the run was started with {before!r}, now it is {value!r}')
        if conflicts:
            raise ValueError(
                'the run to resume contradicts this config (resume=force goes on all the same):\n  '
                + '\n  '.join(conflicts))

    def check_images(self, images: int) -> None:
        """Raises ValueError if the run had another number of training images."""
        if self.images not in (None, images):
            raise ValueError(
                f'the run to resume had {self.images} training images, now there are {images}: '
                'it would not go on exactly (resume=force goes on all the same)')

    def check_tile_order(self) -> None:
        """Raises ValueError for a run of an earlier version whose network was in column order."""
        if self.config.get('tile_order') == 'column':
            raise ValueError(
                'the run to resume has tile_order=column, which networks here no longer have: '
                'start another run with weights=<folder of this run>, which converts them')

    def check_world_size(self, size: int) -> None:
        """Raises ValueError if the run had another number of ranks."""
        if self.world_size != size:
            raise ValueError(
                f'the run to resume had {self.world_size} processes, now there are {size}: '
                'the order of its images depends on their number')


_RUN_KEYS = [spec.name for spec in fields(RunState) if spec.name != 'trainer']


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replaces last.pt of a run; what was there becomes last.previous.pt.

    Raises OSError, leaving last.pt as it was, if the folder cannot be written or the disk is full.
    """
    new = folder / f'{LAST}.new'
    save_atomically(state, new)
    try:
        if (folder / LAST).exists():
            replace_file(folder / LAST, folder / PREVIOUS)
        replace_file(new, folder / LAST)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            new.unlink()
        with suppress(OSError):
            if not (folder / LAST).exists():
                replace_file(folder / PREVIOUS, folder / LAST)
        raise
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Makes renames in `folder` durable, where the system allows it."""
    if os.name != 'posix':
        return
    # The files themselves are on the disk: a refusal loses nothing but a rename.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load_state(folder: Path) -> dict[str, Any] | None:
    """Returns the newest state of a run that is whole, on the CPU; None if the run has none.

    A damaged last.pt is reported and the previous one is taken.

    Raises:
        ValueError: there are states, but all are damaged or not of this program.
        OSError: the file system does not give a state, which may be whole.
    """
    # The newest that is whole; what is wrong with those before it is reported.
    problems = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        if damage := _find_damage(path):
            problems.append(f'{path}: damaged ({damage})')
            continue
        if problems:
            logger.warning('%s; going on from %s', problems[0], path)
        return _read_state(path)
    # No state at all is the beginning of a run; only damaged ones are an error.
    if problems:
        advice = ('no state to resume from: put one back from a copy, or train on from the '
                  'weights of a checkpoint with weights=FILE and another --ckpt_dir')
        raise ValueError('\n'.join([*problems, advice]))
    return None


def _find_damage(path: Path) -> str:
    """Compares a file with its checksums, which torch writes and does not check itself.

    Returns what is damaged, '' if nothing is. Raises OSError if the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises many kinds on damaged files
        if cause := system_error(error):
            with errors_naming(path):
                raise cause from None
        return _first_line(error)
    return f'wrong checksum of {damaged}' if damaged else ''


def _read_state(path: Path) -> dict[str, Any]:
    """Reads a state that is whole.

    The file is mapped, because the processes of a machine then share the page cache and each takes
    its part. It is read where the file system does not map files.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except Exception as error:  # torch hides what the system has answered
        logger.info('%s: read instead of mapped (%s)', path, _first_line(error))
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f'{path}: its checksums are right, but this version of PyTorch does not '
                         f'load it ({_first_line(error)})') from error


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:MESSAGE_LENGTH]
