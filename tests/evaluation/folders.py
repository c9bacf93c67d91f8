"""Small folders of masks and predictions."""

import cv2
import numpy as np

from utils import write_json, write_png

SHAPE = (40, 52)


def blob(seed, shape=SHAPE):
    """A smooth random mask."""
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    field = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.where(field > np.median(field), 255, 0).astype(np.uint8)


def spoil(mask, distance, seed):
    """A prediction: the mask moved by some columns and blurred, with noise."""
    noise = np.random.default_rng(seed).normal(0, 15, mask.shape)
    blurred = cv2.GaussianBlur(np.roll(mask, distance, 1), (0, 0), 1.5)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)


def make_folders(root, sets=('TE-A', 'TE-B'), images=4, epochs=(5, 10), task='Toy'):
    """`datasets/<task>/<set>/{gt,im}` and `e_preds/run--epoch_<N>/<set>`.

    Later epochs are better.
    """
    predictions = {epoch: root / f'e_preds/run--epoch_{epoch}' for epoch in epochs}
    for number, dataset in enumerate(sets):
        folder = root / f'datasets/{task}/{dataset}'
        for index in range(images):
            mask = blob(10 * number + index)
            name = f'im {index}.é.png'
            write_png(folder / 'gt' / name, mask)
            write_png(folder / 'im' / name, np.dstack([mask // 2, 255 - mask, mask]))
            for epoch, method in predictions.items():
                write_png(method / dataset / name, spoil(mask, 12 - epoch, index))
    for epoch, method in predictions.items():
        write_json(method / 'manifest.json', {
            'run': 'run',
            'epoch': epoch,
            'resolution': None,
            'checkpoint': f'ckpts/run/epoch_{epoch}.pth',
            'task': task,
            'ckpt_dir': 'ckpts/run',
        })
    return root
