"""Reading images of every kind: formats, modes, depths, orientations, damage."""

import io
import re
import struct
import zlib

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from inference.images import decode_image
from readers import open_image, plain, read_image, read_mask
from tests.readers.files import by_opencv, saved, tiff


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture, (24, 40, 3), so that JPEG keeps it."""
    y, x = np.mgrid[:24, :40]
    return np.stack((x * 6, y * 10, 255 - x * 3 - y * 2), -1).astype(np.uint8)


def grey(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


# --- Reading --------------------------------------------------------------------------------------


YCBCR = pytest.param('YCbCr', marks=pytest.mark.skipif(
    PIL.__version__ < '13', reason='Pillow 12 reads no such TIFF'))


MODES = ['RGB', 'RGBA', 'L', 'LA', 'P', 'CMYK', '1', 'I;16', 'I', 'F', YCBCR, 'PA']


@pytest.mark.parametrize('mode', MODES)
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
    assert (read.shape, read.dtype) == ((24, 40, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((24, 40), np.uint8)
    assert read.flags.c_contiguous
    if mode in ('RGB', 'RGBA'):
        assert np.array_equal(read, pixels)
        assert np.array_equal(mask, grey(pixels))
    elif mode in ('L', 'LA', 'I;16', 'I', 'F'):
        by_pillow = np.asarray(Image.fromarray(pixels).convert('L'))
        expected = grey(pixels) if mode in ('I;16', 'I', 'F') else by_pillow
        assert np.abs(read - expected[..., None].astype(int)).max() <= (1 if mode == 'F' else 0)
        assert np.abs(mask - expected.astype(int)).max() <= (1 if mode == 'F' else 0)
    elif mode != '1':
        assert np.abs(read - pixels.astype(int)).mean() < 20


def test_bilevel_masks_are_0_and_255(tmp_path):
    Image.fromarray(np.eye(9, dtype=bool)).save(tmp_path / 'mask.png')
    assert np.array_equal(read_mask(tmp_path / 'mask.png'), np.eye(9, dtype=np.uint8) * 255)


SUFFIXES = ['.jpg', '.JPEG', '.png', '.bmp', '.tif', '.webp', '.gif', '.ppm']


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_every_format(tmp_path, pixels, suffix):
    path = tmp_path / f'ein Bild, größer.v2{suffix}'
    jpeg = {'quality': 95, 'subsampling': 0}
    options = {'.webp': {'lossless': True}, '.jpg': jpeg, '.JPEG': jpeg}
    Image.fromarray(pixels).save(path, **options.get(suffix, {}))
    assert np.abs(read_image(path).astype(int) - pixels).mean() < (10 if suffix == '.gif' else 2)
    assert np.array_equal(read_image(path.read_bytes()), read_image(path))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif'])
def test_upright_by_exif(tmp_path, pixels, orientation, suffix):
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'turned{suffix}'
    options = {'quality': 98} if suffix == '.jpg' else {}
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif, **options)
    assert read_image(path).shape == pixels.shape
    assert np.abs(read_image(path).astype(int) - pixels).mean() < 3
    assert np.abs(read_mask(path).astype(int) - grey(pixels)).mean() < 3


@pytest.mark.parametrize('decoder', [plain.simplejpeg, None])
@pytest.mark.parametrize(('mode', 'subsampling'), [('RGB', 0), ('RGB', 1), ('RGB', 2), ('L', 0)])
def test_jpegs_decode_alike_by_all_ways(tmp_path, pixels, monkeypatch, decoder, mode, subsampling):
    monkeypatch.setattr(plain, 'simplejpeg', decoder)
    path = tmp_path / 'photo.jpg'
    image = Image.fromarray(pixels).convert(mode).resize((401, 243))
    image.save(path, quality=80, subsampling=subsampling, progressive=subsampling == 1)
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
    data = b'\x89PNG\r\n\x1a\n'
    for kind, body in parts:
        checksum = zlib.crc32(kind + body)
        data += struct.pack('>I', len(body)) + kind + body + struct.pack('>I', checksum)
    return data


@pytest.mark.parametrize('filters', [(0,), (1,), (2,), (2, 1, 0, 2, 2), (0, 3), (4, 1)])
def test_masks_of_every_filter(filters):
    mask = np.random.default_rng(0).integers(0, 256, (31, 47), np.uint8)
    data = png(mask, *filters)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), mask)
    assert np.array_equal(read_mask(data), mask)
    if plain.decompressobj and max(filters) <= 2:
        assert np.array_equal(plain._decode_grey_png(data, 47, 31), mask)
    for at in range(45, len(data) - 20, 97):  # never are other pixels read without an error
        damaged = data[:at] + bytes([data[at] ^ 85]) + data[at + 1:]
        pixels = plain.decompressobj and plain._decode_grey_png(damaged, 47, 31)
        assert pixels is None or np.array_equal(pixels, mask)


def test_highlights_above_1_do_not_darken_a_photograph(pixels):
    linear = pixels[..., ::-1].astype(np.float32) / 255
    linear[:4] = 6  # a lamp
    assert np.array_equal(read_image(by_opencv(linear, '.tif'))[4:], pixels[4:])


def test_floating_point_keeps_its_profile(pixels):
    profile = b'\0' * 16 + b'RGB ' + b'\0' * 108
    values = pixels.astype(np.float32) / 255
    data = tiff(values, tag_339=(3, 3, 3), tag_34675=profile)
    assert decode_image(data).profile == profile
    assert np.abs(read_image(data).astype(int) - pixels).max() <= 1


def test_an_alpha_that_nobody_has_filled_is_none(pixels):
    data = saved(np.dstack([pixels, 0 * pixels[..., :1]]), 'TGA')
    assert decode_image(data).alpha is None
    assert np.array_equal(read_image(data), pixels)


def test_the_preview_of_a_raw_photograph_is_not_taken_for_it(pixels):
    tags = ImageFileDirectory_v2()
    tags[254] = 1
    with pytest.raises(ValueError, match='raw photograph'):
        read_image(saved(pixels, 'TIFF', tiffinfo=tags))


def test_deep_colours_in_planes_are_refused_by_name(pixels):
    deep = pixels.astype(np.uint16) * 257
    assert np.array_equal(read_image(tiff(deep)), pixels)
    with pytest.raises(ValueError, match='16 bits in separate planes'):
        read_image(tiff(deep, tag_284=2))


@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2],
    lambda data: b'',
    lambda data: b'text\n',
    lambda data: data[:20],
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


def test_a_length_that_a_png_cannot_have_takes_no_memory(pixels, monkeypatch):
    """OpenCV would reserve the 2 GB that the damaged chunk states."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    data = bytearray(buffer.getvalue())
    data[data.index(b'IDAT') - 4] = 0x7f
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('OpenCV was given the file'))
    for read in (read_image, read_mask, open_image):
        with pytest.raises(ValueError, match='cut off'):
            read(bytes(data))


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
