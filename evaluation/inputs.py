"""Pairs masks and predictions, and checks every file before anything is computed."""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from evaluation.files import File, Folder, Listing
from evaluation.folder_names import find_set
from evaluation.mask_folders import Masks
from evaluation.naming import Naming, Pairing, pair_names
from evaluation.prediction_folders import Predictions
from readers import (
    MAX_PIXELS,
    ZERO_ONE,
    Readable,
    check_size,
    interpret,
    open_header,
    open_image,
    read_image,
    read_mask,
    read_soft_mask,
    survey_masks,
)

LISTED_PROBLEMS = 50
LOW = 85  # the most that 1 can be as grey: in a PNG of 2 bits
SAMPLE = 8  # predictions of a folder that are decoded, to see what their values mean


class ImageFiles(NamedTuple):
    """The files of one image: its mask, predictions by method, and its trimap and itself if any."""

    name: str
    mask: File
    predictions: dict[str, File]
    trimap: File | None = None
    image: File | None = None


class SetPlan(NamedTuple):
    """What there is to score of one test set.

    Attributes:
        dataset: Name of the set.
        methods: Methods that have predictions of it.
        images: Its images.
        notes: For the user.
        zero_one: Methods whose predictions hold no values but 0 and 1.
        masks: Where the masks are.
        places: Where the predictions of each method are, and how they are named.
    """

    dataset: str
    methods: list[str]
    images: list[ImageFiles]
    notes: list[str]
    zero_one: set[str]
    masks: Folder
    places: dict[str, tuple[Folder, Naming]]


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


def read_prediction(
    file: Path | File, shape: tuple[int, int], is_zero_one: bool = False,
) -> np.ndarray:
    """Reads a prediction as uint8 grey, resized (INTER_LINEAR) to the mask's `shape` if needed.

    Args:
        file: The prediction.
        shape: (height, width) of the mask.
        is_zero_one: Whether 1 is white, as all predictions of the method hold but 0 and 1.
    """
    prediction = read_mask(file) if is_zero_one else read_soft_mask(file)
    return _resized(prediction, shape)


def read_image_for(file: Path | File, shape: tuple[int, int]) -> np.ndarray:
    """Reads an image as RGB, uint8, resized likewise to the `shape` of its mask."""
    return _resized(read_image(file), shape)


def _resized(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] == shape:
        return pixels
    return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_LINEAR)


def plan(
    masks: Sequence[Masks],
    predictions: Predictions,
    methods: Sequence[str] | None = None,
    strict: bool = False,
) -> list[SetPlan]:
    """Pairs masks and predictions by name, and checks every file.

    Sets that no method has predictions of are left out, with a note.

    Args:
        masks: The sets' masks, as of `evaluation.mask_folders.find_masks`.
        predictions: As of `evaluation.prediction_folders.find_predictions`.
        methods: Names of the methods; None for all.
        strict: Refuse predictions of another size than their mask, which are resized otherwise.

    Raises:
        ValueError: Listing all masks without a prediction, predictions without a mask, or of which
            several fit one mask, names used twice, files that are not images or are cut off, and,
            if `strict`, predictions of another size than their mask.
    """
    names = list(predictions.methods) if methods is None else list(methods)
    notes = list(predictions.notes)
    problems = _doubts(predictions, names)
    # An archive that cannot be read may be one of all methods, but is none of those chosen.
    (problems if methods is None else notes).extend(predictions.problems)

    # The masks of each set that any method may have.
    folders = [predictions.methods.get(method, {}) for method in names]
    named = {dataset for places in folders for dataset in places}
    sets = {}
    for found in masks:
        if named.intersection((found.dataset, None)):
            sets[found.dataset] = _MaskSet(found)
        else:
            notes.append(f'no method has a folder {found.dataset}; left out')
    if not sets:
        wanted = ', '.join(names) or 'any method'
        datasets = ', '.join(found.dataset for found in masks)
        problems.append(
            f'{predictions.root}: no folder <method>/<set> of {wanted} for {datasets}')

    # The predictions of each method.
    check = _Check(sets, strict)
    listings = []
    for method, places in zip(names, folders, strict=True):
        listings += [(method, dataset, listing) for dataset, listing in places.items()]
    progress = tqdm(listings, 'checking the files', unit='folder', leave=False, disable=None)
    for method, dataset, listing in progress:
        check.add(method, dataset, listing)

    # All problems at once, so that one run shows what there is to mend.
    for one in sets.values():
        problems += one.problems
    problems += check.problems
    if problems:
        raise ValueError(_problem_report(problems))
    plans = [one.plan(names) for one in sets.values() if one.methods]
    if not plans:
        raise ValueError(f'{predictions.root}: not one prediction has the name of a mask')
    plans[0].notes.extend([*notes, *check.notes])
    return plans


def _doubts(predictions: Predictions, methods: Sequence[str]) -> list[str]:
    """Lists methods without a folder, and those that have two for one set."""
    problems = []
    for method in methods:
        problems += predictions.doubts.get(method, [])
        if method not in predictions.methods:
            problems.append(f'{predictions.root / method}: no such folder')
    return problems


def _problem_report(problems: Sequence[str]) -> str:
    number = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
    listed = problems[:LISTED_PROBLEMS]
    lines = [f'{number} in the input; nothing was computed:', *listed]
    more = len(problems) - len(listed)
    if more:
        lines.append(f'... and {more} more')
    return '\n'.join(lines)


class _MaskSet:
    """The masks of one set, checked, and what is found for them."""

    def __init__(self, masks: Masks) -> None:
        self.dataset = masks.dataset
        self.folder = masks.listing.folder
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.methods: list[str] = []
        self.zero_one: set[str] = set()
        self.places: dict[str, tuple[Folder, Naming]] = {}

        # The masks, whose kind can be told only where all of them can be read.
        files = by_stem(masks.listing, self.problems)
        if not files:
            self.problems.append(
                f'{self.folder}: no masks; --gt_root should hold <set>/gt/<name>.png')
        self.headers = {stem: header_of(file, self.problems) for stem, file in files.items()}
        note_depth(masks.listing, self.headers, self.notes)
        if files and None not in self.headers.values():
            self._survey(list(files.values()))

        # The trimaps and images, where the set has any. Few metrics need the images.
        trimaps = by_stem(masks.trimaps, self.problems) if masks.trimaps else {}
        images = by_stem(masks.images, []) if masks.images else {}
        self.images = {}
        for stem, file in sorted(files.items()):
            self.images[stem] = ImageFiles(
                stem, file, {}, trimaps.get(stem), images.get(stem))

    def _survey(self, masks: list[Readable]) -> None:
        """Notes how the masks are understood; it is a problem if none of them has foreground."""
        # Threads would read a compressed tar out of its order, each time from its start.
        workers = 8 if self.folder.inner is None else 1
        try:
            self.notes += survey_masks(str(self.folder), masks, workers)
        except ValueError as error:
            self.problems.append(str(error))

    def plan(self, methods: Sequence[str]) -> SetPlan:
        """Returns what there is to score."""
        for method in methods:
            if method not in self.methods:
                self.notes.append(f'{method} has no folder {self.dataset}')
        images = list(self.images.values())
        return SetPlan(
            self.dataset, self.methods, images, self.notes, self.zero_one, self.folder,
            self.places)


class _Check:
    """Pairs the predictions of methods with the masks of all sets, and collects problems."""

    def __init__(self, sets: Mapping[str, _MaskSet], strict: bool) -> None:
        self.sets = sets
        self.strict = strict
        self.problems: list[str] = []
        self.notes: list[str] = []

    def add(self, method: str, dataset: str | None, listing: Listing) -> None:
        """Pairs a folder's predictions, with the masks of one set or, without it, of all."""
        if not dataset:
            parts = self._by_set_in_names(listing)
            for named, part in parts.items():
                self.add(method, named, part)
            taken = {id(file) for part in parts.values() for file in part.files}
            left = [file for file in listing.files if id(file) not in taken]
            if parts and not left:
                return
            listing = listing._replace(files=left)
        sets = [self.sets[dataset]] if dataset else list(self.sets.values())
        owners: dict[str, list[_MaskSet]] = defaultdict(list)
        for one in sets:
            for stem in one.images:
                owners[stem].append(one)
        if dataset and not owners:
            return  # one problem, that there are no masks, is enough
        files = by_stem(listing, self.problems)
        pairing = pair_names(list(owners), list(files))
        if not dataset and not pairing.pairs:
            self.notes.append(
                f'{listing.folder}: left out, as none of its {len(files)} images has the name of '
                'a mask')
            return
        self._report_extra(listing, files, pairing, dataset)

        # A name in several sets does not tell whose the prediction is.
        for mask, name in pairing.pairs.items():
            if len(owners[mask]) > 1:
                datasets = ', '.join(one.dataset for one in owners[mask])
                self.problems.append(
                    f'{files[name]}: {datasets} all have a mask {mask}; put the predictions of '
                    'each set into a folder of its own')

        # One folder for all sets need not have all of them.
        for one in sets:
            found = {}
            for stem in one.images:
                if stem in pairing.pairs:
                    found[stem] = files[pairing.pairs[stem]]
            if found and not dataset:
                one.notes.append(
                    f'{listing.folder}: names no set; its images have names of {one.dataset}')
            if found or dataset:
                self._add_to(one, method, listing, pairing, found)

    def _by_set_in_names(self, listing: Listing) -> dict[str, Listing]:
        """Finds the predictions that have their set's name beside the mask's: CAMO_camo_7.png."""
        files: dict[str, list[File]] = defaultdict(list)
        for file in listing.files:
            found = find_set([file.stem], list(self.sets))
            if found:
                files[found[0]].append(file)

        # Of COD10K-CAM-1.png the set's name is a part of the mask's.
        parts = {}
        for dataset, some in files.items():
            part = listing._replace(files=some)
            naming = pair_names(self.sets[dataset].images, list(by_stem(part, []))).naming
            if find_set([naming.prefix, naming.suffix], [dataset]):
                parts[dataset] = part
        return parts

    def _add_to(
        self,
        one: _MaskSet,
        method: str,
        listing: Listing,
        pairing: Pairing,
        found: Mapping[str, File],
    ) -> None:
        """Adds a method's predictions of one set."""
        one.methods.append(method)
        naming = pairing.naming
        one.places[method] = listing.folder, naming
        if naming.describe():
            example = next(iter(found.values()), '')
            one.notes.append(
                f'{listing.folder}: names have {naming.describe()}, e.g. {example}')
        for stem, image in one.images.items():
            if stem in found:
                image.predictions[method] = found[stem]
            else:
                expected = f'{listing.folder}/{naming.prediction_of(stem)}.*'
                self.problems.append(f'{expected}: missing, but there is a mask {image.mask.name}')

        # The headers show what is unreadable, deep, or of another size. A compressed tar is read
        # once if that is done in its order.
        in_order = sorted(found, key=lambda stem: found[stem].place)
        headers = {stem: header_of(found[stem], self.problems) for stem in in_order}
        note_depth(listing, headers, one.notes)
        self._check_sizes(one, listing, headers, found)
        if found and None not in headers.values():
            self._check_values(one, method, listing, [found[stem] for stem in in_order])

    def _report_extra(
        self,
        listing: Listing,
        files: Mapping[str, File],
        pairing: Pairing,
        dataset: str | None,
    ) -> None:
        """Reports predictions without a mask, and those that are not the only ones of theirs."""
        unknown = []
        for name, mask in pairing.extra.items():
            if mask is None:
                unknown.append(files[name])
            else:
                taken = files[pairing.pairs[mask]]
                self.problems.append(
                    f'{files[name]}: two predictions fit the mask {mask}, as {taken.name} does '
                    'too; move those of one kind away')
        if dataset:
            folder = self.sets[dataset].folder
            self.problems += [f'{file}: no mask of that name in {folder}' for file in unknown]
        elif unknown:  # of other sets
            self.notes.append(
                f'{listing.folder}: {len(unknown)} of {len(files)} images left out, as no mask of '
                f'these sets has their name, e.g. {unknown[0]}')

    def _check_sizes(
        self,
        one: _MaskSet,
        listing: Listing,
        headers: Mapping[str, Header | None],
        found: Mapping[str, File],
    ) -> None:
        """Counts predictions of another size than their mask; they are problems if strict."""
        resized = 0
        for stem, header in headers.items():
            expected = one.headers[stem]
            if header is None or expected is None or header.size == expected.size:
                continue
            resized += 1
            if self.strict:
                self.problems.append(
                    f'{found[stem]}: {header.size_text}, but its mask is {expected.size_text}; '
                    'without --strict it is resized')
        if resized:
            one.notes.append(
                f'{listing.folder}: {resized} of {len(headers)} of another size, resized to their '
                'ground truth (bilinear, as by OpenCV)')

    def _check_values(
        self, one: _MaskSet, method: str, listing: Listing, files: Sequence[File],
    ) -> None:
        """Looks at some predictions, and notes what their values mean if that is not plain."""
        step = max(1, len(files) // SAMPLE)
        looked_at = files[::step]
        notes: dict[str, list[File]] = defaultdict(list)
        is_zero_one = True
        for file in looked_at:
            try:
                soft = interpret(file, is_soft=True)
                is_low = soft.grey.max(initial=0) <= LOW
                found = interpret(file) if is_low else soft
            except (ValueError, OSError) as error:
                self.problems.append(str(error))
                return
            for note in soft.notes:
                notes[note].append(file)
            if ZERO_ONE in found.notes:
                notes[ZERO_ONE].append(file)
            elif found.grey.any():
                is_zero_one = False

        # One with 0 and 1 among others is nearly black.
        if not is_zero_one:
            notes.pop(ZERO_ONE, None)
        elif ZERO_ONE in notes:
            one.zero_one.add(method)
        for note, noted in notes.items():
            one.notes.append(
                f'{listing.folder}: {len(noted)} of {len(looked_at)} predictions {note}, '
                f'e.g. {noted[0]}')


def by_stem(listing: Listing, problems: list[str]) -> dict[str, File]:
    """Returns the images of a folder by file stem. Stems used twice are problems."""
    files: dict[str, list[File]] = defaultdict(list)
    for file in listing.files:
        # macOS may have stored a name decomposed. Masks are paired as in training.
        stem = unicodedata.normalize('NFC', file.stem)
        files[stem].append(file)
    by_name = {}
    for stem, same in files.items():
        by_name[stem] = same[-1]
        if len(same) > 1:
            names = ', '.join(file.name for file in same)
            problems.append(f'{listing.folder}: {len(same)} files named {stem}: {names}')
    return by_name


def header_of(file: File, problems: list[str]) -> Header | None:
    """Reads an image's header; None, and a problem, if it is not an image or is cut off."""
    try:
        return read_header(file)
    except Exception as error:  # decoders raise any exception on damaged data
        reason = str(error) or type(error).__name__
        if not reason.startswith(f'{file}: '):
            reason = f'{file}: unreadable ({reason})'
        problems.append(reason)
        return None


def note_depth(
    listing: Listing, headers: Mapping[str, Header | None], notes: list[str],
) -> None:
    """Notes how many images have more than 8 bits."""
    deep = [h for h in headers.values() if h and h.mode.startswith(('I', 'F'))]
    if deep:
        notes.append(
            f'{listing.folder}: {len(deep)} of 16 bits or floating point, scaled to 8 bits')


def read_header(file: File) -> Header:
    """Reads size and mode of an image, without decoding a whole JPEG or PNG.

    Raises:
        Exception: Whatever the decoder raises for a file that is not an image or is cut off.
    """
    with file.open() as stream:
        image, orientation = open_header(stream) or (None, 1)
        if image is None:
            image = open_image(file)  # others are decoded to see whether they are whole
    check_size(image.size, MAX_PIXELS)
    width, height = image.size
    if orientation >= 5:  # EXIF: turned by 90 degrees
        width, height = height, width
    return Header(width, height, image.mode)
