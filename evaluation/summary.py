"""Aggregates per-image scores into per-method scores, keeping the per-image values."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

import numpy as np

from evaluation.measuring import average, mean_of_present, pool
from evaluation.metrics import COLUMNS
from evaluation.store import measurement_of
from utils import read_json

# Those of a manifest that are read here, and their types; some may be null, or missing.
MANIFEST_FIELDS = {
    'run': (str,),
    'epoch': (int, NoneType),
    'resolution': (str, NoneType),
    'task': (str, NoneType),
}


class Method(NamedTuple):
    """A folder of predictions: its name and, where known, its run, epoch, resolution and task."""

    name: str
    run: str
    epoch: int | None
    resolution: str | None
    task: str | None


class MethodScores(NamedTuple):
    """A method's scores over one test set.

    Attributes:
        names: Names of the images.
        values: Values of the images (images,) by score. Their mean, without NaN, is the score. For
            the maximum of a curve they are taken at the threshold where the mean curve is highest.
        curves: Mean curves, (256,).
        pooled: Scores over the pooled pixels of the set, in place of a mean.
    """

    names: list[str]
    values: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    pooled: Mapping[str, float] = MappingProxyType({})

    def has(self, score: str) -> bool:
        """Whether any image has the score: those without a trimap have no SAD-U, for example."""
        return score in self.values and not np.isnan(self.values[score]).all()

    @property
    def scores(self) -> dict[str, float]:
        """The mean of each score over the images that have it, or its pooled value; NaN if none."""
        means = {score: mean_of_present(values) for score, values in self.values.items()}
        return {**means, **self.pooled}

    @property
    def deviations(self) -> dict[str, float]:
        """The standard deviation of each score over the images that have it."""
        deviations = {}
        for score, values in self.values.items():
            present = values[~np.isnan(values)]
            deviations[score] = float(present.std()) if len(present) else float('nan')
        return deviations


def describe_method(pred_root: str | Path, name: str) -> Method:
    """Reads what is known of a folder of predictions.

    Our own have a manifest.json; of others the name may contain the epoch.
    """
    known = _read_manifest(Path(pred_root, name, 'manifest.json'))
    if known:
        return Method(
            name,
            run=known['run'],
            epoch=known['epoch'],
            resolution=known.get('resolution'),
            task=known.get('task'))
    found = re.search(r'[-_]*ep(?:och)?_?(\d+)', name)
    if found is None:
        return Method(name, run=name, epoch=None, resolution=None, task=None)
    run = name[:found.start()] or name
    epoch = int(found.group(1))
    return Method(name, run, epoch, resolution=None, task=None)


def _read_manifest(file: Path) -> dict[str, Any]:
    """Reads what test.py wrote beside its masks; nothing of another project's file."""
    if not file.is_file():
        return {}
    try:
        known = read_json(file)
    except ValueError:  # no JSON, or a list
        return {}
    fits = [isinstance(known.get(name), kinds) for name, kinds in MANIFEST_FIELDS.items()]
    return known if all(fits) and 'epoch' in known else {}


def sort_methods(methods: Collection[Method]) -> list[Method]:
    """Sorts methods as tables show them: by run, resolution and epoch."""
    def order(method: Method) -> tuple[str, str, int, str]:
        epoch = -1 if method.epoch is None else method.epoch
        resolution = method.resolution or ''
        return method.run, resolution, epoch, method.name

    return sorted(methods, key=order)


def collect(rows: Mapping[str, dict[str, Any]], metrics: Sequence[str]) -> MethodScores:
    """Aggregates a method's rows of one test set.

    Args:
        rows: The store's row by image name.
        metrics: Names of the metrics to aggregate.
    """
    names = sorted(rows)
    measurements = [measurement_of(rows[name]) for name in names]
    averages = average(measurements, metrics)
    pooled = pool(measurements, metrics)

    # In the order of the tables.
    values = {}
    for score in COLUMNS:
        if score in averages.values:
            values[score] = averages.values[score]
    return MethodScores(names, values, averages.curves, pooled)
