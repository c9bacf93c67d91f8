"""Runs torchrun and passes the signals to stop on to the processes that it has started.

`python -m runtime.launch [torchrun's arguments] SCRIPT [ARGUMENT ...]`. The processes save their
state and exit with code 75, and so does this one. torchrun itself dies of SIGUSR1 and leaves its
processes behind, kills them 30 s after SIGTERM, and then exits with 1 whatever their codes were.
Under nohup it would end with the terminal. Without Linux's /proc this is torchrun as it is.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import get_args_parser, parse_args, run

from runtime.distributed import PREEMPTED
from runtime.processes import SAVING_SIGNALS, heeded_signals
from runtime.starting import INTERRUPTED
from utils import print_error

PROC_TASKS = Path('/proc/self/task')
TORCHRUNS_OWN_SIGNALS = ('SIGINT', 'SIGQUIT')
SIGNALS_OPTION = '--signals-to-handle'
TORCHRUNS_SIGNALS_MODULE = 'torch.distributed.elastic.multiprocessing.api'


def _forward_signal(number: int, _frame: Any) -> None:
    """Sends the signal to every process that this one has started."""
    for children in PROC_TASKS.glob('*/children'):
        # A thread may have ended meanwhile, or a process.
        with suppress(FileNotFoundError):
            for process in children.read_text().split():
                _send(int(process), number)


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _run_with_signals(arguments: list[str]) -> None:
    """Runs torchrun, which leaves the signals to stop to this module."""
    for number in heeded_signals(SAVING_SIGNALS):
        signal.signal(number, _forward_signal)
    if SIGNALS_OPTION in get_args_parser().format_help():
        run(parse_args([SIGNALS_OPTION, ','.join(TORCHRUNS_OWN_SIGNALS), *arguments]))
        return

    # Older releases take all signals, but none in another thread, about which they warn.
    logging.getLogger(TORCHRUNS_SIGNALS_MODULE).setLevel(logging.ERROR)
    for name in TORCHRUNS_OWN_SIGNALS:
        signal.signal(signal.Signals[name], _forward_signal)
    with ThreadPoolExecutor(max_workers=1) as executor:
        running = executor.submit(run, parse_args(arguments))
        while not running.done():
            wait([running], timeout=.2)  # signals are handled between two waits at the latest
        running.result()


def main(arguments: list[str] | None = None) -> int:
    """Runs the processes.

    Returns:
        PREEMPTED if the processes saved their state and ended, INTERRUPTED after Ctrl-C, 1 if one
        of them failed, 0 if all went well.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if PROC_TASKS.is_dir():
            _run_with_signals(arguments)
        else:
            run(parse_args(arguments))
    except (KeyboardInterrupt, SignalException) as signalled:
        # The processes got it too, and have said what they kept.
        if getattr(signalled, 'sigval', signal.SIGINT) == signal.SIGINT:
            return INTERRUPTED
        raise
    except ChildFailedError as error:
        exit_codes = {failure.exitcode for failure in error.failures.values()}
        for code in (PREEMPTED, INTERRUPTED):
            if code in exit_codes:
                return code
        print_error(f'{error.name}: {first_failure(error.failures)}')
        return 1
    return 0


def first_failure(failures: Mapping[int, ProcessFailure]) -> str:
    """Says which rank failed first, and why: the others mostly fail because that one has gone.

    Its traceback, if it is a fault of the program, is in its own output. torchrun itself compares
    whole seconds, and would name the lowest rank of those that failed within the same one.
    """
    rank, failure = min(failures.items(), key=lambda entry: _failed_at(entry[1]))
    reason = failure.message
    if isinstance(reason, dict):  # of a Python process, with its traceback
        reason = reason['message']
    return f'of {len(failures)} that failed, rank {rank} was the first: {reason}'


def _failed_at(failure: ProcessFailure) -> float:
    try:
        return os.stat(failure.error_file).st_mtime
    except OSError:  # a process that was killed has written no file
        return failure.timestamp


if __name__ == '__main__':
    sys.exit(main())
