"""What the names of folders mean: sets, masks, images, and words that name no method."""

import re
from collections.abc import Sequence

from evaluation.files import Listing

MASKS = frozenset((
    'gt', 'gts', 'mask', 'masks', 'groundtruth', 'groundtruths', 'annotation', 'annotations',
    'label', 'labels', 'alpha', 'segmentation'))
TRIMAPS = frozenset(('trimap', 'trimaps'))
IMAGES = frozenset((
    'im', 'ims', 'img', 'imgs', 'image', 'images', 'rgb', 'input', 'inputs'))
# What else lies beside the masks of a set.
OTHERS = TRIMAPS | IMAGES | {'edge', 'edges', 'instance', 'instances', 'depth', 'skeleton'}
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
    return ''.join(character for character in name.casefold() if character.isalnum())


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
    return (*('',), *path_names(listing))[-1]


def set_of(listing: Listing, datasets: Sequence[str]) -> str | None:
    """The set that a folder's path names; None if it names none."""
    for parts in (listing.parts, listing.top):
        found = find_set(parts, datasets)
        if found:
            return found[0]
    return None


def find_set(parts: Sequence[str], datasets: Sequence[str]) -> tuple[str, list[str]] | None:
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
