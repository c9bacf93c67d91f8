"""Scores folders of predictions image by image: prepares masks once, reuses stored scores."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from evaluation import pool
from evaluation.files import File
from evaluation.inputs import ImageFiles, SetPlan, read_image_for, read_prediction
from evaluation.kernels import hce
from evaluation.measuring import GroundTruth
from evaluation.metrics import METRICS
from evaluation.store import MethodRows, ScoreStore, make_row
from readers import read_mask
from runtime.locks import hold_lock
from utils import Progress


class Request(NamedTuple):
    """What to score: a method's prediction by some metrics, with fingerprints of its files."""

    method: str
    prediction: Path | File
    files: list[list[int]]
    metrics: list[str]
    is_zero_one: bool = False


class ScoringJob(NamedTuple):
    """What a worker computes at a time: all requests for one mask."""

    dataset: str
    name: str
    mask: Path | File
    requests: list[Request]
    trimap: Path | File | None = None
    image: Path | File | None = None

    @property
    def needs_image(self) -> bool:
        """Whether a request has a metric that reads the image."""
        for request in self.requests:
            for name in request.metrics:
                if METRICS[name].needs == 'image':
                    return True
        return False


class Shard(NamedTuple):
    """A part of the images, that one of several machines scores.

    Attributes:
        number: From 1 to `parts`.
        parts: How many there are.
    """

    number: int
    parts: int

    def store_path(self, path: Path) -> Path:
        """Returns the file of this part's scores beside that of all."""
        return path.with_name(f'{path.stem}.{self.number}of{self.parts}{path.suffix}')

    def has(self, index: int) -> bool:
        """Whether the image of this index is in the part."""
        return index % self.parts == self.number - 1


def cache_folder() -> Path | None:
    """Returns where skeletons are kept: BIREFNET_CACHE, or a folder in the user's cache.

    None for users who have no home.
    """
    if 'BIREFNET_CACHE' in os.environ:
        return Path(os.environ['BIREFNET_CACHE'])
    base = os.environ.get('XDG_CACHE_HOME') or os.environ.get('LOCALAPPDATA')
    try:
        return Path(base or Path.home() / '.cache', 'birefnet', 'skeletons')
    except RuntimeError:
        return None


def available_cores() -> int:
    """Counts the processor cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def score_image(job: ScoringJob, skeleton_cache: str | os.PathLike | None) -> list[dict]:
    """Scores the predictions of one image; returns their rows."""
    mask = read_mask(job.mask)
    trimap = read_mask(job.trimap) if job.trimap else None
    image = None
    if job.image and job.needs_image:
        image = read_image_for(job.image, mask.shape)
    try:
        truth = GroundTruth(mask, skeleton_cache, trimap, image)
    except ValueError as error:
        raise ValueError(f'{job.trimap or job.mask}: {error}') from None
    rows = []
    for method, file, files, metrics, is_zero_one in job.requests:
        prediction = read_prediction(file, truth.shape, is_zero_one)
        measured = truth.measure(prediction, metrics)
        row = make_row(method, job.name, files, metrics, measured)
        rows.append(row)
    return rows


def evaluate(
    plan: SetPlan,
    store_path: str | os.PathLike,
    metrics: Sequence[str] = tuple(METRICS),
    workers: int = 1,
    skeleton_cache: str | os.PathLike | None = None,
) -> dict[str, Mapping[str, dict]]:
    """Scores a test set and keeps every image's scores: `evaluate_sets` for one set."""
    stores = {plan.dataset: Path(store_path)}
    found = evaluate_sets([plan], stores, metrics, workers, skeleton_cache)
    return found[plan.dataset]


def evaluate_sets(
    plans: Sequence[SetPlan],
    store_paths: Mapping[str, Path],
    metrics: Sequence[str] = tuple(METRICS),
    workers: int = 1,
    skeleton_cache: str | os.PathLike | None = None,
    shard: Shard | None = None,
) -> dict[str, dict[str, Mapping[str, dict]]]:
    """Scores test sets and keeps every image's scores.

    The result depends neither on the number of workers nor on earlier interruptions, nor on how
    many machines shared the work. Memory holds the predictions of a few images at a time, and of
    the scores where they are in their files.

    Args:
        plans: Masks and predictions, as of `evaluation.inputs.plan`.
        store_paths: Files that keep the scores, by set; those in them are not computed again.
        metrics: Names of metrics in `evaluation.metrics.METRICS`.
        workers: Processes; below 2 this process does the work.
        skeleton_cache: Folder that keeps the masks' skeletons (for HCE) between runs.
        shard: Score only this part of the images, into files beside `store_paths`. Without it,
            the scores of all parts are taken over into `store_paths`.

    Returns:
        The stores' rows by set, method and image name, in order, read when asked for. Nothing for
        a shard.

    Raises:
        ValueError: For a file that cannot be read.
        ValueError: Another process evaluates into one of the stores.
        RuntimeError: Naming the image at which a worker died.
    """
    with ExitStack() as locks:
        stores = {}
        for plan in plans:
            path = store_paths[plan.dataset]
            if shard:
                part = shard.store_path(path)
                _lock(locks, [part])
                stores[plan.dataset] = ScoreStore(part, [path, part])
            else:
                parts = _stores_of_shards(path)
                _lock(locks, [path, *parts])
                stores[plan.dataset] = ScoreStore(path, [path, *parts])
        _score(plans, stores, metrics, workers, skeleton_cache, shard)
        if shard:
            return {}
        return {plan.dataset: _finish(plan, stores[plan.dataset]) for plan in plans}


def _lock(locks: ExitStack, paths: Sequence[Path]) -> None:
    """Keeps other processes from writing these stores."""
    for path in paths:
        busy = f'{path}: another process is writing these scores; wait until it ends'
        locks.enter_context(hold_lock(path.with_name(f'.{path.name}.lock'), busy))


def _stores_of_shards(path: Path) -> list[Path]:
    """The files of the parts that were scored by themselves, beside that of all."""
    if not path.parent.is_dir():
        return []
    stem = re.escape(path.stem)
    suffix = re.escape(path.suffix)
    pattern = re.compile(rf'{stem}\.\d+of\d+{suffix}')
    return sorted(file for file in path.parent.iterdir() if pattern.fullmatch(file.name))


def _score(
    plans: Sequence[SetPlan],
    stores: Mapping[str, ScoreStore],
    metrics: Sequence[str],
    workers: int,
    skeleton_cache: str | os.PathLike | None,
    shard: Shard | None,
) -> None:
    """Scores what the stores lack, and saves each image's scores at once."""
    def jobs() -> Iterator[ScoringJob]:
        for plan in plans:
            yield from _missing_jobs(plan, stores[plan.dataset], metrics, shard)

    # Counted first, and made again one by one: all of them would fill the memory.
    counts = [len(job.requests) for job in jobs()]
    total = sum(counts)
    if 'hce' in metrics and total:
        hce.warn_of_old_opencv()
    function = partial(score_image, skeleton_cache=skeleton_cache)
    workers = min(workers, len(counts))
    sets = plans[0].dataset if len(plans) == 1 else f'{len(plans)} sets'
    shown = Progress(
        total, f'scoring {sets}', 'mask', quiet=not total, says_time_left=True)
    with shown as progress:
        for job, rows in pool.run(function, jobs(), workers, _describe):
            stores[job.dataset].append(rows)
            progress.update(len(rows))


def _finish(plan: SetPlan, store: ScoreStore) -> dict[str, Mapping[str, dict]]:
    """Puts a store in order, without images that the set no longer has; returns its rows."""
    names = sorted(image.name for image in plan.images)
    store.drop_others(plan.methods, names)
    store.finish()
    for part in _stores_of_shards(store.path):
        part.unlink()
    return {method: MethodRows(store.rows, method, names) for method in plan.methods}


def _describe(job: ScoringJob) -> str:
    return f'{job.dataset}/{job.name}'


def _missing_jobs(
    plan: SetPlan, store: ScoreStore, metrics: Collection[str], shard: Shard | None,
) -> Iterator[ScoringJob]:
    """Makes the jobs for the scores that the store lacks."""
    images = []
    for index, image in enumerate(plan.images):
        if shard is None or shard.has(index):
            images.append(image)
    # A compressed tar is read once if that is done in its order.
    images.sort(key=_place_in_archive)

    for image in images:
        # The prints of the files show which scores are out of date.
        truth_files = [file for file in (image.mask, image.trimap, image.image) if file]
        truth = [file.fingerprint for file in truth_files]
        requests = []
        for method, file in image.predictions.items():
            is_zero_one = method in plan.zero_one
            files = [file.fingerprint, *truth]
            if is_zero_one:  # which further predictions may change
                files.append([0, 1])
            missing = store.missing(method, image.name, files, metrics)
            if missing:
                requests.append(Request(method, file, files, missing, is_zero_one))
        if requests:
            yield ScoringJob(
                plan.dataset, image.name, image.mask, requests, image.trimap, image.image)


def _place_in_archive(image: ImageFiles) -> tuple[int, int]:
    """Where the first prediction and the mask are in their archives; 0 in folders."""
    files = list(image.predictions.values())
    return files[0].place if files else 0, image.mask.place
