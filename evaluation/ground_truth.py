"""A mask prepared for scoring: what depends on it alone is computed once, on demand, and serves all its predictions."""

import os
from collections.abc import Collection
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from evaluation import bits, boundary, hce, histograms, skeleton, weighted_f
from evaluation.counting import Counter, as_words

# The scores of each group, which is what is computed together.
GROUPS = {
    'sm': ('sm',), 'mae': ('mae',), 'mse': ('mse',), 'wfm': ('wfm',), 'hce': ('hce',), 'mba': ('mba',),
    'em': ('maxEm', 'meanEm', 'adpEm'), 'fm': ('maxFm', 'meanFm', 'adpFm'), 'biou': ('maxBIoU', 'meanBIoU'),
}
SCORES = tuple(score for scores in GROUPS.values() for score in scores)
# Grey values above this are foreground, in masks and, for HCE and mBA, in predictions.
THRESHOLD = 128


class Measurement(NamedTuple):
    """What scoring one prediction gives.

    `values`: the scalars, by name. `counts`: int64 (2, 256), pixels inside and outside the mask by normalised grey
    value, from which all curves follow. `edge_counts`: the same of boundaries, None unless boundary IoU was asked for.
    """

    values: dict[str, float]
    counts: np.ndarray
    edge_counts: np.ndarray | None


def groups_of(names: Collection[str] | None) -> list[str]:
    """The groups that hold these scores or groups; all of them for None. Raises ValueError naming what is unknown."""
    if names is None:
        return list(GROUPS)
    unknown = sorted(set(names) - set(GROUPS) - set(SCORES))
    if unknown:
        raise ValueError(f'unknown metrics {unknown}; known: {", ".join(dict.fromkeys((*GROUPS, *SCORES)))}')
    return [group for group, scores in GROUPS.items() if group in names or set(scores) & set(names)]


def as_grey(array: np.ndarray, name: str) -> np.ndarray:
    """Checks a mask or prediction, uint8 0..255 or boolean, (H, W); returns it as contiguous uint8."""
    if array.ndim != 2 or array.size == 0 or array.dtype not in (np.uint8, np.bool_):
        raise ValueError(f'{name}: expected a uint8 (0..255) or boolean array (H, W), '
                         f'got {array.dtype} of shape {array.shape}')
    return np.ascontiguousarray(array * np.uint8(255) if array.dtype == np.bool_ else array)


def curves(counts: np.ndarray) -> dict[str, np.ndarray]:
    """E, F, precision and recall over the 256 thresholds, (256,) each, from a measurement's `counts`."""
    true, false = histograms.positives(counts)
    foreground, size = int(counts[0].sum()), int(counts.sum())
    precision, recall = histograms.precision_recall(true, false, foreground)
    return {'em': histograms.e_measure(true, false, foreground, size),
            'fm': histograms.f_measure(true, false, foreground), 'precision': precision, 'recall': recall}


def iou_curve(edge_counts: np.ndarray) -> np.ndarray:
    """Boundary IoU over the 256 thresholds, from a measurement's `edge_counts`."""
    return histograms.iou(*histograms.positives(edge_counts), int(edge_counts[0].sum()))


class GroundTruth:
    """A mask, uint8 (H, W), foreground above 128, against which any number of predictions are scored.

    `skeleton_cache` is a folder that keeps the mask's skeleton (for HCE) between runs.
    """

    def __init__(self, gt: np.ndarray, skeleton_cache: str | os.PathLike | None = None) -> None:
        foreground = as_grey(gt, 'mask') > THRESHOLD
        self.shape = foreground.shape
        self.size = foreground.size
        self.mask = foreground * np.uint8(255)
        self.bits = bits.pack(foreground)
        self.foreground = bits.count(self.bits)
        self._skeleton_cache = skeleton_cache

    def score(self, pred: np.ndarray, metrics: Collection[str] | None = None) -> dict[str, float]:
        """Scores of a prediction, uint8 (H, W): those of `metrics` (scores or groups of GROUPS), all for None.

        Raises ValueError for another size or type. mBA is NaN where the mask has no boundary.
        """
        groups = groups_of(metrics)
        measured = self.measure(pred, groups)
        scores = dict(measured.values)
        named = curves(measured.counts) if {'em', 'fm'} & set(groups) else {}
        if 'biou' in groups:
            named['biou'] = iou_curve(measured.edge_counts)
        for group, suffix in (('em', 'Em'), ('fm', 'Fm'), ('biou', 'BIoU')):
            if group in groups:
                scores[f'max{suffix}'] = float(named[group].max())
                scores[f'mean{suffix}'] = float(named[group].mean())
        wanted = SCORES if metrics is None else [s for g in groups for s in GROUPS[g] if g in metrics or s in metrics]
        return {score: scores[score] for score in wanted}

    def measure(self, pred: np.ndarray, groups: Collection[str] = tuple(GROUPS)) -> Measurement:
        """Scores without the curves' maxima and means, and the counts they come from. Raises as `score`."""
        pred = as_grey(pred, 'prediction')
        if pred.shape != self.shape:
            raise ValueError(f'prediction: size {pred.shape} (height, width), but the mask has {self.shape}')
        words = as_words(pred)
        differing = self._counter.differing(words)
        words = words.take(differing)
        blocks = self._counter.count(words, differing)
        inside, outside = blocks.sum(axis=0)
        levels = histograms.normalise(inside + outside)
        values = self._from_counts(pred, blocks, levels, groups)
        if 'wfm' in groups:
            excess = self._counter.outside(words, differing)
            values['wfm'] = weighted_f.weighted_f(pred, excess, differing, levels, self.foreground,
                                                  self._surroundings) if self.foreground else 0.0
        if {'hce', 'mba'} & set(groups):
            binary = bits.pack(pred > THRESHOLD)
            if 'hce' in groups:
                values['hce'] = float(hce.correction_effort(binary, self.bits, self._skeleton, self.shape))
            if 'mba' in groups:
                values['mba'] = boundary.boundary_accuracy(binary, self.bits, self._bands)
        counts = np.stack([histograms.regroup(inside, levels.q), histograms.regroup(outside, levels.q)])
        edges = boundary.boundary_histogram(cv2.LUT(pred, levels.q), self._boundary) if 'biou' in groups else None
        return Measurement(values, counts, edges)

    def _from_counts(self, pred: np.ndarray, blocks: np.ndarray, levels: histograms.Levels,
                     groups: Collection[str]) -> dict[str, float]:
        inside, outside = blocks.sum(axis=0)
        values = {}
        if 'sm' in groups:
            values['sm'] = histograms.s_measure(blocks, levels.p)
        if 'mae' in groups:
            values['mae'] = histograms.absolute_error(inside, outside, levels.p)
        if 'mse' in groups:
            values['mse'] = histograms.squared_error(inside, outside, levels.p)
        if {'em', 'fm'} & set(groups):
            above = levels.p >= self._adaptive_threshold(pred, inside + outside, levels.p)
            true, false = inside[above].sum(), outside[above].sum()
            if 'em' in groups:
                values['adpEm'] = float(histograms.e_measure(true, false, self.foreground, self.size))
            if 'fm' in groups:
                values['adpFm'] = float(histograms.f_measure(true, false, self.foreground))
        return values

    @staticmethod
    def _adaptive_threshold(pred: np.ndarray, total: np.ndarray, p: np.ndarray) -> float:
        """min(2 mean p, 1). Where a level in use lies at the threshold, the mean's rounding decides, as published."""
        mean = total @ p / total.sum()
        if np.any((total > 0) & (p < 1) & (np.abs(p - 2 * mean) < 1e-9)):
            mean = p[pred].mean()
        return min(2 * float(mean), 1.0)

    @cached_property
    def _cut(self) -> tuple[int, int]:
        """First row and column of the lower and right blocks: the mask's centre, rounded half to even, plus 1."""
        if self.foreground == 0:
            return round(self.shape[0] / 2), round(self.shape[1] / 2)
        rows = bits.ones(self.bits).sum(axis=1, dtype=np.int64)
        columns = cv2.reduce(self.mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0] // 255
        return tuple(round(float(counts @ np.arange(len(counts)) / self.foreground)) + 1 for counts in (rows, columns))

    @cached_property
    def _counter(self) -> Counter:
        return Counter(self.mask, self._cut)

    @cached_property
    def _surroundings(self) -> weighted_f.Surroundings:
        return weighted_f.surroundings(self.mask)

    @cached_property
    def _skeleton(self) -> np.ndarray:
        return bits.pack(skeleton.cached_skeleton(self.mask > 0, self._skeleton_cache))

    @cached_property
    def _bands(self) -> list[np.ndarray]:
        return boundary.accuracy_bands(self.bits, self.shape)

    @cached_property
    def _boundary(self) -> Counter:
        return Counter(boundary.boundary(self.mask))
