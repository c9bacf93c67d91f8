"""Metrics that take one pair after another: the classes and calls of PySODMetrics 1.6.2.

    import evaluation.scoring as py_sod_metrics
    metric = Smeasure(); metric.step(pred, gt); metric.get_results()['sm']

docs/evaluation.md says what is accepted. Results are theirs, except where theirs are NaN or an
error (docs/metrics.md). `measuring` has functions of single pairs and of sets.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from operator import methodcaller
from typing import Any

import numpy as np

from evaluation.kernels import confusion, multiscale
from evaluation.kernels.histograms import (
    ADAPTIVE,
    BINARY,
    EIGHT_BIT,
    LEVELS,
    ThresholdCounts,
    concatenate,
)
from evaluation.kernels.targets import in_image
from evaluation.measuring import (
    Averages,
    GroundTruth,
    Measurement,
    average,
    average_records,
    mean_of_present,
    measure_pair,
    pool,
    score_pair,
)
from evaluation.metrics import METRICS, Metric, at_adaptive, at_half, select_metrics, total
from evaluation.prepared import PreparedPrediction
from evaluation.set_counts import SetCounts, TargetCounts, of_images, of_targets

__all__ = [
    'MAE',
    'MSE',
    'Accumulator',
    'BERHandler',
    'BoundaryIoU',
    'CamouflageContextMeasure',
    'ContextMeasure',
    'DICEHandler',
    'Emeasure',
    'FPRHandler',
    'Fmeasure',
    'FmeasureHandler',
    'FmeasureV2',
    'GroundTruth',
    'Handler',
    'HumanCorrectionEffortMeasure',
    'IOUHandler',
    'KappaHandler',
    'MSIoU',
    'MeanBoundaryAccuracy',
    'OverallAccuracyHandler',
    'PrecisionHandler',
    'RecallHandler',
    'SensitivityHandler',
    'SizeInvarianceFmeasureV2',
    'SizeInvarianceMAE',
    'Smeasure',
    'SpecificityHandler',
    'TNRHandler',
    'TPRHandler',
    'WeightedFmeasure',
    'average',
    'pool',
    'score_pair',
]


def prepare(
    pred: np.ndarray, gt: np.ndarray | GroundTruth, normalize: bool = True,
) -> PreparedPrediction:
    """Prepares a pair as `step` takes it.

    Args:
        pred: (H, W), uint8 0..255, boolean, or float 0..1; what is normalised may also be of any
            integer type or float in 0..255.
        gt: (H, W), uint8, foreground above 128, uint8 of 0 and 1, or boolean, or these values in
            another type; or a `GroundTruth`, which several predictions or metrics may share.
        normalize: Whether to min-max normalise the prediction.

    Raises:
        ValueError: For another type, size or range.
    """
    truth = gt if isinstance(gt, GroundTruth) else GroundTruth(as_eight_bit(gt))
    if pred.dtype.kind != 'f':
        return PreparedPrediction(as_eight_bit(pred), truth, normalize)
    is_grey = normalize and pred.max(initial=0) > 1
    white = 255 if is_grey else 1
    if not (pred.min(initial=0) >= 0 and pred.max(initial=0) <= white):
        raise ValueError(
            f'prediction: floating point values must be in 0..{white}, '
            f'got {pred.min()}..{pred.max()}')

    # Grey values, or these divided by 255, are scored as such, which is faster.
    grey = np.rint(pred * (255 / white)).astype(np.uint8)
    values = (white * EIGHT_BIT).astype(pred.dtype)
    if np.array_equal(values[grey], pred):
        # PySODMetrics divides by 255 before it normalises: rounding decides on grey values.
        return PreparedPrediction(grey, truth, normalize, values / 255)
    from evaluation.soft import SoftPrediction  # it needs scipy and scikit-image
    return SoftPrediction(pred, truth, normalize)


def as_eight_bit(array: np.ndarray) -> np.ndarray:
    """Whole numbers in 0..255 as uint8; other arrays, and those of 8 bits, as they are."""
    is_in_range = array.min(initial=0) >= 0 and array.max(initial=0) <= 255
    if array.dtype.kind not in 'iuf' or not is_in_range:
        return array
    grey = array.astype(np.uint8)
    return grey if np.array_equal(grey, array) else array


class Accumulator:
    """Averages one metric over pairs that come one after another.

    Args:
        metric: Name in `evaluation.metrics.METRICS`, or a metric of your own.
    """

    def __init__(self, metric: str | Metric) -> None:
        if isinstance(metric, str):
            [name] = select_metrics([metric])
            metric = METRICS[name]
        self.record = metric
        self.measurements: list[Measurement] = []

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.record.name

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric."""
        return self.record.higher_is_better

    def step(
        self, pred: np.ndarray, gt: np.ndarray | GroundTruth, normalize: bool = True,
    ) -> None:
        """Adds a pair; see `prepare` for the arguments and errors."""
        pair = prepare(pred, gt, normalize)
        self.measurements.append(measure_pair(pair, [self.record]))

    def merge(self, other: 'Accumulator') -> None:
        """Adds all pairs of another accumulator of the same metric."""
        if other.metric != self.metric:
            raise ValueError(f'cannot merge {other.metric} into {self.metric}')
        self.measurements.extend(other.measurements)

    def get_results(self) -> dict:
        """Averages over all pairs.

        Returns:
            `{'sm': mean}`, or for a metric with a curve `{'fm': {'curve': (256,), 'adp': mean}}`,
            the curve over falling thresholds, 'adp' at the adaptive threshold, 'bin' above .5, if
            the metric has these.

        Raises:
            ValueError: Without a pair.
        """
        averages = self._averages()
        means = {}
        for score in self.record.scores:
            means[score.reduce] = mean_of_present(averages.values[score.name])

        # A metric without thresholds, or an area under a curve, has one number.
        for whole in (None, total):
            if whole in means:
                return {self.metric: means[whole]}

        # Others have a curve.
        result: dict[str, Any] = {'curve': averages.curves[self.metric]}
        for name, reduce in (('adp', at_adaptive), ('bin', at_half)):
            if reduce in means:
                result[name] = means[reduce]
        return {self.metric: result}

    def _averages(self) -> Averages:
        if not self.measurements:
            raise ValueError(f'{self.metric}: no pair yet; call step first')
        return average_records(self.measurements, [self.record])


class Smeasure(Accumulator):
    """S-measure (Fan et al., ICCV 2017): `{'sm'}`; alpha weighs objects against regions."""

    def __init__(self, alpha: float = 0.5) -> None:
        measure = methodcaller('s_measure', alpha)
        super().__init__(replace(METRICS['sm'], measure=measure))


class MAE(Accumulator):
    """Mean absolute error: `{'mae'}`."""

    def __init__(self) -> None:
        super().__init__('mae')


class MSE(Accumulator):
    """Mean squared error: `{'mse'}`."""

    def __init__(self) -> None:
        super().__init__('mse')


class Emeasure(Accumulator):
    """E-measure (Fan et al., IJCAI 2018): `{'em': {'adp', 'curve'}}`."""

    def __init__(self) -> None:
        super().__init__('em')


class Fmeasure(Accumulator):
    """F-measure (Achanta et al., CVPR 2009): `{'fm': {'adp', 'curve'}, 'pr': {'p', 'r'}}`.

    Args:
        beta: The square of beta.
    """

    def __init__(self, beta: float = 0.3) -> None:
        curve = partial(confusion.f_measure, beta2=beta)
        super().__init__(replace(METRICS['fm'], curve=curve))

    def get_results(self) -> dict:
        """Averages over all pairs, with the curves of precision and recall."""
        results = super().get_results()
        del results['fm']['bin']
        curves = self._averages().curves
        results['pr'] = {'p': curves['precision'], 'r': curves['recall']}
        return results


class WeightedFmeasure(Accumulator):
    """Weighted F-measure (Margolin et al., CVPR 2014): `{'wfm'}`; beta is not squared."""

    def __init__(self, beta: float = 1) -> None:
        measure = methodcaller('weighted_f', beta)
        super().__init__(replace(METRICS['wfm'], measure=measure))


class HumanCorrectionEffortMeasure(Accumulator):
    """Human correction effort (Qin et al., ECCV 2022): `{'hce'}`.

    As in PySODMetrics, of the normalised prediction above .5; that of the tables is of the
    prediction above 128 as it is, as in the publication.

    Args:
        relax: How many pixels deep errors are forgiven.
        epsilon: How far in pixels a border may be from its polygon.
    """

    def __init__(self, relax: int = 5, epsilon: float = 2.0) -> None:
        measure = methodcaller('correction_effort', relax, epsilon)
        super().__init__(replace(METRICS['hce'], measure=measure))


class MeanBoundaryAccuracy(Accumulator):
    """Mean boundary accuracy (Cheng et al., CVPR 2020): `{'mba'}`, of masks with a boundary."""

    def __init__(self) -> None:
        super().__init__('mba')


class BoundaryIoU(Accumulator):
    """Boundary IoU (Cheng et al., CVPR 2021): `{'biou': {'curve'}}`."""

    def __init__(self) -> None:
        super().__init__('biou')


class SizeInvarianceMAE(Accumulator):
    """Size-invariant MAE (Li et al., ICML 2024): `{'si_mae'}`."""

    def __init__(self) -> None:
        super().__init__('simae')

    def get_results(self) -> dict:
        """Averages over all pairs."""
        return {'si_mae': super().get_results()['simae']}


class ContextMeasure(Accumulator):
    """Context measure (Wang et al., 2025): `{'cm'}`.

    Args:
        beta2: Weight of the mask's share that lies in the prediction's context.
        alpha: Size of the context.
    """

    def __init__(self, beta2: float = 1.0, alpha: float = 6.0) -> None:
        measure = methodcaller('context_measure', beta2, alpha)
        super().__init__(replace(METRICS['cm'], measure=measure))


class CamouflageContextMeasure(Accumulator):
    """Camouflage context measure (Wang et al., 2025): `{'ccm'}`.

    Args:
        beta2: Weight of the mask's share that lies in the prediction's context.
        alpha: Size of the context.
        gamma: How soon a difference in colour is seen.
        lambda_spatial: Weight of places against colours, when similar patches are looked for.
    """

    def __init__(
        self,
        beta2: float = 1.2,
        alpha: float = 6.0,
        gamma: int = 8,
        lambda_spatial: float = 20,
    ) -> None:
        measure = methodcaller(
            'camouflage_context_measure', beta2, alpha, gamma, lambda_spatial)
        super().__init__(replace(METRICS['ccm'], measure=measure))

    def step(  # type: ignore[override]
        self,
        pred: np.ndarray,
        gt: np.ndarray | GroundTruth,
        normalize: bool = True,
        *,
        img: np.ndarray | None = None,
    ) -> None:
        """Adds a pair.

        Args:
            pred: As of `prepare`.
            gt: As of `prepare`. A `GroundTruth` may have the image itself.
            normalize: As of `prepare`.
            img: RGB, uint8 (H, W, 3).

        Raises:
            ValueError: As of `prepare`, and without an image.
        """
        truth = gt if isinstance(gt, GroundTruth) else GroundTruth(gt, image=img)
        if truth.image is None:
            raise ValueError('CamouflageContextMeasure: it needs the image: step(pred, gt, img=)')
        super().step(pred, truth, normalize)


class MSIoU(Accumulator):
    """Multi-scale IoU (Ahmadzadeh et al., ICIP 2021): 'dynamic' (257,), 'adaptive', 'binary'.

    Args:
        with_dynamic: The curve over rising thresholds.
        with_adaptive: At each image's adaptive threshold.
        with_binary: Where p > .5.
        num_levels: Scales, evenly from cells of 1 to those of 512 pixels a side, 2 or more. Their
            exponents are rounded down: 3 have cells of 1, 16 and 512 pixels.

    Raises:
        ValueError: For fewer scales, which have no area under them.
    """

    def __init__(
        self,
        with_dynamic: bool,
        with_adaptive: bool,
        *,
        with_binary: bool = False,
        num_levels: int = 10,
    ) -> None:
        if num_levels < 2:
            raise ValueError(f'MSIoU: num_levels {num_levels}; expected 2 or more')
        self.wanted = {
            'dynamic': with_dynamic,
            'adaptive': with_adaptive,
            'binary': with_binary,
        }
        scales = np.linspace(0, multiscale.SCALES - 1, num_levels, dtype=int)
        measure = methodcaller('multiscale_iou', scales)
        super().__init__(replace(METRICS['msiou'], measure_curve=measure))

    def get_results(self) -> dict:
        """Averages over all pairs."""
        curves = self._averages().image_curves['msiou']
        mean = curves.mean(axis=0)
        # The curve was over falling thresholds, with two more values behind it.
        found = {
            'dynamic': mean[-3::-1],
            'adaptive': mean[-2],
            'binary': mean[-1],
        }
        return {name: value for name, value in found.items() if self.wanted[name]}


# --- Several metrics of one binary prediction ---------------------------------------------------


class Handler:
    """What `FmeasureV2` computes of a metric.

    A metric of your own is a subclass whose `__call__` computes it from counts. It is called with
    arrays (256,) for 'dynamic', and with numbers for 'adaptive' and 'binary'.

    Args:
        with_dynamic: Over 256 falling thresholds: 'dynamic'.
        with_adaptive: At each image's adaptive threshold: 'adaptive'.
        with_binary: Where p > .5: 'binary'.
        sample_based: Average the images. Otherwise 'binary' is that of the pooled pixels.
    """

    curve: Callable[[ThresholdCounts], np.ndarray]

    def __init__(
        self,
        with_dynamic: bool,
        with_adaptive: bool,
        *,
        with_binary: bool = False,
        sample_based: bool = True,
    ) -> None:
        self.with_dynamic = with_dynamic
        self.with_adaptive = with_adaptive
        self.with_binary = with_binary
        self.sample_based = sample_based

    def __call__(
        self, tp: np.ndarray, fp: np.ndarray, tn: np.ndarray, fn: np.ndarray,
    ) -> np.ndarray:
        """Computes the metric from counts."""
        foreground = tp + fn
        size = tp + fp + tn + fn
        return self.curve(ThresholdCounts(tp, fp, foreground, size))

    @staticmethod
    def divide(numerator: Any, denominator: Any) -> np.ndarray:
        """Divides counts; 0 where the denominator is 0."""
        is_zero = np.equal(denominator, 0)
        quotient = np.true_divide(numerator, np.where(is_zero, 1, denominator))
        return np.where(is_zero, 0, quotient)

    def of(self, counts: ThresholdCounts) -> np.ndarray:
        """Computes the metric from threshold counts (..., 258)."""
        is_own = type(self).__call__ is not Handler.__call__
        return self._of_own(counts) if is_own else self.curve(counts)

    def _of_own(self, counts: ThresholdCounts) -> np.ndarray:
        """Calls a subclass's metric one image or target after the other, for what is wanted."""
        tp = counts.true_positives
        fp = counts.false_positives
        tn = counts.background - fp
        fn = counts.foreground - tp

        parts: list[tuple[bool, slice | int]] = [
            (self.with_dynamic, slice(LEVELS)),
            (self.with_adaptive, ADAPTIVE),
            (self.with_binary, BINARY),
        ]
        values = np.zeros(tp.shape)
        for row in np.ndindex(tp.shape[:-1]):
            for is_wanted, part in parts:
                if is_wanted:
                    at = (*row, part)
                    values[at] = self(tp=tp[at], fp=fp[at], tn=tn[at], fn=fn[at])
        return values


class FmeasureHandler(Handler):
    """F-measure; `beta` is the square of beta."""

    def __init__(
        self,
        with_dynamic: bool,
        with_adaptive: bool,
        *,
        with_binary: bool = False,
        sample_based: bool = True,
        beta: float = 0.3,
    ) -> None:
        super().__init__(
            with_dynamic, with_adaptive, with_binary=with_binary, sample_based=sample_based)
        self.curve = partial(confusion.f_measure, beta2=beta)


class PrecisionHandler(Handler):
    """Precision."""

    curve = staticmethod(confusion.precision)


class RecallHandler(Handler):
    """Recall, also called sensitivity and true positive rate."""

    curve = staticmethod(confusion.recall)


class SpecificityHandler(Handler):
    """Specificity, also called true negative rate."""

    curve = staticmethod(confusion.specificity)


class FPRHandler(Handler):
    """False positive rate."""

    curve = staticmethod(confusion.false_positive_rate)


class DICEHandler(Handler):
    """Dice coefficient."""

    curve = staticmethod(confusion.dice)


class IOUHandler(Handler):
    """Intersection over union."""

    curve = staticmethod(confusion.iou)


class BERHandler(Handler):
    """Balanced error rate."""

    curve = staticmethod(confusion.balanced_error_rate)


class OverallAccuracyHandler(Handler):
    """Overall accuracy."""

    curve = staticmethod(confusion.overall_accuracy)


class KappaHandler(Handler):
    """Kappa, as PySODMetrics computes it."""

    curve = staticmethod(confusion.kappa)


TPRHandler = SensitivityHandler = RecallHandler
TNRHandler = SpecificityHandler


class FmeasureV2:
    """Computes several metrics of thresholds at once.

    Args:
        metric_handlers: A handler by the name of each metric.
    """

    def __init__(self, metric_handlers: Mapping[str, Handler] | None = None) -> None:
        self.handlers: dict[str, Handler] = {}
        self.histograms: list[np.ndarray] = []
        for name, handler in (metric_handlers or {}).items():
            self.add_handler(name, handler)

    def add_handler(self, handler_name: str, metric_handler: Handler) -> None:
        """Adds a metric. Raises ValueError for what is not a handler."""
        if not isinstance(metric_handler, Handler):
            raise ValueError(
                f'FmeasureV2: {handler_name}: expected a handler such as IOUHandler(...), '
                f'or a subclass of one, got {type(metric_handler).__name__}')
        self.handlers[handler_name] = metric_handler

    def step(
        self, pred: np.ndarray, gt: np.ndarray | GroundTruth, normalize: bool = True,
    ) -> None:
        """Adds a pair; see `prepare` for the arguments. Raises ValueError without a handler."""
        if not self.handlers:
            raise ValueError('FmeasureV2: no handler; pass metric_handlers or call add_handler')
        pair = prepare(pred, gt, normalize)
        self.histograms.append(self._histogram(pair))

    def get_results(self) -> dict[str, dict]:
        """Returns 'dynamic', 'adaptive' and 'binary', as the handlers want them, by metric.

        Raises:
            ValueError: Without a pair.
        """
        if not self.histograms:
            raise ValueError('FmeasureV2: no pair yet; call step first')
        counts = self._counts()
        return {name: self._result(handler, counts) for name, handler in self.handlers.items()}

    def _result(self, handler: Handler, counts: SetCounts) -> dict:
        curves = counts.image_curves(handler.of)
        result = {}
        if handler.with_dynamic:
            result['dynamic'] = self._dynamic(handler, counts, curves)
        if handler.with_adaptive:
            result['adaptive'] = curves[:, ADAPTIVE].mean()
        if handler.with_binary and handler.sample_based:
            result['binary'] = curves[:, BINARY].mean()
        elif handler.with_binary:
            result['binary'] = counts.pooled_curve(handler.of)[BINARY]
        return result

    def _histogram(self, pair: PreparedPrediction) -> np.ndarray:
        return pair.pixel_counts

    def _counts(self) -> SetCounts:
        return of_images(self.histograms)

    def _dynamic(
        self, handler: Handler, counts: SetCounts, curves: np.ndarray,
    ) -> np.ndarray | list[np.ndarray]:
        return curves[:, :LEVELS].mean(axis=0)


class SizeInvarianceFmeasureV2(FmeasureV2):
    """Computes metrics of each target by itself (Li et al., ICML 2024).

    'dynamic' lists a curve (targets, 256) of each image, or, if not sample_based, is the mean
    over all targets.
    """

    def _histogram(self, pair: PreparedPrediction) -> np.ndarray:
        return in_image(pair.target_counts, pair.truth.size)

    def _counts(self) -> SetCounts:
        return of_targets(self.histograms)

    def _dynamic(
        self, handler: Handler, counts: SetCounts, curves: np.ndarray,
    ) -> np.ndarray | list[np.ndarray]:
        assert isinstance(counts, TargetCounts)
        if handler.sample_based:
            return [handler.of(targets)[:, :LEVELS] for targets in counts.by_image]
        of_all_targets = handler.of(concatenate(counts.by_image))
        return of_all_targets.mean(axis=0)[:LEVELS]
