"""The metrics of segmentation: one call for a pair, a prepared mask for many predictions, a class each for sets.

    score_pair(pred, gt)                      -> {'sm': .86, 'mae': .03, ...}
    GroundTruth(gt).score(pred, {'sm', 'mae'})
    metric = Smeasure(); metric.step(pred, gt); metric.get_results()['sm']

The classes are used like PySODMetrics': `step` adds a pair, `get_results` averages. `higher_is_better` tells which way
is up, `merge` adds what another object of the class has seen. Predictions and masks are uint8 (H, W); predictions are
min-max normalised (all but HCE and mBA), masks cut above 128.
"""

from typing import ClassVar

import numpy as np

from evaluation.ground_truth import GROUPS, SCORES, GroundTruth, Measurement, curves, iou_curve

LOWER_IS_BETTER = frozenset({'mae', 'mse', 'hce'})


def score_pair(pred: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """All scores of a prediction against a mask, both uint8 (H, W): the keys of SCORES.

    mBA is NaN where the mask has no boundary. Raises ValueError for other types or differing sizes.
    """
    return GroundTruth(gt).score(pred)


def higher_is_better(score: str) -> bool:
    """Whether more is better, of a score of SCORES."""
    if score not in SCORES:
        raise ValueError(f'unknown score {score!r}; known: {", ".join(SCORES)}')
    return score not in LOWER_IS_BETTER


class Metric:
    """Base: collects what its group of scores needs of each pair."""

    group: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    def __init__(self) -> None:
        self.measurements: list[Measurement] = []

    def step(self, pred: np.ndarray, gt: 'np.ndarray | GroundTruth') -> None:
        """Adds a pair; `gt` is an array, or a `GroundTruth` that several predictions or metrics share."""
        prepared = gt if isinstance(gt, GroundTruth) else GroundTruth(gt)
        self.measurements.append(prepared.measure(pred, (self.group,)))

    def merge(self, other: 'Metric') -> None:
        """Adds all pairs that another object of the same class has seen."""
        if type(other) is not type(self):
            raise ValueError(f'cannot merge {type(other).__name__} into {type(self).__name__}')
        self.measurements.extend(other.measurements)

    def get_results(self) -> dict:
        """Means over all pairs."""
        return {self.group: self._mean(self.group)}

    def _mean(self, score: str) -> float:
        """Mean over the pairs that have the score: a mask without boundary has no mBA."""
        values = np.array([measured.values[score] for measured in self._seen()])
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float('nan')

    def _seen(self) -> list[Measurement]:
        if not self.measurements:
            raise ValueError(f'{type(self).__name__}: no pair yet; call step first')
        return self.measurements

    def _mean_curves(self) -> dict[str, np.ndarray]:
        every = [curves(measured.counts) for measured in self._seen()]
        return {name: np.mean([one[name] for one in every], axis=0) for name in every[0]}


class Smeasure(Metric):
    """S-measure, alpha .5 (Fan et al., ICCV 2017): `{'sm'}`."""

    group = 'sm'


class MAE(Metric):
    """Mean absolute error: `{'mae'}`."""

    group = 'mae'
    higher_is_better = False


class MSE(Metric):
    """Mean squared error: `{'mse'}`."""

    group = 'mse'
    higher_is_better = False


class Emeasure(Metric):
    """E-measure (Fan et al., IJCAI 2018): `{'em': {'adp', 'curve'}}`, the curve over 256 falling thresholds."""

    group = 'em'

    def get_results(self) -> dict:
        """Means over all pairs."""
        return {'em': {'adp': self._mean('adpEm'), 'curve': self._mean_curves()['em']}}


class Fmeasure(Metric):
    """F-measure, beta^2 .3 (Achanta et al., CVPR 2009): `{'fm': {'adp', 'curve'}, 'pr': {'p', 'r'}}`."""

    group = 'fm'

    def get_results(self) -> dict:
        """Means over all pairs."""
        mean = self._mean_curves()
        return {'fm': {'adp': self._mean('adpFm'), 'curve': mean['fm']},
                'pr': {'p': mean['precision'], 'r': mean['recall']}}


class WeightedFmeasure(Metric):
    """Weighted F-measure, beta 1 (Margolin et al., CVPR 2014): `{'wfm'}`."""

    group = 'wfm'


class HumanCorrectionEffortMeasure(Metric):
    """Human correction effort, relax 5, epsilon 2 (Qin et al., ECCV 2022): `{'hce'}`."""

    group = 'hce'
    higher_is_better = False


class MeanBoundaryAccuracy(Metric):
    """Mean boundary accuracy (Cheng et al., CVPR 2020): `{'mba'}`; masks without a boundary are left out."""

    group = 'mba'


class BoundaryIoU(Metric):
    """Boundary IoU (Cheng et al., CVPR 2021): `{'biou': {'curve'}}`."""

    group = 'biou'

    def get_results(self) -> dict:
        """Means over all pairs."""
        return {'biou': {'curve': np.mean([iou_curve(measured.edge_counts) for measured in self._seen()], axis=0)}}


# The names of the published evaluation
SMeasure, MAEMeasure, MSEMeasure, EMeasure, FMeasure = Smeasure, MAE, MSE, Emeasure, Fmeasure
HCEMeasure, MBAMeasure, BIoUMeasure, WeightedFMeasure = (HumanCorrectionEffortMeasure, MeanBoundaryAccuracy,
                                                         BoundaryIoU, WeightedFmeasure)

__all__ = ['GROUPS', 'MAE', 'MSE', 'SCORES', 'BIoUMeasure', 'BoundaryIoU', 'EMeasure', 'Emeasure', 'FMeasure',
           'Fmeasure', 'GroundTruth', 'HCEMeasure', 'HumanCorrectionEffortMeasure', 'MAEMeasure', 'MBAMeasure',
           'MSEMeasure', 'MeanBoundaryAccuracy', 'Metric', 'SMeasure', 'Smeasure', 'WeightedFMeasure',
           'WeightedFmeasure', 'higher_is_better', 'score_pair']
