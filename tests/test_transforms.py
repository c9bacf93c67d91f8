"""Augmentations.

They follow Pillow's definitions, move the mask with its image, and draw from the generator alone.
"""

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

import config
from data import transforms
from data.transforms import AUGMENTATIONS, augment

PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket')
OLD_OPENCV = int(cv2.__version__.split('.')[0]) < 5
# Before OpenCV 5, `warpAffine` rounds the two terms of a coordinate to 1/1024 of a pixel and their
# sum to 1/32: a source position is off by up to 1/64 + 2/2048 along both axes. In the result, a
# square of half the side (1/64 + 2/2048) * (cos 15 + sin 15) = 1/49 covers that.
ROUNDED = 1 / 49 if OLD_OPENCV else 0
# By how much a result may then leave the range that Pillow has at the corners of the square, as a
# share of the contrast of the pixels that are read, along two axes:
# - The second interpolation (weight 1/3) rounds positions of its own. Its slope is up to the
#   contrast, 1.5 times that before its fraction is smoothed:
#   2 * (1.5 * (1/64 + 2/2048) + 1/64) / 3 = .027.
# - Between the corners Pillow's kernel is curved, by up to half the sum of its weights' second
#   derivatives, 6, times the sum of the weights across, 1.5: 2 * 6 * 1.5 * ROUNDED**2 / 2 = .004.
SLACK = .031 if OLD_OPENCV else 0
FACTORS = [step / 10 for step in range(31)]


@pytest.fixture(params=PHOTOGRAPHS)
def photograph(request) -> np.ndarray:
    return getattr(skimage.data, request.param)()


def text_mask(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    start = (width // 20, height * 2 // 3)
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, height / 100
    cv2.putText(mask, 'text', start, font, scale, 255, 9, cv2.LINE_AA)
    return mask


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b)


@pytest.mark.parametrize(('ours', 'pillows'), [
    (transforms.brightness, ImageEnhance.Brightness), (transforms.contrast, ImageEnhance.Contrast),
    (transforms.colour, ImageEnhance.Color), (transforms.sharpness, ImageEnhance.Sharpness)])
def test_enhancements_are_pillows_within_2_grey_levels(photograph, ours, pillows):
    enhancer = pillows(Image.fromarray(photograph))
    for factor in FACTORS:
        assert difference(ours(photograph, factor), enhancer.enhance(factor)).max() <= 2, factor


def pillows_rotation(pixels: np.ndarray, degrees: int, shift: tuple[float, float] = (0, 0),
                     resample: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).rotate(degrees, resample, translate=shift))


@pytest.mark.parametrize('degrees', [-15, -1, 4, 14])
def test_rotation_is_pillows_within_2_grey_levels(photograph, degrees):
    """Of Pillow's at the same position, or, before OpenCV 5, within the rounding of positions."""
    image = cv2.resize(photograph, (640, 512))
    mask = text_mask(512, 640)
    corners = {(x, y) for x in (-ROUNDED, ROUNDED) for y in (-ROUNDED, ROUNDED)}
    for ours, original in zip(transforms.rotated(image, mask, degrees), (image, mask), strict=True):
        nearby = [pillows_rotation(original, degrees, shift) for shift in corners]
        low, high = np.min(nearby, axis=0), np.max(nearby, axis=0)
        error = difference(ours, np.clip(ours, low, high))
        window = np.ones((5, 5), np.uint8)  # around the nearest; holds the 4 x 4 that are read
        contrast = cv2.dilate(original, window) - cv2.erode(original, window)
        slack = SLACK * pillows_rotation(contrast, degrees, resample=Image.Resampling.NEAREST)
        # The term that is left out shows at a few pixels of hard edges.
        assert (error > 2 + slack).mean() <= 2e-5
        assert (error <= 4 + slack).all()


def test_rotation_by_nothing_is_nothing(photograph):
    mask = text_mask(*photograph.shape[:2])
    image, rotated_mask = transforms.rotated(photograph, mask, 0)
    assert (image == photograph).all()
    assert (rotated_mask == mask).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(12, 90), width=st.integers(12, 90),
       methods=st.sets(st.sampled_from(['flip', 'crop', 'rotate'])))
def test_the_mask_moves_with_its_image(seed, height, width, methods):
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    image, moved = augment(cv2.merge([mask] * 3), mask, np.random.default_rng(seed), tuple(methods))
    assert image.shape == (height, width, 3)
    assert moved.shape == (height, width)
    assert image.dtype == moved.dtype == np.uint8
    assert difference(image, moved[..., None]).max() <= 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), synthesis=st.booleans())
def test_draws_come_from_the_generator_and_inputs_stay(seed, synthesis):
    image = skimage.data.astronaut()[::8, ::8]
    mask = text_mask(64, 64)
    image.flags.writeable = mask.flags.writeable = False

    def draw():
        generator = np.random.default_rng(seed)
        return augment(image, mask, generator, tuple(AUGMENTATIONS), synthesis)

    first, again = draw(), draw()
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def shares(augmentation, changed, draws=2000) -> float:
    image, mask = skimage.data.astronaut()[::16, ::16], text_mask(32, 32)
    rng = np.random.default_rng(0)
    return np.mean([changed(*augmentation(image, mask, rng), image, mask) for _ in range(draws)])


def test_probabilities():
    def moved(image, mask, old_image, old_mask):
        return not np.array_equal(image, old_image)

    assert shares(transforms.flip, moved) == pytest.approx(0.5, abs=0.04)
    assert shares(transforms.rotate, moved) == pytest.approx(0.2 * 29 / 30, abs=0.03)
    # 3 pixels at most: 4 x 4 cases.
    assert shares(transforms.crop, moved) == pytest.approx(1 - 1 / 16, abs=0.03)


def test_pepper_sets_its_share_of_the_image_and_leaves_the_mask():
    image, mask = np.full((400, 500, 3), 100, np.uint8), text_mask(400, 500)
    peppered, same_mask = transforms.pepper(image, mask, np.random.default_rng(1))
    changed = (peppered != 100).any(axis=2)
    assert 0.0014 < changed.mean() <= 0.0015  # a pixel may be drawn twice
    assert {tuple(pixel) for pixel in peppered[changed].tolist()} == {(0, 0, 0), (255, 255, 255)}
    assert same_mask is mask


def test_background_synthesis_keeps_the_foreground_and_flattens_the_rest():
    image, mask = skimage.data.astronaut()[::8, ::8], text_mask(64, 64)
    foreground = image[mask == 255].astype(float)
    mean = image[mask > 127].mean(axis=0)
    colours = []
    rng = np.random.default_rng(0)
    for _ in range(1000):
        result, same_mask = transforms.replace_background(image, mask, rng)
        assert same_mask is mask
        assert difference(result[mask == 255], foreground).max() <= 1
        background = result[mask == 0]
        assert (background == background[0]).all()
        colours.append(background[0].astype(float))
    colours = np.array(colours)
    toward = np.where(colours.mean(axis=1, keepdims=True) > mean.mean(), 255 - mean, mean)
    assert np.mean(np.ptp(colours, axis=1) == 0) == pytest.approx(0.4, abs=0.05)
    # A few greys happen to lie that near, too.
    near = (np.abs(colours - mean) <= 0.2 * toward + 2).all(axis=1)
    assert np.mean(near) == pytest.approx(0.45, abs=0.07)


def test_background_synthesis_blends_by_the_mask():
    image, mask = np.full((8, 8, 3), 200, np.uint8), np.full((8, 8), 128, np.uint8)
    mask[0, 0] = 0
    result, _ = transforms.replace_background(image, mask, np.random.default_rng(3))
    background = result[0, 0].astype(float)
    assert difference(result[4, 4], 200 * 128 / 255 + background * 127 / 255).max() <= 1


def test_registered_augmentations_are_those_of_the_config():
    assert tuple(AUGMENTATIONS) == config.PREPROC_METHODS


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match='flip is registered already'):
        transforms.augmentation(transforms.flip)


def test_order_is_fixed_whatever_the_order_of_names():
    image, mask = skimage.data.astronaut()[::4, ::4], text_mask(128, 128)
    one, other = (augment(image, mask, np.random.default_rng(5), names)
                  for names in (('flip', 'rotate', 'enhance'), ('enhance', 'flip', 'rotate')))
    assert (one[0] == other[0]).all()
