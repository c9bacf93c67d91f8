"""Pairs of which other implementations' scores are recorded: equal with every release of NumPy."""

from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """A prediction and its mask, uint8 (H, W), and the image, uint8 (H, W, 3)."""

    pred: np.ndarray
    mask: np.ndarray
    image: np.ndarray


def _smooth(rng, shape, size):
    """A random field in 0..1: box-filtered noise."""
    field = rng.random((shape[0] + size, shape[1] + size))
    for axis in (0, 1):
        total = np.cumsum(field, axis=axis)
        ahead = np.take(total, range(size, total.shape[axis]), axis=axis)
        behind = np.take(total, range(total.shape[axis] - size), axis=axis)
        field = (ahead - behind) / size
    return (field - field.min()) / (field.max() - field.min())


def _sample(seed, shape, size, low=0, high=255):
    """Blobs of about `size` pixels, a prediction of them in low..high, and a textured image."""
    rng = np.random.default_rng(seed)
    field = _smooth(rng, shape, size)
    mask = field > np.quantile(field, 0.8)
    blurred = np.clip((field - np.quantile(field, 0.75)) * 4, 0, 1)
    soft = np.clip(blurred * (0.4 + 0.9 * _smooth(rng, shape, 9)), 0, 1)
    pred = low + soft / soft.max() * (high - low)
    texture = np.stack([_smooth(rng, shape, 5) for _ in range(3)], axis=-1)
    image = 255 * np.clip(0.7 * texture + 0.3 * field[..., None], 0, 1)
    return Sample(pred.astype(np.uint8), mask * np.uint8(255), image.astype(np.uint8))


def samples():
    """All samples by name."""
    several = {
        'blobs': _sample(1, (96, 128), 24),
        'odd': _sample(2, (75, 101), 17),
        'narrow': _sample(3, (60, 88), 20, low=40, high=190),
        'small': _sample(4, (120, 90), 9),
        'wide': _sample(5, (50, 260), 30),
    }
    noise = np.random.default_rng(6)
    pred = noise.integers(0, 256, (64, 80)).astype(np.uint8)
    mask = (noise.random((64, 80)) > 0.7) * np.uint8(255)
    image = noise.integers(0, 256, (64, 80, 3)).astype(np.uint8)
    several['noise'] = Sample(pred, mask, image)
    blobs = several['blobs']
    several['empty'] = Sample(blobs.pred, np.zeros_like(blobs.mask), blobs.image)
    return several
