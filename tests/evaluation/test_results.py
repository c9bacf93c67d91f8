"""Tables, the choice of the best, and methods described by their folders."""

import math

import numpy as np
import pytest

from config import task_record
from evaluation import figures, results, selection, tables
from evaluation.display import show_all
from evaluation.formats import label, to_latex
from evaluation.gallery import picked
from evaluation.metrics import (
    GROUPS,
    METRICS,
    SCORES,
    USUAL,
    parse_metrics,
    table_columns,
)
from evaluation.paper_tables import comparison
from evaluation.summary import Method, describe_method, sort_methods

COLUMNS = ('Smeasure', 'wFmeasure', 'MAE')

@pytest.mark.parametrize(('score', 'value', 'text'), [
    ('sm', .8619, '.862'), ('sm', .9994, '.999'), ('sm', .9995, '1.000'),
    ('maxEm', 1.0000517, '1.000'),
    ('mae', 0, '.000'), ('hce', 1234.4, '1234'), ('mba', math.nan, '-')])
def test_formats(score, value, text):
    assert tables.format_score(score, value) == text


def test_names_that_are_no_utf8_are_written(tmp_path):
    results.write_text(tmp_path / 'table.txt', 'a\udcff & .9')
    assert (tmp_path / 'table.txt').read_text(encoding='utf-8').endswith(' & .9')


@pytest.mark.parametrize(('score', 'value', 'text'), [
    ('sm', .02971, '.0297'), ('sm', -.0012, '-.0012'), ('sm', 0, '.0000'), ('hce', 28.48, '28.5'),
    ('hce', -3, '-3.0')])
def test_differences(score, value, text):
    assert tables.format_difference(score, value) == text


@pytest.mark.parametrize(('task', 'start'), [
    ('DIS5K', ['maxFm', 'wfm', 'mae', 'sm', 'meanEm', 'hce']),
    ('General-2K', ['maxFm', 'wfm', 'mae']),
    ('COD', ['sm', 'wfm', 'meanFm', 'meanEm', 'maxEm', 'mae']),
    ('HRSOD', ['sm', 'maxFm', 'meanEm', 'mae']),
    ('Matting', ['sm', 'maxFm', 'meanEm', 'mse']), ('Mine', ['sm', 'mae', 'maxEm'])])
def test_columns(task, start):
    shown = tables.shown_scores(task_record(task).columns, SCORES)
    assert shown[:len(start)] == start
    # Mattes have five errors more, on the whole image and in the trimap's unknown part.
    assert len(shown) == (23 if task == 'Matting' else 13)


def test_columns_of_a_subset():
    assert tables.shown_scores(COLUMNS, ['mae', 'sm']) == ['sm', 'mae']
    assert tables.shown_scores(COLUMNS, ['mse']) == ['mse']


def test_table():
    rows = [
        ('CAMO', label('ours'), {'sm': .5, 'mae': .25}),
        ('CAMO', label('a|b'), {'sm': 1 / 3})]
    formats = tables.score_table(COLUMNS, rows)
    lines = formats['txt'].splitlines()
    heading = [cell.strip() for cell in lines[0].split(' & ')]
    assert heading == ['Dataset', 'Method', 'Smeasure', 'MAE']
    assert [cell.strip() for cell in lines[2].split(' & ')] == ['CAMO', 'ours', '.500', '.250']
    assert r'| CAMO | a\|b | .333 | - |' in formats['md']
    assert f'CAMO,a|b,{1 / 3},nan' in formats['csv']


def test_comparison_marks_the_three_best():
    scores = {'A': {f'm_{i}': {'sm': value} for i, value in enumerate((.9, .8, .9, .7, .6))}}
    shown = show_all(list(scores['A']))
    lines = to_latex(comparison(scores, shown, ['sm'])).splitlines()
    rows = [line for line in lines if line.startswith('m\\_')]
    assert [row.split(' & ')[1].removesuffix(r' \\') for row in rows] == [
        r'\textbf{.900}', r'\underline{.800}', r'\textbf{.900}', r'\textit{.700}', '.600']
    assert r'\multicolumn{1}{c}{A}' in lines[3]


def test_comparison_of_a_method_without_a_set():
    scores = {'A': {'x': {'mae': .1}, 'y': {'mae': .2}}, 'B': {'y': {'mae': .3}}}
    text = to_latex(comparison(scores, show_all(['x', 'y']), ['mae']))
    assert r'x & \textbf{.100} & - \\' in text


def test_overall_leaves_out_what_is_not_there(tmp_path):
    scores = {
        'A': {'x': {'mba': math.nan, 'sm': .5}, 'y': {'sm': 1.}},
        'B': {'x': {'mba': .25, 'sm': .7}},
    }
    text = results.write_overall(tmp_path, 'COD', COLUMNS, scores)
    assert 'x' in text.splitlines()[2]
    assert len(text.splitlines()) == 3
    means = results.mean_scores([scores['A']['x'], scores['B']['x']])
    assert means == {'mba': .25, 'sm': pytest.approx(.6)}


@pytest.mark.parametrize(('values', 'higher', 'picks'), [
    ([.3, .1, .2], True, {1: 'worst', 2: 'median', 0: 'best'}),
    ([.3, .1, .2], False, {0: 'worst', 2: 'median', 1: 'best'}),
    ([math.nan, .5, .4, math.nan, .6], True, {2: 'worst', 1: 'median', 4: 'best'}),
    ([.5, .7], True, {0: 'worst', 1: 'median and best'}),
    ([.5], False, {0: 'worst and median and best'})])
def test_images_of_the_report(values, higher, picks):
    assert picked(np.array(values), higher) == picks


@pytest.mark.parametrize(('lengths', 'columns'), [
    ([5], 1),
    ([5, 7], 2),
    ([20] * 9, 3),
    ([50] * 9, 2),
    ([200], 1),
])
def test_legend_fits(lengths, columns):
    assert figures.legend_columns(['x' * length for length in lengths]) == columns


class TestRank:
    scores = {  # noqa: RUF012
        'A': {
            'x': {'sm': .5, 'hce': 10},
            'y': {'sm': .6, 'hce': 900},
            'z': {'sm': .9, 'hce': 1},
        },
        'B': {
            'x': {'sm': .9, 'hce': 20},
            'y': {'sm': .7, 'hce': 100},
        },
    }

    def test_highest_sum_of_those_with_all_sets(self):
        ranking = selection.rank(self.scores, {'sm': 1})
        assert ranking.methods == ['x', 'y']
        assert ranking.ties == ['x']

    def test_lowest(self):
        assert selection.rank(self.scores, {'hce': 1}).methods[0] == 'x'

    def test_ties(self):
        tied = {'A': {'x': {'sm': .1}, 'y': {'sm': .3}}, 'B': {'x': {'sm': .3}, 'y': {'sm': .1}}}
        assert selection.rank(tied, {'sm': 1}).ties == ['x', 'y']

    def test_weighted(self):
        own = {
            'x': {'sm': .80, 'hce': 2000},
            'y': {'sm': .81, 'hce': 3000},
            'z': {'sm': .70, 'hce': 2000},
        }
        scores = {'A': own}
        assert selection.rank(scores, {'sm': 1, 'hce': 1}).methods == ['x', 'y', 'z']
        assert selection.rank(scores, {'sm': 20, 'hce': 1}).methods[0] == 'y'

    def test_errors(self):
        with pytest.raises(ValueError, match='no method has scores of all of A, B'):
            selection.rank({'A': {'x': {'sm': 1}}, 'B': {'y': {'sm': 1}}}, {'sm': 1})
        with pytest.raises(ValueError, match='x has no wfm'):
            selection.rank(self.scores, {'wfm': 1})


@pytest.mark.parametrize(('name', 'run', 'epoch'), [
    ('BiRefNet_DIS_ep580', 'BiRefNet_DIS', 580), ('mine--epoch_35-reso_1024x1024', 'mine', 35),
    ('SINet', 'SINet', None), ('deep_v3', 'deep_v3', None)])
def test_foreign_names(tmp_path, name, run, epoch):
    method = describe_method(tmp_path, name)
    assert (method.run, method.epoch) == (run, epoch)


def test_order_of_methods():
    methods = [Method(f'r--epoch_{n}', 'r', n, None, None) for n in (100, 20, 5)]
    assert [method.epoch for method in sort_methods(methods)] == [5, 20, 100]


def test_metric_names():
    assert parse_metrics('all') == list(METRICS)
    assert parse_metrics('S+MAE+wF+BIoU') == ['sm', 'wfm', 'mae', 'biou']
    assert parse_metrics('maxFm+E') == ['fm', 'em']
    assert parse_metrics('smeasure+WF') == ['sm', 'wfm']
    assert parse_metrics('medical+maxIoU')[:3] == ['sm', 'wfm', 'em']
    assert {'dice', 'iou', 'aucroc'} <= set(parse_metrics('medical+maxIoU'))
    assert parse_metrics('usual') == list(USUAL)
    with pytest.raises(ValueError, match=r"--metrics S\+psnr.*'psnr'.*S, wF, .*cod, dis, .*all; "):
        parse_metrics('S+psnr')


@pytest.mark.parametrize(('text', 'columns'), [
    ('usual', ['Smeasure', 'maxFm']),
    ('S+F', ['Smeasure', 'maxFm']),
    ('binIoU', ['Smeasure', 'maxFm', 'binIoU']),
    ('pooledBinDice', ['Smeasure', 'maxFm', 'pooledBinDice']),
    ('IoU', ['Smeasure', 'maxFm', 'maxIoU', 'meanIoU', 'adpIoU', 'binIoU']),
])
def test_columns_of_what_is_named(text, columns):
    assert table_columns(text, ('Smeasure', 'maxFm')) == columns


def test_groups_name_scores():
    assert all(set(scores) <= set(SCORES) for scores in GROUPS.values())
    assert table_columns('medical', ()) == [
        next(found.column for found in SCORES[score].scores if found.name == score)
        for score in GROUPS['medical']]
