"""Decoding: modes, transparency, profiles, orientation. Sizes of the input. Encoding."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from inference.images import DecodedImage, decode_image, encode, network_size
from readers import read_image
from readers.metadata import PNG_START
from tests.readers.files import chunk

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_orientation_is_applied_and_dropped():
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[Base.Orientation] = 6
    exif[Base.Make] = 'Maker'
    decoded = decode_image(saved(image, 'JPEG', exif=exif, quality=95))
    assert decoded.pixels.shape == (30, 20, 3)

    with_exif = opened(encode(decoded.pixels, '.png', decoded, keep_exif=True))
    without_exif = opened(encode(decoded.pixels, '.png', decoded))
    assert dict(with_exif.getexif()) == {Base.Make: 'Maker'}
    assert not without_exif.getexif()


@pytest.mark.parametrize('kind', ['PNG', 'WEBP'])
def test_transparency_and_profile_are_kept(kind):
    rgba = np.dstack((RGB, RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)))
    options = {'lossless': True, 'exact': True} if kind == 'WEBP' else {}
    decoded = decode_image(saved(Image.fromarray(rgba), kind, icc_profile=SRGB, **options))
    assert np.array_equal(decoded.alpha, rgba[..., 3])
    assert np.array_equal(decoded.pixels, RGB)
    for suffix in ('.png', '.webp'):
        assert opened(encode(rgba, suffix, decoded)).info['icc_profile'] == SRGB


@pytest.mark.parametrize('suffix', ['.tif', '.png'])
@pytest.mark.parametrize('mode', ['RGB', 'CMYK'])
def test_metadata_of_a_tiff_are_kept_without_what_tells_of_its_pixels(mode, suffix):
    image = Image.fromarray(RGB).convert(mode)
    decoded = decode_image(saved(image, 'TIFF', tiffinfo={Base.Make: 'Maker'}))
    for result in (RGB, RGB[..., 0]):
        written = opened(encode(result, suffix, decoded, keep_exif=True))
        assert np.array_equal(np.asarray(written), result)
        assert written.getexif()[Base.Make] == 'Maker'


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_a_profile_that_is_not_of_rgb_is_dropped(kind):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()
    for profile in (lab, b'damaged'):
        assert decode_image(saved(Image.fromarray(RGB), kind, icc_profile=profile)).profile is None


def test_opaque_alpha_and_palettes():
    opaque = Image.fromarray(RGB).convert('RGBA')
    assert decode_image(saved(opaque, 'PNG')).alpha is None
    palette = Image.fromarray(RGB).quantize(16)
    decoded = decode_image(saved(palette, 'PNG', transparency=3))
    assert np.array_equal(decoded.alpha == 0, np.asarray(palette) == 3)


@pytest.mark.parametrize('bits', [2, 4, 8, 16])
def test_a_grey_that_is_to_be_transparent(bits):
    """In few bits Pillow scales the pixels and not that grey; of 16 it converts none."""
    height, width = RGB.shape[:2]
    values = np.tile(np.arange(width) % 4, (height, 1)).astype(np.uint16)
    rows = np.unpackbits(values.astype('>u2').view(np.uint8).reshape(height, width, 2), axis=2)
    packed = np.packbits(rows[..., 16 - bits:].reshape(height, -1), axis=1)
    body = zlib.compress(np.pad(packed, ((0, 0), (1, 0))).tobytes())
    header = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)
    data = PNG_START + b''.join((
        chunk(b'IHDR', header), chunk(b'tRNS', b'\0\2'), chunk(b'IDAT', body), chunk(b'IEND', b'')))
    decoded = decode_image(data)
    assert np.array_equal(decoded.alpha == 0, values == 2)
    assert np.array_equal(decoded.pixels, read_image(data))


@pytest.mark.parametrize('mode', ['L', 'LA', '1', 'I;16', 'I', 'F', 'CMYK', 'YCbCr', 'P'])
def test_every_mode_becomes_rgb(mode):
    kinds = {'YCbCr': 'JPEG', 'I': 'TIFF', 'F': 'TIFF', 'CMYK': 'TIFF'}
    kind = kinds.get(mode, 'PNG')
    decoded = decode_image(saved(grey_image(mode), kind))
    assert decoded.pixels.shape == (4, 5, 3)
    assert decoded.pixels.dtype == np.uint8
    if mode != '1':
        assert np.abs(decoded.pixels.astype(int) - 200).max() <= 2


def grey_image(mode: str) -> Image.Image:
    """An image of grey value 200 of 255, of a mode of Pillow."""
    grey = np.full((4, 5), 200)
    if mode == 'I;16':
        return Image.fromarray((grey * 256).astype(np.uint16))
    if mode == 'I':
        return Image.fromarray((grey * 256).astype(np.int32))
    if mode == 'F':
        return Image.fromarray(grey.astype(np.float32))
    return Image.fromarray(grey.astype(np.uint8)).convert(mode)


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
    ('', (3000, 2000), (1024, 768)),
    ('640x320', (3000, 2000), (640, 320)),
    ('native', (1000, 17), (992, 32)),
    ('512', (3000, 2000), (512, 352)),
    ('512', (200, 30_000), (32, 512)),
])
def test_network_size(resolution, image, size):
    assert network_size(resolution, image, (1024, 768)) == size


def test_dynamic_weights_keep_the_aspect_and_the_pixels():
    sizes = ((256, 2304), (256, 2304))
    assert network_size('', (4000, 1000), (1024, 1024), sizes) == (2048, 512)
    assert network_size('', (40_000, 100), (1024, 1024), sizes) == (2304, 256)


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
    image = opened(encode(mask, '.webp', DecodedImage(RGB)))
    assert np.array_equal(np.asarray(image.convert('L')), mask)
