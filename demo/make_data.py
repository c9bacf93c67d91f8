"""Makes the demo's data set: `python -m demo.make_data`. Seeded, without any download.

Writes `<data_root>/Demo/{TR-Demo,TE-Demo}/{im,gt}/<number>_<kind>.{jpg,png}`, and what they were made from to
`<data_root>/Demo/made_from.json`. Training and test set share neither random numbers nor pixels of the photographs.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import PIL
import skimage

from demo.render import render
from demo.shapes import SHAPES
from utils import Progress, atomic_write, write_json, write_png

TASK, TRAIN_SET, TEST_SET = 'Demo', 'TR-Demo', 'TE-Demo'
TRAIN, TEST, SIZE, SEED = 320, 48, 288, 7
RECIPE_FILE = 'made_from.json'


def sample(index: int, size: int, seed: int, train: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Pair `index` of a set: image (H, W, 3) and mask (H, W), uint8, and name. The kinds of objects take turns."""
    kind = list(SHAPES)[index % len(SHAPES)]
    return *render(np.random.default_rng([seed, train, index]), kind, size, train), f'{index + 1:04d}_{kind}'


def write_sample(index: int, folder: Path, size: int, seed: int, train: bool) -> None:
    """Writes pair `index` of a set; the files depend on nothing but the arguments, in whatever process."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    image, mask, name = sample(index, size, seed, train)
    ok, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 93])
    assert ok, f'{name}: JPEG encoding failed'
    with atomic_write(folder / 'im' / f'{name}.jpg') as file:
        file.write(data.tobytes())
    write_png(folder / 'gt' / f'{name}.png', mask)


def provenance() -> dict[str, str]:
    """What decides on the bytes of the files besides the arguments: this code, and the libraries' versions."""
    code = b''.join((Path(__file__).parent / name).read_bytes() for name in ('make_data.py', 'render.py', 'shapes.py'))
    return {'code': hashlib.sha256(code).hexdigest(), 'opencv': cv2.__version__, 'numpy': np.__version__,
            'pillow': PIL.__version__, 'scikit-image': skimage.__version__}


def make_data(data_root: str | os.PathLike, train: int = TRAIN, test: int = TEST, size: int = SIZE,
              seed: int = SEED) -> Path:
    """Makes both sets and returns their folder, `<data_root>/Demo`; does nothing if it already holds just these.

    train, test: numbers of pairs. size: root of an image's area, in pixels. Files are equal to the byte for equal
    arguments and equal versions of OpenCV, NumPy, Pillow and scikit-image.
    Raises `ValueError` for an empty set, and if the folder exists and was not made by this function.
    """
    if train < 1 or test < 1 or size < 64 or seed < 0:
        raise ValueError(f'--train {train} and --test {test} must be 1 or more, --size {size} 64 or more, '
                         f'--seed {seed} 0 or more')
    folder = Path(data_root) / TASK
    recipe = {'train': train, 'test': test, 'size': size, 'seed': seed, **provenance()}
    if folder.exists():
        if not (folder / RECIPE_FILE).is_file():
            raise ValueError(f'{folder} was not made by demo.make_data: move it away, or choose another --data_root')
        if json.loads((folder / RECIPE_FILE).read_text(encoding='utf-8')) == recipe:
            return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{TASK}.', dir=folder.parent) as building:
        made = Path(building) / TASK
        # A forked copy of a process whose OpenCV threads run may hang.
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn')) as pool:
            for name, count, is_train in ((TRAIN_SET, train, True), (TEST_SET, test, False)):
                work = partial(write_sample, folder=made / name, size=size, seed=seed, train=is_train)
                with Progress(count, f'making {name}', 'pair') as progress:
                    for _ in pool.map(work, range(count), chunksize=8):
                        progress.update()
        write_json(made / RECIPE_FILE, recipe)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description='Makes the demo data: thin and holed objects before photographs.')
    parser.add_argument('--data_root', default='datasets', help='the sets go to DATA_ROOT/Demo (default: %(default)s)')
    parser.add_argument('--train', type=int, default=TRAIN, help='training pairs (default: %(default)s)')
    parser.add_argument('--test', type=int, default=TEST, help='test pairs (default: %(default)s)')
    parser.add_argument('--size', type=int, default=SIZE, help="root of an image's area (default: %(default)s)")
    parser.add_argument('--seed', type=int, default=SEED, help='of all random draws (default: %(default)s)')
    arguments = parser.parse_args()
    try:
        folder = make_data(**vars(arguments))
    except ValueError as error:
        parser.error(str(error))
    print(f'{folder}: {arguments.train} pairs in {TRAIN_SET}, {arguments.test} in {TEST_SET}')


if __name__ == '__main__':
    main()
