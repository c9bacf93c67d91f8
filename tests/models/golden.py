"""Golden networks: weights follow from the key's name, as the numbers' authors computed them."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parents[1] / 'golden' / 'networks'
NAMES = sorted(path.stem for path in FOLDER.glob('*.json'))


def spec(name: str) -> dict:
    """Backbone, config, manifest and figures of one golden network."""
    return json.loads((FOLDER / f'{name}.json').read_text())


def arrays(name: str) -> dict[str, np.ndarray]:
    """Its outputs."""
    return dict(np.load(FOLDER / f'{name}.npz'))


def tensor(key: str, shape: list[int]) -> torch.Tensor:
    """The value of official key `key`."""
    z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    last = key.split('.')[-1]
    if last == 'num_batches_tracked':
        return torch.tensor(0)
    if last == 'running_mean':
        z = .05 * z
    elif last == 'running_var':
        z = 1 + .1 * abs(z)
    elif last == 'relative_position_bias_table':
        z = .1 * z
    elif last == 'bias':
        z = .05 * z
    elif z.ndim == 1:
        z = 1 + .1 * z
    else:
        z = z / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def state(name: str) -> dict[str, torch.Tensor]:
    """The official state dict."""
    return {key: tensor(key, shape) for key, shape in spec(name)['manifest'].items()}


def image(name: str) -> torch.Tensor:
    """The input."""
    shape = spec(name)['input']
    rng = np.random.default_rng(zlib.crc32(b'input'))
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def mask(name: str) -> torch.Tensor:
    """The ground truth of the training figures, float64."""
    b, _, h, w = spec(name)['input']
    rng = np.random.default_rng(zlib.crc32(b'gt'))
    values = rng.random((b, 1, h, w)) > .5
    return torch.from_numpy(values.astype(np.float64))
