"""Small folders of masks and predictions."""

import cv2
import numpy as np

from utils import write_json, write_png

SHAPE = (40, 52)


def blob(seed, shape=SHAPE):
    """A smooth random mask."""
    field = cv2.GaussianBlur(np.random.default_rng(seed).random(shape).astype(np.float32), (0, 0), 4)
    return np.where(field > np.median(field), 255, 0).astype(np.uint8)


def spoil(mask, distance, seed):
    """A prediction: the mask moved by some columns and blurred, with noise."""
    noise = np.random.default_rng(seed).normal(0, 15, mask.shape)
    return np.clip(cv2.GaussianBlur(np.roll(mask, distance, 1), (0, 0), 1.5) + noise, 0, 255).astype(np.uint8)


def make_folders(root, sets=('TE-A', 'TE-B'), images=4, epochs=(5, 10), task='Toy'):
    """`datasets/<task>/<set>/{gt,im}` and `e_preds/run--epoch_<N>/<set>`: later epochs are better."""
    for number, dataset in enumerate(sets):
        for index in range(images):
            mask = blob(10 * number + index)
            name = f'im {index}.é'
            write_png(root / f'datasets/{task}/{dataset}/gt/{name}.png', mask)
            write_png(root / f'datasets/{task}/{dataset}/im/{name}.png', np.dstack([mask // 2, 255 - mask, mask]))
            for epoch in epochs:
                write_png(root / f'e_preds/run--epoch_{epoch}/{dataset}/{name}.png', spoil(mask, 12 - epoch, index))
    for epoch in epochs:
        write_json(root / f'e_preds/run--epoch_{epoch}/manifest.json',
                   {'run': 'run', 'epoch': epoch, 'resolution': None, 'checkpoint': f'ckpts/run/epoch_{epoch}.pth',
                    'task': task, 'ckpt_dir': 'ckpts/run'})
    return root
