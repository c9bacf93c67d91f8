"""Checks of the files of training and test sets, before anything is computed."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.pairs import Pair, Size, raise_all, with_path
from readers import (
    MAX_PIXELS,
    open_file,
    open_header,
    open_image,
    read_image,
    read_mask,
    survey_masks,
)
from readers.orientation import upright
from utils import ceil_div

ASPECT_TOLERANCE = 0.02  # by how much the aspect ratios of an image and its mask may differ
MOST_TURNED = 32  # turned pairs of a set that are looked at
COMPARED_SIDE = 256  # pixels at which edges are compared


class Seen(NamedTuple):
    """What a check sees of an image."""

    size: Size  # (width, height), upright
    orientation: int  # in the file; 1: upright


def check_readable(pairs: Sequence[Pair], workers: int = 8, full: bool = False) -> None:
    """Checks that all images and masks can be read, and warns of those that look wrong.

    An image and its mask may differ in size. If their aspect ratios differ by over 2%, the mask is
    probably another image's, or was drawn before the image was rotated. Where the shape does not
    show that, the edges may.

    Args:
        pairs: whose files are checked.
        workers: number of threads.
        full: as of `check_images`.

    Raises:
        ValueError: as `check_images`.
    """
    # All files at once: images and masks take turns.
    files = []
    for pair in pairs:
        files += [pair.image, pair.mask]
    seen = _look_at_all(files, workers, full)
    seen_images = seen[::2]
    seen_masks = seen[1::2]

    # A shape that differs is reported; one that does not may still be turned.
    askew = []
    turned = defaultdict(list)
    for pair, image, mask in zip(pairs, seen_images, seen_masks, strict=True):
        width, height = image.size
        mask_width, mask_height = mask.size
        difference = abs(width * mask_height - height * mask_width)
        if difference > ASPECT_TOLERANCE * width * mask_height:
            mask_text = f'its mask {pair.mask}: {mask_width}x{mask_height}'
            askew.append(f'{pair.image}: {width}x{height}, {mask_text}')
        elif image.orientation > 1 and mask.orientation == 1:
            turned[pair.set].append((pair, image.orientation))
    if askew:
        listed = '\n  '.join(askew)
        warnings.warn(f'{len(askew)} images and masks differ in aspect ratio:\n  {listed}')
    for name, members in turned.items():
        _warn_of_unturned_masks(name, members)


def check_masks(pairs: Sequence[Pair], workers: int = 8, skip_bad: bool = False) -> None:
    """Checks that the masks of each set hold foreground, and warns of how they are understood.

    Args:
        pairs: whose masks are checked.
        workers: number of threads.
        skip_bad: leave out masks that cannot be read.

    Raises:
        ValueError: as `survey_masks`, for all sets.
    """
    by_set = defaultdict(list)
    for pair in pairs:
        by_set[pair.set].append(pair.mask)

    # All sets are looked at before an error ends the check.
    problems = []
    for name, masks in by_set.items():
        try:
            sentences = survey_masks(name, masks, workers, skip_bad)
        except ValueError as error:
            problems.append(str(error))
            continue
        for sentence in sentences:
            warnings.warn(sentence)
    raise_all(problems)


def check_images(files: Sequence[Path], workers: int = 8, full: bool = False) -> list[Size]:
    """Checks that all `files` are readable images.

    Args:
        files: paths.
        workers: number of threads.
        full: whether to decode JPEG and PNG files too. Without it, these pass by their header and
            their end marker. All others are decoded anyway.

    Returns:
        (width, height) of each, upright.

    Raises:
        ValueError: lists every unreadable or truncated file.
    """
    return [seen.size for seen in _look_at_all(files, workers, full)]


def _look_at_all(files: Sequence[Path], workers: int, full: bool) -> list[Seen]:
    """Looks at all files in threads; raises one ValueError that lists those it cannot read."""
    def look(path: Path) -> Seen | str:
        try:
            seen = None if full else _look_at_header(path)
            return seen or Seen(open_image(path).size, 1)
        except (ValueError, OSError) as error:
            return with_path(path, error)

    found: list[Seen] = []
    problems: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(look, files):
            if isinstance(result, str):
                problems.append(result)
            else:
                found.append(result)
    raise_all(problems)
    return found


def _look_at_header(path: Path) -> Seen | None:
    """Looks at an image that is whole by its header and last bytes; None for all others."""
    with open_file(path) as file:
        opened = open_header(file)
        if opened is None:
            return None
        header, orientation = opened
        width, height = header.size
    if width * height > MAX_PIXELS:
        return None
    size = (height, width) if orientation >= 5 else (width, height)
    return Seen(size, orientation)


# --- Masks that were drawn before their image was turned ------------------------------------------


def _warn_of_unturned_masks(name: str, members: Sequence[tuple[Pair, int]]) -> None:
    """Warns if the masks of images that are turned by their EXIF data fit better when turned too.

    The shape of an image shows it only if the image is not square and not turned by 180 degrees.
    """
    step = ceil_div(len(members), MOST_TURNED)
    looked_at = members[::step]
    unturned = [pair for pair, orientation in looked_at if _fits_turned(pair, orientation)]
    if 2 * len(unturned) > len(looked_at):
        warnings.warn(
            f'{name}: {len(members)} images are turned by their EXIF orientation, but their masks '
            f'seem to be drawn before that: of {len(looked_at)} masks {len(unturned)} fit the '
            f'edges better when turned like the image, e.g. {unturned[0].mask}; turn the masks, or '
            'drop the orientation from the images')


def _fits_turned(pair: Pair, orientation: int) -> bool:
    """Whether the mask's outline lies on stronger edges of the image when turned like it."""
    side = (COMPARED_SIDE, COMPARED_SIDE)
    try:
        image = cv2.resize(read_image(pair.image), side, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(read_mask(pair.mask), side, interpolation=cv2.INTER_AREA)
    except (ValueError, OSError):  # named elsewhere
        return False
    edges = _gradient(image).max(axis=2)
    as_drawn = _strength(edges, mask)
    as_turned = _strength(edges, upright(mask, orientation))
    return as_turned > as_drawn


def _gradient(image: np.ndarray) -> np.ndarray:
    """The morphological gradient of each channel: strong at edges."""
    neighbourhood = np.ones((3, 3))
    return cv2.morphologyEx(image, cv2.MORPH_GRADIENT, neighbourhood)


def _strength(edges: np.ndarray, mask: np.ndarray) -> float:
    """Mean strength of the edges below the mask's outline."""
    is_outline = _gradient(mask) > 127
    mean, *_ = cv2.mean(edges, is_outline.astype(np.uint8))
    return float(mean)
