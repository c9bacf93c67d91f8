"""Training samples: the data set, and the loader that turns it into batches.

What a sample holds depends on the seed, the epoch and its index alone: on no global random state,
and not on the number of workers. Images travel as uint8, and `normalize` makes them the network's
input on its device. How pairs are found, checked, read and cached is in data/; its public names
are imported from here.
"""

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

import published
from data.cache import PairCache
from data.checks import check_images, check_masks, check_readable
from data.pairs import (
    Pair,
    Size,
    class_ids,
    class_names,
    find_images_in_set,
    find_pairs,
    load_pair,
    with_path,
)
from data.transforms import augment
from data.workers import worker_options
from utils import IMAGENET_MEAN, IMAGENET_STD, STRIDE, round_up

__all__ = [
    'Batch',
    'EpochSampler',
    'Pair',
    'PairCache',
    'Sample',
    'SampleKey',
    'Size',
    'TrainSet',
    'build_loader',
    'check_images',
    'check_masks',
    'check_readable',
    'class_names',
    'collate',
    'find_images_in_set',
    'find_pairs',
    'load_pair',
    'normalize',
    'random_stream',
    'to_tensor',
    'with_path',
]

logger = logging.getLogger(__name__)

if not TYPE_CHECKING:  # which would take every name for one of this module
    __getattr__ = functools.partial(published.look_up, __name__)


# --- Samples --------------------------------------------------------------------------------------


class SampleKey(NamedTuple):
    """What a sample depends on."""

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    epoch: int = 0
    size: Size | None = None  # None: the set's own


class Sample(NamedTuple):
    """One training sample, uint8."""

    image: Tensor  # uint8 (3, H, W)
    mask: Tensor  # uint8 (1, H, W)
    name: str
    class_id: int  # -1 without classes
    skipped: list[str]  # what was wrong with the pairs that this one stands in for


class Batch(NamedTuple):
    """Samples of one size, joined."""

    image: Tensor  # uint8 (B, 3, H, W)
    mask: Tensor  # uint8 (B, 1, H, W)
    names: list[str]
    class_ids: Tensor  # int64 (B,)
    skipped: list[str]


class TrainSet(Dataset):
    """Augmented training samples, or plain validation samples without `preproc_methods`.

    Args:
        pairs: what the samples are made of.
        size: (width, height) of the samples.
        preproc_methods: names of augmentations.
        background_color_synthesis: replace the background by a flat colour first.
        seed: of all random draws.
        classes: the list that class ids refer to; None: without classes.
        cache: the pairs at `size`, where they are cached.
        skip_bad: whether a pair that cannot be read is logged and the next one takes its place.
            Without it, ValueError is raised with its path.

    Raises:
        ValueError: if there are no pairs, or if a pair has a class that is not in `classes`.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: Size,
        preproc_methods: Sequence[str] = (),
        background_color_synthesis: bool = False,
        seed: int = 7,
        classes: Sequence[str] | None = None,
        cache: PairCache | None = None,
        skip_bad: bool = False,
    ):
        if not pairs:
            raise ValueError('a training set needs at least one pair')
        self.pairs = pairs
        self.size = size
        self.seed = seed
        self.cache = cache
        self.skip_bad = skip_bad
        self.augment = functools.partial(
            augment,
            methods=tuple(preproc_methods),
            background_color_synthesis=background_color_synthesis,
        )
        self.class_ids = class_ids(pairs, classes)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        if isinstance(key, int):
            key = SampleKey(key)
        size = key.size or self.size
        index, image, mask, skipped = self._load(key.index, size)
        # The random numbers are those of the sample, whichever pair stands in for it.
        rng = random_stream(self.seed, 'sample', key.epoch, key.index)
        image, mask = self.augment(image, mask, rng)
        return Sample(
            to_tensor(image),
            to_tensor(mask),
            self.pairs[index].name,
            self.class_ids[index],
            skipped,
        )

    def _load(self, index: int, size: Size) -> tuple[int, np.ndarray, np.ndarray, list[str]]:
        """Loads the pair at `index`, or with `skip_bad` the next that can be read.

        Returns:
            Its index, image and mask, and what was wrong with those before it.
        """
        skipped: list[str] = []
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                image, mask = self._load_one(candidate, size)
            except (ValueError, OSError) as error:
                problem = with_path(self.pairs[candidate].image, error)
                if not self.skip_bad:
                    raise ValueError(problem) from error
                logger.warning('skipped: %s', problem)
                skipped.append(problem)
            else:
                return candidate, image, mask, skipped
        listed = '\n  '.join(skipped)
        raise ValueError(f'not one of the {len(self)} pairs can be read:\n  {listed}')

    def _load_one(self, index: int, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask from the cache, or from their files where it does not have them."""
        pair = self.pairs[index]
        cached = None
        if self.cache and self.cache.size == size:
            cached = self.cache[pair]
        return cached or load_pair(pair, size)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Copies uint8 (H, W, 3) or (H, W) into a contiguous tensor (3, H, W) or (1, H, W)."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    planes = np.empty((channels, height, width), np.uint8)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes)


@functools.cache
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation of values up to 255, float32 (3, 1, 1) each.

    They are kept on the device, because moving them there again would synchronise every step.
    """
    values = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device) * 255
    mean, std = values.view(2, 3, 1, 1)
    return mean, std


def normalize(images: Tensor) -> Tensor:
    """Makes the network's input, float32, of uint8 (B, 3, H, W) RGB, on the same device.

    It equals that of `inference.network.Predictor` to the bit, so that validation and test agree.
    """
    mean, std = _imagenet(images.device)
    return (images.float() - mean) / std


# --- Batches --------------------------------------------------------------------------------------


class EpochSampler(Sampler[list[SampleKey]]):
    """Batches of one rank in one epoch, which depend on the arguments alone.

    Every epoch has its own shuffle, the same on all ranks. Each global batch is the next
    `batch_size * world_size` images of it, of which each rank takes its part. All ranks therefore
    have the same number of batches, and one process with the global batch sees the same images.
    The rest is dropped. A set smaller than one global batch gives one short batch.

    Args:
        n: number of training images.
        batch_size: images a rank takes in a step.
        seed: of the shuffles and sizes.
        rank: of this process.
        world_size: number of ranks.
        dynamic_size: ((w_min, w_max), (h_min, h_max)). Each global batch draws a size from it,
            multiples of 32. It is the same on every rank, because they wait for each other.

    Raises:
        ValueError: if there are fewer images than ranks, or no multiple of 32 within the limits.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        dynamic_size: tuple[tuple[int, int], tuple[int, int]] | None = None,
    ):
        # A set that is smaller than a global batch makes one short batch.
        self.per_batch = min(batch_size, n // world_size)
        if not self.per_batch:
            raise ValueError(f'{n} training image(s) are too few for {world_size} rank(s)')
        self.sides: list[range] = []
        if dynamic_size:
            self.sides = [_multiples(low, high) for low, high in dynamic_size]
        self.n = n
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batches = n // (self.per_batch * world_size)
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses the epoch that is iterated over next, from its `start_batch` on."""
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        return self.batches - self.start_batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        rng = random_stream(self.seed, 'order', epoch)
        order = rng.permutation(self.n)
        for batch in range(self.start_batch, self.batches):
            # Ranks take turns within a global batch.
            start = (batch * self.world_size + self.rank) * self.per_batch
            indices = order[start:start + self.per_batch]
            size = self._size(epoch, batch)
            yield [SampleKey(int(index), epoch, size) for index in indices]

    def _size(self, epoch: int, batch: int) -> Size | None:
        """The size of a global batch; None for the set's own."""
        if not self.sides:
            return None
        rng = random_stream(self.seed, 'size', epoch, batch)
        width, height = (int(rng.choice(sides)) for sides in self.sides)
        return width, height


def _multiples(low: int, high: int) -> range:
    """The sides from `low` to `high` that the network takes."""
    sides = range(round_up(low, STRIDE), high + 1, STRIDE)
    if not sides:
        raise ValueError(f'dynamic_size: no multiple of {STRIDE} lies in {low}..{high}')
    return sides


def random_stream(
    seed: int, purpose: Literal['order', 'size', 'sample'], *key: int,
) -> np.random.Generator:
    """Makes an independent stream of random numbers for each purpose and key."""
    streams = {'order': 0, 'size': 1, 'sample': 2}
    sequence = np.random.SeedSequence(seed, spawn_key=(streams[purpose], *key))
    return np.random.default_rng(sequence)


def collate(samples: list[Sample]) -> Batch:
    """Joins samples of one size."""
    skipped: list[str] = []
    for sample in samples:
        skipped += sample.skipped
    return Batch(
        default_collate([sample.image for sample in samples]),
        default_collate([sample.mask for sample in samples]),
        [sample.name for sample in samples],
        torch.tensor([sample.class_id for sample in samples]),
        skipped,
    )


class Loader(DataLoader):
    """A DataLoader whose workers' errors of files read as if this process had met them.

    PyTorch puts the worker's traceback into the message.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # torch names no public class
        try:
            yield from super().__iter__()
        except ValueError as error:
            _, is_of_worker, message = str(error).rpartition('\nValueError: ')
            if not is_of_worker:
                raise
            raise ValueError(message.rstrip()) from None


def build_loader(
    dataset: TrainSet,
    batches: Iterable[list[SampleKey] | list[int]],
    workers: int,
    pin_memory: bool = False,
) -> Loader:
    """Builds a loader of `Batch`es, whose contents do not depend on the number of workers.

    Args:
        dataset: the samples.
        batches: keys of each batch's samples.
        workers: number of processes; 0: this process does the work.
        pin_memory: whether batches lie in pinned memory, for faster copies to a GPU.
    """
    return Loader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        pin_memory=pin_memory,
        **worker_options(workers, preload=__name__),
    )
