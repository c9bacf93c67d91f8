"""Runs torchrun and passes SIGTERM and SIGUSR1 on to the processes that it has started.

`python -m runtime.launch [torchrun's arguments] SCRIPT [ARGUMENT ...]`. The processes save their
state and exit with code 75, and so does this one. torchrun itself dies of SIGUSR1 and leaves its
processes behind, kills them 30 s after SIGTERM, and then exits with 1 whatever their codes were.
Without Linux's /proc this is torchrun as it is.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.run import parse_args, run

from runtime.command import INTERRUPTED
from runtime.distributed import PREEMPTED
from utils import STOP_SIGNALS

PROC_TASKS = Path('/proc/self/task')
TORCHRUNS_OWN_SIGNALS = 'SIGINT,SIGHUP,SIGQUIT'


def _forward_signal(number: int, _frame: Any) -> None:
    """Sends the signal to every process that this one has started."""
    for children in PROC_TASKS.glob('*/children'):
        for process in children.read_text().split():
            os.kill(int(process), number)


@record
def main(arguments: list[str] | None = None) -> int:
    """Runs the processes.

    Returns:
        PREEMPTED if the processes saved their state and ended, INTERRUPTED after Ctrl-C, 0 if all
        went well.

    Raises:
        ChildFailedError: torchrun's; it names the first process that failed, with its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if PROC_TASKS.is_dir():
        arguments = ['--signals-to-handle', TORCHRUNS_OWN_SIGNALS, *arguments]
        for number in STOP_SIGNALS:
            signal.signal(number, _forward_signal)
    try:
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
        raise
    return 0


if __name__ == '__main__':
    sys.exit(main())
