"""The registry of metrics: one record each, read by evaluator, tables, validation, card, report.

To add a metric, write its definition (definitions/) and, where that is too slow, a kernel
(kernels/), then its record here. There are two kinds:

- `curve`: a function of threshold counts. Its values at all thresholds, their maximum and mean, and
  the values at the adaptive threshold and above .5 follow from counts that all such metrics share.
  Counts of a whole set may be added up (pooled) instead of averaging the images' scores.
- `measure`: a function of a prepared pair (prepared.py). It reads the intermediate results it
  needs, which are computed once for all metrics.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from typing import TYPE_CHECKING, Literal

import numpy as np

import published
from evaluation.kernels import boundary, confusion, hce, histograms, matting
from evaluation.kernels.histograms import ADAPTIVE, BINARY, LEVELS
from evaluation.prepared import PreparedPrediction
from evaluation.set_counts import Curve

if not TYPE_CHECKING:  # which would take every name for one of this module
    __getattr__ = functools.partial(published.look_up, __name__)

Reduction = Callable[[np.ndarray], np.ndarray]


def at_highest_mean(curves: np.ndarray) -> np.ndarray:
    """Reads curves (images, 258) at the one threshold where their mean is highest; (images,)."""
    sums = np.add.reduce(curves[:, :LEVELS])
    return curves[:, sums.argmax()]


def at_lowest_mean(curves: np.ndarray) -> np.ndarray:
    """Reads curves (images, 258) at the one threshold where their mean is lowest; (images,)."""
    sums = np.add.reduce(curves[:, :LEVELS])
    return curves[:, sums.argmin()]


def over_thresholds(curves: np.ndarray) -> np.ndarray:
    """Averages each of the curves (images, 258) over the 256 thresholds; (images,)."""
    return total(curves) / LEVELS


def total(curves: np.ndarray) -> np.ndarray:
    """Adds up each of the curves (images, 258) over the 256 thresholds; (images,)."""
    return np.add.reduce(curves[:, :LEVELS], axis=1)


def at_adaptive(curves: np.ndarray) -> np.ndarray:
    """Reads curves (images, 258) at each image's adaptive threshold; (images,)."""
    return curves[:, ADAPTIVE]


def at_half(curves: np.ndarray) -> np.ndarray:
    """Reads curves (images, 258) where p > .5 is found; (images,)."""
    return curves[:, BINARY]


@dataclass(frozen=True)
class Score:
    """One number of a metric.

    Attributes:
        name: Key in results, e.g. 'maxFm'.
        column: Heading in tables.
        reduce: Turns the metric's curves (images, 258) into values (images,): 256 thresholds, then
            the adaptive one and p > .5. None where `measure` gives the value.
        pooled_from: The score of single images that this one is over the pooled pixels of a set.
    """

    name: str
    column: str
    reduce: Reduction | None = None
    pooled_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Everything that the project knows of a metric.

    Attributes:
        name: Key in stores and results.
        option: Name in `--metrics`.
        scores: The numbers it yields.
        headline: The score that stands for the metric where there is place for one.
        higher_is_better: Direction.
        unit_interval: Whether scores lie in 0..1. Tables then print no 0 before the point, and
            nothing above 1.
        digits: Digits after the point in tables.
        in_validation: Whether validation during training always computes the headline score.
        needs: What a mask must have beside itself; without it there is no score.
        measure: Computes the score of a pair; for metrics with one score that is no curve's.
        measure_curve: Computes the curve of a pair, for metrics whose curve does not follow from
            counts. Results and stores have it under the metric's name.
        curve: Computes the metric from threshold counts.
        counts: The counts that `curve` reads: of all pixels, of those of the boundaries, of each
            target with all around it as background, or of each target's box alone.
        further_curves: Curves that the report draws beside the metric's own.
    """

    name: str
    option: str
    scores: tuple[Score, ...]
    headline: str
    higher_is_better: bool = True
    unit_interval: bool = True
    digits: int = 3
    in_validation: bool = False
    needs: Literal['trimap', 'image'] | None = None
    measure: Callable[[PreparedPrediction], float] | None = None
    measure_curve: Callable[[PreparedPrediction], np.ndarray] | None = None
    curve: Curve | None = None
    counts: Literal['pixels', 'boundary', 'targets', 'boxes'] = 'pixels'
    further_curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def follows_from_counts(self) -> bool:
        """Whether the counts of pixels, which every measurement has, give all its scores."""
        return self.curve is not None and self.counts == 'pixels'

    @property
    def curves(self) -> dict[str, Curve]:
        """All curves by name; none for a metric without thresholds."""
        if self.curve is None:
            return {}
        return {self.name: self.curve, **self.further_curves}

    def measured_scores(self, pair: PreparedPrediction) -> dict[str, float | list[float]]:
        """Computes what does not follow from the counts of one pair: a score, or a curve.

        There is none where the mask lacks what the metric needs.
        """
        if self.measure_curve is not None:
            return {self.name: self.measure_curve(pair).tolist()}
        if self.measure is None or not pair.truth.has(self.needs):
            return {}
        [score] = self.scores
        return {score.name: float(self.measure(pair))}


def curve_scores(suffix: str) -> tuple[Score, Score]:
    """The maximum and the mean of a metric over all thresholds."""
    return (
        Score(f'max{suffix}', f'max{suffix}', at_highest_mean),
        Score(f'mean{suffix}', f'mean{suffix}', over_thresholds),
    )


def threshold_scores(suffix: str, lowest: bool = False) -> tuple[Score, ...]:
    """All scores of a metric of thresholds.

    They are maximum and mean over the thresholds, at the adaptive threshold and above .5; and over
    pooled pixels maximum, mean and above .5, because each image has an adaptive threshold of its
    own.

    Args:
        suffix: The metric's name in the scores' names.
        lowest: Whether there are minima too, for metrics where less is better.
    """
    reductions = {
        'max': at_highest_mean,
        'mean': over_thresholds,
        'adp': at_adaptive,
        'bin': at_half,
    }
    if lowest:
        reductions['min'] = at_lowest_mean

    # Of the images, and then over pooled pixels.
    scores = []
    for kind, reduce in reductions.items():
        name = f'{kind}{suffix}'
        scores.append(Score(name, name, reduce))
    for kind, reduce in reductions.items():
        if reduce is at_adaptive:
            continue
        name = f'pooled{kind.capitalize()}{suffix}'
        scores.append(Score(name, name, reduce, pooled_from=f'{kind}{suffix}'))
    return tuple(scores)


def area_scores(name: str) -> tuple[Score, Score]:
    """The area under a curve, from what each threshold adds; of images and of pooled pixels."""
    capitalised = name[0].upper() + name[1:]
    pooled_name = f'pooled{capitalised}'
    of_images = Score(name, name, total)
    of_pooled_pixels = Score(pooled_name, pooled_name, total, pooled_from=name)
    return of_images, of_pooled_pixels


def _correction_effort(pair: PreparedPrediction) -> float:
    truth = pair.truth
    return hce.correction_effort(
        pair.packed_binary, truth.packed_mask, truth.skeleton, truth.shape)


def _boundary_accuracy(pair: PreparedPrediction) -> float:
    truth = pair.truth
    return boundary.boundary_accuracy(
        pair.packed_binary, truth.packed_mask, truth.accuracy_bands)


_PLAIN_RECORDS = (
    Metric(
        name='sm',
        option='S',
        scores=(Score('sm', 'Smeasure'),),
        headline='sm',
        in_validation=True,
        measure=methodcaller('s_measure'),
    ),
    Metric(
        name='wfm',
        option='wF',
        scores=(Score('wfm', 'wFmeasure'),),
        headline='wfm',
        in_validation=True,
        measure=methodcaller('weighted_f'),
    ),
    Metric(
        name='fm',
        option='F',
        scores=threshold_scores('Fm'),
        headline='maxFm',
        in_validation=True,
        curve=confusion.f_measure,
        further_curves={'precision': confusion.precision, 'recall': confusion.recall},
    ),
    Metric(
        name='em',
        option='E',
        scores=(*curve_scores('Em'), Score('adpEm', 'adpEm', at_adaptive)),
        headline='meanEm',
        in_validation=True,
        curve=histograms.e_measure,
    ),
    Metric(
        name='mae',
        option='MAE',
        scores=(Score('mae', 'MAE'),),
        headline='mae',
        higher_is_better=False,
        in_validation=True,
        measure=methodcaller('absolute_error'),
    ),
    Metric(
        name='mse',
        option='MSE',
        scores=(Score('mse', 'MSE'),),
        headline='mse',
        higher_is_better=False,
        in_validation=True,
        measure=methodcaller('squared_error'),
    ),
    Metric(
        name='hce',
        option='HCE',
        scores=(Score('hce', 'HCE'),),
        headline='hce',
        higher_is_better=False,
        unit_interval=False,
        digits=0,
        measure=_correction_effort,
    ),
    Metric(
        name='mba',
        option='mBA',
        scores=(Score('mba', 'mBA'),),
        headline='mba',
        measure=_boundary_accuracy,
    ),
    Metric(
        name='biou',
        option='BIoU',
        scores=curve_scores('BIoU'),
        headline='maxBIoU',
        curve=confusion.iou,
        counts='boundary',
    ),
    Metric(
        name='precision',
        option='Precision',
        scores=threshold_scores('Precision'),
        headline='meanPrecision',
        curve=confusion.precision,
    ),
    Metric(
        name='recall',
        option='Recall',
        scores=threshold_scores('Recall'),
        headline='meanRecall',
        curve=confusion.recall,
    ),
    Metric(
        name='specificity',
        option='Specificity',
        scores=threshold_scores('Specificity'),
        headline='meanSpecificity',
        curve=confusion.specificity,
    ),
    Metric(
        name='fpr',
        option='FPR',
        scores=threshold_scores('FPR', lowest=True),
        headline='meanFPR',
        higher_is_better=False,
        curve=confusion.false_positive_rate,
    ),
    Metric(
        name='dice',
        option='Dice',
        scores=threshold_scores('Dice'),
        headline='meanDice',
        curve=confusion.dice,
    ),
    Metric(
        name='iou',
        option='IoU',
        scores=threshold_scores('IoU'),
        headline='meanIoU',
        curve=confusion.iou,
    ),
    Metric(
        name='ber',
        option='BER',
        scores=threshold_scores('BER', lowest=True),
        headline='binBER',
        higher_is_better=False,
        curve=confusion.balanced_error_rate,
    ),
    Metric(
        name='oa',
        option='OA',
        scores=threshold_scores('OA'),
        headline='binOA',
        curve=confusion.overall_accuracy,
    ),
    Metric(
        name='kappa',
        option='Kappa',
        scores=threshold_scores('Kappa'),
        headline='meanKappa',
        curve=confusion.kappa,
    ),
    Metric(
        name='cohenkappa',
        option='CohenKappa',
        scores=threshold_scores('CohenKappa'),
        headline='meanCohenKappa',
        curve=confusion.cohen_kappa,
    ),
    Metric(
        name='aucpr',
        option='aucPR',
        scores=area_scores('aucPR'),
        headline='aucPR',
        curve=confusion.precision_recall_area,
    ),
    Metric(
        name='aucroc',
        option='aucROC',
        scores=area_scores('aucROC'),
        headline='aucROC',
        curve=confusion.roc_area,
    ),
)



def _scales_at_highest_mean(curves: np.ndarray) -> np.ndarray:
    """Reads curves (images, 259) of MSIoU where their mean over the images is highest."""
    means = curves[:, :-2].mean(axis=0)
    return curves[:, means.argmax()]


def _scales_over_thresholds(curves: np.ndarray) -> np.ndarray:
    """Averages curves (images, 259) of MSIoU over its 257 thresholds."""
    return curves[:, :-2].mean(axis=1)


def _scales_at_adaptive(curves: np.ndarray) -> np.ndarray:
    return curves[:, -2]


def _scales_at_half(curves: np.ndarray) -> np.ndarray:
    return curves[:, -1]


_MULTISCALE = Metric(
    name='msiou',
    option='MSIoU',
    scores=(
        Score('maxMSIoU', 'maxMSIoU', _scales_at_highest_mean),
        Score('meanMSIoU', 'meanMSIoU', _scales_over_thresholds),
        Score('adpMSIoU', 'adpMSIoU', _scales_at_adaptive),
        Score('binMSIoU', 'binMSIoU', _scales_at_half),
    ),
    headline='meanMSIoU',
    measure_curve=methodcaller('multiscale_iou'),
)


def _size_invariant(metric: Metric) -> Metric:
    """The metric of each target by itself; pooled, all targets of all images count alike."""
    first = metric.scores[0]
    is_area = first.reduce is total

    # siAucPR of aucPR, SiFm of maxFm. A metric with minima has them of targets too.
    scores: tuple[Score, ...]
    if is_area:
        capitalised = first.name[0].upper() + first.name[1:]
        suffix = f'si{capitalised}'
        headline = suffix
        scores = area_scores(suffix)
    else:
        suffix = f'Si{first.name.removeprefix("max")}'
        headline = f'mean{suffix}'
        has_minima = len(metric.scores) > len(threshold_scores(''))
        scores = threshold_scores(suffix, lowest=has_minima)
    return Metric(
        name=f'si{metric.name}',
        option=suffix[0].upper() + suffix[1:],
        scores=scores,
        headline=headline,
        higher_is_better=metric.higher_is_better,
        unit_interval=metric.unit_interval,
        curve=metric.curve,
        counts='boxes' if is_area else 'targets',
    )


def _matte_error(
    name: str, error: Callable[..., float], unit_interval: bool, digits: int,
) -> Iterator[Metric]:
    """The records of an error of mattes, on the whole image and in the trimap's unknown part."""
    for suffix, in_unknown in (('', False), ('-U', True)):
        option = name + suffix
        key = option.lower().replace('-', '')
        yield Metric(
            name=key,
            option=option,
            scores=(Score(key, option),),
            headline=key,
            higher_is_better=False,
            unit_interval=unit_interval,
            digits=digits,
            needs='trimap' if in_unknown else None,
            measure=methodcaller('matte_error', error, in_unknown),
        )


_MATTE_RECORDS = (
    *_matte_error('SAD', matting.absolute_sum, False, 2),
    *_matte_error('MAD', matting.absolute_mean, True, 4),
    *_matte_error('alphaMSE', matting.squared_mean, True, 4),
    *_matte_error('Grad', matting.gradient, False, 2),
    *_matte_error('Conn', matting.connectivity, False, 2),
)

RECORDS = (
    *_PLAIN_RECORDS,
    _MULTISCALE,
    Metric(
        name='cm',
        option='CM',
        scores=(Score('cm', 'contextMeasure'),),
        headline='cm',
        measure=methodcaller('context_measure'),
    ),
    Metric(
        name='ccm',
        option='CCM',
        scores=(Score('ccm', 'camouflageContextMeasure'),),
        headline='ccm',
        needs='image',
        measure=methodcaller('camouflage_context_measure'),
    ),
    *_MATTE_RECORDS,
    Metric(
        name='simae',
        option='SiMAE',
        scores=(Score('simae', 'SiMAE'),),
        headline='simae',
        higher_is_better=False,
        measure=methodcaller('size_invariant_error'),
    ),
    *(_size_invariant(metric) for metric in _PLAIN_RECORDS
      if metric.follows_from_counts and metric.name != 'em'),
)
METRICS = {metric.name: metric for metric in RECORDS}
# The metric of each score, and its column in tables.
SCORES = {score.name: metric for metric in RECORDS for score in metric.scores}
COLUMNS = {score.name: score.column for metric in RECORDS for score in metric.scores}
HEADLINES = tuple(metric.headline for metric in RECORDS)
VALIDATION_SCORES = tuple(metric.headline for metric in RECORDS if metric.in_validation)


def metric_of(score: str) -> Metric:
    """Returns the metric that a score belongs to. Raises ValueError for an unknown one."""
    if score not in SCORES:
        raise ValueError(f'unknown score {score!r}; known: {", ".join(SCORES)}')
    return SCORES[score]


def higher_is_better(score: str) -> bool:
    """Returns whether more is better. Raises ValueError for an unknown score."""
    return metric_of(score).higher_is_better


def image_score(name: str) -> Score:
    """Returns a score that any image with a mask has.

    Raises:
        ValueError: For an unknown score, one over pooled pixels, or one that needs a trimap or the
            image.
    """
    metric = metric_of(name)
    [score] = [score for score in metric.scores if score.name == name]
    if score.pooled_from or metric.needs:
        raise ValueError(f'{name}: not a score of single images with nothing but a mask')
    return score


# The scores that a field reports, in the order of its tables, by the group's name in `--metrics`.
GROUPS = {
    'cod': ('sm', 'wfm', 'adpFm', 'meanFm', 'maxFm', 'adpEm', 'meanEm', 'maxEm', 'mae'),
    'dis': ('maxFm', 'wfm', 'mae', 'sm', 'meanEm', 'hce', 'mba', 'maxBIoU'),
    'matting': tuple(metric.headline for metric in _MATTE_RECORDS),
    'medical': (
        'meanDice', 'meanIoU', 'wfm', 'sm', 'meanEm', 'maxEm', 'mae', 'binDice', 'binIoU',
        'binPrecision', 'binRecall', 'binSpecificity', 'binOA', 'aucROC'),
}
# What is computed where nothing is named; the columns of all tasks are among it.
USUAL = ('sm', 'wfm', 'fm', 'em', 'mae', 'mse', 'hce', 'mba', 'biou')


def select_metrics(names: Collection[str] | None) -> list[str]:
    """Returns the names of the metrics with these names or scores, in the registry's order.

    Args:
        names: Metrics or scores; None for all metrics.

    Raises:
        ValueError: Naming what is unknown.
    """
    if names is None:
        return list(METRICS)
    unknown = sorted(set(names) - set(METRICS) - set(SCORES))
    if unknown:
        known = dict.fromkeys((*METRICS, *SCORES))
        raise ValueError(f'unknown metrics {unknown}; known: {", ".join(known)}')
    wanted = set()
    for name in names:
        metric_name = SCORES[name].name if name in SCORES else name
        wanted.add(metric_name)
    return [name for name in METRICS if name in wanted]


def parse_metrics(text: str) -> list[str]:
    """Parses `--metrics`: names joined by +.

    A name is a group, a metric's option or name, a score or a column, in any case; `usual` and
    `all` are groups too.

    Raises:
        ValueError: Naming what is unknown.
    """
    # Each name stands for one or several metrics.
    metrics: set[str] = set()
    unknown = []
    for name in text.lower().split('+'):
        if name in _NAMES:
            metrics.update(_NAMES[name])
        else:
            unknown.append(name)

    if unknown:
        options = ', '.join(metric.option for metric in RECORDS)
        groups = ', '.join(('usual', *GROUPS, 'all'))
        raise ValueError(
            f'--metrics {text}: unknown metrics {unknown}; known: {options}, their scores '
            f'({RECORDS[0].headline}, ...), and the groups {groups}; join several by +')
    return [name for name in METRICS if name in metrics]


def _names() -> dict[str, tuple[str, ...]]:
    """The metrics that each name of `--metrics` stands for, in small letters."""
    names = {'all': tuple(METRICS), 'usual': USUAL}
    for group, scores in GROUPS.items():
        names[group] = tuple(SCORES[score].name for score in scores)
    for metric in RECORDS:
        own_names = [metric.name, metric.option]
        for score in metric.scores:
            own_names += [score.name, score.column]
        for name in own_names:
            names[name.lower()] = (metric.name,)
    return names


_NAMES = _names()


def table_columns(text: str, task_columns: Sequence[str]) -> list[str]:
    """Returns the columns of tables for `--metrics`.

    They are the task's, and behind them what was named that the task's tables lack: the columns of
    a group, the scores of a metric on single images, or one score. `usual` and `all` add none.
    """
    columns = list(task_columns)
    for name in text.lower().split('+'):
        if name in ('usual', 'all'):
            continue

        # A group's columns; none for another name.
        wanted = [COLUMNS[score] for score in GROUPS.get(name, ())]

        # A score's column, or those of a metric of which the task has none.
        for metric in RECORDS:
            own = {score.column for score in metric.scores}
            is_whole = name in (metric.name.lower(), metric.option.lower())
            adds_metric = is_whole and own.isdisjoint(task_columns)
            for score in metric.scores:
                is_named = name in (score.name.lower(), score.column.lower())
                is_added = adds_metric and not score.pooled_from
                if is_named or is_added:
                    wanted.append(score.column)
        columns += [column for column in wanted if column not in columns]
    return columns
