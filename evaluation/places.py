"""Where the files of a scored set are, kept with its scores for those who draw them later."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from evaluation.files import File, Folder, Listing, list_folder, read_tree
from evaluation.folder_names import IMAGES, means
from evaluation.inputs import SetPlan, by_stem
from evaluation.mask_folders import mask_folder
from evaluation.naming import Naming
from evaluation.store import VERSION
from evaluation.stored import Rows
from runtime.fingerprints import Fingerprint

# Where the fingerprints of files are among those of a row.
PREDICTION, MASK = 0, 1
NO_ROWS: Rows = MappingProxyType({})


def describe_places(plan: SetPlan) -> dict[str, Any]:
    """Returns where a set's masks and predictions are, as JSON."""
    methods = {}
    for method, (folder, naming) in plan.places.items():
        methods[method] = {
            **_describe(folder),
            **naming._asdict(),
            'zero_one': method in plan.zero_one,
        }
    return {'masks': _describe(plan.masks), 'methods': methods}


class ScoredFiles:
    """The files of a scored set by the names of its images; those that are gone are None.

    Masks and predictions are gone, too, where another file has taken their place.

    Args:
        found: The set's JSON, as `evaluation.results.write_set` writes it.
        dataset: Name of the set.
        rows: Its stored scores, which know the files that were scored.
    """

    def __init__(self, found: Mapping[str, Any], dataset: str, rows: Rows = NO_ROWS) -> None:
        self._found = found
        self._dataset = dataset
        self._rows = rows
        self._places: Mapping[str, Any] = found.get('places') or {'methods': {}}
        self._methods: dict[str, dict[str, File]] = {}

    def image(self, name: str) -> File | None:
        """Returns the image, from a folder of images beside that of the masks."""
        return self._images.get(name)

    def mask(self, name: str) -> File | None:
        """Returns the image's mask."""
        file = self._masks.get(name)
        if not self._rows:
            return file
        # The rows of all methods know it.
        any_method = next(iter(self._rows))
        return self._as_scored(file, any_method, name, MASK)

    def prediction(self, method: str, name: str) -> File | None:
        """Returns a method's prediction of the image."""
        if method not in self._methods:
            folder = self._folder(method)
            self._methods[method] = _files(folder)

        # Its name, with what the method adds to it.
        place = self._places['methods'].get(method, {})
        affixes = [place.get(field, '') for field in Naming._fields]
        naming = Naming(*affixes)
        expected = naming.prediction_of(name)
        file = self._methods[method].get(expected)
        return self._as_scored(file, method, name, PREDICTION)

    def is_zero_one(self, method: str) -> bool:
        """Whether the method's predictions hold but 0 and 1, for `read_prediction`."""
        place = self._places['methods'].get(method, {})
        return place.get('zero_one', False)

    def _as_scored(self, file: File | None, method: str, name: str, kind: int) -> File | None:
        """Returns a file, or None if it is another one than that which was scored."""
        row = self._rows.get(method, {}).get(name)
        if file is None or row is None or row['version'] != VERSION:
            return file
        try:
            known = Fingerprint(*row['files'][kind])
        except (IndexError, TypeError):  # a damaged row
            return None
        is_untouched = file.state == known[:-1]
        if is_untouched or known.has_same_content(file.fingerprint()):
            return file
        return None

    @cached_property
    def _mask_folder(self) -> Folder:
        if 'masks' in self._places:
            return _folder(self._places['masks'])
        path = mask_folder(self._found['gt_root'], self._dataset)
        return Folder(path)

    @cached_property
    def _masks(self) -> dict[str, File]:
        return _files(self._mask_folder)

    @cached_property
    def _images(self) -> dict[str, File]:
        for folder in _beside(self._mask_folder):
            if means(folder.name, IMAGES):
                return _files(folder)
        return {}

    def _folder(self, method: str) -> Folder:
        place = self._places['methods'].get(method)
        if place:
            return _folder(place)
        path = Path(self._found['pred_root'], method, self._dataset)
        return Folder(path)


def _describe(folder: Folder) -> dict[str, str | None]:
    inner = None if folder.inner is None else str(folder.inner)
    return {'folder': str(folder.path), 'inner': inner}


def _folder(place: Mapping[str, Any]) -> Folder:
    path = Path(place['folder'])
    inner = place['inner']
    if inner is None:
        return Folder(path)
    return Folder(path, PurePosixPath(inner))


def _beside(folder: Folder) -> list[Folder]:
    """The folders beside one, in the same archive if it is in any."""
    if folder.inner is None:
        around = folder.path.parent
        if not around.is_dir():
            return []
        return [Folder(path) for path in sorted(around.iterdir()) if path.is_dir()]

    # In an archive: the folders of the same folder.
    beside = []
    for listing in read_tree(folder.path).listings:
        inner = listing.folder.inner
        if inner is not None and inner.parent == folder.inner.parent:
            beside.append(listing.folder)
    return beside


def _files(folder: Folder) -> dict[str, File]:
    """The images of a folder by stem; none if it is gone."""
    try:
        if folder.inner is None:
            listing = Listing(folder, list_folder(folder.path), ())
            return by_stem(listing, [])
        listings = read_tree(folder.path).listings
        found = [one for one in listings if one.folder[:2] == folder[:2]]
    except OSError:
        return {}
    return by_stem(found[0], []) if found else {}
