"""Colours: backgrounds in the image's own colours, what PNG says of its colours, clear pixels."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from inference import color
from inference.compose import Style, compose
from inference.images import DecodedImage, decode_image, encode, read_backdrop

ORANGE = (255, 102, 0)
GREEN = (40, 120, 60)
GREY = np.full((32, 32, 3), 120, np.uint8)
LINEAR_GAMMA = (b'gAMA', struct.pack('>I', 100_000))
P3_POINTS = (.3127, .3290, .680, .320, .265, .690, .150, .060)
P3_CHROMATICITIES = (b'cHRM', struct.pack('>8I', *(round(1e5 * value) for value in P3_POINTS)))
P3_CODE = (b'cICP', bytes([12, 13, 0, 1]))
PQ_CODE = (b'cICP', bytes([9, 16, 0, 1]))


@pytest.fixture(scope='module')
def p3():
    return color.build_profile(P3_POINTS, color._curve(color.SRGB))


def mask():
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    return mask


def background_in_srgb(data):
    """The colour of a file's first pixel, by the file's own profile."""
    image = Image.open(io.BytesIO(data))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info['icc_profile']))
    srgb = ImageCms.createProfile('sRGB')
    converted = ImageCms.profileToProfile(image.convert('RGB'), profile, srgb, outputMode='RGB')
    return converted.getpixel((1, 1))


def png(pixels, chunks=(), **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG', **options)
    return color.with_chunks(buffer.getvalue(), chunks)


def test_a_built_profile_has_the_illuminant_that_decoders_ask_for(p3):
    assert p3[68:80].hex() == '0000f6d6' '00010000' '0000d32d'


def test_a_built_profile_says_what_the_points_say(p3):
    """Of Display P3's own profile, in XYZ by D50: ICC's registry of colour spaces.

    The white point has four digits, which are worth .00005 / .3290 of blue's Z of .78 and as much
    of that of the white itself: together .0003, and ICC rounds to .00002.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(p3)).profile
    for name, expected in (
        ('red_colorant', (.51512, .24119, -.00105)),
        ('green_colorant', (.29198, .69225, .04189)),
        ('blue_colorant', (.15710, .06657, .78407)),
    ):
        np.testing.assert_allclose(getattr(profile, name)[0], expected, atol=4e-4)


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.jpg', '.tif'])
@pytest.mark.parametrize('colour', [ORANGE, GREEN])
def test_a_flat_background_keeps_its_colour(p3, suffix, colour):
    image = DecodedImage(GREY, profile=p3)
    result = compose(image, mask(), Style(output='color', color=(*colour, 255)))
    shown = background_in_srgb(encode(result, suffix, image))
    assert np.abs(np.subtract(shown, colour)).max() <= (2 if suffix in ('.png', '.tif') else 6)


def test_a_backdrop_keeps_its_colours(p3):
    image = DecodedImage(GREY, profile=p3)
    backdrop = np.full((32, 32, 3), GREEN, np.uint8)
    result = compose(image, mask(), Style(output='picture', backdrop=backdrop))
    shown = background_in_srgb(encode(result, '.png', image))
    assert np.abs(np.subtract(shown, GREEN)).max() <= 2


def test_a_wide_gamut_backdrop_is_read_as_srgb(p3, tmp_path):
    pixels = color.from_srgb(np.full((4, 4, 3), GREEN, np.uint8), p3)
    assert np.abs(pixels[0, 0].astype(int) - GREEN).max() > 5
    for name, data in (
        ('profile.png', png(pixels, icc_profile=p3)),
        ('chunks.png', png(pixels, [P3_CHROMATICITIES])),
        ('code.png', png(pixels, [P3_CODE])),
    ):
        (tmp_path / name).write_bytes(data)
        read = read_backdrop(tmp_path / name)
        assert np.abs(read[0, 0].astype(int) - GREEN).max() <= 2, name


@pytest.mark.parametrize('chunk', [LINEAR_GAMMA, P3_CHROMATICITIES, P3_CODE, PQ_CODE])
def test_what_a_png_says_of_its_colours_is_kept(chunk):
    image = decode_image(png(GREY, [chunk]))
    assert image.chunks == (chunk,)
    data = encode(GREY, '.png', image)
    assert color.color_chunks(data) == (chunk,)
    written = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(written), GREY)  # Pillow has checked all checksums
    assert ('gamma' in written.info) == (chunk[0] == b'gAMA')
    for suffix in ('.jpg', '.webp', '.tif'):
        written = Image.open(io.BytesIO(encode(GREY, suffix, image)))
        assert written.info['icc_profile'] == image.color_profile


def test_gamma_sets_the_curve():
    """Half of the light is 188 in sRGB (IEC 61966-2-1), and 128 in a linear file."""
    profile = decode_image(png(GREY, [LINEAR_GAMMA])).color_profile
    shown = color.to_srgb(np.full((1, 1, 3), 128, np.uint8), profile)
    assert np.abs(shown.astype(int) - 188).max() <= 1


def test_reference_white_of_hdr_is_white():
    """ITU-R BT.2408: 203 candelas, the PQ value .58 and the HLG value .75."""
    for transfer, value in ((color.PQ, .58), (color.HLG, .75)):
        curve = color._curve(transfer)
        light = np.interp(value, np.linspace(0, 1, len(curve)), curve)
        assert light == pytest.approx(1, abs=.01)
        assert np.interp(.4, np.linspace(0, 1, len(curve)), curve) < .5


@pytest.mark.parametrize('chunks', [
    [(b'sRGB', b'\0')],
    [(b'gAMA', struct.pack('>I', 45_455))],
    [(b'cICP', bytes([1, 13, 0, 1]))],
    [(b'gAMA', b'\0\0\0\0')],
    [(b'cHRM', bytes(32))],
    [(b'cICP', b'\1')],
])
def test_srgb_and_damaged_chunks_need_no_profile(chunks):
    assert color.profile_of_chunks(tuple(chunks), None) is None


def test_the_code_of_colours_in_heic_and_avif_is_kept():
    heif = pytest.importorskip('pillow_heif')
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(GREY)).save(
        buffer, color_primaries=12, transfer_characteristics=13)
    image = decode_image(buffer.getvalue())
    assert image.chunks == (P3_CODE,)
    assert image.color_profile
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(GREY)).save(buffer)
    assert decode_image(buffer.getvalue()).chunks == ()


def test_a_damaged_profile_changes_nothing():
    assert (color.from_srgb(GREY, b'no profile') == GREY).all()


def test_nothing_is_left_under_clear_pixels():
    image = DecodedImage(GREY)
    result = compose(image, mask(), Style(output='cutout'))
    assert (result[..., :3][mask() == 0] == 0).all()
    assert (result[8:24, 8:24, :3] == 120).all()


def test_clear_pixels_of_the_image_are_not_shown_beside_its_cutout():
    hidden = np.zeros((32, 32), np.uint8)
    result = compose(DecodedImage(GREY, hidden), mask(), Style(output='side-by-side'))
    assert 120 not in result
