"""From scores of images to scores of methods: means over a test set, and what of each image they are the means of."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.ground_truth import GROUPS, SCORES, curves, groups_of, iou_curve
from evaluation.store import decode

CURVES = {'em': 'Em', 'fm': 'Fm', 'biou': 'BIoU'}
SHORT_NAMES = {'s': 'sm', 'e': 'em', 'f': 'fm', 'wf': 'wfm', 'wfmeasure': 'wfm', 'smeasure': 'sm'}


class Method(NamedTuple):
    """A folder of predictions: its name and, where known, the run and epoch it comes from, and the resolution."""

    name: str
    run: str
    epoch: int | None
    resolution: str | None
    task: str | None


class MethodScores(NamedTuple):
    """A method's scores over one test set.

    `values`: (images,) per score, in the order of `names`, whose mean (without NaN) is the score. For the maximum of a
    curve that is the curve's value at the threshold where the mean curve is highest. `curves`: mean curves, (256,).
    """

    names: list[str]
    values: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]

    @property
    def scores(self) -> dict[str, float]:
        """The mean of each score over the images that have it; NaN if none has."""
        return {score: _over_present(np.mean, values) for score, values in self.values.items()}

    @property
    def deviations(self) -> dict[str, float]:
        """The standard deviation of each score over the images that have it."""
        return {score: _over_present(np.std, values) for score, values in self.values.items()}


def parse_metrics(text: str) -> list[str]:
    """Groups of metrics named as in `S+MAE+wF`, by the publication's or our names in any case, or `all`."""
    if text.lower() == 'all':
        return list(GROUPS)
    known = {name.lower(): name for name in (*GROUPS, *SCORES)}
    names = [SHORT_NAMES.get(name.lower(), name.lower()) for name in text.split('+')]
    try:
        return groups_of([known.get(name, name) for name in names])
    except ValueError as error:
        raise ValueError(f'--metrics {text}: {error}; or S, E, F, wF, all; join several by +') from None


def describe_method(pred_root: str | Path, name: str) -> Method:
    """What is known of a folder of predictions: from its manifest.json or, for foreign ones, from its name."""
    manifest = Path(pred_root, name, 'manifest.json')
    if manifest.is_file():
        known = json.loads(manifest.read_text(encoding='utf-8'))
        return Method(name, known['run'], known['epoch'], known.get('resolution'), known.get('task'))
    found = re.search(r'[-_]*ep(?:och)?_?(\d+)', name)
    return Method(name, name[:found.start()] or name, int(found.group(1)), None, None) if found else \
        Method(name, name, None, None, None)


def sort_methods(methods: Collection[Method]) -> list[Method]:
    """In the order of tables: by run, resolution and epoch."""
    return sorted(methods, key=lambda m: (m.run, m.resolution or '', -1 if m.epoch is None else m.epoch, m.name))


def collect(rows: Mapping[str, dict[str, Any]], groups: Sequence[str]) -> MethodScores:
    """A method's scores over a test set from its rows by image name, for these groups of metrics."""
    names = sorted(rows)
    singles = [score for group in groups if group not in CURVES for score in GROUPS[group]]
    singles += [f'adp{CURVES[group]}' for group in groups if group in ('em', 'fm')]
    values = {score: np.array([rows[name]['values'][score] for name in names]) for score in singles}
    every: dict[str, list[np.ndarray]] = {}
    for name in names:
        found = curves(decode(rows[name]['counts'])) if {'em', 'fm'} & set(groups) else {}
        if 'biou' in groups:
            found['biou'] = iou_curve(decode(rows[name]['edge_counts']))
        for curve, points in found.items():
            every.setdefault(curve, []).append(points)
    stacked = {curve: np.stack(points) for curve, points in every.items()}
    means = {curve: points.mean(axis=0) for curve, points in stacked.items()}
    for group in (group for group in groups if group in CURVES):
        values[f'max{CURVES[group]}'] = stacked[group][:, means[group].argmax()]
        values[f'mean{CURVES[group]}'] = stacked[group].mean(axis=1)
    return MethodScores(names, {score: values[score] for score in SCORES if score in values}, means)


def _over_present(function: Any, values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(function(present)) if len(present) else float('nan')
