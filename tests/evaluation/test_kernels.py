"""The fast parts against the plain ones: packed masks, skeletons, nearest pixels, short paths."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, distance_transform_edt
from skimage import morphology

from evaluation import definitions
from evaluation.kernels import bits, hce, histograms, region_histogram, weighted_f
from evaluation.kernels.skeleton import cached_skeleton, skeletonize
from tests.evaluation.strategies import pairs

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


@st.composite
def masks(draw, rows=40, columns=150):
    shape = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    rng = np.random.default_rng(draw(st.integers(0, 2 ** 32 - 1)))
    return rng.random(shape) < draw(st.sampled_from([0, 0.02, 0.3, 0.7, 0.98, 1]))


@settings(max_examples=80, deadline=None)
@given(masks(), st.integers(-140, 140))
def test_packing_and_shifts(mask, distance):
    packed = bits.pack(mask)
    columns = mask.shape[1]
    moved = np.zeros_like(mask)
    if abs(distance) < columns:
        moved[:, max(distance, 0):columns + min(distance, 0)] = \
            mask[:, max(-distance, 0):columns - max(distance, 0)]
    assert (bits.unpack(packed, columns) == mask).all()
    assert bits.count(packed) == mask.sum()
    assert (bits.unpack(bits.shift_columns(packed, distance), columns) == moved).all()
    rows, cols = np.indices(mask.shape).reshape(2, -1)
    assert (bits.lookup(packed, rows, cols) == mask.ravel()).all()


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(1, 15))
def test_dilations(mask, radius):
    packed, columns = bits.pack(mask), mask.shape[1]
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    by_ellipse = cv2.dilate(mask.astype(np.uint8), ellipse)
    by_cross = bits.dilate_cross(packed, bits.valid(mask.shape))
    assert (bits.unpack(by_cross, columns) == binary_dilation(mask, CROSS)).all()
    assert (bits.unpack(bits.dilate_ellipse(packed, radius), columns) == by_ellipse).all()


@settings(max_examples=40, deadline=None)
@given(masks(), st.integers(0, 2 ** 32))
def test_dilations_within_a_mask(mask, seed):
    allowed = np.random.default_rng(seed).random(mask.shape) < 0.7
    grown = mask
    for steps in range(4):
        found = bits.dilate_cross(bits.pack(mask), bits.pack(allowed), steps)
        assert (bits.unpack(found, mask.shape[1]) == grown).all()
        grown = binary_dilation(grown, CROSS) & allowed


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_skeleton_is_scikit_images(pair):
    for image in pair:
        assert (skeletonize(image > 128) == morphology.skeletonize(image > 128)).all()


def test_skeleton_of_thick_shapes():
    yy, xx = np.mgrid[:300, :400]
    full = np.ones((257, 300), bool)
    disc = (yy - 150) ** 2 + (xx - 200) ** 2 < 140 ** 2
    stripes = (xx + yy) % 97 < 60
    for mask in (full, disc, stripes):
        assert (skeletonize(mask) == morphology.skeletonize(mask)).all()


class TestSkeletonCache:
    mask = np.random.default_rng(0).random((50, 60)) > 0.3

    def test_kept_and_used(self, tmp_path):
        assert (cached_skeleton(self.mask, tmp_path) == skeletonize(self.mask)).all()
        [path] = tmp_path.rglob('*.npy')
        np.save(path, np.array([7, 9], np.int32))
        assert np.flatnonzero(cached_skeleton(self.mask, tmp_path)).tolist() == [7, 9]

    @pytest.mark.parametrize('damage', [b'', b'no array', None])
    def test_damaged_file_is_replaced(self, tmp_path, damage):
        first = cached_skeleton(self.mask, tmp_path)
        [path] = tmp_path.rglob('*.npy')
        path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
        assert (cached_skeleton(self.mask, tmp_path) == first).all()
        assert (np.load(path) == np.flatnonzero(first)).all()

    def test_shape_counts(self, tmp_path):
        flat = np.ones((4, 9), bool)
        cached_skeleton(flat, tmp_path)
        assert cached_skeleton(flat.reshape(9, 4), tmp_path).shape == (9, 4)


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_surroundings_are_scipys(pair):
    mask = np.where(pair[1] > 128, 255, 0).astype(np.uint8)
    if not mask.any():
        return
    around = weighted_f.surroundings(mask)
    distance, (rows, columns) = distance_transform_edt(mask == 0, return_indices=True)
    numbers = np.arange(mask.size).reshape(mask.shape)
    right = around.padded.shape[1] - mask.shape[1] - 8
    inner = np.pad(numbers, ((4, 0), (8, right)))
    nearest = rows * mask.shape[1] + columns
    assert (nearest.ravel()[inner.ravel()[around.near]] == inner.ravel()[around.nearest]).all()
    weights = weighted_f.weights(around.squares).ravel()[:mask.size].reshape(mask.shape)
    expected = np.where(mask > 0, 0, 2 - np.exp(np.log(0.5) / 5 * distance))
    np.testing.assert_allclose(weights, expected, rtol=1e-14)


def test_weights_far_from_the_mask():
    mask = np.zeros((400, 700), np.uint8)
    mask[13, 21] = mask[390, 30] = 255
    distance = distance_transform_edt(mask == 0)
    expected = np.where(mask > 0, 0, 2 - np.exp(np.log(0.5) / 5 * distance))
    weights = weighted_f.weights(weighted_f.surroundings(mask).squares).reshape(mask.shape)
    np.testing.assert_allclose(weights, expected, rtol=1e-15)


@pytest.mark.parametrize(('blocks', 'words'), [
    (weighted_f.BLOCKS_AT_A_TIME, weighted_f.WORDS_AT_A_TIME), (1, 1), (7, 20)])
def test_weighted_f_in_pieces(blocks, words):
    """An image of many strips, blocks and words, some of them without an error."""
    mask, prediction = np.zeros((2, 150, 330), np.uint8)
    cv2.circle(mask, (120, 70), 50, 255, -1)
    cv2.line(mask, (200, 0), (329, 149), 255, 5)
    cv2.circle(prediction, (120, 73), 47, 230, -1)
    prediction[20:90, 250:] = np.random.default_rng(0).integers(0, 256, (70, 80))
    levels = histograms.normalise(np.bincount(prediction.ravel(), minlength=256))
    excess = region_histogram.as_words(np.where(mask > 0, 0, prediction).astype(np.uint8))
    found = weighted_f.weighted_f(
        prediction, excess, np.arange(len(excess)), levels, np.count_nonzero(mask),
        weighted_f.surroundings(mask), 1, blocks, words)
    expected = definitions.masks.weighted_f(definitions.masks.normalise(prediction), mask > 0)
    assert found == pytest.approx(expected, rel=1e-12)


def test_short_paths_are_simplified_to_their_ends():
    """All 8-connected paths of up to SHORT points; and SHORT is no smaller than it could be."""

    def simplified(path):
        return cv2.approxPolyDP(np.array(path, np.int32)[:, None], hce.EPSILON, False)

    steps = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
    paths = [[(5, 5)]]
    for length in range(1, hce.SHORT + 1):
        for path in paths:
            assert len(simplified(path)) == min(length, 2), path
        paths = [[*path, step] for path in paths for x, y in steps
                 if (step := (path[-1][0] + x, path[-1][1] + y)) not in path]
    assert max(len(simplified(path)) for path in paths) > 2


@settings(max_examples=60, deadline=None)
@given(pairs(), st.tuples(st.integers(0, 50), st.integers(0, 50)))
def test_counts(pair, cut):
    image, mask = pair[0], np.where(pair[1] > 128, 255, 0).astype(np.uint8)
    regions = region_histogram.RegionHistogram(mask, cut)
    words = region_histogram.as_words(image)
    rows, columns = np.indices(mask.shape)
    kinds = 4 * (rows >= cut[0]) + 2 * (columns >= cut[1]) + (mask == 0)
    expected = np.bincount(256 * kinds.ravel() + image.ravel(), minlength=8 * 256)
    differing = regions.differing(words)
    found = regions.count(words[differing], differing)
    assert (found == expected.reshape(4, 2, 256)).all()


def test_counts_beyond_float32():
    values, kinds = np.random.default_rng(0).integers(0, 256, (2, 1000)).astype(np.uint8)
    kinds %= 3
    expected = np.bincount(256 * kinds.astype(int) + values, minlength=3 * 256)
    found = region_histogram.histogram_by_label(values, kinds, 3, chunk=130)
    assert (found.ravel() == expected).all()
