"""Pictures in: modes, transparency, profiles, orientation; sizes for the network; files out."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from inference.images import DecodedImage, decode_image, encode, network_size

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_orientation_is_applied_and_dropped():
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112], exif[0x010F] = 6, 'Maker'
    picture = decode_image(saved(image, 'JPEG', exif=exif, quality=95))
    assert picture.pixels.shape == (30, 20, 3)
    written = Image.open(io.BytesIO(encode(picture.pixels, '.png', picture, keep_exif=True))).getexif()
    assert dict(written) == {0x010F: 'Maker'}
    assert not Image.open(io.BytesIO(encode(picture.pixels, '.png', picture))).getexif()


@pytest.mark.parametrize('kind', ['PNG', 'WEBP'])
def test_transparency_and_profile_are_kept(kind):
    rgba = np.dstack((RGB, RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)))
    options = {'lossless': True, 'exact': True} if kind == 'WEBP' else {}
    picture = decode_image(saved(Image.fromarray(rgba), kind, icc_profile=SRGB, **options))
    assert np.array_equal(picture.alpha, rgba[..., 3])
    assert np.array_equal(picture.pixels, RGB)
    for suffix in ('.png', '.webp'):
        assert Image.open(io.BytesIO(encode(rgba, suffix, picture))).info['icc_profile'] == SRGB


def test_opaque_alpha_and_palettes():
    opaque = Image.fromarray(RGB).convert('RGBA')
    assert decode_image(saved(opaque, 'PNG')).alpha is None
    palette = Image.fromarray(RGB).quantize(16)
    picture = decode_image(saved(palette, 'PNG', transparency=3))
    assert np.array_equal(picture.alpha == 0, np.asarray(palette) == 3)


@pytest.mark.parametrize('mode', ['L', 'LA', '1', 'I;16', 'I', 'F', 'CMYK', 'YCbCr', 'P'])
def test_every_mode_becomes_rgb(mode):
    grey = np.full((4, 5), 200)
    image = {'I;16': lambda: Image.fromarray((grey * 256).astype(np.uint16)),
             'I': lambda: Image.fromarray((grey * 256).astype(np.int32)),
             'F': lambda: Image.fromarray(grey.astype(np.float32))}.get(
                 mode, lambda: Image.fromarray(grey.astype(np.uint8)).convert(mode))()
    kind = 'PNG' if mode in ('L', 'LA', '1', 'P', 'I;16') else 'JPEG' if mode == 'YCbCr' else 'TIFF'
    picture = decode_image(saved(image, kind))
    assert picture.pixels.shape == (4, 5, 3)
    assert picture.pixels.dtype == np.uint8
    if mode != '1':
        assert np.abs(picture.pixels.astype(int) - 200).max() <= 2


def test_first_frame_of_an_animation():
    second = Image.fromarray(255 - RGB)
    data = saved(Image.fromarray(RGB), 'WEBP', save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(decode_image(data).pixels, RGB)


@pytest.mark.parametrize('data', [b'', b'hello', saved(Image.fromarray(RGB), 'JPEG')[:300]])
def test_damaged_files_are_refused(data, tmp_path):
    (tmp_path / 'damaged.jpg').write_bytes(data)
    with pytest.raises(ValueError, match=r'damaged\.jpg'):
        decode_image(tmp_path / 'damaged.jpg')


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'GIF'])
def test_too_many_pixels_are_refused_with_the_limit(kind):
    with pytest.raises(ValueError, match='limit of 599'):
        decode_image(saved(Image.fromarray(RGB), kind), max_pixels=599)


@pytest.mark.parametrize(('resolution', 'image', 'size'), [
    ('', (3000, 2000), (1024, 768)), ('640x320', (3000, 2000), (640, 320)), ('native', (1000, 17), (992, 32)),
    ('512', (3000, 2000), (512, 352)), ('512', (200, 30_000), (32, 512))])
def test_network_size(resolution, image, size):
    assert network_size(resolution, image, (1024, 768)) == size


def test_dynamic_weights_keep_the_aspect_and_the_pixels():
    assert network_size('', (4000, 1000), (1024, 1024), ((256, 2304), (256, 2304))) == (2048, 512)
    assert network_size('', (40_000, 100), (1024, 1024), ((256, 2304), (256, 2304))) == (2304, 256)


@pytest.mark.parametrize('resolution', ['100x64', '0x0', 'big', '0', '-5', '64x64x64'])
def test_wrong_resolutions_say_what_is_right(resolution):
    with pytest.raises(ValueError, match=resolution):
        network_size(resolution, (10, 10), (32, 32))


def test_formats_that_do_not_fit():
    rgba = np.dstack((RGB, RGB[..., 0]))
    with pytest.raises(ValueError, match='transparency'):
        encode(rgba, '.jpg', DecodedImage(RGB))
    with pytest.raises(ValueError, match='xyz'):
        encode(RGB, '.xyz', DecodedImage(RGB))


@pytest.mark.parametrize(('suffix', 'side'), [('.webp', 16_384), ('.jpg', 65_501)])
def test_sides_that_a_format_does_not_hold_are_named(suffix, side):
    with pytest.raises(ValueError, match=f'{side}x1 pixels'):
        encode(np.zeros((1, side, 3), np.uint8), suffix, DecodedImage(RGB))


def test_masks_are_kept_to_the_level_by_webp():
    mask = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    image = Image.open(io.BytesIO(encode(mask, '.webp', DecodedImage(RGB))))
    assert np.array_equal(np.asarray(image.convert('L')), mask)
