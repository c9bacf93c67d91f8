"""Locks on files, by which processes of one machine, or of all that share a folder, take turns."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
    try:
        is_held = _acquire_if_free(lock)
        if not is_held and not wait:
            raise ValueError(busy)
        if not is_held:
            lock.acquire(timeout=WAIT_FOR_EVER)
    except (NotImplementedError, OSError):
        logger.warning('%s: no lock can be held there: take care that no second process writes '
                       'there at the same time', file.parent)
        return None
    return lock


def _acquire_if_free(lock: FileLock) -> bool:
    """Acquires a lock and returns True; returns False if another process holds it.

    Raises OSError or NotImplementedError if the file system has no locks.
    """
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
        return True

    # filelock takes a refusal for another's lock, so the system is asked. A trial with a file of
    # its own would leave that behind where deleting is refused.
    if fcntl is not None:
        with open(lock.lock_file, 'r+') as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return False
