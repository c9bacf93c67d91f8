"""Finding images, and writing files whole or not at all."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import utils
from utils import atomic_write, find_images, write_json, write_png

# --- Finding ----------------------------------------------------------------------------------------------------------


def test_find_images(tmp_path):
    names = ['b.PNG', 'a.jpg', 'c.x.TIFF', 'ä ö.jpeg']
    for name in (*names, '.hidden.png', '._a.jpg', 'notes.txt', 'Thumbs.db', 'noext'):
        (tmp_path / name).touch()
    (tmp_path / 'folder.png').mkdir()
    assert [path.name for path in find_images(tmp_path)] == sorted(names)


# --- Writing ----------------------------------------------------------------------------------------------------------


def test_atomic_write(tmp_path):
    path = tmp_path / 'new' / 'folder' / 'file.txt'
    with atomic_write(path, 'w') as file:
        file.write('größer')
        assert not path.exists()
    assert path.read_text(encoding='utf-8') == 'größer'
    assert os.listdir(path.parent) == ['file.txt']


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / 'file'
    path.write_bytes(b'old')

    def fail():
        with atomic_write(path) as file:
            file.write(b'new')
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.skipif(os.name == 'nt', reason='no umask')
def test_files_have_the_rights_of_plain_files(tmp_path):
    (tmp_path / 'plain').touch()
    write_json(tmp_path / 'ours', {})
    assert stat.S_IMODE(os.stat(tmp_path / 'ours').st_mode) == stat.S_IMODE(os.stat(tmp_path / 'plain').st_mode)


@pytest.mark.skipif(os.name == 'nt', reason='no umask')
def test_writing_from_threads_never_touches_the_umask(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, 'umask', calls.append)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: write_json(tmp_path / f'{i % 3}.json', i), range(30)))
    assert not calls
    assert len(list(tmp_path.iterdir())) == 3


def test_write_json(tmp_path):
    value = {'ä': [1, .1 + .2, None, True], 'b': {'c': 'text'}}
    write_json(tmp_path / 'value.json', value)
    assert json.loads((tmp_path / 'value.json').read_text(encoding='utf-8')) == value


@pytest.mark.parametrize('shape', [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_write_png(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_png(tmp_path / 'Bild ä.png', array)
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'Bild ä.png')), array)


def test_imports_no_torch():
    assert 'torch' not in Path(utils.__file__).read_text(encoding='utf-8').replace('No torch', '')
