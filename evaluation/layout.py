"""Which folders of a tree hold which set's masks, and which method's predictions of which set.

Sets are known by name. Of the other folders on the way to predictions, those that tell them apart
name the method: METHOD/SET, SET/METHOD, METHOD/SET.zip, results/METHOD/SET/pred and so on.
"""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation.archives import archive_stem
from evaluation.files import Folder, Listing, Tree, list_folder, read_tree

# Names of folders in the form of `plain`.
MASK_FOLDERS = (
    'gt', 'gts', 'mask', 'masks', 'groundtruth', 'groundtruths', 'annotation', 'annotations',
    'label', 'labels', 'gtobject', 'objgt', 'alpha', 'segmentation')
TRIMAP_FOLDERS = ('trimap', 'trimaps')
# What lies beside the masks of a set.
OTHER_FOLDERS = frozenset((
    *TRIMAP_FOLDERS, 'im', 'ims', 'img', 'imgs', 'image', 'images', 'rgb', 'input', 'inputs',
    'edge', 'edges', 'gtedge', 'instance', 'instances', 'gtinstance', 'depth', 'skeleton'))
# Names that are no method's where another folder is.
GENERIC_FOLDERS = frozenset((
    *MASK_FOLDERS, 'pred', 'preds', 'prediction', 'predictions', 'predictionmaps', 'epreds',
    'result', 'results', 'output', 'outputs', 'map', 'maps', 'sal', 'saliency', 'saliencymaps',
    'test', 'testing', 'val', 'testset', 'testsets', 'testdataset', 'dataset', 'datasets'))
SEPARATORS = '-_. '


class Masks(NamedTuple):
    """The folders of a set's masks and, if there are any, of its trimaps."""

    dataset: str
    listing: Listing
    trimaps: Listing | None = None


class Predictions(NamedTuple):
    """Where predictions are.

    Attributes:
        root: Where they were looked for.
        methods: Folders by method and set. None in place of a set: one folder for all sets.
        doubts: By method, which two folders may hold its predictions of a set.
        problems: What could not be read of the tree.
        notes: For the user.
    """

    root: Path
    methods: dict[str, dict[str | None, Listing]]
    doubts: dict[str, list[str]]
    problems: list[str]
    notes: list[str]


def plain(name: str) -> str:
    """A name without what people write in different ways: case, and all but letters and digits."""
    return ''.join(character for character in name.casefold() if character.isalnum())


# --- Masks ----------------------------------------------------------------------------------------


def mask_folder(gt_root: str | os.PathLike, dataset: str) -> Path:
    """Returns where a set's masks are: `<gt_root>/<dataset>/gt`, or else the set's folder.

    `gt` may have another usual name, such as GT or masks.
    """
    folder = Path(gt_root, dataset)
    exact = folder / 'gt'
    if exact.is_dir() or not folder.is_dir():
        return exact if exact.is_dir() else folder
    children = {plain(path.name): path for path in sorted(folder.iterdir()) if path.is_dir()}
    for word in MASK_FOLDERS:
        if word in children:
            return children[word]
    return folder


def find_masks(gt_root: str | os.PathLike, datasets: Sequence[str]) -> list[Masks]:
    """Finds the masks of each set: `<gt_root>/<set>/gt`, or any folder that names the set.

    Raises:
        ValueError: For a set that several folders fit.
    """
    found = {}
    for dataset in datasets:
        folder = mask_folder(gt_root, dataset)
        if folder.is_dir():
            found[dataset] = _masks_in(folder, dataset)
    lacking = [name for name in datasets if name not in found or not found[name].listing.files]
    if lacking and os.path.exists(gt_root):
        tree = read_tree(Path(gt_root))
        for dataset in lacking:
            masks = _masks_of(tree, dataset, datasets)
            if masks is not None:
                found[dataset] = masks

    # A set without masks is a problem that is reported with all others.
    masks_of_sets = []
    for dataset in datasets:
        empty = Listing(Folder(mask_folder(gt_root, dataset)), [], ())
        masks_of_sets.append(found.get(dataset, Masks(dataset, empty)))
    return masks_of_sets


def find_sets(gt_root: str | os.PathLike) -> list[str]:
    """Lists the sets of a folder of masks, by the folders above them."""
    root = Path(gt_root)
    names = []
    for listing in _mask_listings(read_tree(root)):
        parts = [part for part in listing.parts if plain(part) not in MASK_FOLDERS]
        names.append(parts[-1] if parts else root.resolve().name)
    return sorted(set(names))


def known_sets(gt_root: str | os.PathLike) -> list[str]:
    """Lists folders below a folder of masks that may be sets, without looking into them."""
    root = Path(gt_root)
    folders = root.iterdir() if root.is_dir() else ()
    words = OTHER_FOLDERS | GENERIC_FOLDERS
    return [path.name for path in folders if path.is_dir() and plain(path.name) not in words]


def _masks_in(folder: Path, dataset: str) -> Masks:
    trimap_folder = folder.with_name('trimap')
    trimaps = None
    if trimap_folder.is_dir():
        trimaps = Listing(Folder(trimap_folder), list_folder(trimap_folder), ())
    return Masks(dataset, Listing(Folder(folder), list_folder(folder), ()), trimaps)


def _masks_of(tree: Tree, dataset: str, datasets: Sequence[str]) -> Masks | None:
    """Finds a set's masks on a tree; None if there are none."""
    listings = _mask_listings(tree)
    fitting = [listing for listing in listings if _set_of(listing, datasets) == dataset]
    if not fitting and len(datasets) == 1:  # the root is the set's own folder
        fitting = [listing for listing in listings if len(listing.parts) < 2]
    if not fitting:
        if tree.problems:
            raise ValueError('\n'.join(tree.problems))
        return None
    if len(fitting) > 1:
        places = ', '.join(str(listing.folder) for listing in fitting)
        raise ValueError(f'{dataset}: several folders may hold its masks: {places}')

    [masks] = fitting
    for listing in tree.listings:
        is_trimap = plain(_last(listing)) in TRIMAP_FOLDERS
        if is_trimap and listing.parts[:-1] == masks.parts[:-1]:
            return Masks(dataset, masks, listing)
    return Masks(dataset, masks)


def _mask_listings(tree: Tree) -> list[Listing]:
    """The folders named as masks are; of a tree without any, all but those of images and others."""
    listings = [one for one in tree.listings if plain(_last(one)) not in OTHER_FOLDERS]
    named = []
    for listing in listings:
        words = [plain(part) for part in (*listing.parts, *listing.top)]
        if any(word in MASK_FOLDERS for word in words):
            named.append(listing)
    return named or listings


def _last(listing: Listing) -> str:
    parts = (*listing.parts, *listing.top)
    return parts[-1] if parts else ''


# --- Predictions ----------------------------------------------------------------------------------


def find_predictions(
    pred_root: str | os.PathLike, datasets: Sequence[str], other_sets: Collection[str] = (),
) -> Predictions:
    """Finds the predictions of some sets on a tree of any layout, archives included.

    Args:
        pred_root: A folder, or an archive.
        datasets: Names of the sets.
        other_sets: Names of further sets, whose folders are left out.

    Raises:
        ValueError: If there is nothing of these sets.
    """
    root = Path(pred_root)
    if not root.exists():
        raise ValueError(
            f'--pred_root {root}: no such folder; it should hold <method>/<set>/<name>.png')
    tree = read_tree(root)
    named = [one for one in tree.listings if plain(_last(one)) not in OTHER_FOLDERS]
    of_sets, of_all = _split(named or tree.listings, datasets, other_sets)
    found = Predictions(root, {}, {}, list(tree.problems), list(tree.notes))
    keys = [_key(listing, datasets) for listing in (*of_sets, *of_all)]
    for listing, method in zip((*of_sets, *of_all), _method_names(keys, root), strict=True):
        dataset = _set_of(listing, datasets)
        places = found.methods.setdefault(method, {})
        if dataset in places:
            found.doubts.setdefault(method, []).append(
                f'{method}: two folders may hold its predictions of {dataset or "all sets"}: '
                f'{places[dataset].folder}, {listing.folder}; move one of them away')
        places[dataset] = listing
    if not found.methods and not found.problems:
        raise ValueError(
            f'--pred_root {root}: no folder <method>/<set> for any of {", ".join(datasets)}')
    return found


def _split(
    listings: Sequence[Listing], datasets: Sequence[str], other_sets: Collection[str],
) -> tuple[list[Listing], list[Listing]]:
    """Splits folders into those of one set and those that may hold all. Others are left out."""
    of_sets: list[Listing] = []
    without = []
    places: set[str] = set()
    for listing in listings:
        if not _set_of(listing, datasets):
            without.append(listing)
        elif not places.intersection(_above(listing)):  # not what a method keeps below its masks
            of_sets.append(listing)
            places.add(str(listing.folder))

    # Where a method has folders of sets, its other folders are of other sets, or no predictions.
    taken = {plain(part) for listing in of_sets for part in _key(listing, datasets)}
    others = {plain(name) for name in other_sets}
    for listing in without:
        words = [plain(part) for part in listing.parts]
        if taken.intersection(words):
            others.update(word for word in words if word not in taken)
    of_all = []
    for listing in without:
        words = [plain(part) for part in (*listing.parts, *listing.top)]
        is_stray = not words and len(listings) > 1
        if not is_stray and not taken.union(others).intersection(words):
            of_all.append(listing)
    return of_sets, of_all


def _above(listing: Listing) -> list[str]:
    """The folders that a folder lies in."""
    return [str(path) for path in Path(str(listing.folder)).parents]


def _set_of(listing: Listing, datasets: Sequence[str]) -> str | None:
    """The set that a folder's path names; None if it names none."""
    for parts in (listing.parts, listing.top):
        found = _find_set(parts, datasets)
        if found:
            return found[0]
    return None


def _find_set(parts: Sequence[str], datasets: Sequence[str]) -> tuple[str, list[str]] | None:
    """Finds the set in a path, the whole name of a folder first; returns the rest of the path."""
    names = {plain(dataset): dataset for dataset in datasets} | {name: name for name in datasets}
    for index, part in reversed(list(enumerate(parts))):
        dataset = names.get(part) or names.get(plain(part))
        if dataset:
            return dataset, [*parts[:index], *parts[index + 1:]]

    # Part of a name, as in PFNet_COD10K.zip. Of DUTS and DUTS-TE the longer one is meant.
    for index, part in reversed(list(enumerate(parts))):
        for dataset in sorted(datasets, key=len, reverse=True):
            words = [re.escape(word) for word in re.split(f'[{SEPARATORS}]+', dataset)]
            pattern = f'[{SEPARATORS}]?'.join(words)
            match = re.search(rf'(?<![^\W_]){pattern}(?![^\W_])', part, re.IGNORECASE)
            if match:
                rest = (part[:match.start()] + part[match.end():]).strip(SEPARATORS)
                return dataset, [*parts[:index], *([rest] if rest else []), *parts[index + 1:]]
    return None


def _key(listing: Listing, datasets: Sequence[str]) -> tuple[str, ...]:
    """The folders on the way to predictions that may name the method, each of them once."""
    for parts in (listing.parts, listing.top):
        found = _find_set(parts, datasets)
        rest = found[1] if found else list(parts)
        named: dict[str, str] = {}
        for part in rest:
            if plain(part) not in GENERIC_FOLDERS:
                named.setdefault(plain(part), part)
        if named:
            return tuple(named.values())
        if rest and parts is listing.parts:
            return rest[-1],
    return ()


def _method_names(keys: Sequence[tuple[str, ...]], root: Path) -> list[str]:
    """Names methods by the folders that tell them apart."""
    start, end = _shared(keys)
    names = []
    for key in keys:
        own = key[start:len(key) - end]
        names.append('/'.join(own) or _root_name(root))
    return names


def _shared(keys: Sequence[tuple[str, ...]]) -> tuple[int, int]:
    """How many first and last folders all keys share, beside the one that remains at least."""
    distinct = set(keys)
    shortest = min(map(len, distinct), default=0)
    start = 0
    while start < shortest - 1 and len({key[start] for key in distinct}) == 1:
        start += 1
    end = 0
    if len(distinct) > 1:
        while end < shortest - start - 1 and len({key[-1 - end] for key in distinct}) == 1:
            end += 1
    return start, end


def _root_name(root: Path) -> str:
    name = root.resolve().name
    return archive_stem(name) or name
