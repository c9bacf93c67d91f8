#!/usr/bin/env python
"""Writes masks of a run's checkpoints over its test sets: `python test.py --ckpt_folder ckpts/RUN`, or under torchrun.

The run's saved config says the task, the test sets and the size; key=value overrides it (`testsets=DIS-VD size=2048`).
Masks go to <pred_root>/<run>--epoch_<N>[-reso_<W>x<H>]/<set>/<name>.png; those that are there already are not made
again, unless their checkpoint has changed.
"""

import argparse
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from config import ARCHITECTURE, Config, ConfigError, test_sets
from dataset import check_images, find_images_in_set
from inference.images import network_size
from inference.masks import to_mask, write_mask
from inference.network import Predictor
from inference.pipeline import run_pipeline
from models import load_model, optimize
from models.loading import find_checkpoint
from runtime.device import prepare_device
from runtime.distributed import World, gather, join_world
from runtime.log import setup_logging
from utils import Progress, epoch_of, read_image, write_json

logger = logging.getLogger(__name__)

MANIFEST = 'manifest.json'


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='fields of config.py')
    parser.add_argument('--ckpt', action='append', default=[], metavar='FILE',
                        help='a checkpoint, or published weights by name (may be repeated)')
    parser.add_argument('--ckpt_folder', help='a run: all its epoch_<N>.pth (default: the newest in ckpts)')
    parser.add_argument('--pred_root', help='the same as pred_root=FOLDER')
    parser.add_argument('--resolution', nargs='*', default=['config'], metavar='WxH',
                        help="any of: WxH, 'native' (each image's own), 'config' (the run's)")
    parser.add_argument('--testsets', help='the same as testsets=A+B')
    options = parser.parse_intermixed_args(arguments)
    options.overrides += [text for text in options.resolution if '=' in text]  # they may stand behind it
    options.resolution = [text for text in options.resolution if '=' not in text]
    for name in ('pred_root', 'testsets'):
        if getattr(options, name):
            options.overrides.append(f'{name}={getattr(options, name)}')
    return options


def find_checkpoints(options: argparse.Namespace, ckpt_root: str) -> list[Path]:
    """The checkpoints asked for, in the order of their epochs. Raises ValueError if there are none."""
    if options.ckpt:
        return [Path(path) if Path(path).exists() else find_checkpoint(path) for path in options.ckpt]
    folder = Path(options.ckpt_folder) if options.ckpt_folder else _newest_run(Path(ckpt_root))
    found = sorted(folder.glob('epoch_*.pth'), key=lambda path: epoch_of(path) or 0)
    if not found:
        raise ValueError(f'{folder}: holds no epoch_<N>.pth; train the run first, or name a file with --ckpt')
    return found


def _newest_run(root: Path) -> Path:
    runs = [path for path in root.glob('*') if any(path.glob('epoch_*.pth'))]
    if not runs:
        raise ValueError(f'{root}: holds no run with checkpoints; name one with --ckpt_folder or a file with --ckpt')
    return max(runs, key=lambda path: path.stat().st_mtime)


def run_of(path: Path) -> str:
    """The run that a checkpoint belongs to: its folder's name for ours, else its own name without the epoch."""
    if re.fullmatch(r'epoch_\d+|best', path.stem) or path.is_dir():
        return (path if path.is_dir() else path.resolve().parent).name
    return re.sub(r'[-_]?ep(?:och_)?\d+', '', path.stem) or path.stem


def run_config(path: Path, overrides: list[str]) -> Config:
    """The config saved beside a checkpoint, if there is one, with the command line's overrides."""
    saved = path.with_name('config.json')
    return Config.load(saved, overrides) if saved.is_file() else Config.from_overrides(overrides)


def parse_resolution(text: str, cfg: Config) -> tuple[str, str]:
    """What `network_size` takes as the resolution, and how it is written in the folder's name. Raises ValueError."""
    if text in ('config', ''):
        return 'x'.join(map(str, cfg.size)), ''
    text = 'native' if text == 'None' else text
    network_size(text, (32, 32), cfg.size)
    return text, f'-reso_{text}'


def prepare_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Keeps the masks that are there if the manifest says that the same checkpoint made them; drops them otherwise."""
    file = folder / MANIFEST
    if file.is_file() and json.loads(file.read_text(encoding='utf-8')) != manifest:
        logger.info('%s is of another checkpoint of that name: its masks are made anew', folder)
        for mask in folder.glob('*/*.png'):
            mask.unlink()
    write_json(file, manifest)


def predict_set(predictor: Predictor, images: list[Path], resolution: str, folder: Path, title: str,
                world: World) -> int:
    """Writes the mask of each image that has none in `folder`; returns how many were written.

    A mask is sigmoid(logit), resized (bilinear, corners aligned) to the image's size, times 255, truncated.
    Raises ValueError listing all images that failed, when the others are done.
    """
    def load(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        image = read_image(path)
        height, width = image.shape[:2]
        return cv2.resize(image, network_size(resolution, (width, height), (0, 0))), (height, width)

    def save(path: Path, original: tuple[int, int], probability: np.ndarray) -> None:
        write_mask(folder / f'{path.stem}.png', to_mask(probability, *original))

    todo = [path for path in images if not (folder / f'{path.stem}.png').is_file()]
    bar = Progress(len(images), title, 'image', done=len(images) - len(todo), quiet=not world.is_main, say=logger.info)
    problems = []
    with bar:
        for outcome in run_pipeline(todo, load, predictor, save):
            if outcome.error is not None:
                problems.append(f'{outcome.item}: {outcome.error}')
            bar.update()
    if problems:
        raise ValueError(f'{len(problems)} image(s) failed:\n  ' + '\n  '.join(problems))
    return len(todo)


def run_checkpoint(path: Path, options: argparse.Namespace, world: World) -> None:
    """Masks of one checkpoint over all test sets at all resolutions."""
    cfg = run_config(path, options.overrides)
    given = {text.split('=')[0] for text in options.overrides}
    model = load_model(path, world.device, **{name: getattr(cfg, name) for name in ARCHITECTURE if name in given})
    dtype = {'no': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}[cfg.mixed_precision]
    predictor = Predictor(optimize(model, dtype), world.device)
    stat = path.stat()
    for text in options.resolution:
        resolution, suffix = parse_resolution(text, cfg)
        epoch, run = epoch_of(path), run_of(path)
        folder = Path(cfg.pred_root, run + (f'--epoch_{epoch}' if epoch is not None else '') + suffix)
        if world.is_main:
            prepare_folder(folder, {
                'run': run, 'epoch': epoch, 'resolution': resolution,
                'checkpoint': str(path), 'checkpoint_size': stat.st_size, 'checkpoint_mtime': stat.st_mtime_ns,
                'task': cfg.task, 'ckpt_dir': str(path.parent)})
        gather(None, world)  # nobody writes before the folder is ready
        for name in test_sets(cfg):
            images = find_images_in_set(cfg.data_root, cfg.task, name)
            made = predict_set(predictor, images[world.rank::world.size], resolution, folder / name,
                               f'{folder.name} {name}', world)
            logger.info('%s: %s: %d masks, %d of them new', folder, name, len(images), sum(gather(made, world)))


def main(arguments: list[str] | None = None) -> int:
    """Checks everything that can be checked before the first mask, then works through the checkpoints."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    setup_logging(level=logging.INFO if os.environ.get('RANK', '0') == '0' else logging.WARNING)
    cfg = Config.from_overrides(options.overrides)
    checkpoints = find_checkpoints(options, cfg.ckpt_root)
    cfg = run_config(checkpoints[0], options.overrides)
    resolutions = [parse_resolution(text, cfg)[0] for text in options.resolution]
    if not test_sets(cfg):
        raise ValueError(f'testsets: task {cfg.task} has none; name some with --testsets A+B')
    check_images([path for name in test_sets(cfg) for path in find_images_in_set(cfg.data_root, cfg.task, name)])
    fixed_size = all('x' in resolution for resolution in resolutions)  # others follow each image
    device = prepare_device(cfg.device, fixed_size=fixed_size, deterministic=cfg.deterministic,
                            mixed_precision=cfg.mixed_precision)
    with join_world(device) as world:
        for path in checkpoints:
            run_checkpoint(path, options, world)
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (ConfigError, ValueError, OSError) as error:
        sys.exit(f'test: {error}')
