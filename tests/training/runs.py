"""Tiny runs in processes of their own, forked from one that has imported everything."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist

from runtime.distributed import World
from utils import STOP_SIGNALS

# Imported once, before the first process is forked.
PICTURES = ['torch.utils.tensorboard', 'training.curves']
PRELOADED = ['train', 'test', 'predict', 'eval_existingOnes', 'gen_best_ep', *PICTURES]
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(PRELOADED)
HANGS = 600  # seconds after which something waits for what will not come, on any machine
TINY = ('task=Tiny bb=pvt_v2_b0 mul_scl_ipt= dec_att= size=32 batch_size=2 epochs=3 save_step=1 '
        'log_step=1 lr=1e-3 num_workers=0 device=cpu bb_weights=none').split()


def make_data(root: Path, train: int = 6, test: int = 2) -> Path:
    """Bright discs on dark noise, task 'Tiny'; returns `root`."""
    rng = np.random.default_rng(0)
    for name, count in (('TR-Tiny', train), ('TE-Tiny', test)):
        images = root / 'Tiny' / name / 'im'
        masks = root / 'Tiny' / name / 'gt'
        images.mkdir(parents=True)
        masks.mkdir()
        for i in range(count):
            mask = np.zeros((48, 56), np.uint8)
            centre = (int(rng.integers(18, 38)), int(rng.integers(18, 30)))
            cv2.circle(mask, centre, 12, 255, -1)
            noise = rng.integers(0, 90, (48, 56, 3), dtype=np.uint8)
            image = noise + mask[..., None] // 2
            cv2.imwrite(str(images / f'{i}.png'), image)
            cv2.imwrite(str(masks / f'{i}.png'), mask)
    return root


def _main(
    script: str,
    arguments: list[str],
    rank: int,
    size: int,
    port: int,
    log: str,
    draws_pictures: bool,
) -> None:
    if not draws_pictures:
        # As if they were not installed.
        for module in PICTURES:
            sys.modules[module] = None
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size),
                          MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    # A loader of the parent may have started the server that forked this process, which blocks
    # these signals.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    sys.argv = [script, *arguments]
    sys.exit(__import__(script).main())


def start(
    script: str, arguments: list[str], log: Path, size: int = 1, draws_pictures: bool = False,
) -> list:
    """Starts `size` processes of train.py or test.py; their output is appended to `log`.

    Without curves and TensorBoard a tiny run takes half the time.
    """
    port = free_port()
    argument_lists = [
        (script, arguments, rank, size, port, str(log), draws_pictures) for rank in range(size)]
    return start_all(_main, argument_lists)


def start_all(function: Callable, argument_lists: list[tuple]) -> list:
    """Starts a process for each list of arguments, which calls `function` with them."""
    processes = [FORKS.Process(target=function, args=args) for args in argument_lists]
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


def wait_for(log: Path, lines: int) -> None:
    """Waits until a file has so many lines."""
    deadline = time.monotonic() + HANGS
    while time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b'\n') >= lines:
            return
        time.sleep(.02)
    raise TimeoutError(log)


def call(function: Callable, size: int, *args) -> None:
    """Runs `function(world, *args)` on the CPU in `size` ranks, which must all succeed."""
    port = free_port()
    argument_lists = [(function, rank, size, port, args) for rank in range(size)]
    processes = start_all(_call_on_rank, argument_lists)
    assert finish(processes) == [0] * size


def _call_on_rank(function: Callable, rank: int, size: int, port: int, args: tuple) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore('127.0.0.1', port, size, is_master=rank == 0)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=size)
    function(World(rank, size, torch.device('cpu')), *args)
    dist.destroy_process_group()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]
