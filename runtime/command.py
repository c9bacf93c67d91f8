"""How a command ends: with an exit code and, where a user can mend the cause, with one line."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator

from utils import print_error

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run_command(
    name: str,
    main: Callable[[], int | None],
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Runs a command, and reports what it fails of in one line instead of a traceback.

    Args:
        name: the command, in front of the line.
        main: returns the exit code; None is 0.
        errors: what it may fail of besides ValueError, OSError, and too little memory.

    Returns:
        The exit code: that of `main`, 1 after an error, INTERRUPTED after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold what the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    expected: tuple[type[Exception], ...] = (ValueError, OSError, *errors)
    try:
        return main() or 0
    except KeyboardInterrupt as interrupt:
        # A second Ctrl-C would interrupt the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if os.environ.get('RANK', '0') == '0':  # of several processes one speaks
            print_error(f'{name}: {str(interrupt) or "interrupted"}')
        return INTERRUPTED
    except MemoryError as error:
        print_error(f'{name}: the memory is full ({error}); use a smaller size or batch')
        return 1
    except expected as error:
        print_error(f'{name}: {error}')
        return 1


@contextlib.contextmanager
def explain_interrupt(explanation: str) -> Iterator[None]:
    """Lets Ctrl-C inside the block end the command with an explanation of what was kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f'interrupted: {explanation}') from None
