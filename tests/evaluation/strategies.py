"""Pairs of predictions and masks for property tests.

Every shape from 1x1; empty, full, constant, noisy, smooth.
"""

import cv2
import numpy as np
from hypothesis import strategies as st


def _noise(rng, shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def _smooth(rng, shape):
    field = cv2.GaussianBlur(rng.random(shape).astype(np.float32), (0, 0), 2)
    return np.where(field > np.median(field), 255, 0).astype(np.uint8)


def _constant(rng, shape):
    return np.full(shape, rng.choice([0, 1, 127, 128, 129, 255]), np.uint8)


def _few_levels(rng, shape):
    return rng.choice(np.array([0, 50, 100, 150, 200], np.uint8), shape)


def _narrow(rng, shape):
    return rng.integers(100, 140, shape).astype(np.uint8)


def _sparse(rng, shape):
    return np.where(rng.random(shape) < 0.02, 255, 0).astype(np.uint8)


KINDS = (_noise, _smooth, _constant, _few_levels, _narrow, _sparse)


@st.composite
def pairs(draw, largest=48):
    """A (prediction, mask) of one size.

    At times the prediction is a blurred, moved, noisy version of the mask.
    """
    shape = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2 ** 32 - 1)))
    mask = draw(st.sampled_from(KINDS))(rng, shape)
    if draw(st.booleans()):
        blurred = cv2.GaussianBlur(np.roll(mask, rng.integers(-4, 5, 2), (0, 1)), (0, 0), 1.2)
        noise = rng.normal(0, draw(st.sampled_from([0, 30])), shape)
        return np.clip(blurred + noise, 0, 255).astype(np.uint8), mask
    return draw(st.sampled_from(KINDS))(rng, shape), mask
