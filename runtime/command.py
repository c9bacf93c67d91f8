"""How a command ends: with an exit code and, where a user can mend the cause, with one line."""

import contextlib
import io
import logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

from runtime.full_memory import full_memory_reason
from runtime.processes import heeded_signals
from runtime.starting import is_main_process
from utils import errors_naming, print_error

logger = logging.getLogger(__name__)

NO_READER = 141  # 128 + SIGPIPE
# Ctrl-C, the end of a job, and a terminal that is closed.
ENDING_SIGNALS = ('SIGINT', 'SIGTERM', 'SIGHUP')


def run_command(
    name: str,
    main: Callable[[], int | None],
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Runs a command, and reports what it fails of in one line instead of a traceback.

    Args:
        name: the command, in front of the line.
        main: returns the exit code; None is 0. A signal that ends the command raises
            KeyboardInterrupt in it, so that nothing stays half-written.
        errors: what it may fail of besides ValueError, OSError, and too little memory.

    Returns:
        The exit code: that of `main`, 1 after an error, 128 + its number after a signal.
    """
    _prepare_process()
    received = _interrupt_on_signals()
    expected: tuple[type[Exception], ...] = (ValueError, OSError, *errors)
    try:
        code = main() or 0
        with errors_naming('standard output'):
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        _ignore_signals()  # a second one would interrupt the clean-up
        number = received[0] if received else signal.SIGINT
        text = 'interrupted' if number == signal.SIGINT else f'ended by {number.name}'
        if is_main_process():
            print_error(f'{name}: {str(interrupt) or text}')
        return 128 + number
    except BrokenPipeError as error:
        if _has_lost_reader():
            return NO_READER  # as behind `| head`, which has read enough
        print_error(f'{name}: {error}')
        return 1
    except Exception as error:
        exhausted = full_memory_reason(error) or _no_threads_reason(error)
        if exhausted is None and not isinstance(error, expected):
            raise
        print_error(f'{name}: {exhausted or error}')
        return 1
    finally:
        _ignore_signals()  # all is done but for Python's own end
        if not _can_print():
            # Python would try once more, and report that in its own words.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _no_threads_reason(error: Exception) -> str | None:
    """Says that no thread can be started, and what to do, if that is what an error means."""
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return ('no more threads are allowed: raise the limit of processes (ulimit -u, or '
                '--pids-limit of a container)')
    return None


def _prepare_process() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold what the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    # A full disk would print a traceback for each line of log.txt.
    logging.raiseExceptions = False
    threading.excepthook = _report_thread
    warnings.showwarning = _report_warning  # type: ignore[assignment] # it needs no place
    _allow_many_files()


def _report_warning(message: Warning | str, *_: object) -> None:
    """Reports a warning as one line, without the line of code that gave it."""
    logger.warning('%s', message)


def _report_thread(ended: threading.ExceptHookArgs) -> None:
    """Reports a thread that has failed: of an error of the system, as TensorBoard meets, a line."""
    if isinstance(ended.exc_value, OSError):
        logger.warning('what runs in the background has ended: %s', ended.exc_value)
        return
    threading.__excepthook__(ended)


def _allow_many_files() -> None:
    """Raises the limit of open files as far as the system lets every user do.

    Loaders hand each batch over as an open file, and some systems start with a limit of 256.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _can_print() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _has_lost_reader() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    if not hasattr(select, 'poll'):  # Windows
        return not _can_print()
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


# --- Signals --------------------------------------------------------------------------------------


def _interrupt_on_signals() -> list[signal.Signals]:
    """Lets the ending signals raise KeyboardInterrupt; returns the list to which each is added."""
    received: list[signal.Signals] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    for number in heeded_signals(ENDING_SIGNALS):
        signal.signal(number, interrupt)
    return received


def _ignore_signals() -> None:
    for number in heeded_signals(ENDING_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def explain_interrupt(explanation: str) -> Iterator[None]:
    """Lets a signal inside the block end the command with an explanation of what was kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f'interrupted: {explanation}') from None
