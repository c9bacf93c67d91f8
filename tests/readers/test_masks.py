"""What a mask means: every way to mark foreground becomes 0 and 255."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from readers import masks, read_mask, read_soft_mask, survey_masks
from readers.metadata import PNG_START
from readers.survey import LABELS_AND_VOID
from tests.readers.files import by_opencv, chunk, disc, palette_image, saved, tiff

DISC = disc()
RED = {1: (128, 0, 0)}  # DAVIS and VOC
VOC = {1: (128, 0, 0), 2: (0, 128, 0), 255: (224, 224, 192)}
PHOTO = np.random.default_rng(0).integers(0, 256, (*DISC.shape, 3), dtype=np.uint8)
BLACK = np.zeros_like(PHOTO)


def rgb(mask: np.ndarray) -> np.ndarray:
    return np.dstack([mask] * 3)


def two_objects(border: int = 0) -> np.ndarray:
    """Indices 1 and 2 for the disc's halves, and `border` in the first row."""
    indices = DISC.copy()
    indices[:, 28:] *= 2
    indices[0] = border
    return indices


def coloured(background: tuple[int, int, int], foreground: tuple[int, int, int]) -> np.ndarray:
    colours = np.array([background, foreground], np.uint8)
    return colours[DISC]


PURPLE, YELLOW = (68, 1, 84), (253, 231, 36)  # in which Matplotlib saves 0 and 1
WHITE, RED_OBJECT = (255, 255, 255), (255, 0, 0)


def floats(white: float) -> bytes:
    return saved(np.where(DISC, np.float32(white), np.float32(0)), 'TIFF')


FILES = {
    '8 bits': saved(DISC * 255),
    '0 and 1': saved(DISC),
    '0 and 1, run lengths': saved(DISC, 'BMP'),
    'boolean': saved(DISC > 0),
    '0 and 1 in 2 bits': saved(palette_image(DISC, {1: (1, 1, 1)}), bits=2),
    **{f'16 bits, {white}': by_opencv(DISC.astype(np.uint16) * white, '.png')
       for white in (1, 255, 1023, 4095, 65535)},
    **{f'32 bits, {white}': saved(DISC.astype(np.int32) * white, 'TIFF')
       for white in (1, 255, 65535, 2**31 - 1)},
    **{f'RGB of 16 bits{suffix}, {white}': by_opencv(rgb(DISC.astype(np.uint16) * white), suffix)
       for white in (1, 255, 65535) for suffix in ('.png', '.tif')},
    **{f'float, {white}': floats(white) for white in (1, 1.0001, 255, 255.2, 65535, np.inf)},
    'RGB in floating point': by_opencv(rgb(DISC.astype(np.float32)), '.tif'),
    'DAVIS': saved(palette_image(DISC, RED)),
    'DAVIS, GIF': saved(palette_image(DISC, RED), 'GIF'),
    'DAVIS as RGB': saved(palette_image(DISC, RED).convert('RGB')),
    'VOC': saved(palette_image(two_objects(255), VOC)),
    'VOC, a grey label': saved(palette_image(DISC * 7, {**VOC, 7: (128, 128, 128)})),
    'the colours of Matplotlib': saved(coloured(PURPLE, YELLOW)),
    'the colours of Matplotlib, opaque RGBA': saved(
        np.dstack([coloured(PURPLE, YELLOW), DISC * 0 + 255])),
    'red on white': saved(coloured(WHITE, RED_OBJECT)),
    'red on white, fewer colours': saved(Image.fromarray(coloured(WHITE, RED_OBJECT)).quantize(4)),
    'palette without black': saved(palette_image(DISC, {0: PURPLE, 1: YELLOW})),
    'VOC, the image filled': saved(coloured((128, 0, 0), (0, 128, 0)) * DISC[..., None]),
    'a number in one channel': saved(coloured((0, 0, 0), (1, 0, 0))),
    'a clear colour': saved(coloured((0, 255, 0), (10, 20, 30)), transparency=(0, 255, 0)),
    'labels in floating point': floats(3),
    'VOC as RGB': saved(palette_image(two_objects(255), VOC).convert('RGB')),
    'palette without colours': saved(palette_image(DISC, {})),
    'palette of greys': saved(palette_image(DISC, {1: (255, 255, 255)})),
    'alpha of a cut-out': saved(np.dstack([PHOTO, DISC * 255])),
    'alpha of a cut-out, WebP': saved(np.dstack([PHOTO, DISC * 255]), 'WEBP', lossless=True),
    'alpha over white': saved(np.dstack([BLACK + 255, DISC * 255])),
    'alpha over black': saved(np.dstack([BLACK, DISC * 255])),
    'grey with alpha': saved(Image.fromarray(np.dstack([PHOTO[..., 0], DISC * 255]), 'LA')),
    '0 is white': tiff(255 - DISC * 255, tag_262=0),
    '0 is white, 16 bits': tiff(65535 - DISC.astype(np.uint16) * 65535, tag_262=0),
    'opaque RGBA': saved(np.dstack([rgb(DISC * 255), BLACK[..., 0] + 255])),
}


@pytest.mark.parametrize('name', FILES)
def test_every_way_to_mark_foreground(name):
    mask = read_mask(FILES[name])
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, DISC * 255)


@pytest.mark.parametrize('depth', [2, 4])
def test_0_and_1_in_few_bits(depth):
    per_byte = 8 // depth
    places = 1 << np.arange(8 - depth, -1, -depth)
    row = (np.arange(16) > 7).reshape(-1, per_byte) @ places
    header = struct.pack('>IIBBBBB', 16, 1, depth, 0, 0, 0, 0)
    pixels = zlib.compress(bytes([0, *row]))
    parts = chunk(b'IHDR', header), chunk(b'IDAT', pixels), chunk(b'IEND', b'')
    assert read_mask(PNG_START + b''.join(parts)).tolist() == [[0] * 8 + [255] * 8]


def test_booleans_of_tifffile_are_not_inverted():
    """It writes True as 1, and states that 1 is black."""
    bits = np.packbits(DISC, axis=1)
    options = {'tag_256': DISC.shape[1], 'tag_258': 1, 'tag_262': 0}
    assert np.array_equal(read_mask(tiff(bits, **options)), 255 - DISC * 255)
    grey, notes = masks.interpret(tiff(bits, **options, tag_305='tifffile.py'))
    assert np.array_equal(grey, DISC * 255)
    assert notes == [masks.BOOLEAN]


def test_labels_of_voc_may_fill_the_image():
    filled = read_mask(saved(coloured((128, 0, 0), (0, 128, 0))))
    assert filled.min() == 255


def test_nan_is_background_and_infinity_foreground():
    values = DISC.astype(np.float32)
    values[0] = np.nan
    values[20, 28] = np.inf
    grey, notes = masks.interpret(saved(values, 'TIFF'))
    assert np.array_equal(grey, DISC * 255)
    assert notes == [masks.NOT_FINITE]


@pytest.mark.parametrize('values', [(-20, 15), (0, 1e9)])
def test_floating_point_that_is_no_mask_is_refused_by_name(tmp_path, values):
    low, high = values
    path = tmp_path / 'logits.tif'
    path.write_bytes(saved(np.where(DISC, high, low).astype(np.float32), 'TIFF'))
    with pytest.raises(ValueError, match=r'logits\.tif: .*floating point'):
        read_mask(path)


@pytest.mark.parametrize('quality', [50, 95])
def test_the_noise_of_jpeg_stays_noise(quality):
    noisy = read_mask(saved(DISC * 255, 'JPEG', quality=quality))
    assert np.mean((noisy > 128) == DISC) > .99
    one_level = np.zeros((16, 16), np.uint8)
    one_level[:8] = 1
    assert read_mask(saved(one_level, 'JPEG', quality=100)).max() <= 1


@pytest.mark.parametrize(('kind', 'quality'), [('JPEG', 95), ('JPEG', 40), ('WEBP', 80)])
def test_label_colours_behind_jpeg_are_labels(kind, quality):
    """The colours of PASCAL VOC for a plane and a cat."""
    expected = np.zeros((240, 320), bool)
    expected[60:180, 80:240] = True
    labels = np.zeros((240, 320, 3), np.uint8)
    labels[60:180, 80:160] = (128, 0, 0)
    labels[60:180, 160:240] = (64, 0, 0)
    grey, notes = masks.interpret(saved(labels, kind, quality=quality))
    assert notes == [masks.LABELS]
    differing = np.count_nonzero((grey > 128) != expected)
    # Chroma has half of the resolution: of each side of the rectangle up to two rows of pixels.
    assert differing <= 2 * 2 * (120 + 160)


def test_a_picture_in_place_of_a_mask_is_spoken_of():
    grey, notes = masks.interpret(saved(PHOTO))
    assert notes == [masks.COLOURED]
    assert np.array_equal(grey, cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY))


def test_an_empty_mask_of_any_kind_is_empty():
    empty = DISC * 0
    kinds = (saved(empty), saved(palette_image(empty, VOC)), saved(empty.astype(np.int32), 'TIFF'),
             saved(empty, 'JPEG'))
    for data in kinds:
        assert not read_mask(data).any()


def test_black_and_white_below_alpha_is_the_mask():
    alpha = BLACK[..., 0] + 255
    alpha[0] = 0  # a margin, say
    assert np.array_equal(read_mask(saved(np.dstack([rgb(DISC * 255), alpha]))), DISC * 255)


def test_grey_levels_are_kept():
    soft = PHOTO[..., 0] | 1
    assert np.array_equal(read_mask(saved(soft)), soft)
    assert np.array_equal(read_mask(by_opencv(soft.astype(np.uint16) * 257, '.png')), soft)
    assert np.abs(read_mask(saved(soft.astype(np.float32) / 255, 'TIFF')) - soft * 1.).max() <= 1


def test_low_values_of_a_network_stay_low():
    assert read_soft_mask(saved(DISC)).max() == 1
    assert read_soft_mask(by_opencv(DISC.astype(np.uint16) * 4095, '.png')).max() == 15
    assert read_soft_mask(by_opencv(DISC.astype(np.uint16) * 255, '.png')).max() == 255
    assert read_soft_mask(floats(3)).max() == 3


# --- Sets -----------------------------------------------------------------------------------------


def write_set(folder, *contents: bytes, suffix: str = '.png') -> list:
    paths = [folder / f'{number}{suffix}' for number in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    return paths


def test_plain_masks_are_not_spoken_of(tmp_path):
    files = write_set(tmp_path, FILES['8 bits'], FILES['boolean'], FILES['16 bits, 65535'],
                      saved(DISC * 0))
    assert survey_masks('TR-x', files) == []


@pytest.mark.parametrize(('name', 'note'), [
    ('0 and 1', masks.ZERO_ONE),
    ('16 bits, 255', masks.WIDE),
    ('float, 1.0001', masks.CLIPPED),
    ('DAVIS', masks.LABELS),
    ('alpha of a cut-out', masks.ALPHA),
])
def test_one_sentence_for_a_set(tmp_path, name, note):
    files = write_set(tmp_path, *[FILES[name]] * 3, FILES['8 bits'])
    assert survey_masks('TR-x', files) == [f'TR-x: 3 of 4 masks {note}, e.g. {files[0]}']


def test_numbers_of_labels_beside_void_are_spoken_of(tmp_path):
    labels = DISC * 7
    labels[0] = 255
    [sentence] = survey_masks('TR-x', write_set(tmp_path, saved(labels)))
    assert LABELS_AND_VOID in sentence


@pytest.mark.parametrize('kind', ['TIFF', 'GIF', 'PNG', 'WEBP'])
def test_pages_behind_the_first_are_spoken_of(tmp_path, kind):
    first = Image.fromarray(DISC * 255)
    file = tmp_path / f'mask.{kind.lower()}'
    options = {'lossless': True} if kind == 'WEBP' else {}
    first.save(file, kind, save_all=True, append_images=[Image.new('L', first.size)], **options)
    found = masks.interpret(file)
    assert np.array_equal(found.grey, DISC * 255)
    assert masks.PAGED in found.notes

    first.save(file, kind)
    assert masks.PAGED not in masks.interpret(file).notes


def test_values_that_are_lost_are_spoken_of(tmp_path):
    files = write_set(tmp_path, floats(1e-4), FILES['8 bits'])
    assert survey_masks('TR-x', files) == [f'TR-x: 1 of 2 masks {masks.LOST}, e.g. {files[0]}']


@pytest.mark.parametrize('mask', [DISC * 0, DISC * 5, DISC * 128])
def test_a_set_without_foreground_is_refused(tmp_path, mask):
    files = write_set(tmp_path, *[saved(mask)] * 3)
    with pytest.raises(ValueError, match=r'TR-x: not one of the 3 masks has foreground'):
        survey_masks('TR-x', files)


def test_one_mask_with_foreground_is_found_in_a_large_set(tmp_path, monkeypatch):
    monkeypatch.setattr('readers.survey.SAMPLE', 2)
    files = write_set(tmp_path, *[saved(DISC * 0)] * 6, saved(DISC * 255))
    assert survey_masks('TR-x', files) == []


def test_masks_that_cannot_be_read_are_all_named(tmp_path):
    files = write_set(tmp_path, b'text', FILES['8 bits'], b'')
    with pytest.raises(ValueError, match=r'(?s)0\.png.*2\.png.*empty'):
        survey_masks('TR-x', files)
    assert survey_masks('TR-x', files, skip_bad=True) == []
    assert survey_masks('TR-x', files[:1], skip_bad=True) == []
