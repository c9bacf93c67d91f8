"""Scores folders of predictions image by image: prepares masks once, reuses stored scores."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from evaluation import pool
from evaluation.files import File
from evaluation.inputs import ImageFiles, SetPlan, read_image_for, read_prediction
from evaluation.kernels import hce
from evaluation.measuring import GroundTruth
from evaluation.metrics import METRICS
from evaluation.store import MethodRows, ScoreStore, are_same, make_row
from readers import read_mask
from runtime.fingerprints import Fingerprint
from runtime.locks import hold_lock
from utils import Progress

# Stands among the fingerprints of files: 1 is white, which further predictions may change.
AS_ZERO_ONE = Fingerprint(0, 1, 0, 0)


class Request(NamedTuple):
    """What to score: a method's prediction by some metrics.

    Attributes:
        method: The method.
        prediction: Its prediction.
        metrics: What is measured.
        is_zero_one: Whether 1 is white.
        before: The row with these metrics, which stays where files were touched but are the same.
    """

    method: str
    prediction: File
    metrics: list[str]
    is_zero_one: bool = False
    before: dict[str, Any] | None = None


class ScoringJob(NamedTuple):
    """What a worker computes at a time: all requests for one mask."""

    dataset: str
    name: str
    mask: File
    requests: list[Request]
    trimap: File | None = None
    image: File | None = None

    @property
    def truth(self) -> list[File]:
        """The files that all predictions are scored against."""
        return [file for file in (self.mask, self.trimap, self.image) if file]

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
    # Taken before the files are read: of one that changes meanwhile the next evaluation knows.
    truth_files = [file.fingerprint() for file in job.truth]
    truth = None
    rows = []
    for request in job.requests:
        files = [request.prediction.fingerprint(), *truth_files]
        if request.is_zero_one:
            files.append(AS_ZERO_ONE)
        if request.before and are_same(request.before['files'], files):
            rows.append({**request.before, 'files': files})
            continue
        truth = truth or _read_truth(job, skeleton_cache)
        prediction = read_prediction(request.prediction, truth.shape, request.is_zero_one)
        measured = truth.measure(prediction, request.metrics)
        rows.append(make_row(request.method, job.name, files, request.metrics, measured))
    return rows


def _read_truth(job: ScoringJob, skeleton_cache: str | os.PathLike | None) -> GroundTruth:
    mask = read_mask(job.mask)
    trimap = read_mask(job.trimap) if job.trimap else None
    image = None
    if job.image and job.needs_image:
        image = read_image_for(job.image, mask.shape)
    try:
        return GroundTruth(mask, skeleton_cache, trimap, image)
    except ValueError as error:
        raise ValueError(f'{job.trimap or job.mask}: {error}') from None


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
        # The states of the files show which scores may be out of date.
        requests: list[Request] = []
        job = ScoringJob(
            plan.dataset, image.name, image.mask, requests, image.trimap, image.image)
        truth = [file.state for file in job.truth]
        for method, file in image.predictions.items():
            is_zero_one = method in plan.zero_one
            files = [file.state, *truth]
            if is_zero_one:
                files.append(AS_ZERO_ONE[:-1])
            missing = store.missing(method, image.name, files, metrics)
            if missing:
                before = store.row_with(method, image.name, metrics)
                requests.append(Request(method, file, missing, is_zero_one, before))
        if requests:
            yield job


def _place_in_archive(image: ImageFiles) -> tuple[int, int]:
    """Where the first prediction and the mask are in their archives; 0 in folders."""
    files = list(image.predictions.values())
    return files[0].place if files else 0, image.mask.place
