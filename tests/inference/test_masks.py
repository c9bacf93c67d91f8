"""Masks: the values of F.interpolate, to rounding, and PNG files that any decoder reads."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inference.masks import encode_png, to_mask, write_mask

SIDES = st.integers(1, 90)


def expected(probability, height, width):
    tensor = torch.from_numpy(probability)[None, None]
    resized = F.interpolate(tensor, (height, width), mode='bilinear', align_corners=True)
    return resized[0, 0].mul(255).byte().numpy()


@settings(max_examples=50, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 99))
def test_same_as_torch(h, w, height, width, seed):
    probability = np.random.default_rng(seed).random((h, w), np.float32)
    mask = to_mask(probability, height, width).astype(int)
    assert np.abs(mask - expected(probability, height, width)).max() <= 1


@pytest.mark.parametrize('size', [(700, 1100), (64, 33_000), (33_000, 64)])
def test_truncated_alike_nearly_everywhere(size):
    probability = np.random.default_rng(0).random((96, 128), np.float32)
    mask = to_mask(probability, *size)
    assert (mask != expected(probability, *size)).mean() < 1e-3


@pytest.mark.parametrize(('kind', 'size'), [
    ('object', (700, 1100)),
    ('object', (50, 70)),
    ('object', (64, 20_000)),
    ('frame', (301, 203)),
    ('empty', (70, 80)),
])
def test_uniform_areas_are_filled_as_they_would_be_resized(kind, size):
    y, x = np.mgrid[:160, :224]
    logits = {
        'object': (40 - np.hypot(y - 80, x - 100)) / 2,
        'frame': np.abs(x - 112) - 100.,
        'empty': np.full(x.shape, -20.),
    }
    logit = logits[kind]
    noise = np.random.default_rng(0).standard_normal(logit.shape)
    probability = torch.from_numpy(logit + .5 * noise).float().sigmoid().numpy()
    mask = to_mask(probability, *size)
    truth = expected(probability, *size)
    assert np.abs(mask.astype(int) - truth).max() <= 1
    assert (mask != truth).mean() < 1e-3


def test_truncates_and_keeps_the_extremes():
    assert to_mask(np.float32([[1, .999, .5, 0]]), 1, 4).tolist() == [[255, 254, 127, 0]]
    assert set(np.unique(to_mask(np.ones((5, 7), np.float32), 61, 83))) == {255}


def test_older_opencv_gives_the_same():
    probability = np.random.default_rng(0).random((9, 7), np.float32)
    mask = to_mask(probability, 30, 20, exact_warp=False)
    assert np.array_equal(mask, expected(probability, 30, 20))


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1), (37, 53)])
def test_png_is_read_back(shape, tmp_path):
    mask = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.open(io.BytesIO(encode_png(mask)))
    assert image.mode == 'L'
    assert np.array_equal(np.asarray(image), mask)
    write_mask(tmp_path / 'sub' / 'mask.png', mask)
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'sub' / 'mask.png')), mask)
