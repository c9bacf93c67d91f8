"""Everything around the network, for one core: `python -m benchmarks.pipeline`.

The network returns at once. The plain path decodes the picture with Pillow, resizes and normalises it by torchvision,
reads the ground truth for its size, resizes the mask by F.interpolate and writes it by Pillow. Two masks: one of a
network that is sure nearly everywhere, and one of a network that is not, whose soft values take longer to compress.
The last lines show how a network (on another device: it sleeps here) overlaps with the rest.
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
from torch import Tensor
from torchvision.transforms.functional import normalize, to_tensor

from inference.masks import encode_png, to_mask, write_mask
from inference.network import Predictor
from inference.pipeline import run_pipeline
from utils import IMAGENET_MEAN, IMAGENET_STD, read_image

HEIGHT, WIDTH, SIDE, RUNS = 2000, 3000, 1024, 7
SECONDS = .1  # of the network that sleeps


def make_files(folder: Path) -> tuple[Path, Path, dict[str, Tensor]]:
    """A picture, its ground truth, and logits (1, 1, SIDE, SIDE) of a sure and of an unsure network."""
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 3)
    pixels = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX) + rng.integers(0, 6, smooth.shape, dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'image.jpg', quality=90)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    sure = (300 - np.hypot(y, x) + 20 * np.sin(12 * np.arctan2(y, x))) / 3 + .3 * rng.standard_normal((SIDE, SIDE))
    gt = cv2.resize((sure > 0).astype(np.uint8) * 255, (WIDTH, HEIGHT))
    Image.fromarray(gt).save(folder / 'gt.png')
    texture = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)), (0, 0), 4)
    unsure = np.clip(sure / 8, -4, 4) + .4 * texture / texture.std()
    logits = {'sure': sure, 'unsure': unsure}
    return folder / 'image.jpg', folder / 'gt.png', {
        name: torch.from_numpy(values.astype(np.float32))[None, None] for name, values in logits.items()}


def plain(image: Path, gt: Path, logit: Tensor, target: Path) -> None:
    """As one writes it without thought for time."""
    picture = Image.open(image).convert('RGB').resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    normalize(to_tensor(picture), IMAGENET_MEAN, IMAGENET_STD)
    size = np.asarray(Image.open(gt)).shape
    probability = F.interpolate(logit.sigmoid(), size, mode='bilinear', align_corners=True)[0, 0]
    Image.fromarray((probability * 255).to(torch.uint8).numpy()).save(target)


def fast(image: Path, predictor: Predictor, target: Path) -> None:
    """The pipeline's steps, one after the other."""
    pixels = read_image(image)
    probability = predictor([cv2.resize(pixels, (SIDE, SIDE))])[0]
    write_mask(target, to_mask(probability, *pixels.shape[:2]))


def milliseconds(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least of a few runs in turn, of processor time: other work on the machine counts less."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(RUNS):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(1000 * (time.process_time() - start))
    return {name: min(values) for name, values in times.items()}


def steps(image: Path, predictor: Predictor, target: Path) -> dict[str, Callable[[], object]]:
    """Each step of the fast path by itself."""
    pixels = read_image(image)
    small = cv2.resize(pixels, (SIDE, SIDE))
    probability = predictor([small])[0]
    mask = to_mask(probability, HEIGHT, WIDTH)
    return {'decode': lambda: read_image(image), 'resize': lambda: cv2.resize(pixels, (SIDE, SIDE)),
            'normalise, sigmoid': lambda: predictor([small]), 'to the size of the image':
            lambda: to_mask(probability, HEIGHT, WIDTH), 'PNG': lambda: encode_png(mask),
            'PNG, written': lambda: write_mask(target, mask)}


def compare(name: str, image: Path, gt: Path, logit: Tensor) -> float:
    """Prints how both paths compare, and returns the milliseconds of the fast one."""
    predictor = Predictor(lambda batch: [logit])
    targets = {kind: image.with_name(f'{kind}.png') for kind in ('plain', 'fast')}
    spent = milliseconds({'plain': lambda: plain(image, gt, logit, targets['plain']),
                          'fast': lambda: fast(image, predictor, targets['fast'])})
    masks = [np.asarray(Image.open(target)).astype(int) for target in targets.values()]
    assert abs(masks[0] - masks[1]).max() <= 1
    print(f'{name}: plain {spent["plain"]:.0f} ms, fast {spent["fast"]:.0f} ms: {spent["plain"] / spent["fast"]:.1f}x; '
          f'PNG of {targets["plain"].stat().st_size >> 10} and {targets["fast"].stat().st_size >> 10} KiB; pixels that '
          f'differ, by one: {(masks[0] != masks[1]).mean():.1e}')
    print('   ' + ', '.join(f'{step} {value:.1f}' for step, value in
                            milliseconds(steps(image, predictor, targets['fast'])).items()))
    return spent['fast']


def overlap(image: Path, logit: Tensor, workers: int) -> float:
    """Milliseconds an image, of the clock, with a network that sleeps."""
    probability = logit.sigmoid()[0, 0].numpy()

    def sleep(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(SECONDS)
        return [probability] * len(arrays)

    start = time.perf_counter()
    for outcome in run_pipeline(range(16), lambda _: (cv2.resize(read_image(image), (SIDE, SIDE)), None), sleep,
                                lambda i, _, p: write_mask(image.with_name(f'{i}.png'), to_mask(p, HEIGHT, WIDTH)),
                                workers=workers):
        assert outcome.error is None
    return 1000 * (time.perf_counter() - start) / 16


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        image, gt, logits = make_files(Path(name))
        print(f'{WIDTH}x{HEIGHT}, JPEG of {image.stat().st_size >> 10} KiB, one core')
        alone = {kind: compare(kind, image, gt, logit) for kind, logit in logits.items()}
        for workers in (1, 2):
            print(f'with a network of {1000 * SECONDS:.0f} ms, {workers} thread(s) around it: '
                  f'{overlap(image, logits["unsure"], workers):.0f} ms an image; in turn it would be '
                  f'{alone["unsure"] + 1000 * SECONDS:.0f} ms')


if __name__ == '__main__':
    main()
