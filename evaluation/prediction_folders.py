"""Which folders of a tree hold which method's predictions of which set.

Sets are known by name. Of the other folders on the way to predictions, those that tell them apart
name the method: METHOD/SET, SET/METHOD, METHOD/SET.zip, results/METHOD/SET/pred and so on.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation.files import Listing, read_tree
from evaluation.folder_names import (
    GENERIC,
    OTHERS,
    OVERLAYS,
    find_set,
    last_name,
    path_names,
    plain,
    set_of,
)
from evaluation.mask_folders import Masks


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


def find_predictions(
    pred_root: str | os.PathLike, masks: Sequence[Masks], other_sets: Collection[str] = (),
) -> Predictions:
    """Finds the predictions of some sets on a tree of any layout, archives included.

    Args:
        pred_root: A folder, or an archive. The masks may lie there too.
        masks: The masks of the sets.
        other_sets: Names of further sets, whose folders are left out.

    Raises:
        ValueError: If there is nothing of these sets.
    """
    root = Path(pred_root)
    if not root.exists():
        raise ValueError(
            f'--pred_root {root}: no such folder; it should hold <method>/<set>/<name>.png')
    datasets = [found.dataset for found in masks]
    tree = read_tree(root)
    listings = list(_without_masks(tree.listings, masks))
    named = [one for one in listings if not _is_of_others(one)]
    of_sets, of_all = _split(named or listings, datasets, other_sets)
    found = Predictions(root, {}, {}, list(tree.problems), list(tree.notes))
    keys = [_key(listing, datasets) for listing in (*of_sets, *of_all)]
    for listing, method in zip((*of_sets, *of_all), _method_names(keys, root), strict=True):
        dataset = set_of(listing, datasets)
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


def _without_masks(listings: Sequence[Listing], masks: Sequence[Masks]) -> Iterator[Listing]:
    """The folders beside those of the masks, where both are below one root."""
    places = {os.path.realpath(str(found.listing.folder)) for found in masks}
    for listing in listings:
        if os.path.realpath(str(listing.folder)) not in places:
            yield listing


def _is_of_others(listing: Listing) -> bool:
    """Whether a folder has what lies beside predictions: METHOD/SET/im, METHOD/overlay/SET."""
    names = [plain(name) for name in path_names(listing)]
    below_method = names[1:]
    has_overlays = not OVERLAYS.isdisjoint(below_method)
    is_beside_masks = plain(last_name(listing)) in OTHERS
    return has_overlays or is_beside_masks


def _split(
    listings: Sequence[Listing], datasets: Sequence[str], other_sets: Collection[str],
) -> tuple[list[Listing], list[Listing]]:
    """Splits folders into those of one set and those that may hold all. Others are left out."""
    wanted = {plain(name) for name in datasets}
    others = {plain(name) for name in other_sets} - wanted
    of_sets: list[Listing] = []
    without = []
    places: set[str] = set()
    for listing in listings:
        words = _words(listing)
        is_of_other = others.intersection(words) and not wanted.intersection(words)
        if is_of_other or not set_of(listing, datasets):
            without.append(listing)
        elif not places.intersection(_above(listing)):  # not what a method keeps below its masks
            of_sets.append(listing)
            places.add(str(listing.folder))

    # Where a method has folders of sets, its other folders are of other sets, or no predictions.
    taken = {plain(part) for listing in of_sets for part in _key(listing, datasets)}
    for listing in without:
        words = [plain(part) for part in listing.parts]
        if taken.intersection(words):
            others.update(word for word in words if word not in taken)
    of_all = []
    for listing in without:
        words = _words(listing)
        is_stray = of_sets and not words
        if not is_stray and not taken.union(others).intersection(words):
            of_all.append(listing)
    return of_sets, of_all


def _words(listing: Listing) -> list[str]:
    return [plain(part) for part in path_names(listing)]


def _above(listing: Listing) -> list[str]:
    """The folders that a folder lies in."""
    return [str(path) for path in Path(str(listing.folder)).parents]


def _key(listing: Listing, datasets: Sequence[str]) -> tuple[str, ...]:
    """The folders on the way to predictions that may name the method, each of them once."""
    for parts in (listing.parts, listing.top):
        found = find_set(parts, datasets)
        rest = found[1] if found else list(parts)
        named: dict[str, str] = {}
        for part in rest:
            if plain(part) not in GENERIC:
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
        names.append('/'.join(own) or root.resolve().name)
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
