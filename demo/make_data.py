"""Makes the demo's data set: `python -m demo.make_data`. Seeded, without any download.

Writes `<data_root>/Demo/{TR-Demo,TE-Demo}/{im,gt}/<number>_<kind>.{jpg,png}`, and the arguments and
versions that they depend on to `<data_root>/Demo/made_from.json`. Training and test set share
neither random numbers nor pixels of the photographs.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from demo.render import render
from demo.shapes import SHAPES
from runtime.processes import shorten_socket_paths
from utils import Progress, atomic_write, write_json, write_png

TASK = 'Demo'
TRAIN_SET = 'TR-Demo'
TEST_SET = 'TE-Demo'
RECIPE_FILE = 'made_from.json'

# Defaults: numbers of pairs, square root of an image's area in pixels, and the seed.
TRAIN = 320
TEST = 48
SIZE = 288
SEED = 7

JPEG_QUALITY = 93

# The code that decides on the pixels.
SOURCES = ('make_data.py', 'render.py', 'shapes.py', 'drawing.py')


def sample(
    index: int,
    size: int,
    seed: int,
    train: bool,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Makes pair `index` of a set; the kinds of objects take turns.

    Args:
        index: From 0.
        size: Square root of the image's area, in pixels.
        seed: Of the data set.
        train: Whether the pair belongs to the training set.

    Returns:
        The image, RGB uint8 (H, W, 3), the mask, uint8 (H, W), and the name of both files.
    """
    kinds = list(SHAPES)
    turn = index % len(kinds)
    kind = kinds[turn]
    rng = np.random.default_rng([seed, train, index])
    image, mask = render(rng, kind, size, train)
    name = f'{index + 1:04d}_{kind}'
    return image, mask, name


def write_sample(index: int, folder: Path, size: int, seed: int, train: bool) -> None:
    """Writes pair `index` of a set; the files depend on the arguments alone, in any process."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    image, mask, name = sample(index, size, seed, train)
    write_png(folder / 'gt' / f'{name}.png', mask)

    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    ok, data = cv2.imencode('.jpg', bgr, quality)
    assert ok, f'{name}: JPEG encoding failed'
    image_path = folder / 'im' / f'{name}.jpg'
    with atomic_write(image_path) as file:
        file.write(data.tobytes())


def provenance() -> dict[str, str]:
    """What decides on the files' bytes besides the arguments: this code and the libraries."""
    code = hashlib.sha256()
    for name in SOURCES:
        path = Path(__file__).parent / name
        code.update(path.read_bytes())
    return {
        'code': code.hexdigest(),
        'opencv': cv2.__version__,
        'numpy': np.__version__,
        'pillow': PIL.__version__,
        'scikit-image': version('scikit-image'),
    }


def make_data(
    data_root: str | os.PathLike,
    train: int = TRAIN,
    test: int = TEST,
    size: int = SIZE,
    seed: int = SEED,
) -> Path:
    """Makes both sets; does nothing if the folder already holds just these.

    Files are equal to the byte for equal arguments and equal versions of OpenCV, NumPy, Pillow and
    scikit-image.

    Args:
        data_root: The sets go to `<data_root>/Demo`.
        train: Number of training pairs.
        test: Number of test pairs.
        size: Square root of an image's area, in pixels.
        seed: Of all random draws.

    Returns:
        The folder of both sets.

    Raises:
        ValueError: For an empty set, or if the folder exists and was not made by this function.
    """
    if train < 1 or test < 1 or size < 64 or seed < 0:
        raise ValueError(
            f'--train {train} and --test {test} must be 1 or more, --size {size} 64 or more, '
            f'--seed {seed} 0 or more')
    folder = Path(data_root) / TASK
    arguments = {'train': train, 'test': test, 'size': size, 'seed': seed}
    recipe = {**arguments, **provenance()}
    if folder.exists() and _read_recipe(folder) == recipe:
        return folder

    # Built beside its place, so that an interrupted run leaves no half of a data set.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{TASK}.', dir=folder.parent) as building:
        made = Path(building) / TASK
        # A forked copy of a process whose OpenCV threads run may hang.
        spawn = multiprocessing.get_context('spawn')
        shorten_socket_paths()
        with ProcessPoolExecutor(mp_context=spawn) as pool:
            _write_set(pool, made / TRAIN_SET, train, size, seed, train=True)
            _write_set(pool, made / TEST_SET, test, size, seed, train=False)
        write_json(made / RECIPE_FILE, recipe)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    return folder


def _read_recipe(folder: Path) -> dict[str, Any]:
    """What a data set was made from; raises `ValueError` if it was not made here."""
    path = folder / RECIPE_FILE
    if not path.is_file():
        raise ValueError(
            f'{folder} was not made by demo.make_data: move it away, or choose another --data_root')
    return json.loads(path.read_text(encoding='utf-8'))


def _write_set(
    pool: ProcessPoolExecutor,
    folder: Path,
    count: int,
    size: int,
    seed: int,
    train: bool,
) -> None:
    """Writes `count` pairs in the processes of `pool`."""
    write = partial(write_sample, folder=folder, size=size, seed=seed, train=train)
    with Progress(count, f'making {folder.name}', 'pair') as progress:
        for _ in pool.map(write, range(count), chunksize=8):
            progress.update()


def parse_arguments() -> argparse.Namespace:
    """The command line, whose options are the arguments of `make_data`."""
    parser = argparse.ArgumentParser(
        description='Makes the demo data: thin and holed objects in front of photographs.')
    for name, default, meaning in (
        ('--data_root', 'datasets', 'the sets go to DATA_ROOT/Demo'),
        ('--train', TRAIN, 'training pairs'),
        ('--test', TEST, 'test pairs'),
        ('--size', SIZE, "square root of an image's area, in pixels"),
        ('--seed', SEED, 'of all random draws'),
    ):
        parser.add_argument(
            name, type=type(default), default=default, help=f'{meaning} (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    """Makes the data set that the command line asks for."""
    arguments = parse_arguments()
    try:
        folder = make_data(**vars(arguments))
    except ValueError as error:
        sys.exit(f'make_data: {error}')
    print(f'{folder}: {arguments.train} pairs in {TRAIN_SET}, {arguments.test} in {TEST_SET}')


if __name__ == '__main__':
    main()
