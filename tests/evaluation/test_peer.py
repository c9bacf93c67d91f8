"""Our scores against those that PySODMetrics 1.6.2 gave for the same pairs (golden/record.py)."""

import json
from pathlib import Path

import pytest

from evaluation import GroundTruth, scoring
from evaluation.metrics import METRICS, SCORES
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
    found = GroundTruth(sample.mask).score(sample.pred, set(expected))
    assert_equal(found, expected)


def test_pooled():
    expected = {score: value for score, value in RECORDED['pooled'].items() if score in SCORES}
    metrics = [name for name in METRICS if any(SCORES[score].name == name for score in expected)]
    measurements = []
    for sample in samples().values():
        measurements.append(GroundTruth(sample.mask).measure(sample.pred, metrics))
    assert_equal(scoring.pool(measurements, metrics), expected)
