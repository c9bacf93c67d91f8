#!/usr/bin/env python
"""Writes the masks of a run: `python test.py --ckpt_folder ckpts/RUN`, or under torchrun.

Each checkpoint is run over the test sets. Task, test sets and size are those of the run's saved
config; key=value overrides them (`testsets=DIS-VD size=2048`). Masks are written to
<pred_root>/<run>--epoch_<N>-reso_<W>x<H>/<set>/<name>.png, at the size of the ground truth where
there is one, else of the image. Those that exist are kept, unless their image, the size of their
ground truth, their checkpoint or an option that they depend on has changed.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('test')

import argparse
import contextlib
import json
import logging
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from config import ARCHITECTURE, Config, ConfigError, test_sets
from dataset import Size, check_images, find_images_in_set
from inference.images import network_size
from inference.masks import to_mask, write_mask
from inference.network import Predictor
from inference.pipeline import run_pipeline
from models import BiRefNet, load_model, optimize
from models.checkpoints.files import files_of
from models.loading import Source, resolve
from readers import read_image
from runtime.command import explain_interrupt, run_command
from runtime.device import AUTOCAST, prepare_device
from runtime.distributed import World, gather, join_world, refuse_separate_tasks
from runtime.fingerprints import Fingerprint
from runtime.full_memory import full_memory_reason
from runtime.locks import hold_lock
from runtime.log import setup_logging
from runtime.starting import is_main_process
from utils import STRIDE, Progress, epoch_of, fitting_name, read_json, write_json

logger = logging.getLogger(__name__)

# Images, each with the size of its ground truth, or None without one.
Images = Mapping[Path, Size | None]

MANIFEST = 'manifest.json'
ORIGINS = 'images.json'  # what the masks of each set were made of
LOCK = '.lock'
BAR_SECONDS = 2.  # comparing images shows its progress where it takes longer
# Raise it whenever masks change: those of another version are made again.
VERSION = 3
# Names of checkpoints that do not tell one run from another. The folder's name does.
GENERIC_NAMES = (r'epoch_\d+|best|last(\.previous)?|checkpoint|weights|'
                 r'(pytorch_)?model(\.(safetensors|bin)\.index)?')
# Values of --resolution for the run's own size. The last two are the publication's.
RUN_SIZE = ('config', '', 'config.size', 'default')


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
        help='folder of a run, for all its epoch_<N>.pth (default: the newest run in ckpts), or of '
             'published files')
    add('--pred_root', metavar='FOLDER', help='the same as pred_root=FOLDER')
    add('--resolution', nargs='*', default=['config'], metavar='WxH',
        help="input sizes: WxH, 'native' (each image's own), 'config' (the run's; default)")
    add('--testsets', metavar='A+B', help='the same as testsets=A+B')
    add('--local-rank', '--local_rank', help=argparse.SUPPRESS)  # launchers pass it
    options = parser.parse_intermixed_args(arguments)

    # Overrides may follow the resolutions.
    options.overrides += [text for text in options.resolution if '=' in text]
    options.resolution = [text for text in options.resolution if '=' not in text]
    if options.pred_root:
        options.overrides.append(f'pred_root={options.pred_root}')
    if options.testsets:
        options.overrides.append(f'testsets={options.testsets}')
    return options


def find_checkpoints(options: argparse.Namespace, ckpt_root: str) -> list[Source]:
    """Finds the checkpoints to test, in the order of their epochs.

    Raises ValueError if there are none.
    """
    if options.ckpt:
        return [resolve(name) for name in options.ckpt]
    if options.ckpt_folder == '':
        raise ValueError('--ckpt_folder is empty, as an unset variable of the shell is')
    folder = Path(options.ckpt_folder) if options.ckpt_folder else _newest_run(Path(ckpt_root))
    found = list(folder.glob('epoch_*.pth'))
    if not found:  # published files, perhaps, whose names have an epoch, too
        found = [path for path in folder.glob('*.pth') if epoch_of(path) is not None]
    found.sort(key=lambda path: epoch_of(path) or 0)
    if not found:
        raise ValueError(f'{folder}: holds no epoch_<N>.pth; '
                         'train the run first, or name a file or folder with --ckpt')
    return [resolve(path) for path in found]


def _newest_run(root: Path) -> Path:
    runs = [path for path in root.glob('*') if any(path.glob('epoch_*.pth'))]
    if not runs:
        raise ValueError(f'{root}: holds no run with checkpoints; '
                         'name one with --ckpt_folder or a file with --ckpt')
    return max(runs, key=lambda path: path.stat().st_mtime)


def run_config(source: Source, overrides: list[str]) -> Config:
    """Returns the config that is known of a checkpoint, with overrides."""
    try:
        return Config.from_overrides(overrides, source.fields)
    except ConfigError as error:
        origin = ' over '.join([*overrides, str(source.file)])
        raise ConfigError(f'{origin}: {error}') from error


def parse_resolution(text: str, cfg: Config) -> str:
    """Returns one value of --resolution as `network_size` takes it.

    Raises ValueError if the network does not take that size.
    """
    if text in RUN_SIZE:
        width, height = cfg.size
        text = f'{width}x{height}'
    resolution = 'native' if text == 'None' else text
    smallest_image = (STRIDE, STRIDE)
    network_size(resolution, smallest_image, cfg.size)  # raises
    return resolution


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
        resolution = parse_resolution(resolution, cfg)
        folder = Path(cfg.pred_root, name_of(checkpoint, f'-reso_{resolution}'))
        return cls(checkpoint, cfg.task, resolution, folder)

    @property
    def earlier_folder(self) -> Path:
        """The folder that an earlier version wrote, whose name says no resolution."""
        return self.folder.with_name(name_of(self.checkpoint))

    def manifest(self, cfg: Config, architecture: dict[str, Any]) -> dict[str, Any]:
        """What is written beside the masks: all that all of them depend on.

        Args:
            cfg: the config of the test.
            architecture: fields of the network that overrule the checkpoint's.
        """
        fingerprint = fingerprint_of(self.checkpoint)
        return {
            'version': VERSION,
            'run': run_of(self.checkpoint),
            'epoch': epoch_of(self.checkpoint),
            'resolution': self.resolution,
            'checkpoint': str(self.checkpoint.resolve()),
            'checkpoint_size': fingerprint.size,
            'checkpoint_mtime': fingerprint.mtime,
            'checkpoint_digest': fingerprint.digest,
            'task': self.task,
            'ckpt_dir': str(self.checkpoint.parent),
            'data_root': str(Path(cfg.data_root).resolve()),
            'mixed_precision': cfg.mixed_precision,
            # As it is read back from JSON, which has lists in place of tuples.
            'architecture': json.loads(json.dumps(architecture)),
        }


def name_of(checkpoint: Path, ending: str = '') -> str:
    """The run and the epoch of a checkpoint, as folders of masks are called, with an ending."""
    epoch = epoch_of(checkpoint)
    if epoch is not None:
        ending = f'--epoch_{epoch}{ending}'
    return fitting_name(run_of(checkpoint), ending)


def run_of(path: Path) -> str:
    """The run of a checkpoint: its folder's name for ours, else its own name without the epoch.

    Of a file in the hub's cache, which has the folder of a commit, it is the repository's name.
    """
    folder = path.absolute().parent
    if folder.parent.name == 'snapshots':
        return folder.parents[1].name.rpartition('--')[2]
    if re.fullmatch(GENERIC_NAMES, path.stem):
        return path.resolve().parent.name
    without_epoch = re.sub(r'[-_]?ep(?:och_)?\d+', '', path.stem)
    return without_epoch or path.stem


def fingerprint_of(checkpoint: Path) -> Fingerprint:
    """The fingerprint of all files of a checkpoint. An index lists names, whatever they hold."""
    return Fingerprint.of_all(files_of(checkpoint))


def check_folder(target: Target) -> None:
    """Raises ValueError if the target's folder holds masks that are not of its checkpoint."""
    advice = 'choose another pred_root, or delete the folder'
    before = _read_own(target.folder / MANIFEST) or {}
    checkpoint = before.get('checkpoint')
    if not isinstance(checkpoint, str):
        if any(target.folder.glob('*/*.png')):
            raise ValueError(f'{target.folder}: holds masks that test.py has not written; {advice}')
        return
    if Path(checkpoint).resolve() == target.checkpoint.resolve():
        return
    is_moved = before.get('checkpoint_digest') == fingerprint_of(target.checkpoint).digest
    if not is_moved:
        raise ValueError(f'{target.folder}: holds the masks of {checkpoint}, not of '
                         f'{target.checkpoint}; {advice}')


class Origin(NamedTuple):
    """What a mask was made of: an image, and the size of its ground truth, or None without one."""

    image: Fingerprint
    size: Size | None

    @classmethod
    def parse(cls, value: list[Any]) -> 'Origin':
        """The origin as it is read back from JSON, which has lists in place of tuples."""
        image, size = value
        return cls(Fingerprint(*image), tuple(size) if size else None)

    def is_same(self, other: 'Origin | None') -> bool:
        """Whether a mask of the other origin is a mask of this one."""
        return other is not None and self.size == other.size and self.image.is_same(other.image)


def prepare_folder(
    folder: Path,
    manifest: dict[str, Any],
    images: Mapping[str, Images],
) -> None:
    """Deletes the masks that would not come out the same, and writes what they depend on.

    Args:
        folder: of masks.
        manifest: what all masks depend on.
        images: those of each test set.
    """
    before = _read_own(folder / MANIFEST)
    if before is not None and before != manifest:
        changed = [name for name in manifest if manifest[name] != before.get(name)]
        logger.info('%s: its masks are made again, because %s changed', folder, ', '.join(changed))
        for mask in folder.glob('*/*.png'):
            mask.unlink()
        (folder / ORIGINS).unlink(missing_ok=True)
    write_json(folder / MANIFEST, manifest)

    # Of other test sets as they were.
    known = read_origins(folder / ORIGINS)
    for name, sizes in images.items():
        of_set = known.get(name, {})
        now = find_origins(sizes, of_set, name)
        for stem in {*now, *of_set}:  # also of images that are gone
            is_current = stem in now and now[stem].is_same(of_set.get(stem))
            if not is_current:
                _mask_path(folder / name, stem).unlink(missing_ok=True)
        known[name] = now
    write_json(folder / ORIGINS, known)


def read_origins(file: Path) -> dict[str, dict[str, Origin]]:
    """Reads what the masks of each test set were made of, by stem; nothing of a damaged file."""
    known: dict[str, dict[str, Origin]] = {}
    try:
        for name, values in (_read_own(file) or {}).items():
            known[name] = {stem: Origin.parse(value) for stem, value in values.items()}
    except (AttributeError, TypeError, ValueError):  # lists and numbers where others should be
        return {}
    return known


def find_origins(images: Images, before: Mapping[str, Origin], name: str) -> dict[str, Origin]:
    """Finds what the masks of a test set, called `name`, would be made of now, by their stems.

    Args:
        images: those of the set.
        before: what its masks were made of.
        name: of the set, for the progress.
    """
    def find(path: Path) -> Origin:
        known = before.get(path.stem)
        return Origin(Fingerprint.of(path, known.image if known else None), images[path])

    found = {}
    title = f'comparing the images of {name}'
    bar = Progress(len(images), title, 'image', delay=BAR_SECONDS, say=logger.info)
    with ThreadPoolExecutor() as pool, bar:
        for path, origin in zip(images, pool.map(find, images), strict=True):
            found[path.stem] = origin
            bar.update()
    return found


def report_earlier_folder(target: Target) -> None:
    """Warns of the masks of an earlier version."""
    if _read_own(target.earlier_folder / MANIFEST) is not None:
        logger.warning('%s: holds masks of an earlier version, which are scored as another '
                       'method; delete the folder, as %s takes its place',
                       target.earlier_folder, target.folder.name)


def _read_own(file: Path) -> dict[str, Any] | None:
    """What a file of ours holds; None if it is missing or damaged."""
    try:
        return read_json(file)
    except (FileNotFoundError, ValueError):
        return None


def _mask_path(folder: Path, stem: str) -> Path:
    return folder / f'{stem}.png'


def _is_written(mask: Path) -> bool:
    """Whether a mask is there. A crash of the machine may leave a file without content."""
    return mask.is_file() and mask.stat().st_size > 0


# --- Masks ----------------------------------------------------------------------------------------


def find_images(cfg: Config) -> dict[str, Images]:
    """Finds the images of each test set, with the sizes of their ground truth.

    Raises ValueError that lists what is wrong with folders, or with masks.
    """
    found: dict[str, Images] = {}
    for name in test_sets(cfg):
        truths = find_images_in_set(cfg.data_root, cfg.task, name)
        files = [truth for truth in truths.values() if truth]
        sizes = dict(zip(files, check_images(files), strict=True))
        found[name] = {
            image: sizes[truth] if truth else None for image, truth in truths.items()}
    return found


def build_predictor(model: BiRefNet, cfg: Config, device: torch.device) -> Predictor:
    """Runs the network as validation does, so that a checkpoint has the same scores in both.

    In float32 it is rearranged, which changes nothing but roundings. Mixed precision rounds so
    coarsely that its steps have to be the same, down to the order of the pixels.
    """
    dtype = AUTOCAST[cfg.mixed_precision]
    if dtype is None:
        return Predictor(optimize(model), device)
    if cfg.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def network(images: Tensor) -> list[Tensor]:
        with torch.autocast(device.type, dtype):
            return model(images.contiguous())

    return Predictor(network, device)


def predict_set(
    predictor: Predictor,
    images: Images,
    resolution: str,
    folder: Path,
    title: str,
    world: World,
) -> int:
    """Writes the mask of each image that has none in `folder`.

    A mask is sigmoid(logit), resized (bilinear, corners aligned) to the size of the ground truth
    where there is one, else of the image, times 255, truncated.

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
    def load(path: Path) -> tuple[np.ndarray, Size]:
        image = read_image(path)
        height, width = image.shape[:2]
        no_run_size = (0, 0)
        size = network_size(resolution, (width, height), no_run_size)
        return cv2.resize(image, size), images[path] or (width, height)

    def save(path: Path, size: Size, probability: np.ndarray) -> None:
        width, height = size
        write_mask(_mask_path(folder, path.stem), to_mask(probability, height, width))

    remaining = [path for path in images if not _is_written(_mask_path(folder, path.stem))]
    num_done = len(images) - len(remaining)
    problems = []
    with Progress(len(images), title, 'image', done=num_done, quiet=not world.is_main,
                  say=logger.info) as bar:
        for outcome in run_pipeline(remaining, load, predictor, save):
            if outcome.error is not None:
                reason = full_memory_reason(outcome.error) or outcome.error
                problems.append(f'{outcome.item}: {reason}')
            bar.update()
    if problems:
        raise ValueError(f'{len(problems)} image(s) failed:\n  ' + '\n  '.join(problems))
    return len(remaining)


def write_masks(source: Source, options: argparse.Namespace, world: World) -> None:
    """Writes the masks of one checkpoint over all test sets, at all resolutions."""
    cfg = run_config(source, options.overrides)
    architecture = given_architecture(cfg, options.overrides)
    model = load_model(source.file, world.device, **architecture)
    predictor = build_predictor(model, cfg, world.device)
    images = find_images(cfg)
    for resolution in options.resolution:
        target = Target.of(source.file, cfg, resolution)
        busy = f'{target.folder}: another process is writing its masks; wait until it ends'
        lock = hold_lock(target.folder / LOCK, busy) if world.is_main else contextlib.nullcontext()
        with lock:
            if world.is_main:
                report_earlier_folder(target)
                prepare_folder(target.folder, target.manifest(cfg, architecture), images)
            # No rank writes before the folder is ready.
            gather(None, world)
            write_sets(predictor, target, images, world)


def write_sets(
    predictor: Predictor,
    target: Target,
    images: Mapping[str, Images],
    world: World,
) -> None:
    """Writes the masks of a target, for the images of each test set."""
    for name, sizes in images.items():
        own_images = dict(list(sizes.items())[world.rank::world.size])
        folder = target.folder / name
        title = f'{target.folder.name} {name}'
        written = predict_set(predictor, own_images, target.resolution, folder, title, world)
        total = sum(gather(written, world))
        logger.info('%s: %s: %d masks, %d of them new', target.folder, name, len(sizes), total)


def given_architecture(cfg: Config, overrides: list[str]) -> dict[str, Any]:
    """Fields of the architecture that `overrides` set, and which overrule the checkpoint's own."""
    given = {text.split('=')[0] for text in overrides}
    names = [name for name in (*ARCHITECTURE, 'tile_order') if name in given]
    return {name: getattr(cfg, name) for name in names}


def main(arguments: list[str] | None = None) -> int:
    """Checks all that can be checked before the first mask, then tests each checkpoint."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    refuse_separate_tasks()
    setup_logging(level=logging.INFO if is_main_process() else logging.WARNING)

    cfg = Config.from_overrides(options.overrides)
    checkpoints = find_checkpoints(options, cfg.ckpt_root)
    cfg = run_config(checkpoints[0], options.overrides)
    resolutions = [parse_resolution(text, cfg) for text in options.resolution]
    check_folders(checkpoints, options)
    check_data(cfg)

    # A resolution that is not WxH follows each image.
    fixed_size = all('x' in resolution for resolution in resolutions)
    device = prepare_device(
        cfg.device,
        fixed_size=fixed_size,
        deterministic=cfg.deterministic,
        mixed_precision=cfg.mixed_precision,
    )
    kept = 'the masks written so far are kept, and the same command makes the rest'
    with join_world(device) as world, explain_interrupt(kept):
        for source in checkpoints:
            write_masks(source, options, world)
    return 0


def check_folders(checkpoints: list[Source], options: argparse.Namespace) -> None:
    """Raises ValueError if two checkpoints would write into one folder, or over masks of others."""
    checkpoint_of: dict[Path, Path] = {}
    for source in checkpoints:
        path = source.file
        cfg = run_config(source, options.overrides)
        for resolution in options.resolution:
            target = Target.of(path, cfg, resolution)
            other = checkpoint_of.setdefault(target.folder, path)
            if other.resolve() != path.resolve():
                raise ValueError(f'{other} and {path} would both write into {target.folder}; '
                                 'test each with another pred_root')
            check_folder(target)


def check_data(cfg: Config) -> None:
    """Raises ValueError if there are no test sets, or that lists their unreadable files."""
    if not test_sets(cfg):
        raise ValueError(f'testsets: task {cfg.task} has none; name some with --testsets A+B')
    files: list[Path] = []
    for images in find_images(cfg).values():
        files += images
    check_images(files)


if __name__ == '__main__':
    sys.exit(run_command('test', main))
