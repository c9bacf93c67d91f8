"""The demo data: layout, determinism, and that no threshold solves it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo import render
from demo.make_data import SEED, SIZE, TEST, make_data, sample
from demo.shapes import SHAPES
from evaluation import GroundTruth
from readers import read_image, read_mask


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    found = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp('data'), train=5, test=3, size=96)


def test_layout_and_pairs(made):
    for name, count in (('TR-Demo', 5), ('TE-Demo', 3)):
        images = sorted((made / name / 'im').iterdir())
        masks = sorted((made / name / 'gt').iterdir())
        assert [path.stem for path in images] == [path.stem for path in masks]
        assert len(images) == count
        assert {path.suffix for path in images} == {'.jpg'}
        assert {path.suffix for path in masks} == {'.png'}
        for image, mask in zip(images, masks, strict=True):
            assert read_image(image).shape[:2] == read_mask(mask).shape


def test_same_arguments_give_the_same_bytes(made, tmp_path):
    assert digests(make_data(tmp_path, train=5, test=3, size=96)) == digests(made)


def test_a_pair_depends_on_the_seed_and_on_the_set_but_not_on_the_others():
    image, mask, name = sample(3, 96, seed=7, train=True)
    again = sample(3, 96, seed=7, train=True)
    assert name == again[2] == '0004_chair'
    assert np.array_equal(image, again[0])
    assert np.array_equal(mask, again[1])
    for other in (sample(3, 96, seed=8, train=True), sample(3, 96, seed=7, train=False)):
        assert other[1].shape != mask.shape or not np.array_equal(other[1], mask)


def test_made_once_and_again_when_asked_for_something_else(tmp_path):
    folder = make_data(tmp_path, train=2, test=1, size=64)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*.jpg')}
    make_data(tmp_path, train=2, test=1, size=64)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*.jpg')} == before
    make_data(tmp_path, train=1, test=1, size=64)
    assert len(list((folder / 'TR-Demo' / 'im').iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['Demo']


def test_data_of_the_user_are_left_alone(tmp_path):
    precious = tmp_path / 'Demo' / 'TR-Demo' / 'im' / 'mine.jpg'
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b'mine')
    with pytest.raises(ValueError, match='Demo was not made by'):
        make_data(tmp_path, train=1, test=1, size=64)
    assert precious.read_bytes() == b'mine'


@pytest.mark.parametrize('wrong', [{'train': 0}, {'test': 0}, {'size': 10}, {'seed': -1}])
def test_senseless_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=f'--{next(iter(wrong))} {next(iter(wrong.values()))}'):
        make_data(tmp_path, **{'train': 1, 'test': 1, 'size': 64, **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', SHAPES)
def test_every_kind_is_a_thin_or_holed_object_within_the_frame(kind):
    image, mask = render.render(np.random.default_rng(3), kind, 192, train=True)
    assert image.shape == (*mask.shape, 3)
    assert .09 < (mask > 128).mean() < .45
    assert not any(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    assert len(np.unique(mask)) > 8, 'soft edges'

    # It fills less than three quarters of its convex hull.
    hull = np.zeros_like(mask)
    points = np.argwhere(mask > 128)[:, ::-1]
    corners = cv2.convexHull(points.astype(np.int32))
    cv2.fillConvexPoly(hull, corners, 1)
    assert (mask > 128).sum() < .75 * hull.sum()


def test_training_and_test_set_share_no_pixel_of_a_photograph(monkeypatch):
    photograph = np.zeros((60, 100, 3), np.uint8)
    photograph[:, :60, 0] = photograph[:, 60:, 2] = 200  # red for training, blue for the test
    monkeypatch.setattr(render, 'load_photograph', lambda name: photograph)
    monkeypatch.setattr(render, 'DISTRACTORS', (0, 0))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        scene = render.background(rng, (64, 64), train=True)
        red, _, blue = scene.transpose(2, 0, 1)
        assert (red > blue).all()

        rng = np.random.default_rng(seed)
        scene = render.background(rng, (64, 64), train=False)
        red, _, blue = scene.transpose(2, 0, 1)
        assert (red < blue).all()


def otsu_masks(image: np.ndarray) -> list[np.ndarray]:
    """Each channel of RGB and of Lab cut in two by Otsu's threshold, both ways round: 12 masks."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    masks = []
    for channel in (*cv2.split(image), *cv2.split(lab)):
        _, bright = cv2.threshold(channel, 0, 255, cv2.THRESH_OTSU)
        masks += [bright, 255 - bright]
    return masks


def s_measures_of_otsu(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean S-measure over the pairs of each of the 12 rules."""
    scores = []
    for image, mask in pairs:
        truth = GroundTruth(mask)
        scores.append([truth.score(cut, {'sm'})['sm'] for cut in otsu_masks(image)])
    return np.mean(scores, axis=0)


@pytest.mark.slow
def test_no_threshold_solves_the_test_set():
    pairs = [sample(index, SIZE, SEED, train=False)[:2] for index in range(0, TEST, 2)]
    assert s_measures_of_otsu(pairs).max() < .65


def test_a_threshold_would_solve_objects_all_of_one_colour():
    pairs = []
    for index in range(4):
        _, mask, _ = sample(index, 128, SEED, train=False)
        grey = cv2.merge([mask // 2] * 3)
        pairs.append((grey, mask))
    assert s_measures_of_otsu(pairs).max() > .9


def test_torch_is_not_needed():
    check = 'import sys, demo.make_data, demo.gallery; sys.exit("torch" in sys.modules)'
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, '-c', check], cwd=root, check=False)
    assert done.returncode == 0
