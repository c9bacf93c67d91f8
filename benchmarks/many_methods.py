"""Memory and time of scoring many methods on many sets: `python -m benchmarks.many_methods`.

Scores generated folders, METHOD/SET/*.png, first of a quarter of the methods and then of all, by
the command. Memory is flat if the second run needs as much as the first.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils import write_png

PREDICTIONS = 4  # that differ; the others are copies
COMMAND = Path(__file__).parents[1] / 'eval_existingOnes.py'
MEBIBYTE = 1024  # kB, as /proc counts


class Cost(NamedTuple):
    """Seconds on the clock and of the processors, and peaks of memory in MiB."""

    seconds: float
    processor: float
    main: float
    worker: float


def make_tree(root: Path, methods: int, sets: int, images: int, side: int) -> None:
    """Writes the masks and predictions of all methods."""
    for number in range(sets):
        dataset = f'SET-{number}'
        for index in range(images):
            mask = make_mask(side, [number, index])
            write_png(root / f'gt/{dataset}/gt/{index}.png', mask)
            for method in range(PREDICTIONS):
                shifted = np.roll(mask, method, 1)
                blurred = cv2.GaussianBlur(shifted, (0, 0), 1.5)
                write_png(root / f'pred/method-{method}/{dataset}/{index}.png', blurred)

    # All further methods are copies of the first ones.
    for method in range(PREDICTIONS, methods):
        original = method % PREDICTIONS
        source = root / f'pred/method-{original}'
        shutil.copytree(source, root / f'pred/method-{method}')


def make_mask(side: int, seed: list[int]) -> np.ndarray:
    """The brighter half of smooth noise, uint8 (side, side)."""
    rng = np.random.default_rng(seed)
    noise = rng.random((side, side))
    field = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), side / 10)
    is_inside = field > np.median(field)
    return np.where(is_inside, 255, 0).astype(np.uint8)


def run(root: Path, methods: int, workers: int) -> Cost:
    """Scores some methods."""
    names = '+'.join(f'method-{number}' for number in range(methods))
    options = {
        '--gt_root': root / 'gt',
        '--pred_root': root / 'pred',
        '--save_dir': root / f'results-{methods}',
        '--methods': names,
        '--metrics': 'S+MAE+E+F+wF',
        '--workers': workers,
    }
    command = [sys.executable, str(COMMAND)]
    for option, value in options.items():
        command += [option, str(value)]

    # Memory is looked at ten times a second, while the command runs.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    main = worker = 0.
    while process.poll() is None:
        main = max(main, _peak(process.pid))
        worker = max([worker, *map(_peak, _children(process.pid))])
        time.sleep(.1)
    if process.returncode:
        raise SystemExit(f'the command failed: {" ".join(command)}')

    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user = after.ru_utime - before.ru_utime
    system = after.ru_stime - before.ru_stime
    return Cost(seconds, user + system, main, worker)


def _peak(process: int) -> float:
    """The most memory that a process has had, in MiB; 0 if it has ended."""
    try:
        lines = Path(f'/proc/{process}/status').read_text().splitlines()
    except OSError:
        return 0
    peaks = [line.split()[1] for line in lines if line.startswith('VmHWM')]
    return int(peaks[0]) / MEBIBYTE if peaks else 0


def _children(process: int) -> list[int]:
    """The processes that a process has started; none if it has ended."""
    try:
        text = Path(f'/proc/{process}/task/{process}/children').read_text()
    except OSError:
        return []
    return [int(number) for number in text.split()]


def describe(title: str, cost: Cost, predictions: int) -> str:
    """Says what a run took."""
    each = cost.processor / predictions * 1e3
    return (
        f'{title}: {cost.seconds:.0f} s, {cost.processor:.0f} s of processors ({each:.1f} ms a '
        f'prediction), main process {cost.main:.0f} MiB, a worker {cost.worker:.0f} MiB')


def main() -> None:
    """Prints what each run took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--methods', type=int, default=40)
    parser.add_argument('--sets', type=int, default=5)
    parser.add_argument('--images', type=int, default=50, help='of a set')
    parser.add_argument('--side', type=int, default=64, help='of an image')
    parser.add_argument('--workers', type=int, default=2)
    options = parser.parse_args()
    images = options.sets * options.images
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_tree(root, options.methods, options.sets, options.images, options.side)
        for methods in (options.methods // 4, options.methods):
            cost = run(root, methods, options.workers)
            print(describe(f'{methods} methods', cost, methods * images), flush=True)
            cost = run(root, methods, options.workers)
            print(describe('again, with all scores there', cost, methods * images), flush=True)


if __name__ == '__main__':
    main()
