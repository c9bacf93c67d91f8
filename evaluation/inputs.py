"""The files to score: found, paired and checked before anything is computed."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from utils import find_images, open_header, open_image, read_mask

LISTED = 50


class Task(NamedTuple):
    """One mask with predictions of it; the unit that a worker computes."""

    dataset: str
    name: str
    mask: Path
    predictions: dict[str, Path]  # by method


class SetPlan(NamedTuple):
    """All there is to score of one test set. `notes` are things to say aloud."""

    dataset: str
    methods: list[str]
    tasks: list[Task]
    notes: list[str]


def fingerprint(path: Path) -> list[int]:
    """Size in bytes and time of modification in nanoseconds, by which a change of the file is noticed."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def read_prediction(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Reads a prediction as uint8 grey, resized (INTER_LINEAR) to the mask's `shape` if it differs."""
    prediction = read_mask(path)
    return prediction if prediction.shape == shape else cv2.resize(prediction, shape[::-1],
                                                                   interpolation=cv2.INTER_LINEAR)


def mask_folder(gt_root: str | os.PathLike, dataset: str) -> Path:
    """Where a set's masks are: `<gt_root>/<dataset>/gt`, or the set's folder itself."""
    folder = Path(gt_root, dataset)
    return folder / 'gt' if (folder / 'gt').is_dir() else folder


def find_methods(pred_root: str | os.PathLike, datasets: Sequence[str]) -> list[str]:
    """Names of the folders of `pred_root` that hold predictions of one of the sets at least."""
    if not Path(pred_root).is_dir():
        raise ValueError(f'--pred_root {pred_root}: no such folder; it should hold <method>/<set>/<name>.png')
    methods = sorted(folder.name for folder in Path(pred_root).iterdir()
                     if not folder.name.startswith('.') and any((folder / dataset).is_dir() for dataset in datasets))
    if not methods:
        raise ValueError(f'--pred_root {pred_root}: no folder <method>/<set> for any of {", ".join(datasets)}')
    return methods


def plan(gt_root: str | os.PathLike, pred_root: str | os.PathLike, datasets: Sequence[str], methods: Sequence[str],
         resize: bool = False) -> list[SetPlan]:
    """Pairs masks and predictions of the sets by file stem, and checks every file.

    Sets of which no method has a folder are left out, with a note. Raises one ValueError listing all masks without a
    prediction, predictions without a mask, stems used twice, files that are no image or are cut off, and, unless
    `resize`, predictions of another size than their mask.
    """
    problems = [f'{Path(pred_root, method)}: no such folder' for method in methods
                if not Path(pred_root, method).is_dir()]
    predicted = [dataset for dataset in datasets
                 if any(Path(pred_root, method, dataset).is_dir() for method in methods)]
    if not predicted:
        problems.append(f'{pred_root}: no folder <method>/<set> of {", ".join(methods)} for {", ".join(datasets)}')
    plans = [_plan_set(Path(gt_root), Path(pred_root), dataset, methods, resize, problems) for dataset in predicted]
    if problems:
        rest = [f'... and {len(problems) - LISTED} more'] if len(problems) > LISTED else []
        number = f'{len(problems)} problem{"s"[:len(problems) > 1]}'
        raise ValueError('\n'.join([f'{number} in the input; nothing was computed:', *problems[:LISTED], *rest]))
    plans[0].notes.extend(f'no method has a folder {dataset}; left out' for dataset in datasets
                          if dataset not in predicted)
    return plans


def _plan_set(gt_root: Path, pred_root: Path, dataset: str, methods: Sequence[str], resize: bool,
              problems: list[str]) -> SetPlan:
    folder = mask_folder(gt_root, dataset)
    masks = _by_stem(folder, problems)
    if not masks:
        problems.append(f'{folder}: no masks; --gt_root should hold <set>/gt/<name>.png')
    sizes = {stem: _probe(path, problems) for stem, path in masks.items()}
    tasks = {stem: Task(dataset, stem, path, {}) for stem, path in masks.items()}
    present = [method for method in methods if (pred_root / method / dataset).is_dir()]
    notes = [f'{method} has no folder {dataset}' for method in methods if method not in present]
    notes += _notes_on_depth(folder, sizes)
    for method in tqdm(present, f'checking {dataset}', unit='method', leave=False, disable=None):
        predictions = _by_stem(pred_root / method / dataset, problems)
        problems += [f'{pred_root / method / dataset / stem}.*: missing, but there is a mask {masks[stem].name}'
                     for stem in masks if stem not in predictions]
        problems += [f'{path}: no mask of that name in {folder}'
                     for stem, path in predictions.items() if stem not in masks]
        common = [stem for stem in predictions if stem in masks]
        probed = {stem: _probe(predictions[stem], problems) for stem in common}
        notes += _notes_on_depth(pred_root / method / dataset, probed)
        notes += _notes_on_size(pred_root / method / dataset, probed, sizes)
        for stem in common:
            if not resize and probed[stem] and sizes[stem] and probed[stem][:2] != sizes[stem][:2]:
                problems.append(f'{predictions[stem]}: {_size(probed[stem])}, but its mask is {_size(sizes[stem])}; '
                                '--resize accepts that')
            tasks[stem].predictions[method] = predictions[stem]
    return SetPlan(dataset, present, list(tasks.values()), notes)


def _notes_on_depth(folder: Path, probed: dict) -> Iterable[str]:
    deep = sum(1 for found in probed.values() if found and found[2].startswith(('I', 'F')))
    if deep:
        yield f'{folder}: {deep} of 16 bits or floating point, scaled to 8 bits'


def _notes_on_size(folder: Path, probed: dict, sizes: dict) -> Iterable[str]:
    resized = sum(1 for stem, found in probed.items() if found and sizes[stem] and found[:2] != sizes[stem][:2])
    if resized:
        yield f'{folder}: {resized} of another size, resized to their ground truth'


def _by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Images of a folder by file stem; stems used twice are problems."""
    if not folder.is_dir():
        return {}
    images = find_images(folder)
    for stem, uses in Counter(path.stem for path in images).items():
        if uses > 1:
            problems.append(f'{folder}: {uses} files named {stem}: '
                            + ', '.join(path.name for path in images if path.stem == stem))
    return {path.stem: path for path in images}


def _probe(path: Path, problems: list[str]) -> tuple[int, int, str] | None:
    """Width, height (upright) and mode of an image; None, and a problem, if it is none or is cut off.

    JPEG and PNG, which nearly all are, are not decoded for it; all others, and what does not end as it should, are.
    """
    try:
        with open(path, 'rb') as file:
            image, orientation = open_header(file) or (None, 1)
            if image is None and Image.open(file).format == 'PNG':
                raise ValueError('cut off')
            image = image or open_image(path)
    except Exception as error:  # decoders raise whatever they like on damaged data
        reason = str(error) or type(error).__name__
        problems.append(reason if reason.startswith(f'{path}: ') else f'{path}: unreadable ({reason})')
        return None
    width, height = image.size if orientation < 5 else image.size[::-1]
    return width, height, image.mode


def _size(found: tuple[int, int, str]) -> str:
    return f'{found[0]}x{found[1]}'
