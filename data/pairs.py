"""Pairs of image and mask: found in folders, and read at one size."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from readers import read_image, read_mask
from utils import find_images

Size = tuple[int, int]  # (width, height)


class Pair(NamedTuple):
    """An image with its mask; `name` is the mask's file stem."""

    name: str
    set: str
    image: Path
    mask: Path


def raise_all(problems: Sequence[str]) -> None:
    """Raises one ValueError that lists all problems, if there are any."""
    if problems:
        listed = '\n  '.join(problems)
        raise ValueError(f'{len(problems)} problem(s) in the data:\n  {listed}')


def with_path(path: Path, error: Exception) -> str:
    """Returns the error's message, with the path in front unless it is a ValueError.

    The ValueErrors of this project name the path already.
    """
    if isinstance(error, ValueError):
        return str(error)
    return f'{path}: {error}'


# --- Finding --------------------------------------------------------------------------------------


def find_pairs(data_root: str | Path, task: str, sets: Sequence[str]) -> list[Pair]:
    """Finds the pairs `<set>/im/<stem>.*` and `<set>/gt/<stem>.*` below `<data_root>/<task>`.

    Args:
        data_root: the folder with a folder for each task.
        task: the task's name.
        sets: names of its sets.

    Returns:
        The pairs in the order of the sets, each set sorted by stem.

    Raises:
        ValueError: lists every offender by path: a missing or empty folder, a set named twice, an
            image without mask, a mask without image, several files of one stem.
    """
    problems = [
        f'{name}: named more than once'
        for name in dict.fromkeys(sets)
        if sets.count(name) > 1
    ]
    pairs = []
    for name in dict.fromkeys(sets):
        folder = Path(data_root, task, name)
        images = _by_stem(folder / 'im', problems)
        masks = _by_stem(folder / 'gt', problems)
        # An empty or missing folder is one problem, not one for each file of the other.
        if images and masks:
            problems += _unpaired(images, masks, f'no mask of that name in {folder / "gt"}')
            problems += _unpaired(masks, images, f'no image of that name in {folder / "im"}')
        for stem, image in images.items():
            if stem in masks:
                mask = masks[stem]
                pairs.append(Pair(mask.stem, name, image, mask))
    raise_all(problems)
    return pairs


def find_images_in_set(data_root: str | Path, task: str, name: str) -> dict[Path, Path | None]:
    """Finds the images of a test set, sorted by stem, each with its mask, or None without one.

    Raises:
        ValueError: lists what is wrong with the folders, as `find_pairs`.
    """
    problems: list[str] = []
    folder = Path(data_root, task, name)
    images = _by_stem(folder / 'im', problems)

    # A set without masks can be predicted; only scores need them.
    masks: dict[str, Path] = {}
    mask_folder = folder / 'gt'
    if mask_folder.is_dir() and find_images(mask_folder):
        masks = _by_stem(mask_folder, problems)
    raise_all(problems)
    return {image: masks.get(stem) for stem, image in images.items()}


def _by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Image files of a folder by their stem, sorted; adds what is wrong with them to `problems`."""
    if not folder.is_dir():
        problems.append(f'{folder}: no such folder')
        return {}
    files = defaultdict(list)
    for path in find_images(folder):
        # macOS may have stored the name of one of a pair decomposed.
        stem = unicodedata.normalize('NFC', path.stem)
        files[stem].append(path)
    if not files:
        problems.append(f'{folder}: holds no images')
    for same in files.values():
        if len(same) > 1:
            problems += [f'{path}: {len(same)} files of one stem' for path in same]
    return {stem: files[stem][0] for stem in sorted(files)}


def _unpaired(files: dict[str, Path], partners: dict[str, Path], problem: str) -> list[str]:
    """One line for each file without a partner of its stem."""
    lines = []
    for stem, path in files.items():
        if stem not in partners:
            lines.append(f'{path}: {problem}')
    return lines


# --- Classes --------------------------------------------------------------------------------------


def class_names(pairs: Iterable[Pair]) -> list[str]:
    """Returns the sorted classes of a DIS5K-like set, for auxiliary classification.

    The class is the fourth '#'-separated field of a name.

    Raises:
        ValueError: lists every image whose name has no such field.
    """
    names = set()
    problems = []
    for pair in pairs:
        name = _class_name(pair)
        if name is None:
            problems.append(f'{pair.image}: has no class, the 4th #-separated field of its name')
        else:
            names.add(name)
    raise_all(problems)
    return sorted(names)


def class_ids(pairs: Sequence[Pair], classes: Sequence[str] | None) -> list[int]:
    """Returns the index in `classes` of each pair's class, or -1 for all where `classes` is None.

    Raises:
        ValueError: lists every image whose class is not among `classes`.
    """
    if classes is None:
        return [-1] * len(pairs)
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    ids = []
    problems = []
    for pair in pairs:
        name = _class_name(pair)
        if name in numbers:
            ids.append(numbers[name])
        else:
            problems.append(f'{pair.image}: class {name!r} is none of the {len(classes)} known')
    raise_all(problems)
    return ids


def _class_name(pair: Pair) -> str | None:
    fields = pair.name.split('#')
    return fields[3] if len(fields) > 3 else None


# --- Reading --------------------------------------------------------------------------------------


def load_pair(pair: Pair, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Reads a pair at `size` (width, height), resized by OpenCV's INTER_LINEAR.

    A JPEG's reduced scales are not used: INTER_LINEAR takes 2x2 pixels wherever it lands, a reduced
    scale the mean of whole blocks, and on photographs the two differ by dozens of grey levels at
    every ratio (benchmarks/data.py).

    Returns:
        The image, uint8 (H, W, 3) RGB, and the mask, uint8 (H, W).

    Raises:
        ValueError: if one is not a readable image; it names the path.
        OSError: if one is missing or may not be read.
    """
    image = cv2.resize(read_image(pair.image), size)
    mask = cv2.resize(read_mask(pair.mask), size)
    return image, mask
