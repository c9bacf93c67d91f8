"""What the names of folders mean: sets, masks, images, and words that name no method."""

import re
from collections.abc import Sequence
from functools import cache

from evaluation.files import Listing

MASKS = frozenset((
    'gt', 'gts', 'mask', 'masks', 'groundtruth', 'groundtruths', 'annotation', 'annotations',
    'label', 'labels', 'alpha', 'segmentation'))
TRIMAPS = frozenset(('trimap', 'trimaps'))
IMAGES = frozenset((
    'im', 'ims', 'img', 'imgs', 'image', 'images', 'rgb', 'input', 'inputs'))
# Predictions drawn over their images, for people.
OVERLAYS = frozenset(('overlay', 'overlays'))
# What else lies beside the masks of a set.
OTHERS = TRIMAPS | IMAGES | OVERLAYS | {
    'edge', 'edges', 'instance', 'instances', 'depth', 'skeleton'}
# Names that are no method's where another folder is.
GENERIC = MASKS | {
    'pred', 'preds', 'prediction', 'predictions', 'predictionmaps', 'epreds', 'result', 'results',
    'output', 'outputs', 'map', 'maps', 'sal', 'saliency', 'saliencymaps', 'test', 'testing', 'val',
    'testset', 'testsets', 'testdataset', 'dataset', 'datasets'}
# The end of a set's name that papers leave out.
SET_SUFFIX = re.compile(r'[-_ .]test(ing)?[-_ ]?(data)?set$', re.IGNORECASE)
SEPARATORS = '-_. '


def plain(name: str) -> str:
    """A name without what people write in different ways: case, and all but letters and digits."""
    kept = filter(str.isalnum, name.casefold())
    return ''.join(kept)


def means(name: str, words: frozenset[str]) -> bool:
    """Whether a folder's name is one of these words, or has one, as DUTS-TE-Mask has."""
    parts = re.findall('[a-z]+', name.casefold())
    return plain(name) in words or not words.isdisjoint(parts)


def means_masks(name: str) -> bool:
    """Whether a folder's name says that masks are in it, and not their edges, for example."""
    return means(name, MASKS) and not means(name, OTHERS)


def path_names(listing: Listing) -> tuple[str, ...]:
    """The names on the way to a folder of images, from the outermost."""
    return (*listing.parts, *listing.top)


def last_name(listing: Listing) -> str:
    """The name of a folder of images below the root; empty for the root."""
    names = path_names(listing)
    return names[-1] if names else ''


def set_of(listing: Listing, datasets: Sequence[str]) -> str | None:
    """The set that a folder's path names; None if it names none."""
    for parts in (listing.parts, listing.top):
        found = find_set(parts, datasets)
        if found:
            return found[0]
    return None


def find_set(parts: Sequence[str], datasets: Sequence[str]) -> tuple[str, list[str]] | None:
    """Finds the set in a path, the whole name of a folder first; returns the rest of the path."""
    by_name = {plain(dataset): dataset for dataset in datasets}
    for index, part in _from_innermost(parts):
        dataset = by_name.get(plain(part))
        if dataset:
            return dataset, _with_part(parts, index, '')

    # Part of a name, as in PFNet_COD10K.zip. Of DUTS and DUTS-TE the longer one is meant.
    longest_first = sorted(datasets, key=len, reverse=True)
    for index, part in _from_innermost(parts):
        for dataset in longest_first:
            match = _pattern(dataset).search(part)
            if match:
                rest = part[:match.start()] + part[match.end():]
                return dataset, _with_part(parts, index, rest.strip(SEPARATORS))
    return None


def _from_innermost(parts: Sequence[str]) -> list[tuple[int, str]]:
    return list(enumerate(parts))[::-1]


def _with_part(parts: Sequence[str], index: int, part: str) -> list[str]:
    """A path with another part at `index`; without it if it is empty."""
    changed = list(parts)
    changed[index] = part
    return [part for part in changed if part]


@cache
def _pattern(dataset: str) -> re.Pattern[str]:
    """Finds a set's name as whole words, with any separators."""
    words = re.split(f'[{SEPARATORS}]+', dataset)
    escaped = [re.escape(word) for word in words]
    name = f'[{SEPARATORS}]?'.join(escaped)
    whole = rf'(?<![^\W_]){name}(?![^\W_])'
    return re.compile(whole, re.IGNORECASE)
