"""Pairs of image and mask, the training and test sets, and the loader that turns them into batches.

What a sample holds depends on the seed, the epoch and its index alone: on no global random state, and not on the
number of workers. Images travel as uint8, and `normalize` makes them the network's input on its device.
"""

import atexit
import functools
import hashlib
import logging
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import signal
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from cache import SharedCache
from transforms import augment
from utils import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_PIXELS,
    STOP_SIGNALS,
    STRIDE,
    find_images,
    open_header,
    open_image,
    read_image,
    read_mask,
)

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # (width, height)


class Pair(NamedTuple):
    """An image with its mask; `name` is the mask's file stem."""

    name: str
    set: str
    image: Path
    mask: Path


# ------------------------------------------------------------------------------------------------ finding and checking

def find_pairs(data_root: str | Path, task: str, sets: Sequence[str]) -> list[Pair]:
    """Pairs `<set>/im/<stem>.*` and `<set>/gt/<stem>.*` of the sets, in their order, each set sorted by stem.

    Raises one ValueError that lists every offender by path: a missing or empty folder, a set named twice, an image
    without mask, a mask without image, several files of one stem.
    """
    pairs, problems = [], [f'{name}: named more than once' for name in dict.fromkeys(sets) if sets.count(name) > 1]
    for name in dict.fromkeys(sets):
        folder = Path(data_root, task, name)
        images, masks = _by_stem(folder / 'im', problems), _by_stem(folder / 'gt', problems)
        if images and masks:
            problems += [f'{path}: no mask of that name in {folder / "gt"}'
                         for stem, path in images.items() if stem not in masks]
            problems += [f'{path}: no image of that name in {folder / "im"}'
                         for stem, path in masks.items() if stem not in images]
        pairs += [Pair(masks[stem].stem, name, images[stem], masks[stem]) for stem in images if stem in masks]
    _raise_all(problems)
    return pairs


def find_images_in_set(data_root: str | Path, task: str, name: str) -> list[Path]:
    """Images of a test set, whose masks are not needed, sorted by stem. Errors as `find_pairs`."""
    problems: list[str] = []
    images = _by_stem(Path(data_root, task, name, 'im'), problems)
    _raise_all(problems)
    return list(images.values())


def _by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Image files of a folder by their stem, sorted; what is wrong with them is added to `problems`."""
    if not folder.is_dir():
        problems.append(f'{folder}: no such folder')
        return {}
    files = defaultdict(list)
    for path in find_images(folder):
        files[unicodedata.normalize('NFC', path.stem)].append(path)  # macOS may have stored one of a pair decomposed
    if not files:
        problems.append(f'{folder}: holds no images')
    problems += [f'{path}: {len(same)} files of one stem' for same in files.values() if len(same) > 1 for path in same]
    return {stem: files[stem][0] for stem in sorted(files)}


def check_readable(pairs: Sequence[Pair], workers: int = 8, full: bool = False) -> None:
    """Checks that all images and masks can be read, as `check_images`, and warns of pairs that differ in shape.

    An image and its mask may differ in size, but if their aspect ratios do (by over 2%), the mask is probably another
    image's, or was drawn before the image was rotated.
    """
    sizes = check_images([path for pair in pairs for path in (pair.image, pair.mask)], workers, full)
    askew = [f'{pair.image}: {w}x{h}, its mask {pair.mask}: {mask_w}x{mask_h}'
             for pair, (w, h), (mask_w, mask_h) in zip(pairs, sizes[::2], sizes[1::2], strict=True)
             if abs(w * mask_h - h * mask_w) > 0.02 * w * mask_h]
    if askew:
        warnings.warn(f'{len(askew)} images and masks differ in aspect ratio:\n  ' + '\n  '.join(askew))


def check_images(files: Sequence[Path], workers: int = 8, full: bool = False) -> list[Size]:
    """Checks that all `files` are readable images, and returns their (width, height), upright.

    JPEG and PNG files pass by their header and their end marker, unless `full`; all others are decoded.
    Raises one ValueError that lists every unreadable or truncated file.
    """
    def check(path: Path) -> Size | str:
        try:
            return (None if full else _size_by_header(path)) or open_image(path).size
        except (ValueError, OSError) as error:
            return with_path(path, error)

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(check, files))
    _raise_all([result for result in results if isinstance(result, str)])
    return results


def _size_by_header(path: Path) -> Size | None:
    """(width, height), upright, of an image that its header and its last bytes say is whole; else None."""
    with open(path, 'rb') as file:
        header, orientation = open_header(file) or (None, 0)
        if header is None or header.width * header.height > MAX_PIXELS:
            return None
        return header.size[::-1] if orientation >= 5 else header.size


def with_path(path: Path, error: Exception) -> str:
    """The error's message, which names the path if it is ours and may not if it is the operating system's."""
    return str(error) if isinstance(error, ValueError) else f'{path}: {error}'


def _raise_all(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError(f'{len(problems)} problem(s) in the data:\n  ' + '\n  '.join(problems))


def class_names(pairs: Iterable[Pair]) -> list[str]:
    """Sorted classes of a DIS5K-like set, for auxiliary classification: the 4th '#'-separated field of each name.

    Raises ValueError that lists every image whose name has no such field.
    """
    pairs = list(pairs)
    _raise_all([f'{pair.image}: has no class, the 4th #-separated field of its name' for pair in pairs
                if _class_name(pair) is None])
    return sorted({_class_name(pair) for pair in pairs})


def _class_name(pair: Pair) -> str | None:
    fields = pair.name.split('#')
    return fields[3] if len(fields) > 3 else None


# ---------------------------------------------------------------------------------------------------------------- sets

def load_pair(pair: Pair, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8 (H, W, 3) RGB, and mask, uint8 (H, W), both resized to `size` by OpenCV's INTER_LINEAR.

    A JPEG's reduced scales are not used: INTER_LINEAR takes 2x2 pixels wherever it lands, a reduced scale the mean of
    whole blocks, and on photographs the two differ by dozens of grey levels at every ratio (benchmarks/data.py).
    """
    return cv2.resize(read_image(pair.image), size), cv2.resize(read_mask(pair.mask), size)


class PairCache:
    """All pairs resized to one size, in one memory-mapped file per set, shared by all processes of a machine."""

    def __init__(self, pairs: Sequence[Pair], size: Size, cache_dir: str | Path, workers: int = 8,
                 skip_bad: bool = False):
        """Builds what is missing; whoever comes second waits. Errors as `SharedCache.build`.

        `pairs` are all of their sets: a shorter list would replace the file of a longer one.
        """
        self.size = size
        by_set = defaultdict(list)
        for pair in pairs:
            by_set[pair.set, pair.image.parents[1].resolve()].append(pair)
        self._place: dict[Pair, tuple[SharedCache, int]] = {}
        for (name, folder), members in by_set.items():
            digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]  # sets of several tasks may share a name
            cache = SharedCache(Path(cache_dir, f'{name}-{size[0]}x{size[1]}-{digest}.cache'),
                                [(pair.image, pair.mask) for pair in members], 4 * size[0] * size[1])
            cache.build(lambda row, members=members: self._record(members[row]), workers, skip_bad)
            self._place.update({pair: (cache, row) for row, pair in enumerate(members)})

    def _record(self, pair: Pair) -> np.ndarray:
        return np.concatenate([pixels.ravel() for pixels in load_pair(pair, self.size)])

    def __getitem__(self, pair: Pair) -> tuple[np.ndarray, np.ndarray] | None:
        """Read-only image and mask as of `load_pair`, or None if that pair could not be read."""
        cache, row = self._place[pair]
        record = cache[row]
        if record is None:
            return None
        width, height = self.size
        pixels = width * height
        return record[:3 * pixels].reshape(height, width, 3), record[3 * pixels:].reshape(height, width)


class SampleKey(NamedTuple):
    """What a sample depends on. `size` None is the set's own."""

    index: int
    epoch: int = 0
    size: Size | None = None


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

    `size` is (width, height), `classes` the list that class ids refer to. With `skip_bad` a pair that cannot be read is
    logged and the next one takes its place; otherwise it raises ValueError with its path.
    """

    def __init__(self, pairs: Sequence[Pair], size: Size, preproc_methods: Sequence[str] = (),
                 background_color_synthesis: bool = False, seed: int = 7, classes: Sequence[str] | None = None,
                 cache: PairCache | None = None, skip_bad: bool = False):
        if not pairs:
            raise ValueError('a training set needs at least one pair')
        self.pairs, self.size, self.seed, self.cache, self.skip_bad = pairs, size, seed, cache, skip_bad
        self.augment = functools.partial(augment, methods=tuple(preproc_methods),
                                         background_color_synthesis=background_color_synthesis)
        self.class_ids = _class_ids(pairs, classes)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        key = SampleKey(key) if isinstance(key, int) else key
        index, image, mask, skipped = self._load(key.index, key.size or self.size)
        image, mask = self.augment(image, mask, random_stream(self.seed, 'sample', key.epoch, key.index))
        return Sample(to_tensor(image), to_tensor(mask), self.pairs[index].name, self.class_ids[index], skipped)

    def _load(self, index: int, size: Size) -> tuple[int, np.ndarray, np.ndarray, list[str]]:
        """The pair at `index`, or with `skip_bad` the next that can be read, and what was wrong with those before."""
        skipped: list[str] = []
        for candidate in range(index, index + len(self)):
            candidate %= len(self)
            try:
                return candidate, *self._load_one(candidate, size), skipped
            except (ValueError, OSError) as error:
                problem = with_path(self.pairs[candidate].image, error)
                if not self.skip_bad:
                    raise ValueError(problem) from error
                logger.warning('skipped: %s', problem)
                skipped.append(problem)
        raise ValueError(f'not one of the {len(self)} pairs can be read:\n  ' + '\n  '.join(skipped))

    def _load_one(self, index: int, size: Size) -> tuple[np.ndarray, np.ndarray]:
        pair = self.pairs[index]
        cached = self.cache[pair] if self.cache and self.cache.size == size else None
        return cached or load_pair(pair, size)


def _class_ids(pairs: Sequence[Pair], classes: Sequence[str] | None) -> list[int]:
    if classes is None:
        return [-1] * len(pairs)
    ids = {name: number for number, name in enumerate(classes)}
    _raise_all([f'{pair.image}: class {_class_name(pair)!r} is none of the {len(ids)} known'
                for pair in pairs if _class_name(pair) not in ids])
    return [ids[_class_name(pair)] for pair in pairs]


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) or (H, W) as (3, H, W) or (1, H, W), contiguous and its own memory."""
    planes = np.empty((1 if pixels.ndim == 2 else pixels.shape[2], *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes)


@functools.cache
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (3, 1, 1) each, kept on the device: moving them there anew would synchronise every step."""
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device).view(2, 3, 1, 1)
    return mean, std


def normalize(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) RGB as the network's input, float32, on the same device."""
    mean, std = _imagenet(images.device)
    return (images.float() / 255 - mean) / std


# ------------------------------------------------------------------------------------------------------------- batches

class EpochSampler(Sampler[list[SampleKey]]):
    """Batches of one rank in one epoch: a function of the arguments alone.

    Every epoch has its own shuffle, the same on all ranks. Each global batch is the next
    `batch_size * world_size` images of it, of which each rank takes its part. All ranks therefore
    have the same number of batches, and one process with the global batch sees the same images.
    The rest is dropped; a set smaller than one global batch gives one short batch.

    Under `dynamic_size` ((w_min, w_max), (h_min, h_max)) each global batch draws a size, multiples
    of 32. It is the same on every rank, because they wait for each other.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1,
                 dynamic_size: tuple[tuple[int, int], tuple[int, int]] | None = None):
        self.per_batch = min(batch_size, n // world_size)
        if not self.per_batch:
            raise ValueError(f'{n} training image(s) are too few for {world_size} process(es)')
        self.sides = dynamic_size and [_multiples(*limits) for limits in dynamic_size]
        self.n, self.seed, self.rank, self.world_size = n, seed, rank, world_size
        self.batches = n // (self.per_batch * world_size)
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses the epoch that is iterated over next, from its `start_batch` on."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        return self.batches - self.start_batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        order = random_stream(self.seed, 'order', epoch).permutation(self.n)
        for batch in range(self.start_batch, self.batches):
            start = (batch * self.world_size + self.rank) * self.per_batch
            size = self._size(epoch, batch)
            yield [SampleKey(int(index), epoch, size) for index in order[start:start + self.per_batch]]

    def _size(self, epoch: int, batch: int) -> Size | None:
        if not self.sides:
            return None
        rng = random_stream(self.seed, 'size', epoch, batch)
        width, height = (int(rng.choice(sides)) for sides in self.sides)
        return width, height


def _multiples(low: int, high: int) -> range:
    sides = range(-(-low // STRIDE) * STRIDE, high + 1, STRIDE)
    if not sides:
        raise ValueError(f'dynamic_size: no multiple of {STRIDE} lies in {low}..{high}')
    return sides


def random_stream(seed: int, purpose: Literal['order', 'size', 'sample'], *key: int) -> np.random.Generator:
    """An independent stream of random numbers for each purpose and key."""
    streams = {'order': 0, 'size': 1, 'sample': 2}
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(streams[purpose], *key)))


def collate(samples: list[Sample]) -> Batch:
    """Joins samples of one size."""
    images, masks, names, class_ids, skipped = zip(*samples, strict=True)
    return Batch(default_collate(images), default_collate(masks), list(names), torch.tensor(class_ids),
                 [problem for problems in skipped for problem in problems])


def build_loader(dataset: TrainSet, batches: Iterable[list[SampleKey] | list[int]], workers: int,
                 pin_memory: bool = False) -> DataLoader:
    """Loader of `Batch`es, whose contents do not depend on the number of `workers` (0: this process does the work)."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, pin_memory=pin_memory,
                      **worker_options(workers))


def worker_options(workers: int) -> dict[str, Any]:
    """Arguments of any DataLoader here that say who does its work.

    Workers stay from epoch to epoch. They are not forked from this process: its threads (OpenCV's, torch's) may hold a
    lock at that moment, and the worker then hangs, now and then. A generator of its own keeps the loader from drawing
    on torch's global random state, which a run resumed inside an epoch could not repeat.
    """
    alone = {'num_workers': 0, 'generator': torch.Generator()}
    return alone if not workers else {
        **alone, 'num_workers': workers, 'persistent_workers': True, 'worker_init_fn': _start_worker,
        'multiprocessing_context': _worker_context()}


@functools.cache
def _worker_context() -> multiprocessing.context.BaseContext:
    """Workers forked from a server without threads, or where there is none, started anew."""
    atexit.register(_end_workers)
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['__main__', __name__])  # imported once, not by every worker
    for helper in (multiprocessing.resource_tracker, multiprocessing.forkserver):  # the first undoes a part of the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # helpers and workers inherit it
        helper.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(1)  # the workers are the parallelism
    for number in STOP_SIGNALS:
        signal.signal(number, _ignore_once)
    if hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _ignore_once(number: int, _frame: Any) -> None:
    """Schedulers signal all processes of a job, but the main one needs its workers until it has saved. Should they not
    end by themselves then, it ends them by the same signal, a second one."""
    signal.signal(number, signal.SIG_DFL)


def _end_workers() -> None:
    """Ends the workers that an error has left behind, which have nothing to lose: multiprocessing would send each one
    signal, and wait for ever for those that ignore it."""
    for worker in multiprocessing.active_children():
        worker.kill()
