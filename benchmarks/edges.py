"""What `--alpha-matting` costs and gives: `python -m benchmarks.edges [--network]`.

Composites of a known foreground: a photograph, behind a mask of hair round a disc, over another photograph. Printed is
the mean error of the colour where the mask is soft, in levels of 255: of the foreground's colour itself, and of the
cut-out over white and over green, with the true mask and with one that is off as a network's is. Without a method the
colour is the composite's own. `--network` adds the seconds of swin_v1_t at 1024x1024, of random weights.
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import skimage.data
import torch

from config import Config
from inference.compose import over
from inference.edges import MATTING, estimate_foreground
from inference.network import Predictor
from models import build_birefnet, optimize

HEIGHT, WIDTH, FINER, HAIRS = 2000, 3000, 2, 600
BACKDROPS = {'white': (255, 255, 255), 'green': (0, 180, 60)}


def hair_mask(rng: np.random.Generator) -> np.ndarray:
    """(HEIGHT, WIDTH), uint8: a disc with hairs of one to three pixels, drawn larger and averaged."""
    canvas = np.zeros((FINER * HEIGHT, FINER * WIDTH), np.uint8)
    centre, radius = np.array([WIDTH, HEIGHT]) * FINER / 2, .25 * HEIGHT * FINER
    cv2.circle(canvas, centre.astype(int).tolist(), int(radius), 255, -1)
    for angle in rng.uniform(0, 2 * np.pi, HAIRS):
        along = np.linspace(.9, rng.uniform(1.2, 1.8), 30)
        bent = angle + rng.normal(0, .3) * (along - .9) ** 2
        points = centre + radius * along[:, None] * np.stack((np.cos(bent), np.sin(bent)), 1)
        cv2.polylines(canvas, [points.astype(np.int32)], False, 255, int(rng.integers(2, 7)))
    return cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def seconds(function: Callable[[], object], runs: int = 3) -> float:
    """The least of a few runs, of the clock, when everything has been used once."""
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def errors(colour: np.ndarray, mask: np.ndarray, foreground: np.ndarray, truth: np.ndarray) -> list[float]:
    """Mean errors where the true mask is soft: of the colour, and over each backdrop."""
    soft = (truth > 12) & (truth < 243)
    pairs = [(colour, foreground)]
    for flat in BACKDROPS.values():
        backdrop = np.full_like(foreground, flat)
        pairs.append((over(colour, mask, backdrop), over(foreground, truth, backdrop)))
    return [float(np.abs(a.astype(np.int16) - b)[soft].mean()) for a, b in pairs]


def network_seconds() -> float:
    model = optimize(build_birefnet(Config(bb='swin_v1_t')).eval())
    image = np.zeros((1024, 1024, 3), np.uint8)
    return seconds(lambda: Predictor(model)([image]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', action='store_true', help='time the network too')
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    foreground, background = (cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
                              for picture in (skimage.data.coffee(), skimage.data.astronaut()))
    truth = hair_mask(rng)
    image = over(foreground, truth, background)
    masks = {'true mask': truth, 'mask blurred by 1 pixel': cv2.GaussianBlur(truth, (0, 0), 1)}
    print(f'{WIDTH}x{HEIGHT}, {((truth > 0) & (truth < 255)).mean():.1%} of the pixels soft, {torch.get_num_threads()} '
          f'threads; errors of the colour, over {", over ".join(BACKDROPS)}')
    for name, mask in masks.items():
        print(f'{name}: without ' + ' '.join(f'{error:.1f}' for error in errors(image, mask, foreground, truth)))
        for method in MATTING:
            colour = estimate_foreground(image, mask, method)
            spent = seconds(lambda mask=mask, method=method: estimate_foreground(image, mask, method))
            print(f'   {method} ' + ' '.join(f'{error:.1f}' for error in errors(colour, mask, foreground, truth)) +
                  f', {1000 * spent:.0f} ms')
    if arguments.network:
        print(f'swin_v1_t at 1024x1024: {1000 * network_seconds():.0f} ms')


if __name__ == '__main__':
    main()
