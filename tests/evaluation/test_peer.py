"""Our scores against those that PySODMetrics 1.6.2 gave for the same pairs (golden/record.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation import GroundTruth, scoring
from evaluation.kernels import hce
from evaluation.metrics import METRICS, SCORES
from tests.evaluation.golden.calls import CALLS, KINDS, arguments, further_arguments, summary
from tests.evaluation.golden.pairs import samples

RECORDED = json.loads(Path(__file__).with_name('golden').joinpath('pysodmetrics.json').read_text())
# What the peer rounds to half precision, or computes in another order.
LOOSE = ('MSIoU', 'cm')


def tolerance(score):
    return 1e-6 if score.endswith(LOOSE) else 1e-9


def assert_equal(found, expected):
    assert len(expected) >= 10
    for score, value in expected.items():
        assert found[score] == pytest.approx(value, abs=tolerance(score)), score


@pytest.mark.parametrize('name', samples())
def test_single_pairs(name):
    sample = samples()[name]
    expected = {score: value for score, value in RECORDED[name].items() if score in SCORES}
    truth = GroundTruth(sample.mask, image=sample.image)
    found = truth.score(sample.pred, set(expected))
    assert_equal(found, expected)


def test_pooled():
    expected = {score: value for score, value in RECORDED['pooled'].items() if score in SCORES}
    metrics = [name for name in METRICS if any(SCORES[score].name == name for score in expected)]
    measurements = []
    for sample in samples().values():
        measurements.append(GroundTruth(sample.mask).measure(sample.pred, metrics))
    assert_equal(scoring.pool(measurements, metrics), expected)


# The peer filters in half or single precision.
LOOSE_CLASSES = ('MSIoU', 'ContextMeasure', 'CamouflageContextMeasure')
HANDLED = {
    'FmeasureV2': scoring.FmeasureV2,
    'SizeInvarianceFmeasureV2': scoring.SizeInvarianceFmeasureV2,
}


def assert_nested_equal(found, expected, tolerance):
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_nested_equal(found[key], value, tolerance)
        else:
            assert found[key] == pytest.approx(value, abs=tolerance), key


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('call', CALLS)
def test_calls(call, kind):
    if call.startswith('Human') and not hce.counts_as_published():
        pytest.skip('this OpenCV simplifies borders otherwise')
    sample = samples()['blobs']
    metric = CALLS[call].make(scoring)
    metric.step(**arguments(sample, kind), **further_arguments(call, sample))
    # The peer adds float32 in float32, which has 24 bits.
    is_loose = kind == 'float32' or call.startswith(LOOSE_CLASSES)
    rounding = 1e-6 if is_loose else 1e-9
    assert_nested_equal(
        summary(metric.get_results()), RECORDED['calls'][f'{call} {kind}'], rounding)


@pytest.mark.parametrize('call', HANDLED)
def test_handlers(call):
    handlers = {
        'f1': scoring.FmeasureHandler(True, True, with_binary=True, beta=1),
        'iou': scoring.IOUHandler(with_dynamic=True, with_adaptive=True, with_binary=True)}
    metric = HANDLED[call](metric_handlers=handlers)
    metric.step(**arguments(samples()['blobs'], 'float'))
    assert_nested_equal(
        summary(metric.get_results()), RECORDED['calls'][f'{call} float'], 1e-9)


@pytest.mark.parametrize('kind', ['uint8', 'floating point'])
def test_camouflage(kind):
    sample = samples()['odd']
    preds = {'uint8': sample.pred, 'floating point': sample.pred / 255 * (1 - 1e-6)}
    metric = scoring.CamouflageContextMeasure()
    metric.step(pred=preds[kind], gt=sample.mask, img=sample.image)
    expected = RECORDED['odd']['ccm']
    assert metric.get_results() == {'ccm': pytest.approx(expected, abs=1e-5)}


def test_handlers_over_pooled_pixels():
    metric = scoring.FmeasureV2()
    handler = scoring.IOUHandler(False, False, with_binary=True, sample_based=False)
    metric.add_handler('IoU', handler)
    for sample in samples().values():
        metric.step(sample.pred, sample.mask)
    expected = RECORDED['pooled']['pooledBinIoU']
    assert metric.get_results() == {'IoU': {'binary': pytest.approx(expected, abs=1e-9)}}


def test_a_target_that_is_not_found_at_all():
    """Its mean is 0, and the adaptive threshold of 0 finds the whole image, as in PySODMetrics."""
    mask = np.zeros((4, 6), bool)
    mask[1, 1] = True
    pred = np.where(mask, 0, .3)
    for kind in (pred, pred * (1 - 1e-6), np.uint8(255 * pred)):
        metric = scoring.SizeInvarianceFmeasureV2({'fpr': scoring.FPRHandler(False, True)})
        metric.step(kind, mask, normalize=False)
        assert metric.get_results()['fpr']['adaptive'] == 1


def test_a_handler_is_a_function_of_counts():
    handler = scoring.DICEHandler(with_dynamic=True, with_adaptive=False)
    assert handler(tp=3, fp=2, tn=4, fn=1) == pytest.approx(2 / 3)


class SquaredIoU(scoring.IOUHandler):
    def __call__(self, tp, fp, tn, fn):
        return super().__call__(tp, fp, tn, fn) ** 2


class Found(scoring.Handler):
    """Of single numbers alone, as PySODMetrics calls it for 'adaptive' and 'binary'."""

    def __call__(self, tp, fp, tn, fn):
        return 0 if tp + fp == 0 else self.divide(tp, tp + fp)


@pytest.mark.parametrize('make', HANDLED.values())
def test_metrics_of_the_user(make):
    numbers = {'with_adaptive': True, 'with_binary': True}
    metric = make({
        'iou': scoring.IOUHandler(True, **numbers),
        'squared': SquaredIoU(True, **numbers),
        'precision': scoring.PrecisionHandler(False, **numbers),
        'found': Found(False, **numbers),
        'pooled': SquaredIoU(False, sample_based=False, **numbers)})
    metric.step(samples()['wide'].pred, samples()['wide'].mask)
    results = metric.get_results()
    assert results['found'] == pytest.approx(results['precision'])
    squares = np.square(results['iou']['dynamic'])
    assert np.asarray(results['squared']['dynamic']) == pytest.approx(squares)
    if make is scoring.FmeasureV2:
        for kind in ('adaptive', 'binary'):
            assert results['pooled'][kind] == pytest.approx(results['iou'][kind] ** 2)


def test_pooled_handlers_have_the_adaptive_mean():
    results = []
    for sample_based in (True, False):
        metric = scoring.FmeasureV2()
        handler = scoring.IOUHandler(False, True, sample_based=sample_based)
        metric.add_handler('IoU', handler)
        for sample in samples().values():
            metric.step(sample.pred, sample.mask)
        results.append(metric.get_results())
    assert results[0] == results[1]


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_floats_are_normalised_in_the_order_of_the_peer(dtype):
    """It divides by 255 first and keeps the type; some pixels are at one threshold lower so."""
    sample = samples()['narrow']
    mask = sample.mask > 128
    for pred in (sample.pred / 255, np.sqrt(sample.pred / 255), 255 * np.sqrt(sample.pred / 255)):
        x = pred.astype(dtype) / 255
        grey = (255 * ((x - x.min()) / (x.max() - x.min()))).astype(np.uint8)
        hits = [np.count_nonzero(mask & (grey >= level)) for level in range(255, -1, -1)]
        metric = scoring.Fmeasure()
        metric.step(pred.astype(dtype), mask)
        results = metric.get_results()
        assert results['pr']['r'] * np.count_nonzero(mask) == pytest.approx(np.array(hits))
        assert set(results['fm']) == {'adp', 'curve'}


@pytest.mark.parametrize('dtype', [np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_grey_values_of_any_type(dtype):
    sample = samples()['narrow']
    results = []
    for kind in (np.uint8, dtype):
        metric = scoring.Smeasure()
        metric.step(sample.pred.astype(kind), sample.mask.astype(kind))
        results.append(metric.get_results()['sm'])
    assert results[1] == pytest.approx(results[0], abs=1e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize('gt', ['boolean', 'of 0 and 1', 'of 0 and 255'])
@pytest.mark.parametrize('normalize', [True, False])
def test_masks_and_predictions_of_any_kind(gt, normalize):
    """Predictions of k / 255 are the 8-bit ones, and a mask is a mask."""
    sample = samples()['narrow']
    mask = sample.mask > 128
    masks = {'boolean': mask, 'of 0 and 1': mask.astype(np.uint8), 'of 0 and 255': sample.mask}
    p = sample.pred / 255
    expected = p
    if normalize:
        expected = (p - p.min()) / (p.max() - p.min())
    for pred in (sample.pred, p, p.astype(np.float32)):
        metric = scoring.MAE()
        metric.step(pred, masks[gt], normalize=normalize)
        assert metric.get_results()['mae'] == pytest.approx(np.abs(expected - mask).mean())


def test_misuse():
    sample = samples()['odd']
    with pytest.raises(ValueError, match=r'must be in 0\.\.1, got 1\.5'):
        scoring.MAE().step(np.full((4, 4), 1.5), np.zeros((4, 4), bool), normalize=False)
    with pytest.raises(ValueError, match=r'must be in 0\.\.255'):
        scoring.MAE().step(np.full((4, 4), 256.), np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match=r'iou: expected a handler .*got function'):
        scoring.FmeasureV2({'iou': lambda tp, fp, tn, fn: tp})
    with pytest.raises(ValueError, match='no handler'):
        scoring.FmeasureV2().step(np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match='it needs the image'):
        scoring.CamouflageContextMeasure().step(sample.pred, sample.mask)
    with pytest.raises(ValueError, match=r"of the mask's size \(75, 101\).*float64"):
        scoring.CamouflageContextMeasure().step(sample.pred, sample.mask, img=sample.image / 255)
    with pytest.raises(ValueError, match='num_levels 1; expected 2 or more'):
        scoring.MSIoU(True, False, num_levels=1)
