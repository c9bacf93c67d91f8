"""Tests of all pairs: p-values, effects and intervals that can be derived by hand."""

import numpy as np
import pytest
from scipy import stats

from evaluation.paper_scores import compare_sets
from evaluation.significance import FEWEST_IMAGES, compare_pairs, holm, signed_rank
from evaluation.summary import MethodScores


def scored(values, score='sm'):
    names = [str(index) for index in range(len(values))]
    return MethodScores(names, {score: np.asarray(values, float)}, {})


@pytest.mark.parametrize(('p_values', 'corrected'), [
    ([.01, .04, .03, .005], [.03, .06, .06, .02]),  # times 4, 3, 2 and 1; none below the one before
    ([.5, .9], [1, 1]),
    ([.2], [.2]),
    ([], []),
])
def test_holm(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected)


@pytest.mark.parametrize(('differences', 'p', 'effect'), [
    ([1, 2, 3, 4, 5, 6], 2 / 2 ** 6, 1),  # all ranks on one side: two of 64 patterns of signs
    ([-1, 2, 3, 4, 5, 6], 4 / 2 ** 6, 19 / 21),  # ranks 2..6 minus rank 1, of their sum 21
    ([0, 0, 0], 1, 0),
    ([3, -3], 1, 0),
])
def test_signed_rank(differences, p, effect):
    found = signed_rank(np.array(differences, float))
    assert found == pytest.approx((p, effect))


def test_all_pairs_are_corrected_together():
    rng = np.random.default_rng(0)
    base = rng.random(40)
    methods = {
        'worst': [scored(base)],
        'best': [scored(base + .1)],
        'alike': [scored(base + rng.normal(0, .02, 40))],
    }
    pairs = compare_pairs(methods, 'sm')
    assert pairs[0][:2] == ('best', 'worst')
    assert pairs[0][2:5] == pytest.approx((.1, .1, .1))
    assert pairs[0].effect == 1
    assert pairs[0].p == pytest.approx(stats.wilcoxon(np.full(40, .1)).pvalue)
    assert [pair.corrected for pair in pairs] == holm([pair.p for pair in pairs])
    assert min(pair.lead for pair in pairs) >= 0
    chance = next(pair for pair in pairs if {pair.better, pair.worse} == {'worst', 'alike'})
    assert chance.low < 0 < chance.high


def test_lower_is_better_and_sets_count_alike():
    few, many = [1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8, 9, 10]
    ours = [scored(few, 'hce'), scored(many, 'hce')]
    theirs = [scored(np.add(few, 2), 'hce'), scored(np.add(many, 6), 'hce')]
    [pair] = compare_pairs({'theirs': theirs, 'ours': ours}, 'hce')
    assert (pair.better, pair.lead, pair.effect) == ('ours', 4, 1)  # (2 + 6) / 2, not 58 / 13


def test_images_without_the_score_are_left_out():
    values = [.1, .2, np.nan, .4, .5, .6]
    [pair] = compare_pairs({'x': [scored(values)], 'y': [scored(np.add(values, .1))]}, 'sm')
    assert pair.better == 'y'
    assert pair[2:5] == pytest.approx((.1, .1, .1))


def test_a_set_without_the_score_has_no_tests():
    """A set without trimaps has no SAD-U; the others have their tests."""
    there = {'x': scored([.1, .2]), 'y': scored([.2, .3])}
    nowhere = {'x': scored([np.nan, np.nan]), 'y': scored([np.nan, np.nan])}
    assert len(compare_sets({'A': there}, ['x', 'y'], 'sm')) == 1
    assert compare_sets({'B': nowhere}, ['x', 'y'], 'sm') == []
    assert compare_sets({'A': there, 'B': nowhere}, ['x', 'y'], 'sm') == []


def test_one_against_every_other():
    rng = np.random.default_rng(2)
    methods = {name: [scored(rng.random(30) + lead)] for lead, name in enumerate('abcd')}
    pairs = compare_pairs(methods, 'sm', against='d')
    assert [pair[:2] for pair in pairs] == [('d', 'a'), ('d', 'b'), ('d', 'c')]
    assert pairs[0].corrected == pytest.approx(3 * pairs[0].p)  # for three pairs, not for six


def test_too_few_images_for_an_interval():
    enough = scored(np.linspace(0, 1, FEWEST_IMAGES))
    few = scored(np.linspace(0, 1, FEWEST_IMAGES - 1))
    [pair] = compare_pairs({'a': [enough, few], 'b': [enough, few]}, 'sm')
    assert (pair.lead, pair.p) == (0, 1)
    assert np.isnan([pair.low, pair.high]).all()


def test_coverage():
    """The interval holds the true difference about 95 times of 100."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        better, worse = rng.normal(1.3, 1, 60), rng.normal(0, 1, 60)
        [pair] = compare_pairs({'a': [scored(better)], 'b': [scored(worse)]}, 'sm')
        held += pair.low <= 1.3 <= pair.high
    assert 88 <= held <= 100


def test_errors():
    other = MethodScores(['z', '1'], {'sm': np.zeros(2)}, {})
    with pytest.raises(ValueError, match='b: not scored on the images of a'):
        compare_pairs({'a': [scored([0, 1])], 'b': [other]}, 'sm')
    empty = [scored([np.nan, np.nan])]
    with pytest.raises(ValueError, match='sm is not defined'):
        compare_pairs({'a': empty, 'b': empty}, 'sm')
