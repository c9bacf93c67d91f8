"""The first moments of a command, before its imports, which take seconds."""

import os
import signal
import sys
import warnings

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def start_command(name: str) -> None:
    """Lets Ctrl-C during the imports end a command with one line, and opens what is closed.

    Scripts call it before they import anything that takes long; `run_command` takes over from it.
    """
    _open_standard_streams()
    _silence_decoders()

    def end(*_: object) -> None:
        if is_main_process():
            os.write(2, f'{name}: interrupted before it began\n'.encode())
        # Libraries would take an exception for their own, or go on without it.
        os._exit(INTERRUPTED)

    # Where the system ignores Ctrl-C, as for processes in the background, that stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def is_main_process() -> bool:
    """Whether this process speaks and writes, of those that torchrun has started.

    RANK alone may be left over from another launcher.
    """
    is_alone = os.environ.get('WORLD_SIZE', '1') == '1'
    is_first = os.environ.get('RANK', '0') == '0'
    return is_alone or is_first


def _silence_decoders() -> None:
    """Keeps what libraries print of a damaged file off the screen: our own line names the file."""
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # OpenCV reads it as it is imported
    warnings.filterwarnings('ignore', module='PIL')


def _open_standard_streams() -> None:
    """Opens closed ones: a file would get their number otherwise, and be printed into."""
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, 'w' if number else 'r'))  # noqa: SIM115
