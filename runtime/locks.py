"""Locks on files, by which processes of one machine, or of all that share a folder, take turns."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

WAIT_FOR_EVER = -1


@contextlib.contextmanager
def hold_lock(file: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock while the block runs. The system releases it when the process ends anyhow.

    A file system without locks costs a warning.

    Args:
        file: the lock's own file, made where it is missing.
        busy: the error if another process holds the lock.
        wait: wait for that process instead.

    Raises:
        ValueError: another process holds the lock.
    """
    lock = _acquire(file, busy, wait)
    try:
        yield
    finally:
        if lock:
            # The work is done. What the system does not release now, it does when the process ends.
            with contextlib.suppress(OSError):
                lock.release()


def _acquire(file: Path, busy: str, wait: bool) -> FileLock | None:
    """The lock, held; None, with a warning, where the file system has no locks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    waits = wait and _has_locks(file.parent)
    timeout = WAIT_FOR_EVER if waits else 0
    try:
        lock.acquire(timeout=timeout)
    except (Timeout, NotImplementedError, OSError) as error:
        if isinstance(error, Timeout) and _has_locks(file.parent):
            raise ValueError(busy) from None
        logger.warning('%s: no lock can be held there: take care that no second process writes '
                       'there at the same time', file.parent)
        return None
    return lock


def _has_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked. filelock takes a refusal for another's lock."""
    try:
        probe = tempfile.TemporaryDirectory(prefix='.', dir=folder)
        with probe as probed, FileLock(Path(probed, 'lock'), timeout=0):
            return True
    except (Timeout, NotImplementedError, OSError):
        return False
