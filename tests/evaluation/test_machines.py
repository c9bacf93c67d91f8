"""The evaluator where the machine lacks what programs take for granted."""

import errno
import json
import math
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

import eval_existingOnes
import gen_best_ep
from evaluation import inputs, mask_folders, prediction_folders, runner
from evaluation.kernels import skeleton
from evaluation.results import read_sets, with_task, write_set
from evaluation.selection import rank
from evaluation.store import ScoreStore
from evaluation.summary import describe_method
from runtime.locks import hold_lock
from tests.evaluation.folders import blob, make_folders

METHODS = ['run--epoch_5', 'run--epoch_10']


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(make_folders(tmp_path, sets=('TE-A',), images=2))
    return tmp_path


def plan(root):
    masks = mask_folders.find_masks(root / 'datasets/Toy', ['TE-A'])
    predictions = prediction_folders.find_predictions(root / 'e_preds', masks)
    return inputs.plan(masks, predictions, METHODS)


def test_a_cache_that_cannot_be_written_costs_a_warning(monkeypatch):
    mask = blob(0) > 0
    with pytest.warns(UserWarning, match='not kept'):
        found = skeleton.cached_skeleton(mask, '/proc/nowhere')
    assert np.array_equal(found, skeleton.skeletonize(mask))


def test_a_user_without_a_home_has_no_cache(monkeypatch, capsys):
    for name in ('BIREFNET_CACHE', 'XDG_CACHE_HOME', 'LOCALAPPDATA'):
        monkeypatch.delenv(name, raising=False)

    def unknown():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(Path, 'home', unknown)
    assert runner.cache_folder() is None
    with pytest.raises(SystemExit):
        eval_existingOnes.parse_arguments(['--help'])
    assert 'kept between runs (none without a home)' in ' '.join(capsys.readouterr().out.split())


def test_names_that_are_not_utf8(root):
    odd = os.fsdecode(b'\xb2\xe2')
    for folder in ('datasets/Toy/TE-A/gt', *(f'e_preds/{method}/TE-A' for method in METHODS)):
        shutil.move(root / folder / 'im 0.é.png', root / folder / f'{odd}.png')
    eval_existingOnes.main(['task=Toy', 'testsets=TE-A', '--metrics', 'MAE', 'workers=1'])
    store = ScoreStore('e_results/scores/TE-A.jsonl')
    assert (METHODS[0], odd) in store.rows
    for line in store.path.read_text(encoding='utf-8').splitlines():
        json.loads(line)


def test_decomposed_names_are_paired(root):
    for path in (root / 'e_preds/run--epoch_5/TE-A').iterdir():
        path.rename(path.with_name(unicodedata.normalize('NFD', path.name)))
    [planned] = plan(root)
    assert [len(image.predictions) for image in planned.images] == [2, 2]


def test_a_second_evaluation_into_the_same_scores_is_refused(root):
    [planned] = plan(root)
    refused = pytest.raises(ValueError, match='another process')
    with hold_lock(root / '.scores.jsonl.lock', 'first'), refused:
        runner.evaluate(planned, root / 'scores.jsonl')


def test_what_cannot_be_written_or_read_is_one_line(root):
    (root / 'file').touch()
    for folder in ('/proc/x', 'file'):
        with pytest.raises(OSError, match=folder):
            eval_existingOnes.main(['task=Toy', 'testsets=TE-A', '--save_dir', folder, 'workers=1'])


@pytest.mark.parametrize('weights', ['sm=nan+mae=1', 'sm=inf', 'sm=-1', 'sm=0', 'sm=1+sm=2'])
def test_weights_that_choose_nothing_sensible_are_refused(weights):
    with pytest.raises(ValueError, match='--weights'):
        gen_best_ep.parse_weights(weights)


def test_a_score_that_no_mask_defines_is_not_called_uncomputed():
    results = {'TE-A': {'one': {'mba': math.nan, 'sm': 1.}}}
    with pytest.raises(ValueError, match='mba is not defined on TE-A'):
        rank(results, {'mba': 1.})
    with pytest.raises(ValueError, match=r'one has no mae on TE-A.*--metrics'):
        rank(results, {'mae': 1.})


def test_the_errors_of_a_disk_end_an_evaluation(root, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(ScoreStore, 'append', full)
    [planned] = plan(root)
    with pytest.raises(OSError, match='No space'):
        runner.evaluate(planned, root / 'scores.jsonl', metrics=('mae',))


@pytest.mark.parametrize('content', [
    '{"name": "another project\'s"}', '{}', '[1]', 'no JSON', '{"run": "one"}',
    '{"run": 1, "epoch": 5}', '{"run": "one", "epoch": "last"}',
    '{"run": "one", "epoch": 7, "resolution": [64, 64]}'])
def test_a_manifest_of_another_project_is_not_ours(root, content):
    (root / 'e_preds/run--epoch_5/manifest.json').write_text(content)
    method = describe_method(root / 'e_preds', 'run--epoch_5')
    assert (method.run, method.epoch) == ('run', 5)


@pytest.mark.parametrize('content', [
    '{"task"', '[]', '{}', '{"task": "Toy"}', '{"task": "Toy", "methods": {"one": {}}}',
    '{"task": "Toy", "methods": [{"method": "one"}]}'])
def test_a_file_of_results_that_is_none_is_named_where_it_is_read(root, content):
    (root / 'TE-A_eval.json').write_text(content)
    with pytest.raises(ValueError, match=r'TE-A_eval\.json: '):
        read_sets(root, ['TE-A'])
    write_set(root, 'Toy', ['Smeasure'], 'TE-B', ('', ''), [])
    assert with_task([], root) == ['task=Toy'], 'the others count'
    with pytest.raises(ValueError, match='--data_lst TE-B has some'):
        read_sets(root, ['TE-C'])
