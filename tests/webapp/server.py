"""Runs app.py in a process with two small networks, and makes images."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from config import Config
from models import build_birefnet, save_checkpoint
from utils import write_json

ROOT = Path(__file__).parents[2]
LIMITS = (
    '--max-files=4',
    '--max-file-mb=1',
    '--max-pixels=40000',
    '--max-network-pixels=16384',
    '--max-seconds=60',
)
# As many users have set them. A page on the loopback needs none.
UNREACHABLE_PROXIES = {
    'http_proxy': 'http://127.0.0.1:9',
    'HTTPS_PROXY': 'http://127.0.0.1:9',
    'ALL_PROXY': 'socks5://127.0.0.1:9',
}


@dataclass
class Server:
    """A running page: where it is, where its files are, and the weights it serves by name."""

    process: subprocess.Popen
    address: str
    files: Path
    weights: dict[str, str]

    def stop(self) -> int:
        """Ends it as Ctrl-C would, and returns its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def make_weights(folder: Path) -> dict[str, str]:
    """Saves two networks of random weights, with a training size of 64x64 in their config."""
    config = Config(bb='pvt_v2_b0', dec_att='', size=(64, 64))
    write_json(folder / 'config.json', asdict(config))
    weights = {}
    for seed, name in enumerate(('one', 'two')):
        torch.manual_seed(seed)
        weights[name] = str(folder / f'{name}.safetensors')
        save_checkpoint(build_birefnet(config), weights[name])
    return weights


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serves the page, with temporary files in `folder`, until the block ends."""
    weights = make_weights(folder)
    models = [argument for path in weights.values() for argument in ('-m', path)]
    temporary = folder / 'tmp'
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, 'app.py', *models, *LIMITS, '--device', 'cpu'],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **UNREACHABLE_PROXIES, 'TMPDIR': str(temporary)},
    )
    try:
        words = process.stdout.readline().split()
        address = next(word for word in words if word.startswith('http'))
        yield Server(process, address.rstrip('/;'), temporary, weights)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def picture(path: Path, seed: int, size: tuple[int, int] = (120, 80)) -> Path:
    """Writes an image of smooth coloured noise, of `size` (width, height)."""
    values = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).save(path)
    return path
