"""The picture of the demo's outcome."""

import sys

import numpy as np
import pytest

from demo import gallery as module
from demo.gallery import compare, gallery, main, representative
from demo.make_data import make_data
from readers import read_image, read_mask
from utils import write_png


def flat(path, grey: int, shape=(40, 60)):
    write_png(path, np.full(shape, grey, np.uint8))
    return path


def test_each_row_shows_its_pictures_in_the_order_of_the_columns(tmp_path):
    greys = np.array([[10, 60, 110, 160], [30, 80, 130, 180]])
    paths = [[flat(tmp_path / f'{grey}.png', grey) for grey in column] for column in greys.T]
    page = np.asarray(gallery(paths[0], paths[1], {'one': paths[2], 'two\nS .9': paths[3]}))
    cell, step = module.CELL[0], module.CELL[0] + module.GAP
    height = cell * 40 // 60
    top = module.MARGIN + module.HEADER
    for row in range(2):
        for column in range(4):
            y, x = top + row * (height + module.GAP), module.MARGIN + column * step
            assert np.unique(page[y:y + height, x:x + cell]).tolist() == [greys[row, column]]
    page_height = top + 2 * height + module.GAP + module.MARGIN
    page_width = 2 * module.MARGIN + 4 * step - module.GAP
    assert page.shape == (page_height, page_width, 3)


def test_tall_pictures_fit_and_masks_take_the_size_of_their_image(tmp_path):
    image = flat(tmp_path / 'tall.png', 20, (200, 50))
    mask = flat(tmp_path / 'small.png', 200, (8, 2))
    page = gallery([image], [mask], {'mask': [mask]})
    assert page.height == 2 * module.MARGIN + module.HEADER + module.CELL[1]


def test_columns_of_unequal_length_are_refused(tmp_path):
    path = flat(tmp_path / 'a.png', 1)
    with pytest.raises(ValueError, match="'first': 1"):
        gallery([path, path], [path, path], {'first': [path]})
    with pytest.raises(ValueError, match='one at least'):
        gallery([], [], {})


def test_representative_rows_run_from_good_to_bad_without_the_extremes():
    scores = np.random.default_rng(0).permutation(60) / 60
    chosen = scores[representative(scores, 6)]
    assert np.allclose(np.diff(chosen), -1 / 6)
    assert scores.min() < chosen.min()
    assert chosen.max() < scores.max()
    assert sorted(representative(scores[:3], 3)) == [0, 1, 2]


@pytest.fixture
def outcome(tmp_path):
    """A small test set with perfect masks in `best` and empty ones in `first`."""
    folder = make_data(tmp_path / 'datasets', train=1, test=4, size=64)
    for path in (folder / 'TE-Demo' / 'gt').iterdir():
        mask = read_mask(path)
        write_png(tmp_path / 'best' / 'TE-Demo' / path.name, mask)
        write_png(tmp_path / 'first' / 'TE-Demo' / path.name, np.zeros_like(mask))
    return tmp_path


def test_command_line(outcome, monkeypatch, capsys):
    out = outcome / 'pictures' / 'demo.png'
    arguments = [
        'gallery',
        '--data_root', str(outcome / 'datasets'),
        '--rows', '3',
        '--first', str(outcome / 'first'),
        '--best', str(outcome / 'best'),
        '-o', str(out),
    ]
    monkeypatch.setattr(sys, 'argv', arguments)
    main()
    assert str(out) in capsys.readouterr().out
    assert read_image(out).shape[1] == 2 * module.MARGIN + 4 * module.CELL[0] + 3 * module.GAP


def test_titles_carry_the_mean_scores(outcome, monkeypatch):
    seen = {}
    monkeypatch.setattr(module, 'gallery', lambda images, gts, columns: seen.update(columns))
    compare(
        outcome / 'datasets' / 'Demo' / 'TE-Demo',
        outcome / 'first' / 'TE-Demo',
        outcome / 'best' / 'TE-Demo',
        ('epoch 1', 'epoch 9'),
        rows=2,
    )
    first, best = seen
    assert first.startswith('epoch 1\nS-measure 0.')
    assert best.startswith('epoch 9\nS-measure 0.9') or best.startswith('epoch 9\nS-measure 1.0')
    assert [len(paths) for paths in seen.values()] == [2, 2]


def test_every_missing_mask_is_named(outcome):
    data = outcome / 'datasets' / 'Demo' / 'TE-Demo'
    best = outcome / 'best' / 'TE-Demo'
    folder = outcome / 'first' / 'TE-Demo'
    gone = sorted(folder.iterdir())[1:3]
    for path in gone:
        path.unlink()
    with pytest.raises(ValueError, match=f'{gone[0].stem}, {gone[1].stem}'):
        compare(data, folder, best, ('a', 'b'), rows=2)
    with pytest.raises(ValueError, match='make_data'):
        compare(outcome / 'nowhere', folder, folder, ('a', 'b'), rows=2)
