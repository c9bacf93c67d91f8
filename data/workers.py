"""The processes of a DataLoader: started without inherited locks, and ended with the run."""

import atexit
import functools
import logging
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import shutil
import signal
import sys
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import cv2
import torch

from runtime.processes import TERMINAL_SIGNALS, blocked_signals, shorten_socket_paths
from utils import STOP_SIGNALS

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path('/dev/shm')
BATCHES_AHEAD = 2  # that each worker makes before they are asked for
HELD_BATCHES = 2


def workers_that_fit(workers: int, batch_bytes: int) -> int:
    """Returns how many workers have room for their batches in shared memory, with a warning.

    Workers hand batches over there. A process that finds it full is killed by a bus error.

    Args:
        workers: how many are wanted.
        batch_bytes: size of the largest batch.
    """
    if workers == 0 or sys.platform != 'linux':
        return workers
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        free = 0

    # Each process of this machine has its own workers, and the network holds two batches.
    own_share = free // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    num_batches = own_share // batch_bytes - HELD_BATCHES
    fitting = max(0, num_batches // BATCHES_AHEAD)
    if fitting >= workers:
        return workers
    needed = (workers * BATCHES_AHEAD + HELD_BATCHES) * batch_bytes
    logger.warning(
        '%s has %.0f MB for this process, and %d workers need %.0f MB: %d work instead, which may '
        'be slower; give a container more with --shm-size or --ipc=host, or lower num_workers',
        SHARED_MEMORY, own_share / 1e6, workers, needed / 1e6, fitting)
    return fitting


def worker_options(workers: int, preload: str) -> dict[str, Any]:
    """Returns the arguments of a DataLoader that say who does its work.

    Workers stay from epoch to epoch. They are not forked from this process: its threads (OpenCV's,
    torch's) may hold a lock at that moment, and the worker would hang now and then. The generator
    keeps the loader from drawing on torch's global random state, which a run resumed inside an
    epoch could not repeat.

    Args:
        workers: number of processes; 0: this process does the work.
        preload: the module that defines the data set. It is imported once, not by every worker.
    """
    options: dict[str, Any] = {'num_workers': workers, 'generator': torch.Generator()}
    if workers:
        options['persistent_workers'] = True
        options['worker_init_fn'] = _start_worker
        options['multiprocessing_context'] = _worker_context(preload)
    return options


@functools.cache
def _worker_context(preload: str) -> BaseContext:
    """Workers forked from a server without threads; where there is none, newly started ones."""
    atexit.register(_end_workers)
    shorten_socket_paths()
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['__main__', preload])
    # Helpers and workers inherit the blocked signals. Starting the first helper unblocks some.
    for helper in (multiprocessing.resource_tracker, multiprocessing.forkserver):
        with blocked_signals([*STOP_SIGNALS, *TERMINAL_SIGNALS]):
            helper.ensure_running()
    return context


def _start_worker(worker: int) -> None:
    """Readies a worker: one thread, and the signals that end it."""
    # Ctrl-C and the terminal's end stay blocked. All processes get them, and the main one ends the
    # workers.
    cv2.setNumThreads(1)  # the workers are the parallelism
    for number in STOP_SIGNALS:
        signal.signal(number, _ignore_once)
    if hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _ignore_once(number: int, _frame: Any) -> None:
    """Ignores the first stop signal; a second one ends the worker.

    The scheduler signals all processes of a job, but the main one needs its workers until it has
    saved. It ends those that are left then by sending the signal again.
    """
    signal.signal(number, signal.SIG_DFL)


def _end_workers() -> None:
    """Kills the workers that an error has left behind, which have nothing to lose.

    multiprocessing would send each a single signal, and wait for ever for those that ignore it.
    """
    for worker in multiprocessing.active_children():
        worker.kill()
