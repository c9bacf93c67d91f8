"""Folders of predictions: what is checked, what is computed again, and what survives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from evaluation import GroundTruth, inputs, mask_folders, pool, prediction_folders, runner
from evaluation.store import VERSION, ScoreStore, decode, encode
from evaluation.summary import collect
from readers import read_image, read_mask
from tests.evaluation.folders import SHAPE, make_folders
from tests.files import replace_keeping_time
from utils import write_png

REPOSITORY = Path(__file__).parents[2]
METHODS = ['run--epoch_5', 'run--epoch_10']


@pytest.fixture
def root(tmp_path):
    return make_folders(tmp_path, sets=('TE-A',))


def plan(root, datasets=('TE-A',), methods=METHODS, gt='datasets/Toy', **options):
    masks = mask_folders.find_masks(root / gt, datasets)
    predictions = prediction_folders.find_predictions(root / 'e_preds', masks)
    return inputs.plan(masks, predictions, methods, **options)


def evaluate(root, **options):
    [planned] = plan(root)
    return runner.evaluate(planned, root / 'scores.jsonl', **options)


@pytest.fixture
def computed(monkeypatch):
    """Names of images, and their methods, as they are computed."""
    seen = []

    def spy(job, skeleton_cache):
        seen.extend((job.name, request.method) for request in job.requests)
        return original(job, skeleton_cache)

    original = runner.score_image
    monkeypatch.setattr(runner, 'score_image', spy)
    return seen


def invert(folder):
    """Makes each PNG a BMP, whose size says nothing; returns its inverse, by its name."""
    inverse = {}
    for path in list(folder.iterdir()):
        pixels = read_mask(path)
        bitmap = path.with_suffix('.bmp')
        path.unlink()
        assert cv2.imwrite(str(bitmap), pixels)
        _, data = cv2.imencode('.bmp', 255 - pixels)
        inverse[bitmap.name] = data.tobytes()
    return inverse


def pack(folder, archive):
    with tarfile.open(archive, 'w') as packed:
        packed.add(folder, folder.name)
    return archive


def mean_error(root):
    rows = evaluate(root, metrics=['mae'])['run--epoch_5']
    return np.mean([row['values']['mae'] for row in rows.values()])


class TestInputs:
    def test_all_offenders_in_one_error(self, root):
        folder = root / 'e_preds/run--epoch_5/TE-A'
        missing, unreadable, cut, small = sorted(folder.glob('*.png'))
        missing.rename(folder / 'extra.png')
        unreadable.write_bytes(b'no image')
        cut.write_bytes(cut.read_bytes()[:-20])
        write_png(small, np.zeros((10, 10), np.uint8))
        with pytest.raises(ValueError, match='nothing was computed') as error:
            plan(root, strict=True)
        lines = str(error.value).splitlines()
        assert len(lines) == 6
        for part, reason in ((missing.stem, 'missing'), ('extra.png', 'no mask of that name'),
                             (unreadable.name, 'unreadable'), (cut.name, 'cut off'),
                             (small.name, '10x10, but its mask is 52x40; without --strict')):
            assert any(part in line and reason in line for line in lines), (part, reason)

    @pytest.mark.parametrize('target', ['nowhere.png', 'im 0.é.png', '/dev/null'])
    def test_links_that_lead_to_no_file(self, root, target):
        """Of the mask and of all predictions: the image would be missing without a word."""
        for folder in ('datasets/Toy/TE-A/gt', *(f'e_preds/{method}/TE-A' for method in METHODS)):
            path = root / folder / 'im 0.é.png'
            path.unlink()
            path.symlink_to(target)
        with pytest.raises(ValueError, match=r'3 problems(?s:.*)gt/im 0.é\.png: '):
            plan(root)

    def test_jpeg_that_is_cut_off(self, root):
        path = next((root / 'e_preds/run--epoch_5/TE-A').iterdir())
        assert cv2.imwrite(str(path.with_suffix('.jpg')), read_mask(path))
        path.unlink()
        plan(root)
        path.with_suffix('.jpg').write_bytes(path.with_suffix('.jpg').read_bytes()[:400])
        with pytest.raises(ValueError, match=r'1 problem (?s:.*)\.jpg: unreadable'):
            plan(root)

    def test_images_are_checked_without_decoding_them(self, root, monkeypatch):
        monkeypatch.setattr(Image.Image, 'load', None)
        monkeypatch.setattr(PngImageFile, 'load', None)
        plan(root)

    def test_turned_images(self, root):
        """Saved lying, with an orientation that sets it upright, a prediction fits its mask."""
        path = next((root / 'e_preds/run--epoch_5/TE-A').iterdir())
        lying = Image.fromarray(np.rot90(read_mask(path)).copy())
        path.unlink()
        exif = Image.Exif()
        exif[0x0112] = 6
        lying.save(path.with_suffix('.jpg'), exif=exif)
        assert plan(root)[0].notes == []

    def test_two_files_of_one_stem(self, root):
        path = next((root / 'datasets/Toy/TE-A/gt').iterdir())
        write_png(path.with_suffix('.BMP'), np.zeros(SHAPE, np.uint8))
        with pytest.raises(ValueError, match='2 files named'):
            plan(root)

    def test_many_problems_are_counted(self, root):
        folder = root / 'e_preds/run--epoch_5/TE-A'
        for index in range(60):
            write_png(folder / f'extra{index}.png', np.zeros((2, 2), np.uint8))
        with pytest.raises(ValueError, match=r'60 problems(?s:.*)and 10 more'):
            plan(root)

    def test_folders_that_are_not_there(self, root):
        with pytest.raises(ValueError, match='nowhere'):
            prediction_folders.find_predictions(root / 'nowhere', [])
        unknown = mask_folders.find_masks(root / 'datasets/Toy', ['TE-X'])
        with pytest.raises(ValueError, match='no folder <method>/<set> for any of TE-X'):
            prediction_folders.find_predictions(root / 'e_preds', unknown, ['TE-A'])
        with pytest.raises(ValueError, match='no masks'):
            plan(root, gt='datasets/Other')
        with pytest.raises(ValueError, match='other: no such folder'):
            plan(root, methods=['other'])

    def test_sets_that_nobody_predicted_are_left_out(self, root):
        [planned] = plan(root, ['TE-X', 'TE-A'])
        assert planned.dataset == 'TE-A'
        assert planned.notes == ['no method has a folder TE-X; left out']

    def test_resize(self, root):
        path = next((root / 'e_preds/run--epoch_5/TE-A').iterdir())
        small = read_mask(path)[::2, ::2]
        write_png(path, small)
        [planned] = plan(root)
        assert planned.notes == [
            f'{path.parent}: 1 of 4 of another size, resized to their ground truth '
            '(bilinear, as by OpenCV)']
        rows = runner.evaluate(planned, root / 'scores.jsonl', ['mae'])
        truth = GroundTruth(read_mask(root / f'datasets/Toy/TE-A/gt/{path.name}'))
        resized = cv2.resize(small, SHAPE[::-1], interpolation=cv2.INTER_LINEAR)
        assert rows['run--epoch_5'][path.stem]['values'] == truth.score(resized, ['mae'])

    def test_deep_predictions_are_scaled_and_said(self, root):
        path = next((root / 'e_preds/run--epoch_5/TE-A').iterdir())
        before = evaluate(root, metrics=['mae'])['run--epoch_5'][path.stem]['values']
        assert cv2.imwrite(str(path), read_mask(path).astype(np.uint16) * 257)
        [planned] = plan(root)
        assert planned.notes == [f'{path.parent}: 1 of 16 bits or floating point, scaled to 8 bits']
        assert evaluate(root, metrics=['mae'])['run--epoch_5'][path.stem]['values'] == before

    @pytest.mark.parametrize('scale', [1, 255])
    def test_floating_point_of_0_to_1_or_255(self, root, scale):
        path = next((root / 'e_preds/run--epoch_5/TE-A').iterdir())
        before = evaluate(root, metrics=['mae'])['run--epoch_5'][path.stem]['values']['mae']
        scaled = (read_mask(path) / 255 * scale).astype(np.float32)
        Image.fromarray(scaled).save(path.with_suffix('.tiff'))
        path.unlink()
        after = evaluate(root, metrics=['mae'])['run--epoch_5'][path.stem]['values']['mae']
        assert after == pytest.approx(before, abs=1 / 255)  # truncated to 8 bits

    def test_deep_ground_truth_is_said_too(self, root):
        path = next((root / 'datasets/Toy/TE-A/gt').iterdir())
        assert cv2.imwrite(str(path), read_mask(path).astype(np.uint16) * 257)
        [planned] = plan(root)
        assert planned.notes == [f'{path.parent}: 1 of 16 bits or floating point, scaled to 8 bits']

    def test_any_suffix_pairs(self, root):
        path = next((root / 'e_preds/run--epoch_5/TE-A').iterdir())
        pixels = read_mask(path)
        path.unlink()
        assert cv2.imwrite(str(path.with_suffix('.BMP')), pixels)
        assert len(plan(root)[0].images) == 4


class TestEvaluation:
    def test_scores_are_those_of_single_pairs(self, root):
        rows = evaluate(root)
        name = 'im 2.é'
        folder = root / 'datasets/Toy/TE-A'
        image = read_image(folder / f'im/{name}.png')
        truth = GroundTruth(read_mask(folder / f'gt/{name}.png'), image=image)
        expected = truth.measure(read_mask(root / f'e_preds/run--epoch_10/TE-A/{name}.png'))
        row = rows['run--epoch_10'][name]
        assert row['values'] == expected.values
        assert (decode(row['counts']) == expected.counts['pixels']).all()
        assert (decode(row['edge_counts']) == expected.counts['boundary']).all()

    def test_images_beside_the_masks(self, root, computed):
        folder = root / 'datasets/Toy/TE-A'
        rows = evaluate(root, metrics=['cm', 'ccm'])
        values = rows['run--epoch_5']['im 0.é']['values']
        assert values['ccm'] != values['cm']
        computed.clear()
        write_png(folder / 'im/im 0.é.png', np.zeros((40, 52, 3), np.uint8))
        rows = evaluate(root, metrics=['cm', 'ccm'])
        assert rows['run--epoch_5']['im 0.é']['values']['ccm'] != values['ccm']
        assert len(computed) == 2
        # Of another size than its mask, as 77 of NC4K.
        write_png(folder / 'im/im 0.é.png', np.zeros((30, 39, 3), np.uint8))
        rows = evaluate(root, metrics=['cm', 'ccm'])
        assert 0 < rows['run--epoch_5']['im 0.é']['values']['ccm'] < 1
        assert len(computed) == 4
        (folder / 'im').rename(folder / 'Images')
        evaluate(root, metrics=['cm', 'ccm'])
        assert len(computed) == 4
        (folder / 'Images').rename(folder / 'not here')
        rows = evaluate(root, metrics=['cm', 'ccm'])
        assert 'ccm' not in rows['run--epoch_5']['im 0.é']['values']

    def test_trimaps_beside_the_masks(self, root, computed):
        folder = root / 'datasets/Toy/TE-A'
        for path in (folder / 'gt').iterdir():
            mask = read_mask(path)
            trimap = np.full_like(mask, 128)
            trimap[:20] = mask[:20]
            write_png(folder / 'trimap' / path.name, trimap)
        rows = evaluate(root, metrics=['sad', 'sadu'])
        values = rows['run--epoch_5']['im 0.é']['values']
        assert 0 < values['sadu'] < values['sad']
        computed.clear()
        write_png(folder / 'trimap/im 0.é.png', np.zeros_like(mask))
        rows = evaluate(root, metrics=['sad', 'sadu'])
        assert rows['run--epoch_5']['im 0.é']['values']['sadu'] == 0
        assert len(computed) == 2

    @pytest.mark.slow
    def test_workers_give_the_same_bytes(self, tmp_path):
        root = make_folders(tmp_path, sets=('TE-A',), images=6)
        files = []
        for workers in (1, 3):
            [planned] = plan(root)
            store = root / f'{workers}.jsonl'
            runner.evaluate(planned, store, workers=workers, skeleton_cache=root / 'cache')
            files.append(store.read_bytes())
        assert files[0] == files[1]
        assert files[0].count(b'\n') == 12

    def test_only_what_is_new_is_computed(self, root, computed):
        evaluate(root)
        assert len(computed) == 8
        before = (root / 'scores.jsonl').read_bytes()
        computed.clear()
        evaluate(root)
        assert computed == []
        assert (root / 'scores.jsonl').read_bytes() == before
        changed = root / 'e_preds/run--epoch_5/TE-A/im 1.é.png'
        write_png(changed, 255 - read_mask(changed))
        mask = root / 'datasets/Toy/TE-A/gt/im 3.é.png'
        write_png(mask, 255 - read_mask(mask))
        evaluate(root)
        assert sorted(computed) == [
            ('im 1.é', 'run--epoch_5'),
            ('im 3.é', 'run--epoch_10'),
            ('im 3.é', 'run--epoch_5'),
        ]

    def test_predictions_replaced_with_their_size_and_time_kept(self, root):
        folder = root / 'e_preds/run--epoch_5/TE-A'
        inverse = invert(folder)
        before = mean_error(root)
        for path in folder.iterdir():
            replace_keeping_time(path, inverse[path.name])
        assert mean_error(root) == pytest.approx(1 - before, abs=.01)

    def test_an_archive_replaced_with_its_size_and_time_kept(self, root):
        folder = root / 'e_preds/run--epoch_5/TE-A'
        inverse = invert(folder)
        first = pack(folder, root / 'first.tar')
        for path in folder.iterdir():
            path.write_bytes(inverse[path.name])
        second = pack(folder, root / 'second.tar')
        archive = first.rename(folder.with_suffix('.tar'))
        shutil.rmtree(folder)
        before = mean_error(root)
        replace_keeping_time(archive, second.read_bytes())
        assert mean_error(root) == pytest.approx(1 - before, abs=.01)

    def test_files_that_were_only_touched_are_not_scored_again(self, root, computed, monkeypatch):
        before = evaluate(root, metrics=['mae'])['run--epoch_5']['im 0.é']
        for path in root.rglob('*.png'):
            os.utime(path, (0, 0))
        monkeypatch.setattr(runner, 'read_prediction', None)
        after = evaluate(root, metrics=['mae'])['run--epoch_5']['im 0.é']
        assert {**after, 'files': before['files']} == before
        computed.clear()
        evaluate(root, metrics=['mae'])
        assert computed == [], 'the second time they are as they were'

    def test_further_metrics_keep_those_there(self, root, computed):
        evaluate(root, metrics=['sm'])
        evaluate(root, metrics=['mae'])
        assert len(computed) == 16
        computed.clear()
        rows = evaluate(root, metrics=['sm', 'mae'])
        assert computed == []
        assert set(rows['run--epoch_5']['im 0.é']['values']) == {'sm', 'mae'}

    def test_a_line_cut_off_is_computed_again(self, root, computed):
        evaluate(root)
        path = root / 'scores.jsonl'
        whole = path.read_bytes()
        computed.clear()
        path.write_bytes(whole[:-100])
        evaluate(root)
        assert len(computed) == 1
        assert path.read_bytes() == whole

    def test_an_image_taken_out_of_the_set_is_forgotten(self, root):
        evaluate(root, metrics=['mae'])
        for path in list(root.rglob('im 1.é.png')):
            path.unlink()
        assert len(evaluate(root, metrics=['mae'])['run--epoch_5']) == 3
        assert len(ScoreStore(root / 'scores.jsonl').rows) == 6

    def test_unreadable_while_computing(self, root):
        path = root / 'e_preds/run--epoch_5/TE-A/im 1.é.png'
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255  # not seen by the check before, which decodes nothing
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r'im 1\.é\.png'):
            evaluate(root)


KILLED = """
import signal
import sys
from pathlib import Path
from tests.evaluation.test_runner import plan
from evaluation import runner
if __name__ == '__main__':
    # A shell's background jobs start with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(sys.argv[1])
    runner.evaluate(plan(root)[0], root / sys.argv[2], workers=2, skeleton_cache=root / 'cache')
"""


HANGS = 600  # seconds after which something waits for what will not come, on any machine


def running(root, store):
    script = root / 'evaluate.py'
    script.write_text(KILLED)
    environment = os.environ | {'PYTHONPATH': str(REPOSITORY)}
    command = [sys.executable, str(script), str(root), store]
    return subprocess.Popen(command, env=environment, cwd=root,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)


def alive(group):
    """Processes left in a process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition):
    end = time.monotonic() + HANGS
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='signals')
class TestInterruption:
    @pytest.fixture
    def root(self, tmp_path):
        return make_folders(tmp_path, sets=('TE-A',), images=30)

    def test_killed_and_run_again_gives_the_same_bytes(self, root):
        assert running(root, 'whole.jsonl').wait() == 0
        store = root / 'killed.jsonl'

        def written():
            return store.read_bytes().count(b'\n') if store.exists() else 0

        for lines in (3, 11, 40):
            process = running(root, store.name)
            wait_until(lambda lines=lines: written() >= lines)
            process.send_signal(signal.SIGKILL)
            process.wait()
            ended = wait_until(lambda group=process.pid: not alive(group))
            assert ended, 'workers outlived their parent'
        assert running(root, store.name).wait() == 0
        assert store.read_bytes() == (root / 'whole.jsonl').read_bytes()

    def test_ctrl_c_leaves_nothing(self, root):
        process = running(root, 'scores.jsonl')
        assert wait_until((root / 'scores.jsonl').exists)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(HANGS) != 0
        # multiprocessing's resource tracker ends a moment after its parent
        assert wait_until(lambda: not alive(process.pid)), 'workers outlived their parent'
        assert not list(root.rglob('*.tmp'))


def die(task):
    if task == 'b':
        os._exit(9)
    return task.upper()


def fail(task):
    raise (ValueError('bad.png: unreadable') if task == 'b' else KeyError(task))


@pytest.mark.slow
class TestPool:
    def test_results(self):
        assert sorted(pool.run(str.upper, 'abcde', 2, str)) == [(c, c.upper()) for c in 'abcde']

    def test_death_names_its_task(self):
        with pytest.raises(RuntimeError, match=r'image b: the worker process died \(exit code 9\)'):
            list(pool.run(die, ['b', 'a'], 2, lambda task: f'image {task}'))

    def test_errors(self):
        with pytest.raises(ValueError, match=r'^bad\.png: unreadable$'):
            list(pool.run(fail, ['b', 'b'], 2, str))
        with pytest.raises(RuntimeError, match=r'image a(?s:.*)KeyError'):
            list(pool.run(fail, ['a', 'a'], 2, lambda task: f'image {task}'))


def test_counts_survive_the_store():
    counts = np.random.default_rng(0).integers(0, 2 ** 40, (2, 256))
    assert (decode(encode(counts)) == counts).all()


def test_scores_that_were_written_anew_meanwhile(root):
    rows = evaluate(root, metrics=['mae'])[METHODS[0]]
    path = root / 'scores.jsonl'
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b''.join(lines[::-1]))
    with pytest.raises(ValueError, match='another process has written'):
        rows['im 0.é']


def test_other_version_is_stale(root):
    evaluate(root, metrics=['mae'])
    path = root / 'scores.jsonl'
    [row] = [row for row in ScoreStore(path).rows.values() if row['method'] == METHODS[0]][:1]
    states = [fingerprint[:-1] for fingerprint in row['files']]
    asked = row['method'], row['name'], states, ['mae']
    assert ScoreStore(path).missing(*asked) == []
    path.write_text(json.dumps(row | {'version': VERSION + 1}))
    assert ScoreStore(path).missing(*asked) == ['mae']


def test_scores_stored_by_earlier_releases_are_measured_again(root):
    """Version 2 did not count what is found above .5."""
    counts = np.zeros((2, 256), np.int64)
    counts[0, 255] = counts[1, 0] = 5
    row = {'method': 'x', 'name': 'a', 'files': [[1, 2], [3, 4]], 'version': 2,
           'groups': ['sm', 'mae', 'em', 'fm'],
           'values': {'adpEm': 1.0, 'adpFm': 1.0, 'mae': 0.0, 'sm': 1.0},
           'counts': encode(counts), 'edge_counts': None}
    path = root / 'old.jsonl'
    path.write_text(json.dumps(row) + '\n')
    assert ScoreStore(path).missing('x', 'a', row['files'], ['fm', 'sm']) == ['sm', 'fm']


def test_collect_means_over_images(root):
    rows = evaluate(root)['run--epoch_10']
    scored = collect(rows, ['sm', 'fm', 'biou'])
    masks, predictions = root / 'datasets/Toy/TE-A/gt', root / 'e_preds/run--epoch_10/TE-A'
    every = []
    for name in scored.names:
        truth = GroundTruth(read_mask(masks / f'{name}.png'))
        every.append(truth.score(read_mask(predictions / f'{name}.png')))
    for score in ('sm', 'meanFm', 'adpFm', 'meanBIoU'):
        assert scored.scores[score] == pytest.approx(np.mean([scores[score] for scores in every]))
    # the maximum of the mean curve, not the mean of the maxima
    assert scored.scores['maxFm'] == pytest.approx(scored.curves['fm'].max())
    assert scored.scores['maxFm'] < np.mean([scores['maxFm'] for scores in every])
    assert scored.deviations['sm'] == pytest.approx(np.std([scores['sm'] for scores in every]))
