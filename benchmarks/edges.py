"""What `--alpha-matting` costs and gives: `python -m benchmarks.edges [--network]`.

The input is a composite of a known foreground: a photograph, behind a mask of hair round a disc,
over another photograph. Printed is the mean error of the colour where the mask is soft, in levels
of 255: of the foreground's colour itself, and of the cut-out over white and over green, with the
true mask and with one that is off as a network's is. Without a method the colour is the
composite's own. `--network` adds the seconds of swin_v1_t at 1024x1024, of random weights.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import skimage.data
import torch

from config import Config
from inference.compose import over
from inference.edges import MATTING, estimate_foreground
from inference.network import Predictor
from models import build_birefnet, optimize

HEIGHT = 2000
WIDTH = 3000
FINER = 2  # masks are drawn so many times as large, and averaged
HAIRS = 600
BACKDROPS = {'white': (255, 255, 255), 'green': (0, 180, 60)}


def hair_mask(rng: np.random.Generator) -> np.ndarray:
    """A disc with hairs of one to three pixels, uint8 (HEIGHT, WIDTH)."""
    # The disc, at a finer scale, so that edges get soft.
    height = FINER * HEIGHT
    width = FINER * WIDTH
    canvas = np.zeros((height, width), np.uint8)
    centre = np.array([width, height]) / 2
    radius = .25 * height
    cv2.circle(canvas, centre.astype(int).tolist(), int(radius), 255, -1)

    # Hairs start inside of it, and bend the more the farther out.
    start = .9
    for angle in rng.uniform(0, 2 * np.pi, HAIRS):
        end = rng.uniform(1.2, 1.8)
        along = np.linspace(start, end, 30)
        bend = rng.normal(0, .3)
        angles = angle + bend * (along - start) ** 2
        directions = np.stack((np.cos(angles), np.sin(angles)), 1)
        points = centre + radius * along[:, None] * directions

        hair = points.astype(np.int32)
        thickness = int(rng.integers(2, 7))
        cv2.polylines(canvas, [hair], False, 255, thickness)
    return cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def photograph(pixels: np.ndarray) -> np.ndarray:
    """A photograph at the size of the composite."""
    return cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def seconds(function: Callable[[], object], runs: int = 3) -> float:
    """The least wall-clock seconds of a few runs, after one that is not counted."""
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def errors(
    colour: np.ndarray,
    mask: np.ndarray,
    foreground: np.ndarray,
    truth: np.ndarray,
) -> list[float]:
    """Mean errors where the true mask is soft: of the colour, and over each backdrop."""
    # What is compared with what.
    pairs = [(colour, foreground)]
    for flat in BACKDROPS.values():
        backdrop = np.full_like(foreground, flat)
        found = over(colour, mask, backdrop)
        expected = over(foreground, truth, backdrop)
        pairs.append((found, expected))

    soft = (truth > 12) & (truth < 243)
    means = []
    for found, expected in pairs:
        difference = np.abs(found.astype(np.int16) - expected)
        means.append(float(difference[soft].mean()))
    return means


def network_seconds() -> float:
    """Seconds of swin_v1_t for one image of 1024x1024."""
    config = Config(bb='swin_v1_t')
    model = build_birefnet(config).eval()
    predictor = Predictor(optimize(model))
    image = np.zeros((1024, 1024, 3), np.uint8)
    return seconds(lambda: predictor([image]), 2)


def print_errors(
    name: str,
    image: np.ndarray,
    mask: np.ndarray,
    foreground: np.ndarray,
    truth: np.ndarray,
) -> None:
    """Prints the errors with one mask: without a method, and with each, with its time."""
    def cells(colour: np.ndarray) -> str:
        values = errors(colour, mask, foreground, truth)
        return ' '.join(f'{value:.1f}' for value in values)

    print(f'{name}: without {cells(image)}')
    for method in MATTING:
        estimate = partial(estimate_foreground, image, mask, method)
        colour = estimate()
        spent = seconds(estimate)
        print(f'   {method} {cells(colour)}, {1000 * spent:.0f} ms')


def main() -> None:
    """Prints errors and times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', action='store_true', help='time the network too')
    arguments = parser.parse_args()

    # A composite whose foreground and mask are known.
    foreground = photograph(skimage.data.coffee())
    background = photograph(skimage.data.astronaut())
    truth = hair_mask(np.random.default_rng(0))
    image = over(foreground, truth, background)
    blurred = cv2.GaussianBlur(truth, (0, 0), 1)

    is_soft = (truth > 0) & (truth < 255)
    soft = is_soft.mean()
    threads = torch.get_num_threads()
    backdrops = ', over '.join(BACKDROPS)
    print(f'{WIDTH}x{HEIGHT}, {soft:.1%} of the pixels soft, {threads} threads; '
          f'errors of the colour, over {backdrops}')
    print_errors('true mask', image, truth, foreground, truth)
    print_errors('mask blurred by 1 pixel', image, blurred, foreground, truth)
    if arguments.network:
        print(f'swin_v1_t at 1024x1024: {1000 * network_seconds():.0f} ms')


if __name__ == '__main__':
    main()
