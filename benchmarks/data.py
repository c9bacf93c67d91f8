"""Seconds per training sample from 2000x3000 JPEGs at 1024: the plain path, and ours without and with a warm cache.

`python -m benchmarks.data` prints ratios of one run on one core, what a JPEG's reduced scales would cost in accuracy,
and how many workers keep a GPU fed.
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
SIZE = (1024, 1024)
SEED = 1  # with it 24 of the first 120 samples are rotated, as many as expected


def write_pairs(folder: Path, count: int, height: int = 2000, width: int = 3000) -> list[Pair]:
    """Mosaics of photographs with masks of thin structures, as JPEG and PNG."""
    photographs = [getattr(data, name)() for name in PHOTOGRAPHS]
    tile = (width // 5, height // 5)
    pairs = []
    for number in range(count):
        tiles = [[cv2.resize(photographs[(row + 2 * column + number) % 5], tile, interpolation=cv2.INTER_CUBIC)
                  for column in range(5)] for row in range(5)]
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, (width // 2, height // 2), (width // 3, height // 3), 20 * number, 0, 360, 255, -1)
        for x in range(0, width, 60):
            cv2.line(mask, (x, 0), (width - x, height), 255, 3, cv2.LINE_AA)
        pair = Pair(str(number), 'TR', folder / 'TR' / 'im' / f'{number}.jpg', folder / 'TR' / 'gt' / f'{number}.png')
        for path in (pair.image, pair.mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in tiles])).save(pair.image, quality=92)
        Image.fromarray(mask).save(pair.mask)
        pairs.append(pair)
    return pairs


def plain_sample(pair: Pair, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The usual way: OpenCV decodes and resizes, Pillow augments, torchvision makes normalised floats.

    Draws as `transforms` does, so that both rotate in the same rounds.
    """
    image = Image.fromarray(cv2.resize(cv2.cvtColor(cv2.imread(str(pair.image)), cv2.COLOR_BGR2RGB), SIZE))
    mask = Image.fromarray(cv2.resize(cv2.imread(str(pair.mask), cv2.IMREAD_GRAYSCALE), SIZE))
    if rng.random() < 0.5:
        image, mask = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, mask))
    if rng.random() < 0.2:
        angle = int(rng.integers(-15, 15))
        image, mask = (part.rotate(angle, Image.Resampling.BICUBIC) for part in (image, mask))
    for enhancer, low, high in ((ImageEnhance.Brightness, 5, 15), (ImageEnhance.Contrast, 5, 15),
                                (ImageEnhance.Color, 0, 20), (ImageEnhance.Sharpness, 0, 30)):
        image = enhancer(image).enhance(rng.integers(low, high, endpoint=True) / 10)
    pixels = np.array(image)
    for _ in range(int(0.0015 * pixels.shape[0] * pixels.shape[1])):
        pixels[random.randrange(pixels.shape[0]), random.randrange(pixels.shape[1])] = 255 * random.randrange(2)
    image = functional.normalize(functional.to_tensor(pixels), IMAGENET_MEAN, IMAGENET_STD)
    return image, functional.to_tensor(mask)


def seconds_each(samples: dict[str, Callable[[SampleKey], object]], keys: list[SampleKey]) -> dict[str, float]:
    """Mean processor seconds of a sample of each kind; kinds take turns, so that a busy machine slows all alike."""
    seconds = dict.fromkeys(samples, 0.0)
    for sample in samples.values():
        sample(keys[0])  # warms up
    for key in keys:
        for name, sample in samples.items():
            start = time.process_time()
            sample(key)
            seconds[name] += time.process_time() - start
    return {name: total / len(keys) for name, total in seconds.items()}


def reduced_scale_error(image: Path, ratio: int) -> tuple[int, float]:
    """Largest and mean difference in grey levels that decoding at 1/ratio would make to the image resized by it."""
    full, reduced = Image.open(image), Image.open(image)
    size = (full.width // ratio, full.height // ratio)
    reduced.draft('RGB', size)
    difference = np.abs(cv2.resize(np.asarray(full), size).astype(int) - cv2.resize(np.asarray(reduced), size))
    return int(difference.max()), float(difference.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=120, help='timed samples of each kind')
    parser.add_argument('--images', type=int, default=4, help='different images')
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pairs(Path(folder), arguments.images)
        cache = PairCache(pairs, SIZE, Path(folder, 'cache'))
        fresh, cached = (TrainSet(pairs, SIZE, METHODS, seed=SEED, cache=either) for either in (None, cache))
        seconds = seconds_each({
            'plain': lambda key: plain_sample(pairs[key.index], random_stream(SEED, 'sample', key.epoch, key.index)),
            'without a cache': lambda key: fresh[key],
            'with a warm cache': lambda key: cached[key],
        }, [SampleKey(number % len(pairs), number) for number in range(arguments.rounds)])
        for name, each in seconds.items():
            print(f'{name:18} {1000 * each:6.1f} ms a sample, {seconds["plain"] / each:4.1f}x')
        for name, each in list(seconds.items())[1:]:
            print(f'{name}: 8 workers on 8 cores give {8 / each:.0f} samples a second, which keeps up with steps of '
                  f'batch 4 of {1000 * 4 * each / 8:.0f} ms and more')
        for ratio in (2, 4, 8):
            largest, mean = reduced_scale_error(pairs[0].image, ratio)
            print(f'JPEG decoded at 1/{ratio}: up to {largest} grey levels off the full path, {mean:.2f} on average')


if __name__ == '__main__':
    main()
