"""Speed of the evaluator against PySODMetrics: `python -m benchmarks.evaluation`.

With --family only what the metrics of thresholds add to S, MAE, E and F, without the peer.

Both compute S, MAE, E, F, weighted F and HCE on one core, for the same pairs: a mask of fine
structures, and predictions that are wrong about its borders and in some places. Files are read
outside the clock. PySODMetrics has an environment of its own, because its requirements hold back
numpy, scikit-image and OpenCV; it is made in the cache folder if --peer names none.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from evaluation import GroundTruth, inputs, mask_folders, prediction_folders, runner
from evaluation.measuring import average
from evaluation.metrics import RECORDS, USUAL
from utils import write_png

PEER_PACKAGE = 'pysodmetrics==1.6.2'
GROUPS = ('sm', 'mae', 'em', 'fm', 'wfm', 'hce')
FOUR = ('sm', 'mae', 'em', 'fm')
COUNTED = tuple(metric.name for metric in RECORDS if metric.follows_from_counts)
# Metrics beside those that the peer is timed with, measured one by one.
OTHERS = ('msiou', 'cm', 'simae', 'sifm', 'sad', 'grad', 'conn')
PREDICTIONS = 10
# Of the pairs on which the metrics of thresholds are timed.
FAMILY_SIZES = ((352, 352), (1024, 1280), (2048, 2048))
# Images of the set that such a pair is one of.
SET_SIZE = 100

# Scores argv[1] against argv[2], both .npy, with the peer; prints seconds and scores as JSON.
PEER = """
import json, os, sys, time, warnings
if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import cv2
import numpy as np
import py_sod_metrics as peer
cv2.setNumThreads(1)
warnings.simplefilter('ignore')
METRICS = (
    peer.Smeasure, peer.MAE, peer.Emeasure, peer.Fmeasure, peer.WeightedFmeasure,
    peer.HumanCorrectionEffortMeasure)
pred = np.load(sys.argv[1])
gt = np.load(sys.argv[2])
times = []
for _ in range(3):
    start = time.perf_counter()
    found = {}
    for make_metric in METRICS:
        metric = make_metric()
        metric.step(pred, gt)
        found |= metric.get_results()
    times.append(time.perf_counter() - start)
scores = {name: float(found[name]) for name in ('sm', 'mae', 'wfm', 'hce')}
scores['maxEm'] = float(found['em']['curve'].max())
scores['adpEm'] = float(found['em']['adp'])
scores['meanFm'] = float(found['fm']['curve'].mean())
print(json.dumps({'seconds': min(times), 'scores': scores}))
"""

# Prints the MiB that the usual metrics of one pair, ground truth and prediction, add to the import.
MEMORY = """
import sys
from pathlib import Path
import evaluation.runner as runner
from evaluation.files import File, Folder
from evaluation.metrics import USUAL
def peak():  # not getrusage, whose maximum a child inherits from its parent
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) / 1024
before = peak()
gt, pred = [File(Folder(Path(arg).parent), Path(arg).name, 0, 0) for arg in sys.argv[1:3]]
request = runner.Request('a', pred, list(USUAL))
job = runner.ScoringJob('set', 'x', gt, [request])
runner.score_image(job, None)
print(peak() - before)
"""


# --- Inputs -------------------------------------------------------------------------------------


def make_mask(shape: tuple[int, int], seed: int) -> np.ndarray:
    """A large shape with many holes, and wires of several widths, uint8 (H, W), 0 or 255."""
    rng = np.random.default_rng(seed)
    height, width = shape
    mask = np.zeros(shape, np.uint8)

    # The shape.
    centre = (width // 2, height // 2)
    axes = (int(width * 0.36), int(height * 0.38))
    angle = float(rng.uniform(0, 40))
    cv2.ellipse(mask, centre, axes, angle, 0, 360, 255, -1)

    # Holes on a grid, each a little off its place.
    for x in range(0, width, 120):
        for y in range(0, height, 90):
            hole_x = x + int(rng.integers(40))
            hole_y = y + int(rng.integers(30))
            radius = int(rng.integers(5, 30))
            cv2.circle(mask, (hole_x, hole_y), radius, 0, -1)

    # Wires anywhere.
    for _ in range(25):
        start, end = rng.integers(0, (width, height), (2, 2)).tolist()
        thickness = int(rng.integers(2, 16))
        cv2.line(mask, start, end, 255, thickness)
    return mask


def make_prediction(mask: np.ndarray, seed: int) -> np.ndarray:
    """A blurred mask with blobs missing and added, and noise about the borders, uint8 (H, W)."""
    rng = np.random.default_rng(seed)
    wrong = mask.copy()

    # Blobs by turns missing and added.
    for index in range(40):
        centre = rng.integers(0, mask.shape[::-1]).tolist()
        radius = int(rng.integers(5, 60))
        grey = 255 if index % 2 else 0
        cv2.circle(wrong, centre, radius, grey, -1)

    # Moved, blurred, and noisy where it is neither black nor white.
    shifted = np.roll(wrong, 3, 1)
    soft = cv2.GaussianBlur(shifted, (0, 0), 3).astype(np.float32)
    is_border = np.abs(soft - 127.5) < 127
    noise = rng.normal(0, 25, mask.shape) * is_border
    prediction = np.clip(soft + noise, 0, 255).astype(np.uint8)

    # PySODMetrics normalises for HCE: it differs from the publication at 128, and where a mask
    # does not reach 0 and 255.
    prediction[prediction == 128] = 129
    prediction.flat[:2] = 0, 255
    return prediction


def less_sure(prediction: np.ndarray) -> np.ndarray:
    """The prediction with 252 to 254 for 255, as truncated sigmoids have it.

    No pixel of the object is quite right then.
    """
    rng = np.random.default_rng(0)
    doubt = rng.integers(1, 4, prediction.shape).astype(np.uint8)
    return np.where(prediction == 255, 255 - doubt, prediction)


# --- The peer -----------------------------------------------------------------------------------


def peer_python(given: str | None) -> str:
    """The interpreter of an environment with PySODMetrics, which is made if none is given."""
    if given:
        return given
    cache = runner.cache_folder()
    if cache is None:
        raise SystemExit('no folder for the peer: give its interpreter as --peer')

    # The mark comes last, so that an interrupted installation is made again.
    folder = cache.parent / PEER_PACKAGE.replace('==', '-')
    python = folder / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    mark = folder / 'complete'
    if not mark.exists():
        print(f'making {folder} ...', flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), '-m', 'pip', 'install', '--quiet', PEER_PACKAGE]
        subprocess.run(install, check=True)
        mark.touch()
    return str(python)


def output_of(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# --- Measuring ----------------------------------------------------------------------------------


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


@contextmanager
def one_core() -> Iterator[None]:
    """Within it, this process runs on one core, where the system can do that."""
    if not hasattr(os, 'sched_setaffinity'):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def ours(
    mask: np.ndarray,
    predictions: list[np.ndarray],
    repeats: int,
    folder: Path,
) -> dict[str, float]:
    """Seconds per pair: from nothing, with the skeleton cached in `folder`, for further pairs."""
    first = predictions[0]
    unsure = less_sure(first)

    def score(cache: Path | None, some: list[np.ndarray]) -> None:
        truth = GroundTruth(mask, cache)
        for prediction in some:
            truth.score(prediction, GROUPS)

    # Fills the cache, and prepares the ground truth for the further predictions.
    score(folder, [first])
    prepared = GroundTruth(mask, folder)
    prepared.score(first)

    many = fastest(lambda: score(None, predictions), max(repeats // 2, 1))
    return {
        'cold': fastest(lambda: score(None, [first]), repeats),
        'cached': fastest(lambda: score(folder, [first]), repeats),
        'many': many / len(predictions),
        'further': fastest(lambda: prepared.score(first, GROUPS), repeats),
        'further, less sure': fastest(lambda: prepared.score(unsure, GROUPS), repeats),
        'further, mBA and boundary IoU too': fastest(
            lambda: prepared.score(first, USUAL), repeats),
    }


def pair_seconds(mask: np.ndarray, prediction: np.ndarray, names: Sequence[str]) -> float:
    """Processor seconds of a pair by itself: its measurement and its scores."""
    start = time.process_time()
    GroundTruth(mask).score(prediction, names)
    return time.process_time() - start


def share_seconds(mask: np.ndarray, prediction: np.ndarray, names: Sequence[str]) -> float:
    """Processor seconds of a pair of a set: its measurement, and its share of the set's scores."""
    start = time.process_time()
    measured = GroundTruth(mask).measure(prediction, names)
    measuring = time.process_time() - start

    start = time.process_time()
    average([measured] * SET_SIZE, names)
    averaging = time.process_time() - start
    return measuring + averaging / SET_SIZE


def threshold_family(
    seconds: Callable[..., float], shape: tuple[int, int], repeats: int,
) -> tuple[float, float]:
    """Seconds of S, MAE, E and F of a pair, and with all metrics of thresholds too.

    The two take turns, so that what else the machine does falls on both.
    """
    mask = make_mask(shape, 0)
    prediction = make_prediction(mask, 0)
    four = []
    family = []
    for _ in range(repeats):
        four.append(seconds(mask, prediction, FOUR))
        family.append(seconds(mask, prediction, (*FOUR, *COUNTED)))
    return min(four), min(family)


def print_threshold_family(repeats: int) -> None:
    """Prints what the metrics of thresholds add, for pairs of several sizes."""
    print('processor time of a pair: S, MAE, E and F; with all metrics of thresholds')
    ways = {'by itself': pair_seconds, f'one of {SET_SIZE}': share_seconds}
    for shape in FAMILY_SIZES:
        size = 'x'.join(map(str, shape))
        for way, seconds in ways.items():
            four, family = threshold_family(seconds, shape, 8 * repeats)
            print(
                f'{size}, {way}: {four * 1e3:.2f} ms; {family * 1e3:.2f} ms, '
                f'{family / four:.3f}x')


def others(mask: np.ndarray, prediction: np.ndarray, repeats: int) -> dict[str, float]:
    """Seconds of other metrics, measured one by one, for a further prediction."""
    truth = GroundTruth(mask)
    seconds = {}
    for name in OTHERS:
        truth.score(prediction, (name,))
        score = partial(truth.score, prediction, (name,))
        seconds[name] = fastest(score, repeats)
    return seconds


def workers(folder: Path, shape: tuple[int, int], images: int) -> float:
    """How much faster two workers score a set of files than one."""
    # Three methods with the same predictions.
    methods = ['a', 'b', 'c']
    for index in range(images):
        mask = make_mask(shape, index)
        prediction = make_prediction(mask, index)
        write_png(folder / f'gt/set/gt/{index}.png', mask)
        for method in methods:
            write_png(folder / f'pred/{method}/set/{index}.png', prediction)

    # The same plan twice, by one worker and by two.
    masks = mask_folders.find_masks(folder / 'gt', ['set'])
    predictions = prediction_folders.find_predictions(folder / 'pred', masks)
    plan, = inputs.plan(masks, predictions, methods)
    seconds = []
    for number in (1, 2):
        start = time.perf_counter()
        runner.evaluate(plan, folder / f'{number}.jsonl', workers=number)
        seconds.append(time.perf_counter() - start)
    return seconds[0] / seconds[1]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', help=f'python of an environment with {PEER_PACKAGE}')
    parser.add_argument('--size', default='2048x2560', help='height x width (%(default)s)')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--family', action='store_true', help='metrics of thresholds only')
    parser.add_argument(
        '--images', type=int, default=40, help='of the set that two workers share (0: left out)')
    return parser.parse_args()


def main() -> None:
    """Prints times and ratios."""
    # A mask and predictions of it, also as files for the other processes.
    options = parse_arguments()
    if options.family:
        cv2.setNumThreads(1)
        print_threshold_family(options.repeats)
        return
    height, width = map(int, options.size.split('x'))
    peer = peer_python(options.peer)
    mask = make_mask((height, width), 0)
    predictions = [make_prediction(mask, index) for index in range(PREDICTIONS)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, array in (('pred', predictions[0]), ('gt', mask)):
            np.save(folder / f'{name}.npy', array)
            write_png(folder / f'{name}.png', array)

        # The peer, and ours on one core.
        printed = output_of(peer, '-c', PEER, folder / 'pred.npy', folder / 'gt.npy')
        theirs = json.loads(printed)
        cv2.setNumThreads(1)
        with one_core():
            found = ours(mask, predictions, options.repeats, folder / 'cache')
            single = others(mask, predictions[0], options.repeats)
        print_comparison(theirs, found, mask, predictions[0])

        print_threshold_family(options.repeats)
        for name, seconds in single.items():
            print(f'{name}, further: {seconds * 1e3:.0f} ms a pair')

        # In processes of their own: memory, and two workers.
        if sys.platform == 'linux':
            pair = (folder / 'gt.png', folder / 'pred.png')
            mebibytes = float(output_of(sys.executable, '-c', MEMORY, *pair))
            print(f'memory over the import, usual metrics: {mebibytes:.0f} MiB')
        if options.images:
            speedup = workers(folder, (height, width), options.images)
            print(f'two workers: {speedup:.2f}x one')


def print_comparison(
    theirs: dict[str, Any],
    found: dict[str, float],
    mask: np.ndarray,
    prediction: np.ndarray,
) -> None:
    """Prints how the scores of a pair differ, and our times beside the peer's."""
    scores = GroundTruth(mask).score(prediction)
    worst = 0.
    for name, value in theirs['scores'].items():
        difference = abs(scores[name] - value)
        worst = max(worst, difference / max(abs(value), 1))

    size = 'x'.join(map(str, mask.shape))
    their_seconds = theirs['seconds']
    print(f'PySODMetrics {their_seconds * 1e3:.0f} ms a pair at {size}; '
          f'scores differ by {worst:.1e}')
    for name, seconds in found.items():
        ratio = their_seconds / seconds
        print(f'{name}: {seconds * 1e3:.0f} ms a pair, {ratio:.1f}x PySODMetrics')


if __name__ == '__main__':
    main()
