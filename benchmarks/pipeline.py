"""Measures everything around the network, on one core: `python -m benchmarks.pipeline`.

The network returns at once. The plain path decodes the image with Pillow, resizes and normalises
it by torchvision, reads the ground truth for its size, resizes the mask by F.interpolate and
writes it by Pillow. There are two masks: of a network that is sure nearly everywhere, and of one
that is not, whose soft values take longer to compress. The last lines show how a network on
another device, here one that sleeps, overlaps with the rest.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import normalize, to_tensor

from inference.masks import encode_png, to_mask, write_mask
from inference.network import Predictor
from inference.pipeline import run_pipeline
from readers import read_image
from utils import IMAGENET_MEAN, IMAGENET_STD

HEIGHT = 2000
WIDTH = 3000
SIDE = 1024   # of the network's input
RUNS = 7
SECONDS = .1  # of the network that sleeps
IMAGES = 16   # through the pipeline with that network


class Files(NamedTuple):
    """The input of both paths."""

    image: Path
    gt: Path


# --- Inputs -------------------------------------------------------------------------------------


def make_files(folder: Path) -> tuple[Files, dict[str, Tensor]]:
    """Writes an image and its ground truth.

    Returns:
        Both files, and logits (1, 1, SIDE, SIDE) of a sure and of an unsure network.
    """
    rng = np.random.default_rng(0)
    files = Files(folder / 'image.jpg', folder / 'gt.png')

    # A smooth image with a little grain.
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    grain = rng.integers(0, 6, smooth.shape, dtype=np.uint8)
    stretched = cv2.normalize(smooth, np.empty_like(smooth), 0, 255, cv2.NORM_MINMAX)
    pixels = stretched + grain
    Image.fromarray(pixels).save(files.image, quality=90)

    # A star with wavy edges.
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angle = np.arctan2(y, x)
    radius = 300 + 20 * np.sin(12 * angle)
    distance_to_edge = radius - np.hypot(y, x)
    noise_of_logits = rng.standard_normal((SIDE, SIDE))
    sure = distance_to_edge / 3 + .3 * noise_of_logits
    is_inside = sure > 0
    inside = is_inside.astype(np.uint8) * 255
    gt = cv2.resize(inside, (WIDTH, HEIGHT))
    Image.fromarray(gt).save(files.gt)

    # The same star with doubts everywhere, as of a network that has hardly trained.
    white = rng.standard_normal((SIDE, SIDE))
    texture = cv2.GaussianBlur(white, (0, 0), 4)
    doubt = .4 * texture / texture.std()
    unsure = np.clip(sure / 8, -4, 4) + doubt
    logits = {
        'sure': _logit(sure),
        'unsure': _logit(unsure),
    }
    return files, logits


def _logit(values: np.ndarray) -> Tensor:
    array = values.astype(np.float32)
    return torch.from_numpy(array)[None, None]


# --- Both paths ---------------------------------------------------------------------------------


def plain(files: Files, logit: Tensor, target: Path) -> None:
    """The path as one writes it without thought for time."""
    # The network's input.
    image = Image.open(files.image).convert('RGB')
    resized = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    normalize(to_tensor(resized), IMAGENET_MEAN, IMAGENET_STD)

    # From its output to a file.
    gt = np.asarray(Image.open(files.gt))
    probability = F.interpolate(logit.sigmoid(), gt.shape, mode='bilinear', align_corners=True)
    levels = probability[0, 0] * 255
    mask = levels.to(torch.uint8)
    Image.fromarray(mask.numpy()).save(target)


def fast(files: Files, predictor: Predictor, target: Path) -> None:
    """The pipeline's steps, one after the other."""
    pixels = read_image(files.image)
    small = cv2.resize(pixels, (SIDE, SIDE))
    probability, = predictor([small])
    height, width = pixels.shape[:2]
    mask = to_mask(probability, height, width)
    write_mask(target, mask)


def steps(image: Path, predictor: Predictor, target: Path) -> dict[str, Callable[[], object]]:
    """The steps of the fast path, to be measured one by one."""
    pixels = read_image(image)
    small = cv2.resize(pixels, (SIDE, SIDE))
    probability, = predictor([small])
    mask = to_mask(probability, HEIGHT, WIDTH)
    return {
        'decode': lambda: read_image(image),
        'resize': lambda: cv2.resize(pixels, (SIDE, SIDE)),
        'normalise, sigmoid': lambda: predictor([small]),
        'to the size of the image': lambda: to_mask(probability, HEIGHT, WIDTH),
        'PNG': lambda: encode_png(mask),
        'PNG, written': lambda: write_mask(target, mask),
    }


# --- Measuring ----------------------------------------------------------------------------------


def milliseconds(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least processor time of a few runs in turn, as other work on the machine counts less."""
    best = dict.fromkeys(functions, float('inf'))
    for _ in range(RUNS):
        for name, function in functions.items():
            start = time.process_time()
            function()
            spent = 1000 * (time.process_time() - start)
            best[name] = min(best[name], spent)
    return best


def compare(name: str, files: Files, logit: Tensor) -> float:
    """Prints how both paths compare, and returns the milliseconds of the fast one."""
    # The network is a constant: only the path around it is measured.
    predictor = Predictor(lambda batch: [logit])
    plain_target = files.image.with_name('plain.png')
    fast_target = files.image.with_name('fast.png')
    spent = milliseconds({
        'plain': lambda: plain(files, logit, plain_target),
        'fast': lambda: fast(files, predictor, fast_target),
    })

    # Both must write the same mask, but for rounding.
    plain_mask = np.asarray(Image.open(plain_target)).astype(int)
    fast_mask = np.asarray(Image.open(fast_target)).astype(int)
    difference = abs(plain_mask - fast_mask)
    assert difference.max() <= 1

    share = (difference > 0).mean()
    ratio = spent['plain'] / spent['fast']
    plain_size = plain_target.stat().st_size >> 10
    fast_size = fast_target.stat().st_size >> 10
    print(f'{name}: plain {spent["plain"]:.0f} ms, fast {spent["fast"]:.0f} ms: {ratio:.1f}x; '
          f'PNG of {plain_size} and {fast_size} KiB; '
          f'pixels that differ, by one: {share:.1e}')

    # Where the time of the fast one goes.
    spent_steps = milliseconds(steps(files.image, predictor, fast_target))
    cells = [f'{step} {value:.1f}' for step, value in spent_steps.items()]
    print('   ' + ', '.join(cells))
    return spent['fast']


def overlap(image: Path, logit: Tensor, workers: int) -> float:
    """Wall-clock milliseconds an image, with a network that sleeps."""
    probability = logit.sigmoid()[0, 0].numpy()

    # The three parts of the pipeline: only the middle one is not the real one.
    def read(_: int) -> tuple[np.ndarray, None]:
        pixels = read_image(image)
        return cv2.resize(pixels, (SIDE, SIDE)), None

    def sleep(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(SECONDS)
        return [probability] * len(arrays)

    def write(number: int, _: None, found: np.ndarray) -> None:
        mask = to_mask(found, HEIGHT, WIDTH)
        write_mask(image.with_name(f'{number}.png'), mask)

    start = time.perf_counter()
    for outcome in run_pipeline(range(IMAGES), read, sleep, write, workers=workers):
        assert outcome.error is None
    seconds = time.perf_counter() - start
    return 1000 * seconds / IMAGES


def main() -> None:
    """Prints times and ratios."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        files, logits = make_files(Path(folder))
        size = files.image.stat().st_size >> 10
        print(f'{WIDTH}x{HEIGHT}, JPEG of {size} KiB, one core')
        alone = {name: compare(name, files, logit) for name, logit in logits.items()}

        # How much of the path hides behind the network.
        network = 1000 * SECONDS
        in_turn = alone['unsure'] + network
        for workers in (1, 2):
            each = overlap(files.image, logits['unsure'], workers)
            print(f'with a network of {network:.0f} ms, {workers} thread(s) around it: '
                  f'{each:.0f} ms an image; in turn it would be {in_turn:.0f} ms')


if __name__ == '__main__':
    main()
