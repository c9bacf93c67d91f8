"""Refined masks, foreground colours, and what is composed of them."""

import cv2
import numpy as np
import pytest

from inference.compose import OUTPUTS, Style, compose, over
from inference.edges import SURE, estimate_foreground, refine_mask
from inference.images import DecodedImage


def disc(size=120, radius=40, soft=6.):
    y, x = np.mgrid[:size, :size] - size / 2
    return np.clip(255 * ((radius - np.hypot(y, x)) / soft + .5), 0, 255).astype(np.uint8)


def test_threshold_offset_and_blur():
    mask = disc()
    assert set(np.unique(refine_mask(mask, threshold=100))) == {0, 255}
    assert np.array_equal(refine_mask(mask, threshold=100) > 0, mask > 100)
    sizes = [(refine_mask(mask, offset=o) > 127).sum() for o in (-3, 0, 3)]
    assert sizes[0] < sizes[1] < sizes[2]
    blurred = refine_mask(refine_mask(mask, threshold=127), blur=2)
    assert len(np.unique(blurred)) > 10


def test_holes_are_filled_and_small_objects_removed_with_their_soft_edge():
    mask = disc()
    mask[58:62, 58:62] = 0
    filled = refine_mask(mask, fill_holes=20)
    assert filled[60, 60] == 255
    assert refine_mask(mask, fill_holes=10)[60, 60] == 0
    mask[2:5, 2:5] = 255
    mask[1, 2:5] = 60
    cleaned = refine_mask(mask, min_object=50)
    assert not cleaned[:8, :8].any()
    assert np.array_equal(cleaned[10:], mask[10:])


@pytest.mark.parametrize('method', [
    'blur-fusion', pytest.param('multi-level', marks=pytest.mark.slow),
])
def test_foreground_colour_is_nearer_to_the_truth(method):
    if method == 'multi-level':
        pytest.importorskip('pymatting')
    mask = disc(soft=12.)
    y, x = np.mgrid[:120, :120]
    foreground = np.dstack((200 + 0 * x, 60 + x // 4, 30 + y // 4)).astype(np.uint8)
    background = np.dstack((20 + x // 8, 30 + 0 * x, 220 - y // 8)).astype(np.uint8)
    image = over(foreground, mask, background)
    edge = (mask > 10) & (mask < 245)

    def error(colour):
        return np.abs(colour.astype(int) - foreground)[edge].mean()

    estimate = estimate_foreground(image, mask, method)
    assert error(estimate) < .3 * error(image)


@pytest.mark.slow
def test_multi_level_takes_a_single_pixel():
    pytest.importorskip('pymatting')
    pixel = np.full((1, 1, 3), 90, np.uint8)
    mask = np.full((1, 1), 128, np.uint8)
    assert np.array_equal(estimate_foreground(pixel, mask, 'multi-level'), pixel)


def test_opaque_and_empty_masks_leave_the_colour():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    full = np.full((30, 40), 255, np.uint8)
    assert np.abs(estimate_foreground(image, full).astype(int) - image).max() <= 1


def test_parts_are_as_the_whole_and_only_soft_ones_are_worked_on():
    image = np.random.default_rng(0).integers(0, 256, (250, 300, 3), dtype=np.uint8)
    mask = np.zeros((250, 300), np.uint8)
    mask[60:180, 90:210] = disc(soft=20.)
    whole = estimate_foreground(image, mask)  # one part in each direction, and a rest
    parts = estimate_foreground(image, mask, tile=64)
    near = (mask > 0) & (mask < SURE)
    assert np.abs(parts[near].astype(int) - whole[near]).max() <= 1
    assert np.array_equal(parts[:50], image[:50])
    assert (parts[near] != image[near]).any()


def test_blurred_background_is_the_gaussian_and_without_the_object():
    image = np.full((200, 240, 3), (30, 90, 160), np.uint8)
    image[:, 120:] = (90, 30, 200)
    mask = np.zeros((200, 240), np.uint8)
    mask[80:120, 100:140] = 255
    image[mask > 0] = 255
    plain = cv2.GaussianBlur(np.where(mask[..., None] > 0, np.uint8(0), image), (0, 0), 20)
    result = compose(DecodedImage(image), mask, Style(output='blur', blur_background=20))
    assert np.abs(result[10].astype(int) - plain[10]).max() <= 3  # far from the object
    assert result[mask == 0].max() <= 202  # nothing of the white object
    assert result[100, 120].tolist() == [255] * 3


def test_unknown_method_is_named():
    image = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match='closed-form'):
        estimate_foreground(image, image[..., 0], 'closed-form')


@pytest.mark.parametrize('output', OUTPUTS)
def test_outputs(output):
    image = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    mask = disc()
    style = Style(output=output, color=(1, 2, 3, 255), backdrop=np.full((7, 50, 3), 9, np.uint8))
    result = compose(DecodedImage(image), mask, style)
    shapes = {'cutout': (120, 120, 4), 'mask': (120, 120), 'side-by-side': (120, 240, 3)}
    assert result.shape == shapes.get(output, (120, 120, 3))
    if output == 'mask':
        assert np.array_equal(result, mask)
        return
    inside = result[60, -60, :3]
    assert np.array_equal(inside, image[60, 60])
    corner = {'color': (1, 2, 3), 'picture': (9, 9, 9), 'cutout': (0, 0, 0)}.get(output)
    if corner is not None:
        assert np.array_equal(result[0, 0, :3], corner)


def test_own_transparency_multiplies_the_mask():
    image = np.zeros((120, 120, 3), np.uint8)
    alpha = np.full((120, 120), 128, np.uint8)
    alpha[:60] = 0
    mask = compose(DecodedImage(image, alpha), disc(), Style(output='mask'))
    assert not mask[:60].any()
    assert mask[80, 60] == 128


def test_colour_that_lets_through():
    image = np.full((120, 120, 3), 200, np.uint8)
    result = compose(DecodedImage(image), disc(), Style(output='color', color=(0, 0, 0, 0)))
    assert result[0, 0, 3] == 0
    assert tuple(result[60, 60]) == (200, 200, 200, 255)
