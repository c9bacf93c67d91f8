"""torchrun under which SIGTERM and SIGUSR1 mean what they mean to a single process: save, and end with a code of that.

`python -m training.launch [torchrun's arguments] SCRIPT [ARGUMENT ...]`. torchrun itself dies of SIGUSR1 and leaves its
processes behind, gives them 30 s after SIGTERM, and then ends with 1 whatever they said. Here the processes get the
signal, all the time that they need, and their code is passed on. Without Linux's /proc it is torchrun as it is.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.run import parse_args, run

from training.distributed import PREEMPTED
from utils import STOP_SIGNALS

TASKS = Path('/proc/self/task')


def _pass_on(number: int, _frame: Any) -> None:
    """Sends the signal to every process that this one has started."""
    for children in TASKS.glob('*/children'):
        for process in children.read_text().split():
            os.kill(int(process), number)


@record
def main(arguments: list[str] | None = None) -> int:
    """Runs the processes; returns PREEMPTED if they saved their state and ended, 0 if all went well.

    Raises torchrun's ChildFailedError, which tells of the first process that failed and its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if TASKS.is_dir():
        arguments = ['--signals-to-handle', 'SIGINT,SIGHUP,SIGQUIT', *arguments]
        for number in STOP_SIGNALS:
            signal.signal(number, _pass_on)
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        if PREEMPTED in {failure.exitcode for failure in error.failures.values()}:
            return PREEMPTED
        raise
    return 0


if __name__ == '__main__':
    sys.exit(main())
