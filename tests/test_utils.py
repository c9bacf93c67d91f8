"""Finding images, and writing files whole or not at all."""

import codecs
import errno
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import utils
from config import Config
from utils import (
    atomic_write,
    find_images,
    fitting_name,
    read_json,
    read_lines,
    write_json,
    write_png,
)

# --- Finding --------------------------------------------------------------------------------------


def test_find_images(tmp_path):
    names = ['b.PNG', 'a.jpg', 'c.x.TIFF', 'ä ö.jpeg']
    for name in (*names, '.hidden.png', '._a.jpg', 'notes.txt', 'Thumbs.db', 'noext'):
        (tmp_path / name).touch()
    (tmp_path / 'folder.png').mkdir()
    assert [path.name for path in find_images(tmp_path)] == sorted(names)


def test_links_that_lead_nowhere_are_not_left_out_silently(tmp_path):
    """As of a data set on a disk that is not mounted: reading names them."""
    for name, target in (('a.png', 'gone.png'), ('b.png', 'b.png')):
        (tmp_path / name).symlink_to(target)
    assert [path.name for path in find_images(tmp_path)] == ['a.png', 'b.png']


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / 'a.json').write_text('{"task": "Toy"}', encoding='utf-8-sig')
    assert read_json(tmp_path / 'a.json') == {'task': 'Toy'}
    assert Config.load(tmp_path / 'a.json').task == 'Toy'


# --- Writing --------------------------------------------------------------------------------------


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


def test_an_error_names_the_file_once(tmp_path):
    with pytest.raises(IsADirectoryError) as error:
        write_json(tmp_path, {})
    assert str(error.value) == f"[Errno 21] Is a directory: '{tmp_path}'"


@pytest.mark.skipif(os.name == 'nt', reason='no umask')
def test_files_have_the_rights_of_plain_files(tmp_path):
    (tmp_path / 'plain').touch()
    write_json(tmp_path / 'ours', {})
    ours, plain = (os.stat(tmp_path / name).st_mode for name in ('ours', 'plain'))
    assert stat.S_IMODE(ours) == stat.S_IMODE(plain)


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
    program = 'import sys, utils; sys.exit("torch" in sys.modules)'
    subprocess.run([sys.executable, '-c', program], cwd=Path(utils.__file__).parent, check=True)


def refuse(*_, **__):
    raise PermissionError(errno.EPERM, 'Operation not permitted')


def test_files_are_written_where_the_file_system_refuses_conveniences(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'chmod', refuse)
    monkeypatch.setattr(os, 'replace', refuse)

    def unsupported(_):
        raise OSError(errno.EINVAL, 'Invalid argument')

    monkeypatch.setattr(os, 'fsync', unsupported)
    for value in (1, 2):
        monkeypatch.setattr(os, 'replace', os.rename if value == 1 else refuse)
        write_json(tmp_path / 'a.json', value)
        assert json.loads((tmp_path / 'a.json').read_text()) == value
    assert os.listdir(tmp_path) == ['a.json']


def test_an_error_of_the_disk_is_none_of_the_conveniences(tmp_path, monkeypatch):
    write_json(tmp_path / 'a.json', 1)

    def broken(_):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, 'fsync', broken)
    with pytest.raises(OSError, match='Input/output'):
        write_json(tmp_path / 'a.json', 2)
    assert json.loads((tmp_path / 'a.json').read_text()) == 1
    assert os.listdir(tmp_path) == ['a.json']


def test_names_as_long_as_the_file_system_takes(tmp_path):
    path = tmp_path / ('ä' * 125 + '.json')
    assert len(os.fsencode(path.name)) == 255
    write_json(path, 1)
    assert json.loads(path.read_text()) == 1


def test_longer_names_are_shortened_and_stay_different():
    assert fitting_name('a', '.out.png') == 'a.out.png'
    names = {fitting_name('ä' * 125 + letter, '.out.png') for letter in 'ab'}
    assert len(names) == 2
    for name in names:
        assert 253 <= len(os.fsencode(name)) <= 255
        assert name.startswith('ää')
        assert name.endswith('.out.png')


def test_names_that_are_not_utf8_in_json(tmp_path):
    names = {os.fsdecode(b'\xb2\xe2.png'): 'ä'}
    write_json(tmp_path / 'names.json', names)
    assert json.loads((tmp_path / 'names.json').read_text(encoding='utf-8')) == names


@pytest.mark.parametrize('data', [
    'ä.jpg\nb.jpg'.encode(),
    'ä.jpg\r\nb.jpg\r\n'.encode(),
    'ä.jpg\nb.jpg'.encode('utf-8-sig'),
    'ä.jpg\r\nb.jpg\r\n'.encode('utf-16'),
    codecs.BOM_UTF16_BE + 'ä.jpg\n\nb.jpg'.encode('utf-16-be'),
], ids=['unix', 'windows', 'byte order mark', 'PowerShell', 'big endian'])
def test_lists_of_any_editor(tmp_path, data):
    (tmp_path / 'list.txt').write_bytes(data)
    assert read_lines(tmp_path / 'list.txt') == ['ä.jpg', 'b.jpg']


def test_lists_keep_names_that_are_not_utf8_and_refuse_what_is_no_text(tmp_path):
    name = b'\xb2\xe2.jpg'
    (tmp_path / 'list.txt').write_bytes(name + b'\n')
    assert [os.fsencode(line) for line in read_lines(tmp_path / 'list.txt')] == [name]
    (tmp_path / 'list.txt').write_bytes(b'\x89PNG\0\0')
    with pytest.raises(ValueError, match='no text'):
        read_lines(tmp_path / 'list.txt')
