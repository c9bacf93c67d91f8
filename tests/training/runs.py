"""Tiny runs in processes of their own, forked from one that has imported everything."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from utils import STOP_SIGNALS

FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['train', 'test'])
HANGS = 600  # seconds after which something waits for what will not come, on any machine
TINY = ('task=Tiny bb=pvt_v2_b0 mul_scl_ipt= dec_att= size=32 batch_size=2 epochs=3 save_step=1 log_step=1 lr=1e-3 '
        'num_workers=0 device=cpu').split()


def make_data(root: Path, train: int = 6, test: int = 2) -> Path:
    """Bright discs on dark noise, task 'Tiny'; returns `root`."""
    rng = np.random.default_rng(0)
    for name, count in (('TR-Tiny', train), ('TE-Tiny', test)):
        for kind in ('im', 'gt'):
            (root / 'Tiny' / name / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((48, 56), np.uint8)
            cv2.circle(mask, (int(rng.integers(18, 38)), int(rng.integers(18, 30))), 12, 255, -1)
            image = rng.integers(0, 90, (48, 56, 3), dtype=np.uint8) + mask[..., None] // 2
            cv2.imwrite(str(root / 'Tiny' / name / 'im' / f'{i}.png'), image)
            cv2.imwrite(str(root / 'Tiny' / name / 'gt' / f'{i}.png'), mask)
    return root


def _main(script: str, arguments: list[str], rank: int, size: int, port: int, log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR='127.0.0.1',
                          MASTER_PORT=str(port))
    import torch
    torch.set_num_threads(1)
    # A loader of this process may have started the server that forks us, which holds these signals back.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    sys.argv = [script, *arguments]
    sys.exit(__import__(script).main())


def start(script: str, arguments: list[str], log: Path, size: int = 1) -> list:
    """Starts `size` processes of train.py or test.py; their output is appended to `log`."""
    port = free_port()
    processes = [FORKS.Process(target=_main, args=(script, arguments, rank, size, port, str(log)))
                 for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list) -> list[int]:
    """Exit codes. Processes that hang are killed, and fail the test."""
    for process in processes:
        process.join(HANGS)
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
        process.join()
    assert not hung
    return [process.exitcode for process in processes]


def call(function: Callable, size: int, *args) -> None:
    """Runs `function(rank, size, port, *args)` in `size` processes, which must all succeed."""
    port = free_port()
    processes = [FORKS.Process(target=function, args=(rank, size, port, *args)) for rank in range(size)]
    for process in processes:
        process.start()
    assert finish(processes) == [0] * size


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]
