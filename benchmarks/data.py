"""Seconds per training sample from 2000x3000 JPEGs at 1024: plain, and ours with and without cache.

`python -m benchmarks.data` prints ratios of one run on one core, what a JPEG's reduced scales would
cost in accuracy, and how many workers keep a GPU fed.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance
from skimage import data
from torchvision.transforms import functional

from dataset import Pair, PairCache, SampleKey, TrainSet, random_stream
from utils import IMAGENET_MEAN, IMAGENET_STD

METHODS = ('flip', 'rotate', 'enhance', 'pepper')
PHOTOGRAPHS = ('astronaut', 'coffee', 'chelsea', 'rocket', 'retina')
HEIGHT = 2000
WIDTH = 3000
GRID = 5  # tiles in a row and in a column of a mosaic
SIZE = (1024, 1024)
SEED = 1  # with it 24 of the first 120 samples are rotated, as many as expected
WORKERS = 8
BATCH = 4

# Lowest and highest factor of each, in tenths.
ENHANCERS = (
    (ImageEnhance.Brightness, 5, 15),
    (ImageEnhance.Contrast, 5, 15),
    (ImageEnhance.Color, 0, 20),
    (ImageEnhance.Sharpness, 0, 30),
)


# --- Pairs --------------------------------------------------------------------------------------


def write_pairs(folder: Path, count: int) -> list[Pair]:
    """Writes mosaics of photographs with masks of thin structures, as JPEG and PNG."""
    photographs = [getattr(data, name)() for name in PHOTOGRAPHS]
    images = folder / 'TR' / 'im'
    masks = folder / 'TR' / 'gt'
    images.mkdir(parents=True)
    masks.mkdir(parents=True)

    pairs = []
    for number in range(count):
        pair = Pair(str(number), 'TR', images / f'{number}.jpg', masks / f'{number}.png')
        Image.fromarray(make_mosaic(photographs, number)).save(pair.image, quality=92)
        Image.fromarray(make_mask(number)).save(pair.mask)
        pairs.append(pair)
    return pairs


def make_mosaic(photographs: list[np.ndarray], number: int) -> np.ndarray:
    """Small photographs side by side, in an order of the image's own, uint8 (HEIGHT, WIDTH, 3)."""
    size = (WIDTH // GRID, HEIGHT // GRID)
    rows = []
    for row in range(GRID):
        tiles = []
        for column in range(GRID):
            index = (row + 2 * column + number) % len(photographs)
            photograph = photographs[index]
            tiles.append(cv2.resize(photograph, size, interpolation=cv2.INTER_CUBIC))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def make_mask(number: int) -> np.ndarray:
    """An ellipse under crossing lines, uint8 (HEIGHT, WIDTH)."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    centre = (WIDTH // 2, HEIGHT // 2)
    axes = (WIDTH // 3, HEIGHT // 3)
    angle = 20 * number
    cv2.ellipse(mask, centre, axes, angle, 0, 360, 255, -1)

    for x in range(0, WIDTH, 60):
        top = (x, 0)
        bottom = (WIDTH - x, HEIGHT)
        cv2.line(mask, top, bottom, 255, 3, cv2.LINE_AA)
    return mask


# --- The plain path -----------------------------------------------------------------------------


def plain_sample(pair: Pair, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The usual way: OpenCV decodes and resizes, Pillow augments, torchvision normalises.

    Draws random numbers as `data.transforms` does, so that both rotate in the same rounds.
    """
    # Read and resized.
    bgr = cv2.imread(str(pair.image))
    grey = cv2.imread(str(pair.mask), cv2.IMREAD_GRAYSCALE)
    assert bgr is not None, pair.image
    assert grey is not None, pair.mask
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    image = Image.fromarray(cv2.resize(rgb, SIZE))
    mask = Image.fromarray(cv2.resize(grey, SIZE))

    # The augmentations, by Pillow.
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.2:
        angle = int(rng.integers(-15, 15))
        image = image.rotate(angle, Image.Resampling.BICUBIC)
        mask = mask.rotate(angle, Image.Resampling.BICUBIC)
    for enhancer, low, high in ENHANCERS:
        factor = rng.integers(low, high, endpoint=True) / 10
        image = enhancer(image).enhance(factor)

    # The tensors.
    pixels = np.array(image)
    _pepper(pixels)
    tensor = functional.to_tensor(pixels)
    normalised = functional.normalize(tensor, IMAGENET_MEAN, IMAGENET_STD)
    return normalised, functional.to_tensor(mask)


def _pepper(pixels: np.ndarray) -> None:
    """Sets single pixels to black or white, in place."""
    height, width = pixels.shape[:2]
    count = int(0.0015 * height * width)
    for _ in range(count):
        y = random.randrange(height)
        x = random.randrange(width)
        pixels[y, x] = 255 * random.randrange(2)


# --- Measuring ----------------------------------------------------------------------------------


def seconds_each(
    samples: dict[str, Callable[[SampleKey], object]],
    keys: list[SampleKey],
) -> dict[str, float]:
    """Mean processor seconds of a sample of each kind.

    The kinds take turns, so that a busy machine slows all alike.
    """
    totals = dict.fromkeys(samples, 0.0)
    for sample in samples.values():
        sample(keys[0])  # warms up
    for key in keys:
        for name, sample in samples.items():
            start = time.process_time()
            sample(key)
            totals[name] += time.process_time() - start
    return {name: total / len(keys) for name, total in totals.items()}


def reduced_scale_error(image: Path, ratio: int) -> tuple[int, float]:
    """The error of decoding at 1/ratio against resizing the whole image by it, in grey levels.

    Returns:
        The largest and the mean difference.
    """
    full = Image.open(image)
    size = (full.width // ratio, full.height // ratio)
    expected = cv2.resize(np.asarray(full), size).astype(int)

    reduced = Image.open(image)
    reduced.draft('RGB', size)
    found = cv2.resize(np.asarray(reduced), size)
    difference = np.abs(expected - found)
    return int(difference.max()), float(difference.mean())


def print_seconds(seconds: dict[str, float]) -> None:
    """Prints times, ratios, and the steps of a GPU that so many workers keep up with."""
    for name, each in seconds.items():
        ratio = seconds['plain'] / each
        print(f'{name:18} {1000 * each:6.1f} ms a sample, {ratio:4.1f}x')
    for name, each in seconds.items():
        if name == 'plain':
            continue
        rate = WORKERS / each
        step = 1000 * BATCH / rate
        print(f'{name}: {WORKERS} workers on {WORKERS} cores give {rate:.0f} samples a second, '
              f'which keeps up with steps of batch {BATCH} of {step:.0f} ms and more')


def main() -> None:
    """Prints times and errors."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=120, help='timed samples of each kind')
    parser.add_argument('--images', type=int, default=4, help='different images')
    arguments = parser.parse_args()

    # One thread, as each worker of a data loader has.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pairs(Path(folder), arguments.images)
        cache = PairCache(pairs, SIZE, Path(folder, 'cache'))
        fresh = TrainSet(pairs, SIZE, METHODS, seed=SEED)
        cached = TrainSet(pairs, SIZE, METHODS, seed=SEED, cache=cache)

        def plain(key: SampleKey) -> object:
            rng = random_stream(SEED, 'sample', key.epoch, key.index)
            return plain_sample(pairs[key.index], rng)

        samples = {
            'plain': plain,
            'without a cache': fresh.__getitem__,
            'with a warm cache': cached.__getitem__,
        }
        keys = [SampleKey(number % len(pairs), number) for number in range(arguments.rounds)]
        print_seconds(seconds_each(samples, keys))

        # What the reduced decoding costs in precision.
        for ratio in (2, 4, 8):
            largest, mean = reduced_scale_error(pairs[0].image, ratio)
            print(f'JPEG decoded at 1/{ratio}: up to {largest} grey levels off the full path, '
                  f'{mean:.2f} on average')


if __name__ == '__main__':
    main()
