"""The state of a run on disk: written durably, the previous one kept until the new one is complete."""

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from models.checkpoints.files import save_atomically

logger = logging.getLogger(__name__)

LAST, PREVIOUS = 'last.pt', 'last.previous.pt'
# Fields that a resumed run may change: where things lie and what is reported, not what is computed.
FREE_FIELDS = frozenset(
    'data_root cache_dir ckpt_root pred_root save_dir num_workers skip_bad resume weights device save_last save_step '
    'save_every log_step load_all testsets val_metric val_ema early_stop dry_run'.split())


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replaces last.pt of a run; what was there becomes last.previous.pt.

    Raises OSError, leaving both as they were, if the folder cannot be written or the disk is full.
    """
    new = folder / f'{LAST}.new'
    save_atomically(state, new)
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(new, folder / LAST)
    _sync(folder)


def _sync(folder: Path) -> None:
    """Makes renames in `folder` durable, where the system allows it."""
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state of a run that is whole, on the CPU; None if the run has none.

    A damaged last.pt is told of and the previous one taken. Raises ValueError if none that is there can be read.
    """
    problems = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums that it writes
                if bad := archive.testzip():
                    raise ValueError(f'wrong checksum of {bad}')
            # Mapped, not read: the processes of a machine share the page cache, and each takes its part.
            state = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        except Exception as error:  # torch's reader raises many kinds on damaged files
            problems.append(f'{path}: damaged ({str(error).splitlines()[0][:100]})')
            continue
        if problems:
            logger.warning('%s; going on from %s', problems[0], path)
        return state
    if problems:
        raise ValueError('\n'.join([*problems, 'no state to resume from: start the run anew under another name']))
    return None


def contradictions(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Fields in which a run's saved config and the current one differ, and may not."""
    return [f'{name}: the run was started with {saved[name]!r}, now it is {value!r}' for name, value in current.items()
            if name not in FREE_FIELDS and name in saved and saved[name] != value]
