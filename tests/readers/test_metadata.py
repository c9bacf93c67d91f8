"""Good pixels with bad metadata are read, upright by whatever says so, and alike by everybody."""

import io
import os
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inference.images import decode_image, encode
from readers import open_header, open_image, read_image, read_mask, to_rgb
from readers.metadata import PNG_START
from tests.readers.files import by_opencv, chunk, saved, with_last_chunk

RGB = np.zeros((20, 30, 3), np.uint8)
RGB[:, :15] = 200
RGB[3:6] = 90
MALFORMED = b"Exif\0\0b'garbage"


def png(kind: str = '', text: str = '', keyword: str = 'workflow', packed: bool = False) -> bytes:
    info = PngInfo()
    if kind:
        getattr(info, f'add_{kind}')(keyword, text, zip=packed)
    return saved(RGB, pnginfo=info)


def with_bad_checksum(data: bytes) -> bytes:
    end = data.index(b'IDAT') - 4
    return data[:end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]


def read_by_all(data: bytes) -> np.ndarray:
    """The pixels, the same for training and test (`read_image`), prediction, and by header."""
    image = read_image(data)
    assert np.array_equal(image, decode_image(data).pixels)
    assert np.array_equal(image, to_rgb(open_image(data)))
    header = open_header(io.BytesIO(data))
    if header is not None:
        opened, orientation = header
        assert image.shape[:2] == (opened.size if orientation >= 5 else opened.size[::-1])
    return image


def with_first_chunk(kind: bytes, body: bytes) -> bytes:
    data = saved(RGB)
    end_of_header = len(PNG_START) + 25
    return data[:end_of_header] + chunk(kind, body) + data[end_of_header:]


GOOD_PIXELS = {
    'malformed EXIF, PNG': saved(RGB, exif=MALFORMED),
    'malformed EXIF, WebP': saved(RGB, 'WEBP', lossless=True, exif=MALFORMED),
    'profile above the limit': saved(RGB, icc_profile=os.urandom(1_500_000)),
    'damaged profile': saved(RGB, icc_profile=b'no profile'),
    'long text': png('text', 'x' * 2_000_000),
    'long zTXt': png('text', 'x' * 2_000_000, packed=True),
    'long iTXt': png('itxt', 'x' * 2_000_000, packed=True),
    'gamma of 2 bytes': with_first_chunk(b'gAMA', b'12'),
    'white point of 1 byte': with_first_chunk(b'cHRM', b'1'),
    'wrong checksum of a text': with_bad_checksum(png('text', 'hello')),
}


@pytest.mark.parametrize('name', GOOD_PIXELS)
def test_good_pixels_with_bad_metadata(name):
    assert np.array_equal(read_by_all(GOOD_PIXELS[name]), RGB)


def test_damaged_metadata_are_not_written_again():
    for kind in (b'gAMA', b'cHRM', b'cICP'):
        result = encode(RGB, '.png', decode_image(with_first_chunk(kind, b'1')))
        assert kind not in result
        assert np.array_equal(read_image(result), RGB)


def test_libpng_does_not_complain_of_profiles(capfd):
    grey = b'\0' * 16 + b'GRAY' + b'\0' * 112
    assert np.array_equal(read_image(saved(RGB, icc_profile=grey)), RGB)
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('options', [
    {'exif': MALFORMED}, {'exif': MALFORMED, 'dpi': (72, 72)}, {'icc_profile': b'no profile'}])
@pytest.mark.parametrize('mode', ['RGB', 'CMYK'])
def test_jpegs_with_bad_metadata(options, mode):
    image = Image.fromarray(RGB).convert(mode)
    plain = read_image(saved(image, 'JPEG', quality=95))
    assert np.array_equal(read_by_all(saved(image, 'JPEG', quality=95, **options)), plain)


def test_a_profile_above_pillows_limit_is_kept():
    profile = os.urandom(1_500_000)
    assert open_image(saved(RGB, icc_profile=profile)).info['icc_profile'] == profile


# --- Orientation ----------------------------------------------------------------------------------


def exif(orientation: int = 6) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def raw_profile(kind: str, data: bytes) -> str:
    """Metadata as ImageMagick writes them into a text chunk."""
    return f'\n{kind}\n{len(data):8d}\n{data.hex()}\n'


XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
XMP_ELEMENT = '<x:xmpmeta><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'
XMP_KEYWORD = 'XML:com.adobe.xmp'
EXIF_TEXT = raw_profile('exif', exif().tobytes())
TURNED = {
    'EXIF, PNG': saved(RGB, exif=exif()),
    'EXIF, WebP': saved(RGB, 'WEBP', lossless=True, exif=exif()),
    'EXIF, TIFF': saved(RGB, 'TIFF', exif=exif()),
    'EXIF behind the pixels': with_last_chunk(saved(RGB), b'eXIf', exif().tobytes()[6:]),
    'EXIF as a text': png('text', EXIF_TEXT, 'Raw profile type exif', packed=True),
    'EXIF as a text, APP1': png('text', EXIF_TEXT, 'Raw profile type APP1'),
    'EXIF as a text behind the pixels': with_last_chunk(
        saved(RGB), b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(EXIF_TEXT.encode())),
    'XMP': png('itxt', XMP, XMP_KEYWORD),
    'XMP in single quotes': png('itxt', XMP.replace('"', "'"), XMP_KEYWORD),
    'XMP as an element': png('itxt', XMP_ELEMENT, XMP_KEYWORD),
    'XMP behind the pixels': with_last_chunk(
        saved(RGB), b'iTXt', XMP_KEYWORD.encode() + b'\0\0\0\0\0' + XMP.encode()),
    'XMP as a text': png('text', raw_profile('xmp', XMP.encode()), 'Raw profile type xmp'),
    'XMP, TIFF': saved(RGB, 'TIFF', tiffinfo={700: XMP.encode()}),
}


@pytest.mark.parametrize('name', TURNED)
def test_upright_by_whatever_says_so(name):
    expected = np.rot90(RGB, -1)
    assert np.array_equal(read_by_all(TURNED[name]), expected)
    assert np.array_equal(open_image(open_image_again(TURNED[name])).convert('RGB'), expected)


def open_image_again(data: bytes) -> bytes:
    """The file saved anew: its metadata must not turn it a second time."""
    image = open_image(data)
    return saved(image, exif=image.getexif())


def test_heic_is_read_by_all_and_turned_once():
    pillow_heif = pytest.importorskip('pillow_heif')
    buffer = io.BytesIO()
    image = pillow_heif.from_pillow(Image.fromarray(np.repeat(RGB, 4, 0)))
    image.save(buffer, quality=90, exif=exif().tobytes())
    pixels = read_by_all(buffer.getvalue())
    assert np.abs(pixels - np.rot90(np.repeat(RGB, 4, 0), -1).astype(int)).mean() < 5


def test_exif_overrules_xmp_and_nonsense_is_upright():
    assert np.array_equal(read_by_all(saved(RGB, exif=exif(1), pnginfo=PngInfo())), RGB)
    assert np.array_equal(read_by_all(saved(RGB, exif=exif(77))), RGB)


# --- Depth, size, and the program around ----------------------------------------------------------


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_scan_of_12_bits_in_16_is_not_black(suffix, channels):
    scan = np.random.default_rng(0).integers(0, 4096, (24, 32), dtype=np.uint16)
    scan[0, 0] = 4095
    image = read_by_all(by_opencv(np.dstack([scan] * channels), suffix))
    assert np.array_equal(image, np.dstack([scan >> 4] * 3))


def test_a_night_photograph_of_16_bits_stays_dark():
    night = np.full((8, 8), 20_000, np.uint16)
    assert read_image(by_opencv(night, '.png')).max() == 20_000 >> 8


def test_pillows_limits_are_the_programs_own(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_image(saved(RGB)).shape == RGB.shape
        assert read_mask(saved(RGB, 'BMP')).shape == RGB.shape[:2]
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.slow
def test_importing_changes_nothing_for_the_program_around():
    code = '''
import warnings
from PIL import Image, PngImagePlugin
def state():
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    return limits, [entry for entry in warnings.filters if 'PIL' in str(entry)]
before = state()
import readers, utils, models, inference.images
assert state() == before, state()
'''
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
