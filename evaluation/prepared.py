"""Masks and predictions prepared for scoring: intermediate results that several metrics share.

Each intermediate is computed on first use. Those of a mask serve all its predictions.
"""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from evaluation.kernels import (
    bits,
    boundary,
    camouflage,
    context,
    hce,
    histograms,
    multiscale,
    skeleton,
    targets,
    weighted_f,
)
from evaluation.kernels.histograms import Levels
from evaluation.kernels.region_histogram import RegionHistogram, as_words

# Grey values above this are foreground: in masks, and in predictions for HCE and mBA.
THRESHOLD = 128


def as_grey(array: np.ndarray, name: str) -> np.ndarray:
    """Checks a mask or prediction and returns it as contiguous uint8 (H, W).

    Args:
        array: uint8 0..255 or boolean, (H, W).
        name: What it is, for the message.

    Raises:
        ValueError: For another type or shape.
    """
    if array.ndim != 2 or array.size == 0 or array.dtype not in (np.uint8, np.bool_):
        raise ValueError(
            f'{name}: expected a uint8 (0..255) or boolean array (H, W), '
            f'got {array.dtype} of shape {array.shape}')
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    return np.ascontiguousarray(array)


class PreparedMask:
    """A mask with all that metrics need to know of it.

    Args:
        gt: uint8 (H, W), foreground above 128, or boolean. A mask of 0 and 1 is a boolean one.
        skeleton_cache: Folder that keeps the mask's skeleton (for HCE) between runs.
        trimap: uint8 (H, W), 0, 128 where the matte is unknown, 255; None if there is none.
        image: RGB, uint8 (H, W, 3), for the camouflage context measure; None if there is none.

    Raises:
        ValueError: For another type, or a trimap or an image of another size.
    """

    def __init__(
        self,
        gt: np.ndarray,
        skeleton_cache: str | os.PathLike | None = None,
        trimap: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> None:
        # Foreground is above 128, or 1 in a mask of 0 and 1.
        grey = as_grey(gt, 'mask')
        is_foreground = grey > THRESHOLD
        if not is_foreground.any() and grey.max() == 1:
            is_foreground = grey == 1
            grey = grey * np.uint8(255)
        self.alpha = grey

        # Where the matte is unknown: about 128 in the trimap.
        self.unknown = None
        if trimap is not None:
            if trimap.shape != grey.shape:
                raise ValueError(
                    f'trimap: size {trimap.shape} (height, width), but the mask has {grey.shape}')
            distance = np.abs(as_grey(trimap, 'trimap') - 128.0)
            self.unknown = distance < 64

        # The image, in the mask's size.
        if image is not None:
            is_rgb = image.shape == (*grey.shape, 3) and image.dtype == np.uint8
            if not is_rgb:
                raise ValueError(
                    f'image: expected RGB, uint8, of the mask\'s size {grey.shape} '
                    f'(height, width), got {image.dtype} of shape {image.shape}')
        self.image = image

        # What nearly every metric needs; the rest is computed on first use.
        self.shape = is_foreground.shape
        self.size = is_foreground.size
        self.mask = is_foreground * np.uint8(255)
        self.packed_mask = bits.pack(is_foreground)
        self.foreground_count = bits.count(self.packed_mask)
        self._skeleton_cache = skeleton_cache
        self._computed: dict[tuple, Any] = {}

    def has(self, need: str | None) -> bool:
        """Whether there is what a metric needs beside the mask: 'trimap', 'image', or nothing."""
        there = {
            None: True,
            'trimap': self.unknown is not None,
            'image': self.image is not None,
        }
        return there[need]

    @cached_property
    def centre(self) -> tuple[int, int]:
        """First row and column of the lower and right quadrants of S-measure.

        The centre of mass, rounded half to even, plus 1; the image's middle for an empty mask.
        """
        if self.foreground_count == 0:
            height, width = self.shape
            return round(height / 2), round(width / 2)
        # The mask's pixels in each row and in each column.
        by_word = bits.counts(self.packed_mask)
        by_row = by_word.sum(axis=1, dtype=np.int64)
        column_sums = cv2.reduce(self.mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
        by_column = column_sums[0] // 255
        return self._centre_of(by_row), self._centre_of(by_column)

    def _centre_of(self, counts: np.ndarray) -> int:
        """The mean index, rounded half to even, plus 1, of pixels counted along one axis."""
        indices = np.arange(len(counts))
        mean = counts @ indices / self.foreground_count
        return round(float(mean)) + 1

    @cached_property
    def regions(self) -> RegionHistogram:
        """Counts grey values by quadrant, inside and outside the mask."""
        return RegionHistogram(self.mask, self.centre)

    @cached_property
    def surroundings(self) -> weighted_f.Surroundings:
        """Distances and nearest pixels for weighted F."""
        return weighted_f.surroundings(self.mask)

    @cached_property
    def skeleton(self) -> np.ndarray:
        """The skeleton, packed, for HCE."""
        thinned = skeleton.cached_skeleton(self.mask > 0, self._skeleton_cache)
        return bits.pack(thinned)

    @cached_property
    def accuracy_bands(self) -> list[np.ndarray]:
        """Bands about the boundary, packed, for mBA."""
        return boundary.accuracy_bands(self.packed_mask, self.shape)

    def context_of(self, alpha: float) -> context.Context:
        """The mask's shape as a filter of some size, for the context measure."""
        return self._once(('context', alpha), lambda: context.prepare(self.mask, alpha))

    def camouflage_of(self, gamma: float, spatial_weight: float) -> np.ndarray:
        """How well the mask's pixels are camouflaged in the image, (pixels of the mask,)."""
        image = self.image
        assert image is not None
        return self._once(
            ('camouflage', gamma, spatial_weight),
            lambda: camouflage.weights(image, self.mask > 0, gamma, spatial_weight))

    @cached_property
    def edges(self) -> multiscale.TrueEdges:
        """The mask's edges, for multi-scale IoU."""
        return multiscale.true_edges(self.mask)

    def _once(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """What is computed for some options, on first use."""
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]

    @cached_property
    def targets(self) -> targets.Targets:
        """The single objects, for size-invariant scores."""
        return targets.find_targets(self.mask)

    @cached_property
    def boundary_regions(self) -> RegionHistogram:
        """Counts grey values inside and outside the boundary, for boundary IoU."""
        return RegionHistogram(boundary.boundary(self.mask))


class PreparedPrediction:
    """A prediction of a prepared mask, with all that metrics need to know of the pair.

    Args:
        pred: uint8 (H, W) 0..255, or boolean.
        truth: The mask.
        normalize: Whether to min-max normalise the prediction.
        values: What is normalised in place of `pred`: a value for each grey value, (256,).

    Raises:
        ValueError: For another size or type.
    """

    def __init__(
        self,
        pred: np.ndarray,
        truth: PreparedMask,
        normalize: bool = True,
        values: np.ndarray = histograms.EIGHT_BIT,
    ) -> None:
        self.pred = as_grey(pred, 'prediction')
        self.truth = truth
        self._normalize = normalize
        self._values = values
        if self.pred.shape != truth.shape:
            raise ValueError(
                f'prediction: size {self.pred.shape} (height, width), '
                f'but the mask has {truth.shape}')

    @cached_property
    def differing_words(self) -> tuple[np.ndarray, np.ndarray]:
        """The words of the prediction that differ from the mask's, and their indices."""
        words = as_words(self.pred)
        places = self.truth.regions.differing(words)
        return words.take(places), places

    @cached_property
    def quadrants(self) -> np.ndarray:
        """Counts (4, 2, 256): quadrant about the mask's centre, inside or outside, grey value."""
        return self.truth.regions.count(*self.differing_words)

    @cached_property
    def histogram(self) -> np.ndarray:
        """Counts (2, 256): inside or outside the mask, grey value."""
        return self.quadrants.sum(axis=0)

    @cached_property
    def levels(self) -> Levels:
        """The min-max normalisation, or the division by 255 alone."""
        if not self._normalize:
            return histograms.unnormalised()
        return histograms.normalise(self.histogram.sum(axis=0), self._values)

    @cached_property
    def pixel_counts(self) -> np.ndarray:
        """Counts (2, 258): inside or outside the mask; normalised grey value, adaptive, binary.

        Behind the histogram are the pixels found at the adaptive threshold, min(2 mean p, 1), and
        those above .5.
        """
        by_value = histograms.regroup(self.histogram, self.levels.q)
        return np.hstack((by_value, self._binary_counts()))

    def _binary_counts(self) -> np.ndarray:
        """Counts (2, 2) found inside and outside: at the adaptive threshold, and above .5."""
        p = self.levels.p
        adaptive = p >= self._adaptive_threshold()
        above_half = p > 0.5
        return self.histogram @ np.stack((adaptive, above_half), axis=1)

    @cached_property
    def boundary_counts(self) -> np.ndarray:
        """Counts (2, 256) of the prediction's boundary inside and outside the mask's boundary."""
        normalised = cv2.LUT(self.pred, self.levels.q)
        return boundary.boundary_histogram(normalised, self.truth.boundary_regions)

    @cached_property
    def box_histograms(self) -> np.ndarray:
        """Counts (targets, 2, 256) in the target's box: inside or outside the mask, grey value."""
        truth = self.truth
        return targets.box_histograms(self.pred, truth.mask, truth.targets.boxes)

    @cached_property
    def target_counts(self) -> np.ndarray:
        """Counts (targets, 2, 258) as `pixel_counts`, in the target's box."""
        means = self._target_means()
        return targets.target_counts(self.box_histograms, self.levels, means, self.truth.size)

    def _target_means(self) -> np.ndarray:
        """Means of the prediction with zeros outside each target's box, (targets,)."""
        p = self.levels.p
        totals = self.box_histograms.sum(axis=1)
        means = totals @ p / self.truth.size
        # As of `_adaptive_threshold`: where a level lies at the threshold, rounding decides.
        distances = np.abs(p - 2 * means[:, None])
        is_near = distances < 1e-9
        is_used = (totals > 0) & (p > 0) & (p < 1)
        is_decided_by_rounding = (is_used & is_near).any(axis=1)
        for target in np.flatnonzero(is_decided_by_rounding):
            box = self.truth.targets.boxes[target]
            means[target] = self._mean_in(box, p[self.pred])
        return means

    @staticmethod
    def _mean_in(box: tuple[slice, slice], values: np.ndarray) -> float:
        """The mean of values (H, W) with zeros outside a box, as NumPy rounds it."""
        boxed = np.zeros_like(values)
        boxed[box] = values[box]
        return float(boxed.mean())

    @cached_property
    def packed_binary(self) -> np.ndarray:
        """The prediction above 128, not normalised, packed."""
        return bits.pack(self.pred > THRESHOLD)

    @cached_property
    def packed_above_half(self) -> np.ndarray:
        """The prediction above .5, packed."""
        above_half = self.levels.p > 0.5
        return bits.pack(above_half[self.pred])

    def _adaptive_threshold(self) -> float:
        p = self.levels.p
        total = self.histogram.sum(axis=0)
        mean = total @ p / total.sum()
        # Where a used level lies at the threshold, the rounding of the mean decides: as published.
        is_used = (total > 0) & (p < 1)
        is_near = np.abs(p - 2 * mean) < 1e-9
        if np.any(is_used & is_near):
            mean = p[self.pred].mean()
        return min(2 * float(mean), 1.0)

    def s_measure(self, alpha: float = 0.5) -> float:
        """S-measure."""
        return histograms.s_measure(self.quadrants, self.levels.p, alpha)

    def absolute_error(self) -> float:
        """MAE."""
        inside, outside = self.histogram
        return histograms.absolute_error(inside, outside, self.levels.p)

    def squared_error(self) -> float:
        """MSE."""
        inside, outside = self.histogram
        return histograms.squared_error(inside, outside, self.levels.p)

    def size_invariant_error(self) -> float:
        """MAE of the targets."""
        return targets.absolute_error(
            self.pred, self.truth.targets, self.box_histograms, self.levels)

    def correction_effort(self, relax: int, epsilon: float) -> float:
        """HCE of the normalised prediction above .5, as PySODMetrics has it."""
        truth = self.truth
        return hce.correction_effort(
            self.packed_above_half,
            truth.packed_mask,
            truth.skeleton,
            truth.shape,
            relax,
            epsilon)

    def multiscale_iou(self, scales: Sequence[int] = range(multiscale.SCALES)) -> np.ndarray:
        """MSIoU at the thresholds 256 to 0 of q, at the adaptive one, and above .5; (259,)."""
        by_grey = multiscale.multiscale_iou(self.pred, self.truth.edges, scales)
        q = self.levels.q
        p = self.levels.p
        # The lowest grey value that is found; one beyond the last finds none.
        thresholds = np.arange(256, -1, -1)
        lowest = np.searchsorted(q, thresholds)
        adaptive = np.searchsorted(p, self._adaptive_threshold())
        half = np.searchsorted(p, 0.5, side='right')
        found = np.append(lowest, (adaptive, half))
        return by_grey[found]

    def context_measure(self, beta2: float = 1, alpha: float = context.ALPHA) -> float:
        """Context measure; 0 for an empty mask."""
        if self.truth.foreground_count == 0:
            return 0.0
        around = self.truth.context_of(alpha)
        return context.context_measure(self.pred, self.levels.p, around, beta2=beta2)

    def camouflage_context_measure(
        self,
        beta2: float = camouflage.BETA2,
        alpha: float = context.ALPHA,
        gamma: float = camouflage.GAMMA,
        spatial_weight: float = camouflage.SPATIAL_WEIGHT,
    ) -> float:
        """Context measure that weighs camouflaged pixels more; 0 for an empty mask."""
        truth = self.truth
        if truth.foreground_count == 0:
            return 0.0
        weights = truth.camouflage_of(gamma, spatial_weight)
        around = truth.context_of(alpha)
        return context.context_measure(self.pred, self.levels.p, around, weights, beta2)

    def matte_error(self, error: Callable[..., float], in_unknown: bool) -> float:
        """Computes an error of kernels/matting.py, whole or in the trimap's unknown part."""
        region = self.truth.unknown if in_unknown else None
        return error(self.pred, self.truth.alpha, region)

    def weighted_f(self, beta: float = 1) -> float:
        """Weighted F-measure."""
        truth = self.truth
        if truth.foreground_count == 0:
            return 0.0
        words, places = self.differing_words
        excess = truth.regions.outside(words, places)
        return weighted_f.weighted_f(
            self.pred,
            excess,
            places,
            self.levels,
            truth.foreground_count,
            truth.surroundings,
            beta)
