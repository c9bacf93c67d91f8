"""Every metric against the published numbers, against its plain definition on random pairs, and its deviations."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import hce, metrics
from evaluation.ground_truth import curves, iou_curve
from evaluation.metrics import GROUPS, SCORES, GroundTruth, score_pair
from tests.evaluation import reference
from tests.evaluation.strategies import pairs
from utils import read_mask

GOLDEN = Path(__file__).parents[1] / 'golden' / 'metrics'
EXPECTED = json.loads((GOLDEN / 'expected.json').read_text())
OLD_OPENCV = not hce.counts_as_published()
PUBLISHED = {'S': 'sm', 'MAE': 'mae', 'MSE': 'mse', 'WF': 'wfm', 'HCE': 'hce', 'MBA': 'mba'}
PUBLISHED_CURVES = {'E': 'Em', 'F': 'Fm', 'BIoU': 'BIoU'}


def golden_pair(name):
    return tuple(read_mask(GOLDEN / f'{name}_{kind}.png') for kind in ('pred', 'gt'))


@pytest.mark.parametrize('name', EXPECTED)
def test_published_numbers(name):
    expected, found = EXPECTED[name], score_pair(*golden_pair(name))
    flat = {key: expected[published] for published, key in PUBLISHED.items()}
    flat |= {f'{kind}{key}': expected[published][kind] for published, key in PUBLISHED_CURVES.items()
             for kind in ('max', 'mean', 'adp') if kind in expected[published]}
    assert set(flat) == set(found) == set(SCORES)
    if OLD_OPENCV:  # counts otherwise, of which a warning tells: a few in a hundred on these pairs of noise
        assert found.pop('hce') == pytest.approx(flat.pop('hce'), rel=.05)
    assert found == pytest.approx(flat, rel=1e-9, abs=0, nan_ok=True)


@pytest.mark.parametrize('name', EXPECTED)
def test_published_curves(name):
    pred, gt = golden_pair(name)
    measured = GroundTruth(gt).measure(pred)
    named = curves(measured.counts) | {'biou': iou_curve(measured.edge_counts)}
    for published, key in (('E', 'em'), ('F', 'fm'), ('BIoU', 'biou')):
        expected = EXPECTED[name][published]['curve_0_64_128_255']
        assert named[key][[0, 64, 128, 255]] == pytest.approx(expected, rel=1e-9, abs=0)


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_agrees_with_the_definitions(pair):
    # abs: near 0 the definitions on float images are themselves only as good as float64's rounding
    assert score_pair(*pair) == pytest.approx(reference.score_pair(*pair), rel=1e-9, abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from(list(GROUPS)))
def test_a_metric_alone_is_the_same_as_all(pair, group):
    pred, gt = pair
    every = score_pair(pred, gt)
    assert GroundTruth(gt).score(pred, {group}) == pytest.approx({s: every[s] for s in GROUPS[group]}, abs=0, rel=0,
                                                                 nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_perfect_prediction(pair):
    gt = np.where(pair[1] > 128, 255, 0).astype(np.uint8)
    found = score_pair(gt, gt)
    assert found['mae'] == found['mse'] == found['hce'] == 0
    if 0 < gt.mean() < 255:
        assert [found[score] for score in ('wfm', 'mba', 'maxFm', 'maxBIoU')] == pytest.approx([1] * 4)


def test_soft_ground_truth_is_cut_above_128():
    gt = np.array([[0, 128, 129, 255]], np.uint8)
    assert score_pair(np.array([[0, 0, 255, 255]], np.uint8), gt)['mae'] == 0


def test_boolean_masks():
    rng = np.random.default_rng(0)
    pred, gt = rng.random((9, 12)) > 0.5, rng.random((9, 12)) > 0.5
    assert score_pair(pred, gt) == score_pair(pred * np.uint8(255), gt * np.uint8(255))


class TestDeviations:
    """Where the published code divides by zero or lets rounding decide."""

    @pytest.mark.parametrize('value', [0, 255])
    def test_no_boundary_no_mba(self, value):
        assert math.isnan(score_pair(np.full((20, 20), 7, np.uint8), np.full((20, 20), value, np.uint8))['mba'])

    def test_such_masks_are_left_out_of_the_mean(self):
        metric, square = metrics.MeanBoundaryAccuracy(), np.zeros((20, 20), np.uint8)
        square[5:12, 4:15] = 255
        metric.step(square, square)
        metric.step(square, np.zeros_like(square))
        assert metric.get_results() == {'mba': 1.0}

    def test_constant_block_has_no_variance(self):
        """.1 has no exact mean in float64; still the only block that counts is the one without mask and deviation."""
        gt = np.zeros((8, 8), np.uint8)
        gt[:4, :4] = 255
        pred = np.full((8, 8), 26, np.uint8)
        p = 26 / 255
        objects = 0.25 * 2 * p / (p * p + 1) + 0.75 * 2 * (1 - p) / ((1 - p) ** 2 + 1)
        expected = 0.5 * objects + 0.5 * self.regions_of_constant(gt)
        assert score_pair(pred, gt)['sm'] == pytest.approx(expected, rel=1e-12)

    @staticmethod
    def regions_of_constant(gt):
        """Share of the blocks, cut at the mask's centre plus 1, where the mask is constant."""
        row, column = (round(float(indices.mean())) + 1 for indices in np.nonzero(gt))
        blocks = gt[:row, :column], gt[:row, column:], gt[row:, :column], gt[row:, column:]
        return sum(block.size for block in blocks if np.ptp(block) == 0) / gt.size

    def test_one_pixel(self):
        white, black = np.full((1, 1), 255, np.uint8), np.zeros((1, 1), np.uint8)
        assert score_pair(white, white)['sm'] == 1
        assert score_pair(white, black)['sm'] == 0


class TestErrors:
    def test_sizes(self):
        with pytest.raises(ValueError, match=r'\(4, 5\).*\(5, 4\)'):
            score_pair(np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.uint8))

    @pytest.mark.parametrize('array', [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)])
    def test_types(self, array):
        with pytest.raises(ValueError, match='prediction: expected a uint8'):
            score_pair(array, np.zeros((4, 4), np.uint8))

    def test_unknown_metric(self):
        with pytest.raises(ValueError, match=r"\['psnr'\]"):
            GroundTruth(np.zeros((4, 4), np.uint8)).score(np.zeros((4, 4), np.uint8), {'psnr'})


class TestClasses:
    ALL = (metrics.Smeasure, metrics.MAE, metrics.MSE, metrics.Emeasure, metrics.Fmeasure, metrics.WeightedFmeasure,
           metrics.HumanCorrectionEffortMeasure, metrics.MeanBoundaryAccuracy, metrics.BoundaryIoU)

    @pytest.mark.parametrize('metric_class', ALL)
    def test_merged_is_the_same_as_one_after_the_other(self, metric_class):
        one, first, second = metric_class(), metric_class(), metric_class()
        for part, name in ((first, 'pair0'), (second, 'pair1')):
            pred, gt = golden_pair(name)
            prepared = GroundTruth(gt)
            one.step(pred=pred, gt=gt)
            part.step(pred, prepared)
        first.merge(second)
        assert str(first.get_results()) == str(one.get_results())

    def test_results(self):
        names = ('pair0', 'pair2')
        made = {metric_class.group: metric_class() for metric_class in self.ALL}
        for name in names:
            for metric in made.values():
                metric.step(*golden_pair(name))
        every = [score_pair(*golden_pair(name)) for name in names]
        for group in ('sm', 'mae', 'mse', 'wfm', 'hce', 'mba'):
            assert made[group].get_results()[group] == pytest.approx(np.mean([scores[group] for scores in every]))
        fm = made['fm'].get_results()
        assert fm['fm']['adp'] == pytest.approx(np.mean([scores['adpFm'] for scores in every]))
        assert fm['fm']['curve'].mean() == pytest.approx(np.mean([scores['meanFm'] for scores in every]))
        assert fm['pr']['r'][-1] == 1
        assert made['em'].get_results()['em']['curve'].shape == (256,)
        assert made['biou'].get_results()['biou']['curve'].shape == (256,)

    def test_directions(self):
        assert [metric.group for metric in self.ALL if not metric.higher_is_better] == ['mae', 'mse', 'hce']
        assert all(metric.higher_is_better == metrics.higher_is_better(GROUPS[metric.group][0]) for metric in self.ALL)

    def test_misuse(self):
        with pytest.raises(ValueError, match='call step first'):
            metrics.MAE().get_results()
        with pytest.raises(ValueError, match='cannot merge MSE into MAE'):
            metrics.MAE().merge(metrics.MSE())
