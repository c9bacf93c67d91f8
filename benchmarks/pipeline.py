"""Everything around the network, for one core: `python -m benchmarks.pipeline`.

The network returns at once. The plain path decodes the picture with Pillow, reads the ground truth for its size,
resizes the mask by F.interpolate and writes it by Pillow. The second table shows how waiting for a network (on another
device: it sleeps here) overlaps with the rest.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor

from inference.masks import to_mask, write_mask
from inference.pipeline import run_pipeline
from utils import IMAGENET_MEAN, IMAGENET_STD, read_image

HEIGHT, WIDTH, SIDE, RUNS = 2000, 3000, 1024, 5
SECONDS = .1  # of the network that sleeps


def make_files(folder: Path) -> tuple[Path, Path, torch.Tensor]:
    """A picture, its ground truth, and a logit map (1, 1, SIDE, SIDE) with soft, uneven edges."""
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 3)
    pixels = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX) + rng.integers(0, 6, smooth.shape, dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'image.jpg', quality=90)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    logit = (300 - np.hypot(y, x) + 20 * np.sin(12 * np.arctan2(y, x))) / 3 + .3 * rng.standard_normal((SIDE, SIDE))
    gt = cv2.resize((logit > 0).astype(np.uint8) * 255, (WIDTH, HEIGHT))
    Image.fromarray(gt).save(folder / 'gt.png')
    return folder / 'image.jpg', folder / 'gt.png', torch.from_numpy(logit.astype(np.float32))[None, None]


def plain(image: Path, gt: Path, logit: torch.Tensor, target: Path) -> None:
    """As one writes it without thought for time."""
    picture = Image.open(image).convert('RGB').resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    normalize(to_tensor(picture), IMAGENET_MEAN, IMAGENET_STD)
    size = np.asarray(Image.open(gt)).shape
    probability = F.interpolate(logit.sigmoid(), size, mode='bilinear', align_corners=True)[0, 0]
    Image.fromarray((probability * 255).to(torch.uint8).numpy()).save(target)


def fast(image: Path, logit: torch.Tensor, target: Path) -> None:
    """The pipeline's steps, one after the other."""
    pixels = read_image(image)
    batch = torch.from_numpy(cv2.resize(pixels, (SIDE, SIDE))[None]).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
    batch.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(std)
    write_mask(target, to_mask(logit.sigmoid()[0, 0].numpy(), *pixels.shape[:2]))


def best(function: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Least milliseconds of a few runs, of processor time: other work on the machine counts less."""
    times = []
    for _ in range(RUNS):
        start = clock()
        function()
        times.append(clock() - start)
    return 1000 * min(times)


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, gt, logit = make_files(folder)
        slow = best(lambda: plain(image, gt, logit, folder / 'plain.png'))
        quick = best(lambda: fast(image, logit, folder / 'fast.png'))
        masks = [np.asarray(Image.open(folder / f'{kind}.png')).astype(int) for kind in ('plain', 'fast')]
        print(f'{WIDTH}x{HEIGHT}, one core: plain {slow:.0f} ms, fast {quick:.0f} ms: {slow / quick:.1f}x; pixels that '
              f'differ, by one: {(masks[0] != masks[1]).mean():.1e}')
        assert abs(masks[0] - masks[1]).max() <= 1

        def sleep(arrays: list[np.ndarray]) -> list[np.ndarray]:
            time.sleep(SECONDS)
            return [logit.sigmoid()[0, 0].numpy()] * len(arrays)

        def run() -> None:
            for outcome in run_pipeline(range(8), lambda i: (cv2.resize(read_image(image), (SIDE, SIDE)), None), sleep,
                                        lambda i, note, p: write_mask(folder / f'{i}.png', to_mask(p, HEIGHT, WIDTH)),
                                        workers=2):
                assert outcome.error is None
        wall = best(run, time.perf_counter) / 8
        print(f'with a network of {1000 * SECONDS:.0f} ms: {wall:.0f} ms an image, in turn '
              f'{quick + 1000 * SECONDS:.0f} ms')


if __name__ == '__main__':
    main()
