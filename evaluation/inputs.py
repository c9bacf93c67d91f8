"""Finds, pairs and checks the files to score before anything is computed."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from readers import open_header, open_image, read_soft_mask, survey_masks
from utils import find_images

LISTED_PROBLEMS = 50


class ImageFiles(NamedTuple):
    """The files of one image: its mask, the predictions of it by method, and its trimap if any."""

    name: str
    mask: Path
    predictions: dict[str, Path]
    trimap: Path | None = None


class SetPlan(NamedTuple):
    """What there is to score of one test set, and notes for the user."""

    dataset: str
    methods: list[str]
    images: list[ImageFiles]
    notes: list[str]


class Header(NamedTuple):
    """What is known of an image without its pixels: upright size and Pillow's mode."""

    width: int
    height: int
    mode: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    @property
    def size_text(self) -> str:
        """For messages: 'WxH'."""
        return f'{self.width}x{self.height}'


def fingerprint(path: Path) -> list[int]:
    """Returns size in bytes and modification time in ns, which show whether a file changed."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def read_prediction(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Reads a prediction as uint8 grey, resized (INTER_LINEAR) to the mask's `shape` if needed."""
    prediction = read_soft_mask(path)
    if prediction.shape == shape:
        return prediction
    return cv2.resize(prediction, shape[::-1], interpolation=cv2.INTER_LINEAR)


def mask_folder(gt_root: str | os.PathLike, dataset: str) -> Path:
    """Returns where a set's masks are: `<gt_root>/<dataset>/gt`, or else the set's folder."""
    folder = Path(gt_root, dataset)
    return folder / 'gt' if (folder / 'gt').is_dir() else folder


def find_methods(pred_root: str | os.PathLike, datasets: Sequence[str]) -> list[str]:
    """Lists the folders of `pred_root` with predictions of at least one of the sets.

    Raises:
        ValueError: If there is none.
    """
    root = Path(pred_root)
    if not root.is_dir():
        raise ValueError(
            f'--pred_root {root}: no such folder; it should hold <method>/<set>/<name>.png')

    # A hidden folder is no method.
    methods = []
    for folder in sorted(root.iterdir()):
        has_set = any((folder / dataset).is_dir() for dataset in datasets)
        if has_set and not folder.name.startswith('.'):
            methods.append(folder.name)
    if not methods:
        raise ValueError(
            f'--pred_root {root}: no folder <method>/<set> for any of {", ".join(datasets)}')
    return methods


def plan(
    gt_root: str | os.PathLike,
    pred_root: str | os.PathLike,
    datasets: Sequence[str],
    methods: Sequence[str],
    resize: bool = False,
) -> list[SetPlan]:
    """Pairs masks and predictions by file stem, and checks every file.

    Sets without a folder of any method are left out, with a note.

    Args:
        gt_root: Folder of the sets' masks.
        pred_root: Folder of the methods' predictions, `<method>/<set>/<name>.*`.
        datasets: Names of the sets.
        methods: Names of the methods.
        resize: Accept predictions of another size than their mask.

    Raises:
        ValueError: Listing all masks without a prediction, predictions without a mask, stems used
            twice, files that are not images or are cut off, and, unless `resize`, predictions of
            another size than their mask.
    """
    # Methods without a folder.
    root = Path(pred_root)
    problems = []
    for method in methods:
        if not (root / method).is_dir():
            problems.append(f'{root / method}: no such folder')

    # Each set with the methods that have it.
    plans = []
    left_out = []
    for dataset in datasets:
        present = [method for method in methods if (root / method / dataset).is_dir()]
        if not present:
            left_out.append(f'no method has a folder {dataset}; left out')
            continue
        pairing = _Pairing(mask_folder(gt_root, dataset), root, dataset, resize)
        plans.append(pairing.plan(methods, present))
        problems += pairing.problems
    if not plans:
        problems.append(
            f'{root}: no folder <method>/<set> of {", ".join(methods)} for {", ".join(datasets)}')

    # All problems at once, so that one run shows what there is to mend.
    if problems:
        raise ValueError(_problem_report(problems))
    plans[0].notes.extend(left_out)
    return plans


def _problem_report(problems: Sequence[str]) -> str:
    number = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
    lines = [f'{number} in the input; nothing was computed:', *problems[:LISTED_PROBLEMS]]
    if len(problems) > LISTED_PROBLEMS:
        lines.append(f'... and {len(problems) - LISTED_PROBLEMS} more')
    return '\n'.join(lines)


class _Pairing:
    """Pairs the files of one set, and collects problems and notes."""

    def __init__(self, masks: Path, pred_root: Path, dataset: str, resize: bool) -> None:
        self.folder = masks
        self.pred_root = pred_root
        self.dataset = dataset
        self.resize = resize
        self.problems: list[str] = []
        self.notes: list[str] = []

    def plan(self, methods: Sequence[str], present: Sequence[str]) -> SetPlan:
        """Pairs the masks with the predictions of the methods that are present."""
        for method in methods:
            if method not in present:
                self.notes.append(f'{method} has no folder {self.dataset}')

        # The masks, whose kind can be told only where all of them can be read.
        masks = self._images_by_stem(self.folder)
        if not masks:
            self.problems.append(
                f'{self.folder}: no masks; --gt_root should hold <set>/gt/<name>.png')
        headers = {stem: self._header(path) for stem, path in masks.items()}
        self._note_depth(self.folder, headers)
        if masks and None not in headers.values():
            self._survey(list(masks.values()))

        # The trimaps, where the set has any.
        trimap_folder = self.folder.with_name('trimap')
        trimaps = self._images_by_stem(trimap_folder)
        images = {}
        for stem, path in masks.items():
            images[stem] = ImageFiles(stem, path, {}, trimaps.get(stem))

        # The predictions of each method.
        progress = tqdm(
            present, f'checking {self.dataset}', unit='method', leave=False, disable=None)
        for method in progress:
            folder = self.pred_root / method / self.dataset
            predictions = self._predictions(folder, images, headers)
            for stem, path in predictions.items():
                images[stem].predictions[method] = path
        return SetPlan(self.dataset, list(present), list(images.values()), self.notes)

    def _predictions(
        self,
        folder: Path,
        images: Mapping[str, ImageFiles],
        mask_headers: Mapping[str, Header | None],
    ) -> dict[str, Path]:
        """Returns one method's predictions by stem, checked against the masks."""
        # Masks without a prediction, and predictions without a mask.
        predictions = self._images_by_stem(folder)
        for stem, image in images.items():
            if stem not in predictions:
                self.problems.append(
                    f'{folder / stem}.*: missing, but there is a mask {image.mask.name}')
        paired = {}
        for stem, path in predictions.items():
            if stem in images:
                paired[stem] = path
            else:
                self.problems.append(f'{path}: no mask of that name in {self.folder}')

        # Predictions of another size than their mask.
        headers = {stem: self._header(path) for stem, path in paired.items()}
        self._note_depth(folder, headers)
        resized = 0
        for stem, found in headers.items():
            expected = mask_headers[stem]
            if found is None or expected is None or found.size == expected.size:
                continue
            resized += 1
            if not self.resize:
                self.problems.append(
                    f'{paired[stem]}: {found.size_text}, but its mask is {expected.size_text}; '
                    '--resize accepts that')
        if resized:
            self.notes.append(f'{folder}: {resized} of another size, resized to their ground truth')
        return paired

    def _survey(self, masks: list[Path]) -> None:
        """Notes how the masks are understood; it is a problem if none of them has foreground."""
        try:
            self.notes += survey_masks(str(self.folder), masks)
        except ValueError as error:
            self.problems.append(str(error))

    def _note_depth(self, folder: Path, headers: Mapping[str, Header | None]) -> None:
        deep = [h for h in headers.values() if h and h.mode.startswith(('I', 'F'))]
        if deep:
            self.notes.append(
                f'{folder}: {len(deep)} of 16 bits or floating point, scaled to 8 bits')

    def _images_by_stem(self, folder: Path) -> dict[str, Path]:
        """Lists the images of a folder by file stem. Stems used twice are problems."""
        if not folder.is_dir():
            return {}
        by_stem: dict[str, list[Path]] = {}
        for path in find_images(folder):
            # macOS may have stored a name decomposed. Masks are paired as in training.
            stem = unicodedata.normalize('NFC', path.stem)
            by_stem.setdefault(stem, []).append(path)
        for stem, paths in by_stem.items():
            if len(paths) > 1:
                names = ', '.join(path.name for path in paths)
                self.problems.append(f'{folder}: {len(paths)} files named {stem}: {names}')
        return {stem: paths[-1] for stem, paths in by_stem.items()}

    def _header(self, path: Path) -> Header | None:
        """Reads an image's header; None, and a problem, if it is not an image or is cut off."""
        try:
            return read_header(path)
        except Exception as error:  # decoders raise any exception on damaged data
            reason = str(error) or type(error).__name__
            if not reason.startswith(f'{path}: '):
                reason = f'{path}: unreadable ({reason})'
            self.problems.append(reason)
            return None


def read_header(path: Path) -> Header:
    """Reads size and mode of an image, without decoding a whole JPEG or PNG.

    Raises:
        Exception: Whatever the decoder raises for a file that is not an image or is cut off.
    """
    with open(path, 'rb') as file:
        image, orientation = open_header(file) or (None, 1)
        if image is None:
            image = open_image(path)  # others are decoded to see whether they are whole
    width, height = image.size
    if orientation >= 5:  # EXIF: turned by 90 degrees
        width, height = height, width
    return Header(width, height, image.mode)
