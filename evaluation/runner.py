"""Scores folders of predictions image by image: prepares masks once, reuses stored scores."""

import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from evaluation import pool
from evaluation.inputs import SetPlan, fingerprint, read_prediction
from evaluation.kernels import hce
from evaluation.measuring import GroundTruth
from evaluation.metrics import METRICS
from evaluation.store import ScoreStore, make_row
from readers import read_mask
from runtime.locks import hold_lock
from utils import Progress


class Request(NamedTuple):
    """What to score: a method's prediction by some metrics, with fingerprints of its files."""

    method: str
    prediction: Path
    files: list[list[int]]
    metrics: list[str]


class ScoringJob(NamedTuple):
    """What a worker computes at a time: all requests for one mask."""

    dataset: str
    name: str
    mask: Path
    requests: list[Request]
    trimap: Path | None = None


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
    trimap = read_mask(job.trimap) if job.trimap else None
    try:
        truth = GroundTruth(read_mask(job.mask), skeleton_cache, trimap)
    except ValueError as error:
        raise ValueError(f'{job.trimap or job.mask}: {error}') from None
    rows = []
    for method, path, files, metrics in job.requests:
        prediction = read_prediction(path, truth.shape)
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
) -> dict[str, dict[str, dict]]:
    """Scores a test set and keeps every image's scores.

    The result depends neither on the number of workers nor on earlier interruptions.

    Args:
        plan: Masks and predictions, as of `evaluation.inputs.plan`.
        store_path: File that keeps the scores; those in it are not computed again.
        metrics: Names of metrics in `evaluation.metrics.METRICS`.
        workers: Processes; below 2 this process does the work.
        skeleton_cache: Folder that keeps the masks' skeletons (for HCE) between runs.

    Returns:
        The store's rows by method and image name, in order.

    Raises:
        ValueError: For a file that cannot be read.
        ValueError: Another process evaluates into that store.
        RuntimeError: Naming the image at which a worker died.
    """
    store_path = Path(store_path)
    busy = f'{store_path}: another process is writing these scores; wait until it ends'
    with hold_lock(store_path.with_name(f'.{store_path.name}.lock'), busy):
        return _evaluate(plan, ScoreStore(store_path), metrics, workers, skeleton_cache)


def _evaluate(
    plan: SetPlan,
    store: ScoreStore,
    metrics: Sequence[str],
    workers: int,
    skeleton_cache: str | os.PathLike | None,
) -> dict[str, dict[str, dict]]:
    """Does what `evaluate` says, while no other process writes the store."""
    # Score what the store lacks, and save each image's scores at once.
    jobs = _missing_jobs(plan, store, metrics)
    total = sum(len(job.requests) for job in jobs)
    if 'hce' in metrics and jobs:
        hce.warn_of_old_opencv()
    function = partial(score_image, skeleton_cache=skeleton_cache)
    workers = min(workers, len(jobs))
    with Progress(total, f'scoring {plan.dataset}', 'mask', quiet=not total) as progress:
        for _, rows in pool.run(function, jobs, workers, _describe):
            store.append(rows)
            progress.update(len(rows))

    # Put the store in order, without images that the set no longer has.
    names = sorted(image.name for image in plan.images)
    store.drop_others(plan.methods, names)
    store.finish()
    found = {}
    for method in plan.methods:
        found[method] = {name: store.rows[method, name] for name in names}
    return found


def _describe(job: ScoringJob) -> str:
    return f'{job.dataset}/{job.name}'


def _missing_jobs(
    plan: SetPlan, store: ScoreStore, metrics: Collection[str],
) -> list[ScoringJob]:
    """Makes the jobs for the scores that the store lacks."""
    jobs = []
    for image in plan.images:
        # The prints of the files show which scores are out of date.
        truth_files = [path for path in (image.mask, image.trimap) if path]
        truth = [fingerprint(path) for path in truth_files]
        requests = []
        for method, path in image.predictions.items():
            files = [fingerprint(path), *truth]
            missing = store.missing(method, image.name, files, metrics)
            if missing:
                requests.append(Request(method, path, files, missing))
        if requests:
            job = ScoringJob(plan.dataset, image.name, image.mask, requests, image.trimap)
            jobs.append(job)
    return jobs
