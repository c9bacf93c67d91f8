"""Finds the masks of test sets on trees that no one prepared."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation.files import Folder, Listing, Tree, list_folder, read_tree
from evaluation.folder_names import (
    GENERIC,
    IMAGES,
    OTHERS,
    SET_SUFFIX,
    TRIMAPS,
    last_name,
    means,
    means_masks,
    path_names,
    plain,
    set_of,
)


class Masks(NamedTuple):
    """The folders of a set's masks and, if there are any, of its trimaps and images."""

    dataset: str
    listing: Listing
    trimaps: Listing | None = None
    images: Listing | None = None


def mask_folder(gt_root: str | os.PathLike, dataset: str) -> Path:
    """Returns where a set's masks are: `<gt_root>/<dataset>/gt`, or else the set's folder.

    `gt` may have another usual name, such as GT, masks or DUTS-TE-Mask.
    """
    folder = Path(gt_root, dataset)
    exact = folder / 'gt'
    if exact.is_dir():
        return exact
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir() and means_masks(path.name):
                return path
    return folder


def find_masks(gt_root: str | os.PathLike, datasets: Sequence[str]) -> list[Masks]:
    """Finds the masks of each set: `<gt_root>/<set>/gt`, or any folder that names the set.

    Raises:
        ValueError: For a set that several folders fit, or that may be in a damaged archive.
    """
    tree = None
    found = []
    for dataset in datasets:
        folder = mask_folder(gt_root, dataset)
        masks = _masks_in(folder, dataset)
        if masks is None and os.path.exists(gt_root):
            tree = tree or read_tree(Path(gt_root))
            masks = _masks_on(tree, dataset, datasets)
        # A set without masks is a problem that is reported with all others.
        found.append(masks or Masks(dataset, Listing(Folder(folder), [], ())))
    return found


def find_sets(gt_root: str | os.PathLike) -> list[str]:
    """Lists the sets of a folder of masks, by the folders above them.

    Raises:
        ValueError: If it holds no masks.
    """
    root = Path(gt_root)
    if not root.exists():
        raise ValueError(f'--gt_root {root}: no such folder; it should hold <set>/gt/<name>.png')
    tree = read_tree(root)
    listings = [one for one in tree.listings if not _is_other(one)]
    marked = [one for one in listings if any(map(means_masks, path_names(one)))]
    names = {_set_name(listing, root) for listing in marked or listings}
    if not names:
        reasons = ''.join(f'; {problem}' for problem in tree.problems)
        raise ValueError(f'--gt_root {root}: no masks{reasons}')
    return sorted(names)


def known_sets(gt_root: str | os.PathLike) -> list[str]:
    """Lists folders below a folder of masks that may be sets, without looking into them."""
    root = Path(gt_root)
    folders = root.iterdir() if root.is_dir() else ()
    words = OTHERS | GENERIC
    names = []
    for path in folders:
        if path.is_dir() and plain(path.name) not in words:
            names.append(path.name)
    return names


def _masks_in(folder: Path, dataset: str) -> Masks | None:
    """The masks directly in a folder, with the trimaps beside it; None if there are none."""
    files = list_folder(folder) if folder.is_dir() else []
    if not files:
        return None
    masks = Listing(Folder(folder), files, ())

    # What lies beside them.
    around = sorted(folder.parent.iterdir())
    beside = {path.name: path for path in around if path.is_dir()}
    trimaps = _listing(beside.get('trimap'))
    named = [path for name, path in beside.items() if means(name, IMAGES)]
    images = _listing(named[0] if named else None)
    return Masks(dataset, masks, trimaps, images)


def _listing(folder: Path | None) -> Listing | None:
    if folder is None:
        return None
    files = list_folder(folder)
    return Listing(Folder(folder), files, ())


def _masks_on(tree: Tree, dataset: str, datasets: Sequence[str]) -> Masks | None:
    """Finds a set's masks on a tree; None if there are none."""
    fitting = list(_folders_of(tree, dataset, datasets))
    marked = [one for one in fitting if any(map(means_masks, path_names(one)))]
    fitting = marked or fitting
    if len(fitting) > 1:
        places = ', '.join(str(listing.folder) for listing in fitting)
        raise ValueError(
            f'{dataset}: several folders may hold its masks: {places}; give a --gt_root that has '
            'one of them')
    if not fitting:
        if tree.problems:
            raise ValueError('; '.join(tree.problems))
        return None

    [masks] = fitting
    around = path_names(masks)[:-1]
    beside = [listing for listing in tree.listings if path_names(listing)[:-1] == around]
    return Masks(dataset, masks, _named(beside, TRIMAPS), _named(beside, IMAGES))


def _named(listings: Sequence[Listing], words: frozenset[str]) -> Listing | None:
    """The first folder whose name is one of these words."""
    return next((one for one in listings if means(last_name(one), words)), None)


def _folders_of(tree: Tree, dataset: str, datasets: Sequence[str]) -> Iterator[Listing]:
    """The folders of a tree that may hold a set's masks."""
    listings = [one for one in tree.listings if not _is_other(one)]
    is_named = any(set_of(listing, datasets) for listing in listings)
    for listing in listings:
        # Where no folder names a set, all is of the only one.
        is_only = not is_named and len(datasets) == 1
        if set_of(listing, datasets) == dataset or is_only:
            yield listing


def _is_other(listing: Listing) -> bool:
    """Whether a folder holds what lies beside masks: images, edges and so on."""
    if means_masks(last_name(listing)):
        return False
    names = path_names(listing)
    return any(means(name, OTHERS) for name in names)


def _set_name(listing: Listing, root: Path) -> str:
    """Names a set by the folder above its masks."""
    real = root.resolve()
    below = listing.parts or listing.top
    names = [real.parent.name, real.name, *below]
    own = [name for name in names if not means_masks(name)]
    innermost = (own or names)[-1]
    return SET_SUFFIX.sub('', innermost)
