"""Speed of the evaluator against PySODMetrics, on one core, on the same pairs: `python -m benchmarks.evaluation`.

S, MAE, E, F, weighted F and HCE of a mask of fine structures and of predictions that are wrong about its borders and in
some places. Files are read outside the clock. PySODMetrics stands in an environment of its own, since its requirements
hold back numpy, scikit-image and OpenCV; it is made in the cache folder if --peer names none.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from evaluation import GroundTruth, inputs, runner
from utils import write_png

PEER_PACKAGE = 'pysodmetrics==1.6.2'
GROUPS = ('sm', 'mae', 'em', 'fm', 'wfm', 'hce')
PREDICTIONS = 10
PEER = """
import json, os, sys, time, warnings
if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import cv2, numpy as np
cv2.setNumThreads(1); warnings.simplefilter('ignore')
import py_sod_metrics as m
pred, gt = (np.load(path) for path in sys.argv[1:3])
times = []
for _ in range(3):
    start = time.perf_counter()
    found = {}
    for metric in (m.Smeasure, m.MAE, m.Emeasure, m.Fmeasure, m.WeightedFmeasure, m.HumanCorrectionEffortMeasure):
        one = metric(); one.step(pred, gt); found |= one.get_results()
    times.append(time.perf_counter() - start)
scores = {name: float(found[name]) for name in ('sm', 'mae', 'wfm', 'hce')}
print(json.dumps({'seconds': min(times), 'maxEm': float(found['em']['curve'].max()), 'adpEm': float(found['em']['adp']),
                  'meanFm': float(found['fm']['curve'].mean()), **scores}))
"""
MEMORY = """
import sys
from pathlib import Path
import evaluation.runner as runner
from evaluation.metrics import METRICS
def peak():  # not getrusage, whose maximum a child inherits from its parent
    [line] = [line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM')]
    return int(line.split()[1]) / 1024
before = peak()
request = runner.Request('a', Path(sys.argv[2]), [], list(METRICS))
runner.score_image(runner.ScoringJob('set', 'x', Path(sys.argv[1]), [request]), None)
print(peak() - before)
"""


def make_mask(shape: tuple[int, int], seed: int) -> np.ndarray:
    """A large shape with a lattice of holes, and wires of several widths, uint8 (H, W) of 0 and 255."""
    rng = np.random.default_rng(seed)
    height, width = shape
    mask = np.zeros(shape, np.uint8)
    centre, axes = (width // 2, height // 2), (int(width * 0.36), int(height * 0.38))
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 40)), 0, 360, 255, -1)
    for x in range(0, width, 120):
        for y in range(0, height, 90):
            cv2.circle(mask, (x + int(rng.integers(40)), y + int(rng.integers(30))), int(rng.integers(5, 30)), 0, -1)
    for _ in range(25):
        ends = rng.integers(0, (width, height), (2, 2))
        cv2.line(mask, ends[0].tolist(), ends[1].tolist(), 255, int(rng.integers(2, 16)))
    return mask


def make_prediction(mask: np.ndarray, seed: int) -> np.ndarray:
    """A blurred mask with blobs missing and added, and noise about the borders, uint8."""
    rng = np.random.default_rng(seed)
    wrong = mask.copy()
    for index in range(40):
        centre = rng.integers(0, mask.shape[::-1]).tolist()
        cv2.circle(wrong, centre, int(rng.integers(5, 60)), 255 * (index % 2), -1)
    soft = cv2.GaussianBlur(np.roll(wrong, 3, 1), (0, 0), 3).astype(np.float32)
    noise = rng.normal(0, 25, mask.shape) * (np.abs(soft - 127.5) < 127)
    prediction = np.clip(soft + noise, 0, 255).astype(np.uint8)
    prediction[prediction == 128] = 129  # where PySODMetrics, which normalises for HCE, and the publication differ
    prediction.flat[:2] = 0, 255
    return prediction


def less_sure(prediction: np.ndarray) -> np.ndarray:
    """The prediction with 252 to 254 for 255, as truncated sigmoids have it: no pixel of the object is quite right."""
    doubt = np.random.default_rng(0).integers(1, 4, prediction.shape).astype(np.uint8)
    return np.where(prediction == 255, 255 - doubt, prediction)


def peer_python(given: str | None) -> str:
    """The interpreter of an environment with PySODMetrics, made if need be."""
    if given:
        return given
    folder = runner.cache_folder().parent / PEER_PACKAGE.replace('==', '-')
    python = folder / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    if not (folder / 'complete').exists():
        print(f'making {folder} ...', flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), '-m', 'pip', 'install', '--quiet', PEER_PACKAGE], check=True)
        (folder / 'complete').touch()
    return str(python)


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def one_core(function: Callable[[], object]) -> object:
    """The function's result, computed on one core."""
    if not hasattr(os, 'sched_setaffinity'):
        return function()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return function()
    finally:
        os.sched_setaffinity(0, cores)


def ours(mask: np.ndarray, predictions: list[np.ndarray], repeats: int, folder: Path) -> dict[str, float]:
    """Seconds per pair: everything cold, with the skeleton cached, for all predictions of the mask, for one more."""
    def score(cache: Path | None, some: list[np.ndarray]) -> None:
        truth = GroundTruth(mask, cache)
        for prediction in some:
            truth.score(prediction, GROUPS)

    score(folder, predictions[:1])
    prepared, unsure = GroundTruth(mask, folder), less_sure(predictions[0])
    prepared.score(predictions[0])
    return {'cold': fastest(lambda: score(None, predictions[:1]), repeats),
            'cached': fastest(lambda: score(folder, predictions[:1]), repeats),
            'many': fastest(lambda: score(None, predictions), max(repeats // 2, 1)) / len(predictions),
            'further': fastest(lambda: prepared.score(predictions[0], GROUPS), repeats),
            'further, less sure': fastest(lambda: prepared.score(unsure, GROUPS), repeats),
            'further, mBA and boundary IoU too': fastest(lambda: prepared.score(predictions[0]), repeats)}


def workers(folder: Path, shape: tuple[int, int], images: int) -> float:
    """How much faster two workers score a set of files than one."""
    for index in range(images):
        mask = make_mask(shape, index)
        write_png(folder / f'gt/set/gt/{index}.png', mask)
        for method in ('a', 'b', 'c'):
            write_png(folder / f'pred/{method}/set/{index}.png', make_prediction(mask, index))
    [plan] = inputs.plan(folder / 'gt', folder / 'pred', ['set'], ['a', 'b', 'c'])
    seconds = [fastest(lambda n=number: runner.evaluate(plan, folder / f'{time.time_ns()}.jsonl', workers=n), 1)
               for number in (1, 2)]
    return seconds[0] / seconds[1]


def main() -> None:
    """Prints times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', help=f'python of an environment with {PEER_PACKAGE}')
    parser.add_argument('--size', default='2048x2560', help='height x width (%(default)s)')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--images', type=int, default=40, help='of the set that two workers share (0: left out)')
    options = parser.parse_args()
    shape = tuple(map(int, options.size.split('x')))
    peer = peer_python(options.peer)
    mask = make_mask(shape, 0)
    predictions = [make_prediction(mask, index) for index in range(PREDICTIONS)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, array in (('pred', predictions[0]), ('gt', mask)):
            np.save(folder / f'{name}.npy', array)
            write_png(folder / f'{name}.png', array)
        theirs = json.loads(subprocess.run([peer, '-c', PEER, folder / 'pred.npy', folder / 'gt.npy'], check=True,
                                           capture_output=True, text=True).stdout)
        cv2.setNumThreads(1)
        found = one_core(lambda: ours(mask, predictions, options.repeats, folder / 'cache'))
        scores = GroundTruth(mask).score(predictions[0])
        worst = max(abs(scores[name] - value) / max(abs(value), 1) for name, value in theirs.items() if name in scores)
        print(f'PySODMetrics {theirs["seconds"] * 1e3:.0f} ms a pair at {options.size}; scores differ by {worst:.1e}')
        for name, seconds in found.items():
            print(f'{name}: {seconds * 1e3:.0f} ms a pair, {theirs["seconds"] / seconds:.1f}x PySODMetrics')
        if sys.platform == 'linux':
            memory = subprocess.run([sys.executable, '-c', MEMORY, folder / 'gt.png', folder / 'pred.png'], check=True,
                                    capture_output=True, text=True)
            print(f'memory over the import, all metrics: {float(memory.stdout):.0f} MiB')
        if options.images:
            print(f'two workers: {workers(folder, shape, options.images):.2f}x one')


if __name__ == '__main__':
    main()
