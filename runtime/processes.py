"""Which signals this process heeds, and what those that it starts inherit of it."""

import contextlib
import multiprocessing.util
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator

from utils import STOP_SIGNALS

# What a terminal sends to all processes that it shows: Ctrl-C, and that it is closed.
TERMINAL_SIGNALS = tuple(
    getattr(signal, name) for name in ('SIGINT', 'SIGHUP') if hasattr(signal, name))
# On these training saves its state: schedulers send them, and a terminal that is closed.
SAVING_SIGNALS = (*(number.name for number in STOP_SIGNALS), 'SIGHUP')
# The path of a socket ends at 108 bytes (104 on macOS). Ours add at most 40 to the folder's.
LONGEST_FOLDER = 60
SHORT_FOLDERS = ('/tmp', '/var/tmp', '/dev/shm')


def heeded_signals(names: Iterable[str]) -> Iterator[signal.Signals]:
    """The signals of these names that the system has, without those to be ignored (nohup)."""
    for name in names:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            yield number


@contextlib.contextmanager
def blocked_signals(numbers: Iterable[int]) -> Iterator[None]:
    """Blocks signals while the block runs, where the system can: what it starts inherits that."""
    if not hasattr(signal, 'pthread_sigmask'):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shorten_socket_paths() -> None:
    """Gives multiprocessing a folder for its sockets whose path is short enough.

    Call it before the first process is started. The temporary folder of the user, TMPDIR, may have
    a path that leaves no room for a socket's name; it stays where all other files go.
    """
    chosen = tempfile.gettempdir()
    if len(os.fsencode(chosen)) <= LONGEST_FOLDER:
        return
    for folder in SHORT_FOLDERS:
        if os.access(folder, os.W_OK | os.X_OK):
            tempfile.tempdir = folder
            break
    try:
        # It keeps its answer, and so do the processes that it starts.
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = chosen
