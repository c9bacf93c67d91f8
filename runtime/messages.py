"""What packages report, on the terminal."""

import logging
from collections.abc import Callable


def print_messages(program: str, function: Callable) -> None:
    """Prints what the package of `function` reports, as lines of a program, to standard error.

    For the program itself: a library leaves this to those who use it.
    """
    package = function.__module__.rpartition('.')[0]
    logging.basicConfig(format=f'{program}: %(message)s')
    logging.getLogger(package).setLevel(logging.INFO)
