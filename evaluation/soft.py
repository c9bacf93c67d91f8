"""Predictions in floating point, finer than 8 bits.

Counts are taken at the same 256 thresholds as those of 8 bits; what reads the values themselves
is computed from them by the plain definitions, which need scipy and scikit-image.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from evaluation.definitions import context, masks, multiscale, targets
from evaluation.kernels import bits, camouflage, histograms
from evaluation.kernels.context import ALPHA
from evaluation.kernels.histograms import Levels
from evaluation.kernels.multiscale import SCALES
from evaluation.kernels.targets import OUTSIDE
from evaluation.prepared import PreparedMask, PreparedPrediction


class SoftPrediction(PreparedPrediction):
    """A prediction, float (H, W) in 0..1, of a prepared mask.

    Args:
        pred: The prediction; what is normalised may be in 0..255.
        truth: The mask.
        normalize: Whether to min-max normalise the prediction.
    """

    def __init__(self, pred: np.ndarray, truth: PreparedMask, normalize: bool = True) -> None:
        # In the prediction's own precision, and in the order of PySODMetrics: rounding decides
        # which threshold finds a pixel.
        p = normalise(pred) if normalize else pred
        eight_bit = (255 * p).astype(np.uint8)
        super().__init__(eight_bit, truth, normalize=False)
        self.p = p.astype(np.float64)

    @property
    def levels(self) -> Levels:
        """The grey values of the thresholds, which are normalised already."""
        greys = np.arange(histograms.LEVELS)
        return Levels(greys / 255, greys.astype(np.uint8), 0, 255)

    @property
    def _mask(self) -> np.ndarray:
        return self.truth.mask > 0

    @cached_property
    def target_counts(self) -> np.ndarray:
        """Counts (targets, 2, 258) as of the base class, with the targets' own thresholds."""
        counts = super().target_counts.copy()
        for index, box in enumerate(self.truth.targets.boxes):
            p = self.p[box]
            mean = p.sum() / self.truth.size
            # As of the base class: where a value lies at the threshold, rounding decides.
            distances = np.abs(p - 2 * mean)
            if mean > 0 and distances.min() < 1e-9:
                mean = self._mean_in(box, self.p)
            found = _found(p, self._mask[box], mean)
            # At a threshold of 0 all around the box is found too.
            if mean == 0:
                found[OUTSIDE, 0] += self.truth.size - p.size
            counts[index, :, histograms.LEVELS:] = found
        return counts

    def _binary_counts(self) -> np.ndarray:
        return _found(self.p, self._mask, self.p.mean())

    def s_measure(self, alpha: float = 0.5) -> float:
        """S-measure."""
        return masks.s_measure(self.p, self._mask, alpha)

    def absolute_error(self) -> float:
        """MAE."""
        return masks.mae(self.p, self._mask)

    def squared_error(self) -> float:
        """MSE."""
        return masks.mse(self.p, self._mask)

    def size_invariant_error(self) -> float:
        """MAE of the targets."""
        return targets.absolute_error(self.p, self._mask)

    @cached_property
    def packed_above_half(self) -> np.ndarray:
        """The prediction above .5, packed."""
        return bits.pack(self.p > 0.5)

    def multiscale_iou(self, scales: Sequence[int] = range(SCALES)) -> np.ndarray:
        """MSIoU at the thresholds 256 to 0 of q, at the adaptive one, and above .5; (259,)."""
        threshold = min(2 * self.p.mean(), 1)
        adaptive = self.p >= threshold
        binary = self.p > 0.5
        curve = super().multiscale_iou(scales)
        curve[-2] = multiscale.msiou(adaptive, self._mask, scales)
        curve[-1] = multiscale.msiou(binary, self._mask, scales)
        return curve

    def context_measure(self, beta2: float = 1, alpha: float = ALPHA) -> float:
        """Context measure."""
        return context.context_measure(self.p, self._mask, beta2=beta2, alpha=alpha)

    def camouflage_context_measure(
        self,
        beta2: float = camouflage.BETA2,
        alpha: float = ALPHA,
        gamma: float = camouflage.GAMMA,
        spatial_weight: float = camouflage.SPATIAL_WEIGHT,
    ) -> float:
        """Camouflage context measure."""
        truth = self.truth
        if truth.foreground_count == 0:
            return 0.0
        weights = truth.camouflage_of(gamma, spatial_weight)
        return context.context_measure(self.p, self._mask, weights, beta2, alpha)

    def weighted_f(self, beta: float = 1) -> float:
        """Weighted F-measure."""
        return masks.weighted_f(self.p, self._mask, beta)


def normalise(pred: np.ndarray) -> np.ndarray:
    """Min-max normalises a prediction; a constant one in 0..1 stays as it is."""
    x = pred / 255
    span = np.ptp(x)
    if span == 0:
        return pred if pred.max() <= 1 else x
    return (x - x.min()) / span


def _found(p: np.ndarray, g: np.ndarray, mean: float) -> np.ndarray:
    """Counts (2, 2) found inside and outside g: at the adaptive threshold, and above .5."""
    threshold = min(2 * mean, 1)
    adaptive = p >= threshold
    binary = p > 0.5
    counts = []
    for side in (g, ~g):
        at_adaptive = np.count_nonzero(adaptive & side)
        above_half = np.count_nonzero(binary & side)
        counts.append((at_adaptive, above_half))
    return np.array(counts)
