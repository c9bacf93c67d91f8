"""Reading images of every kind, finding them, and writing files whole or not at all."""

import codecs
import errno
import io
import json
import os
import re
import stat
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image

import utils
from utils import (
    atomic_write,
    find_images,
    open_image,
    read_image,
    read_lines,
    read_mask,
    write_json,
    write_png,
)


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture, (24, 40, 3), so that JPEG keeps it."""
    y, x = np.mgrid[:24, :40]
    return np.stack((x * 6, y * 10, 255 - x * 3 - y * 2), -1).astype(np.uint8)


def grey(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


# --- Reading ----------------------------------------------------------------------------------------------------------


YCBCR = pytest.param('YCbCr', marks=pytest.mark.skipif(PIL.__version__ < '13', reason='Pillow 12 reads no such TIFF'))


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'LA', 'P', 'CMYK', '1', 'I;16', 'I', 'F', YCBCR, 'PA'])
def test_every_mode(tmp_path, pixels, mode):
    image = Image.fromarray(pixels)
    if mode in ('I;16', 'I'):
        image = Image.fromarray(grey(pixels).astype(np.uint16) * 257).convert(mode)
    elif mode == 'F':
        image = Image.fromarray(grey(pixels).astype(np.float32) / 255)
    else:
        image = image.convert(mode)
    path = tmp_path / f'image.{"tif" if mode in ("CMYK", "F", "I", "YCbCr", "PA") else "png"}'
    try:
        image.save(path)
    except OSError:
        path = path.with_suffix('.gif')  # PA has no other format
        image.save(path)
    read, mask = read_image(path), read_mask(path)
    assert (read.shape, read.dtype, mask.shape, mask.dtype) == ((24, 40, 3), np.uint8, (24, 40), np.uint8)
    assert read.flags.c_contiguous
    if mode in ('RGB', 'RGBA'):
        assert np.array_equal(read, pixels)
        assert np.array_equal(mask, grey(pixels))
    elif mode in ('L', 'LA', 'I;16', 'I', 'F'):
        expected = grey(pixels) if mode in ('I;16', 'I', 'F') else np.asarray(Image.fromarray(pixels).convert('L'))
        assert np.abs(read - expected[..., None].astype(int)).max() <= (1 if mode == 'F' else 0)
        assert np.abs(mask - expected.astype(int)).max() <= (1 if mode == 'F' else 0)
    elif mode != '1':
        assert np.abs(read - pixels.astype(int)).mean() < 20


def test_bilevel_masks_are_0_and_255(tmp_path):
    Image.fromarray(np.eye(9, dtype=bool)).save(tmp_path / 'mask.png')
    assert np.array_equal(read_mask(tmp_path / 'mask.png'), np.eye(9, dtype=np.uint8) * 255)


@pytest.mark.parametrize('suffix', ['.jpg', '.JPEG', '.png', '.bmp', '.tif', '.webp', '.gif', '.ppm'])
def test_every_format(tmp_path, pixels, suffix):
    path = tmp_path / f'ein Bild, größer.v2{suffix}'
    options = {'lossless': True} if suffix == '.webp' else {'quality': 95,
                                                            'subsampling': 0} if 'j' in suffix.lower() else {}
    Image.fromarray(pixels).save(path, **options)
    assert np.abs(read_image(path).astype(int) - pixels).mean() < (10 if suffix == '.gif' else 2)
    assert np.array_equal(read_image(path.read_bytes()), read_image(path))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif'])
def test_upright_by_exif(tmp_path, pixels, orientation, suffix):
    turned = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
              6: np.rot90(pixels), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'turned{suffix}'
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif, **({'quality': 98} if suffix == '.jpg' else {}))
    assert read_image(path).shape == pixels.shape
    assert np.abs(read_image(path).astype(int) - pixels).mean() < 3
    assert np.abs(read_mask(path).astype(int) - grey(pixels)).mean() < 3


@pytest.mark.parametrize('decoder', [utils.simplejpeg, None])
@pytest.mark.parametrize(('mode', 'subsampling'), [('RGB', 0), ('RGB', 1), ('RGB', 2), ('L', 0)])
def test_jpegs_decode_alike_by_all_ways(tmp_path, pixels, monkeypatch, decoder, mode, subsampling):
    monkeypatch.setattr(utils, 'simplejpeg', decoder)
    path = tmp_path / 'photo.jpg'
    Image.fromarray(pixels).convert(mode).resize((401, 243)).save(path, quality=80, subsampling=subsampling,
                                                                  progressive=subsampling == 1)
    slow = np.asarray(open_image(path))
    assert np.abs((read_image if mode == 'RGB' else read_mask)(path).astype(int) - slow).max() <= 1


def test_a_jpeg_damaged_inside_is_read_as_far_as_pillow_reads_it(tmp_path, pixels):
    path = tmp_path / 'photo.jpg'
    Image.fromarray(pixels).resize((401, 243)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2:len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    assert np.array_equal(read_image(path), np.asarray(open_image(path)))


def png(mask: np.ndarray, *filters: int) -> bytes:
    """A grey PNG whose rows take turns with the given filters (RFC 2083, section 6)."""
    padded = np.pad(mask, ((1, 0), (1, 0))).astype(int)
    here, left, up, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    estimate = left + up - corner
    errors = np.abs(estimate - np.stack((left, up, corner)))
    paeth = np.choose(errors.argmin(0), (left, up, corner))
    predictions = (np.zeros_like(here), left, up, (left + up) // 2, paeth)
    rows = b''
    for y in range(len(mask)):
        kind = filters[y % len(filters)]
        rows += bytes([kind]) + (here[y] - predictions[kind][y]).astype(np.uint8).tobytes()
    header = struct.pack('>IIBBBBB', *mask.shape[::-1], 8, 0, 0, 0, 0)
    packed = zlib.compress(rows)
    parts = ((b'IHDR', header), (b'IDAT', packed[:9]), (b'IDAT', packed[9:]), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body)) for kind, body in parts)


@pytest.mark.parametrize('filters', [(0,), (1,), (2,), (2, 1, 0, 2, 2), (0, 3), (4, 1)])
def test_masks_of_every_filter(filters):
    mask = np.random.default_rng(0).integers(0, 256, (31, 47), np.uint8)
    data = png(mask, *filters)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), mask)
    assert np.array_equal(read_mask(data), mask)
    if utils.decompressobj and max(filters) <= 2:
        assert np.array_equal(utils._decode_grey_png(data, 47, 31), mask)
    for at in range(45, len(data) - 20, 97):  # never are other pixels read without an error
        damaged = data[:at] + bytes([data[at] ^ 85]) + data[at + 1:]
        pixels = utils.decompressobj and utils._decode_grey_png(damaged, 47, 31)
        assert pixels is None or np.array_equal(pixels, mask)


@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2], lambda data: b'', lambda data: b'text\n', lambda data: data[:20],
    lambda data: bytes(len(data)),
], ids=['half', 'empty', 'text', 'header', 'zeros'])
@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('read', [read_image, read_mask, open_image])
def test_damaged_files_are_named(tmp_path, damage, suffix, read):
    path = tmp_path / f'damaged{suffix}'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read(path)


def test_no_program_is_run_to_draw_a_picture(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'EPS')
    with pytest.raises(ValueError, match='EPS'):
        open_image(buffer.getvalue())


def test_missing_files_stay_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / 'nothing.png')


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_too_many_pixels(tmp_path, suffix):
    Image.new('RGB', (50, 40)).save(tmp_path / f'large{suffix}')
    assert read_image(tmp_path / f'large{suffix}', max_pixels=2000).shape == (40, 50, 3)
    with pytest.raises(ValueError, match=r'large.*50x40.*1999'):
        read_image(tmp_path / f'large{suffix}', max_pixels=1999)


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
