"""Scores folders of predictions: image by image, every mask prepared once, what is known already left out."""

import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from evaluation import hce, pool
from evaluation.ground_truth import GROUPS, GroundTruth
from evaluation.inputs import SetPlan, Task, fingerprint, read_prediction
from evaluation.store import ScoreStore, make_row
from utils import Progress, read_mask

Job = tuple[Task, dict[str, tuple[list[list[int]], list[str]]]]


def cache_folder() -> Path:
    """Where skeletons are kept between runs: the user's cache folder, or BIREFNET_CACHE."""
    if 'BIREFNET_CACHE' in os.environ:
        return Path(os.environ['BIREFNET_CACHE'])
    base = os.environ.get('XDG_CACHE_HOME') or os.environ.get('LOCALAPPDATA') or Path.home() / '.cache'
    return Path(base, 'birefnet', 'skeletons')


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def score_image(job: Job, skeleton_cache: str | os.PathLike | None) -> list[dict]:
    """Scores the predictions of one image that `job` names with fingerprints and groups; returns their rows."""
    task, todo = job
    truth = GroundTruth(read_mask(task.mask), skeleton_cache)
    rows = []
    for method, (files, groups) in todo.items():
        prediction = read_prediction(task.predictions[method], truth.shape)
        rows.append(make_row(method, task.name, files, groups, truth.measure(prediction, groups)))
    return rows


def evaluate(plan: SetPlan, store_path: str | os.PathLike, groups: Sequence[str] = tuple(GROUPS), workers: int = 1,
             skeleton_cache: str | os.PathLike | None = None) -> dict[str, dict[str, dict]]:
    """Scores a test set, keeping every image's scores at `store_path`; returns rows by method and name, in order.

    The result depends neither on the number of workers nor on earlier interruptions. Raises ValueError for a file that
    cannot be read, and RuntimeError naming the image at which a worker died.
    """
    store = ScoreStore(store_path)
    jobs = _jobs(plan, store, groups)
    function = partial(score_image, skeleton_cache=skeleton_cache)
    total = sum(len(todo) for _, todo in jobs)
    if 'hce' in groups and jobs:
        hce.warn_of_old_opencv()
    with Progress(total, f'scoring {plan.dataset}', 'mask', quiet=not total) as progress:
        for _, rows in pool.run(function, jobs, min(workers, len(jobs)), lambda job: f'{job[0].dataset}/{job[0].name}'):
            store.append(rows)
            progress.update(len(rows))
    names = sorted(task.name for task in plan.tasks)
    store.drop_others(plan.methods, names)
    store.finish()
    return {method: {name: store.rows[method, name] for name in names} for method in plan.methods}


def _jobs(plan: SetPlan, store: ScoreStore, groups: Collection[str]) -> list[Job]:
    """What is not in the store yet, by image."""
    jobs = []
    for task in plan.tasks:
        mask = fingerprint(task.mask)
        todo = {}
        for method, path in task.predictions.items():
            files = [fingerprint(path), mask]
            missing = store.missing(method, task.name, files, groups)
            if missing:
                todo[method] = files, [group for group in GROUPS if group in missing]
        if todo:
            jobs.append((task, todo))
    return jobs
