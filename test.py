#!/usr/bin/env python
"""Writes the masks of a run: `python test.py --ckpt_folder ckpts/RUN`, or under torchrun.

Each checkpoint is run over the test sets. Task, test sets and size are those of the run's saved
config; key=value overrides them (`testsets=DIS-VD size=2048`). Masks are written to
<pred_root>/<run>--epoch_<N>[-reso_<W>x<H>]/<set>/<name>.png. Those that exist are kept, unless
their checkpoint has changed.
"""

import argparse
import json
import logging
import os
import re
import sys
from dataclasses import dataclass
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
from readers import read_image
from runtime.device import prepare_device
from runtime.distributed import World, gather, join_world
from runtime.log import setup_logging
from utils import STRIDE, Progress, epoch_of, write_json

logger = logging.getLogger(__name__)

Shape = tuple[int, int]  # (height, width)

MANIFEST = 'manifest.json'
DTYPES = {'no': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


# --- The command line -----------------------------------------------------------------------------


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line; `overrides` of the result hold all that sets a field of Config."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('overrides', nargs='*', metavar='key=value', help='fields of config.py')
    add('--ckpt', action='append', default=[], metavar='FILE',
        help='a checkpoint, or the name of published weights (may be repeated)')
    add('--ckpt_folder', metavar='RUN',
        help='folder of a run, for all its epoch_<N>.pth (default: the newest run in ckpts)')
    add('--pred_root', metavar='FOLDER', help='the same as pred_root=FOLDER')
    add('--resolution', nargs='*', default=['config'], metavar='WxH',
        help="input sizes: WxH, 'native' (each image's own), 'config' (the run's; default)")
    add('--testsets', metavar='A+B', help='the same as testsets=A+B')
    options = parser.parse_intermixed_args(arguments)

    # Overrides may follow the resolutions.
    options.overrides += [text for text in options.resolution if '=' in text]
    options.resolution = [text for text in options.resolution if '=' not in text]
    if options.pred_root:
        options.overrides.append(f'pred_root={options.pred_root}')
    if options.testsets:
        options.overrides.append(f'testsets={options.testsets}')
    return options


def find_checkpoints(options: argparse.Namespace, ckpt_root: str) -> list[Path]:
    """Finds the checkpoints to test, in the order of their epochs.

    Raises ValueError if there are none.
    """
    if options.ckpt:
        return [Path(name) if Path(name).exists() else find_checkpoint(name)
                for name in options.ckpt]
    folder = Path(options.ckpt_folder) if options.ckpt_folder else _newest_run(Path(ckpt_root))
    found = sorted(folder.glob('epoch_*.pth'), key=lambda path: epoch_of(path) or 0)
    if not found:
        raise ValueError(f'{folder}: holds no epoch_<N>.pth; '
                         'train the run first, or name a file with --ckpt')
    return found


def _newest_run(root: Path) -> Path:
    runs = [path for path in root.glob('*') if any(path.glob('epoch_*.pth'))]
    if not runs:
        raise ValueError(f'{root}: holds no run with checkpoints; '
                         'name one with --ckpt_folder or a file with --ckpt')
    return max(runs, key=lambda path: path.stat().st_mtime)


def run_config(path: Path, overrides: list[str]) -> Config:
    """Reads the config saved beside a checkpoint, if there is one, and applies overrides."""
    saved = path.with_name('config.json')
    if saved.is_file():
        return Config.load(saved, overrides)
    return Config.from_overrides(overrides)


def parse_resolution(text: str, cfg: Config) -> tuple[str, str]:
    """Parses one value of --resolution.

    Returns:
        The resolution as `network_size` takes it, and the suffix of the folder's name.

    Raises:
        ValueError: the network does not take that size.
    """
    if text in ('config', ''):
        width, height = cfg.size
        return f'{width}x{height}', ''
    resolution = 'native' if text == 'None' else text
    smallest_image = (STRIDE, STRIDE)
    network_size(resolution, smallest_image, cfg.size)  # raises
    return resolution, f'-reso_{resolution}'


# --- Folders of masks -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A checkpoint at one resolution, and the folder of its masks."""

    checkpoint: Path
    task: str
    resolution: str
    folder: Path

    @classmethod
    def of(cls, checkpoint: Path, cfg: Config, resolution: str) -> 'Target':
        """Names the folder after run, epoch and resolution, which is a value of --resolution."""
        resolution, suffix = parse_resolution(resolution, cfg)
        epoch = epoch_of(checkpoint)
        name = run_of(checkpoint)
        if epoch is not None:
            name += f'--epoch_{epoch}'
        return cls(checkpoint, cfg.task, resolution, Path(cfg.pred_root, name + suffix))

    def manifest(self) -> dict[str, Any]:
        """What is written beside the masks: all that they depend on."""
        stat = self.checkpoint.stat()
        return {
            'run': run_of(self.checkpoint),
            'epoch': epoch_of(self.checkpoint),
            'resolution': self.resolution,
            'checkpoint': str(self.checkpoint),
            'checkpoint_size': stat.st_size,
            'checkpoint_mtime': stat.st_mtime_ns,
            'task': self.task,
            'ckpt_dir': str(self.checkpoint.parent),
        }


def run_of(path: Path) -> str:
    """The run of a checkpoint: its folder's name for ours, else its own name without the epoch."""
    if path.is_dir():
        return path.name
    if re.fullmatch(r'epoch_\d+|best', path.stem):
        return path.resolve().parent.name
    without_epoch = re.sub(r'[-_]?ep(?:och_)?\d+', '', path.stem)
    return without_epoch or path.stem


def prepare_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest; deletes the masks that are there unless they were made under it."""
    file = folder / MANIFEST
    if file.is_file() and json.loads(file.read_text(encoding='utf-8')) != manifest:
        logger.info('%s is of another checkpoint of that name: its masks are made again', folder)
        for mask in folder.glob('*/*.png'):
            mask.unlink()
    write_json(file, manifest)


# --- Masks ----------------------------------------------------------------------------------------


def predict_set(
    predictor: Predictor,
    images: list[Path],
    resolution: str,
    folder: Path,
    title: str,
    world: World,
) -> int:
    """Writes the mask of each image that has none in `folder`.

    A mask is sigmoid(logit), resized (bilinear, corners aligned) to the image's size, times 255,
    truncated.

    Args:
        predictor: runs the network.
        images: those of this rank.
        resolution: as `network_size` takes it.
        folder: where masks are written, under their images' stems.
        title: of the progress bar.
        world: the ranks, of which the main one shows progress.

    Returns:
        How many masks were written.

    Raises:
        ValueError: lists all images that failed, after the others are done.
    """
    def mask_path(path: Path) -> Path:
        return folder / f'{path.stem}.png'

    def load(path: Path) -> tuple[np.ndarray, Shape]:
        image = read_image(path)
        height, width = image.shape[:2]
        no_run_size = (0, 0)
        size = network_size(resolution, (width, height), no_run_size)
        return cv2.resize(image, size), (height, width)

    def save(path: Path, shape: Shape, probability: np.ndarray) -> None:
        write_mask(mask_path(path), to_mask(probability, *shape))

    remaining = [path for path in images if not mask_path(path).is_file()]
    num_done = len(images) - len(remaining)
    problems = []
    with Progress(len(images), title, 'image', done=num_done, quiet=not world.is_main,
                  say=logger.info) as bar:
        for outcome in run_pipeline(remaining, load, predictor, save):
            if outcome.error is not None:
                problems.append(f'{outcome.item}: {outcome.error}')
            bar.update()
    if problems:
        raise ValueError(f'{len(problems)} image(s) failed:\n  ' + '\n  '.join(problems))
    return len(remaining)


def write_masks(path: Path, options: argparse.Namespace, world: World) -> None:
    """Writes the masks of one checkpoint over all test sets, at all resolutions."""
    cfg = run_config(path, options.overrides)
    predictor = build_predictor(path, cfg, options.overrides, world.device)
    for resolution in options.resolution:
        target = Target.of(path, cfg, resolution)
        if world.is_main:
            prepare_folder(target.folder, target.manifest())
        # No rank writes before the folder is ready.
        gather(None, world)
        for name in test_sets(cfg):
            images = find_images_in_set(cfg.data_root, cfg.task, name)
            own_images = images[world.rank::world.size]
            folder = target.folder / name
            title = f'{target.folder.name} {name}'
            written = predict_set(predictor, own_images, target.resolution, folder, title, world)
            total = sum(gather(written, world))
            logger.info('%s: %s: %d masks, %d of them new',
                        target.folder, name, len(images), total)


def build_predictor(
    path: Path,
    cfg: Config,
    overrides: list[str],
    device: torch.device,
) -> Predictor:
    """Loads a checkpoint; fields of its architecture that `overrides` set overrule its own."""
    given = {text.split('=')[0] for text in overrides}
    architecture = {name: getattr(cfg, name) for name in ARCHITECTURE if name in given}
    model = load_model(path, device, **architecture)
    return Predictor(optimize(model, DTYPES[cfg.mixed_precision]), device)


def main(arguments: list[str] | None = None) -> int:
    """Checks all that can be checked before the first mask, then tests each checkpoint."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    is_main = os.environ.get('RANK', '0') == '0'
    setup_logging(level=logging.INFO if is_main else logging.WARNING)

    cfg = Config.from_overrides(options.overrides)
    checkpoints = find_checkpoints(options, cfg.ckpt_root)
    cfg = run_config(checkpoints[0], options.overrides)
    resolutions = [parse_resolution(text, cfg)[0] for text in options.resolution]
    check_data(cfg)

    # A resolution that is not WxH follows each image.
    fixed_size = all('x' in resolution for resolution in resolutions)
    device = prepare_device(
        cfg.device,
        fixed_size=fixed_size,
        deterministic=cfg.deterministic,
        mixed_precision=cfg.mixed_precision,
    )
    with join_world(device) as world:
        for path in checkpoints:
            write_masks(path, options, world)
    return 0


def check_data(cfg: Config) -> None:
    """Raises ValueError if there are no test sets, or that lists their unreadable images."""
    sets = test_sets(cfg)
    if not sets:
        raise ValueError(f'testsets: task {cfg.task} has none; name some with --testsets A+B')
    images = []
    for name in sets:
        images += find_images_in_set(cfg.data_root, cfg.task, name)
    check_images(images)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (ConfigError, ValueError, OSError) as error:
        sys.exit(f'test: {error}')
