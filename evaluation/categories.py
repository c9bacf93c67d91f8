"""Groups of images: the classes in DIS5K's file names, or categories and attributes from a CSV."""

import csv
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils import IMAGE_SUFFIXES, read_lines

# Fields of DIS5K's names, e.g. 1#Accessories#1#Bag#2339506821_83cf9f1d22_o.
DIS5K_FIELDS = {'group': 1, 'class': 3}
LISTED_PROBLEMS = 20
TRUE = ('1', '1.0', 'true', 'yes')
FALSE = ('0', '0.0', 'false', 'no', '')

Image = tuple[str, str]  # test set and name


class Grouping(NamedTuple):
    """Images by category, in the order of tables; an image may be in several, or in none."""

    name: str
    members: dict[str, list[Image]]


def read_grouping(text: str, images: Sequence[Image]) -> Grouping:
    """Groups images as `--by` says.

    Args:
        text: 'group' or 'class', which DIS5K's names carry, or a CSV file. Its first column names
            an image, `name`, `name.png` or `set/name`. Either the second column is its category
            (a line each for several, an empty one for none), or each further column is an
            attribute that the image has (1) or has not (0).
        images: The images that have been scored.

    Raises:
        ValueError: Naming images without a category, names that are no image, and wrong lines.
    """
    if text in DIS5K_FIELDS:
        return _by_name(text, images)
    path = Path(text)
    if not path.is_file():
        raise ValueError(
            f'--by {text}: no such file; write {", ".join(DIS5K_FIELDS)}, or a CSV file '
            'with the columns name,category')
    return _by_csv(path, images)


def _by_name(field: str, images: Sequence[Image]) -> Grouping:
    members: dict[str, list[Image]] = {}
    problems = []
    for dataset, name in images:
        fields = name.split('#')
        if len(fields) < 5:
            problems.append(f'{dataset}/{name}')
            continue
        category = fields[DIS5K_FIELDS[field]]
        of_category = members.setdefault(category, [])
        of_category.append((dataset, name))
    _raise(problems, f'--by {field}: these names carry none, as DIS5K\'s do; use a CSV file: ')
    in_order = sorted(members.items())
    return Grouping(field, dict(in_order))


def _by_csv(path: Path, images: Sequence[Image]) -> Grouping:
    texts = list(read_lines(path))
    # Spreadsheets write semicolons where the comma is the decimal point.
    first = texts[0] if texts else ''
    delimiter = max(',;\t', key=first.count)
    rows = list(csv.reader(texts, delimiter=delimiter))
    head, *lines = rows or [[]]
    if len(head) < 2:
        raise ValueError(f'{path}: no columns name,category in its first line')
    known = _by_listed_name(images)

    # Attributes have the order of their columns, categories that of the alphabet.
    attributes = head[1:] if len(head) > 2 else []
    members: dict[str, list[Image]] = {attribute: [] for attribute in attributes}
    listed: set[Image] = set()
    problems = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            problems.append(f'line {number} has {len(line)} columns, not {len(head)}')
            continue
        name, *cells = line
        found = known.get(_image_key(name, known), [])
        listed.update(found)
        try:
            categories = _categories(cells, attributes)
        except ValueError as error:
            problems.append(f'line {number}: {error}')
            continue
        for category in categories:
            members.setdefault(category, []).extend(found)

    # A file may list more images than have been scored, but not fewer.
    missing = []
    for dataset, name in images:
        if (dataset, name) not in listed:
            missing.append(f'{dataset}/{name}')
    if missing and not problems:
        problems.append(f'no line of {_shortened(missing)}; write `name,` for one of no category')
    _raise(problems, f'{path}: ')
    order = attributes or sorted(members)
    filled = {}
    for category in order:
        once = list(dict.fromkeys(members[category]))
        if once:
            filled[category] = once
    return Grouping(path.stem, filled)


def _by_listed_name(images: Iterable[Image]) -> dict[str, list[Image]]:
    """The images by the names that a file may give them: several of one name in several sets."""
    known: dict[str, list[Image]] = {}
    for dataset, name in images:
        for key in (name, f'{dataset}/{name}'):
            normalized = unicodedata.normalize('NFC', key)
            known.setdefault(normalized, []).append((dataset, name))
    return known


def _categories(cells: Sequence[str], attributes: Sequence[str]) -> list[str]:
    """The categories in a line: its one cell, or the attributes whose cells are 1."""
    texts = [cell.strip() for cell in cells]
    if not attributes:
        return [text for text in texts if text]
    unclear = [text for text in texts if text.lower() not in TRUE + FALSE]
    if unclear:
        raise ValueError(f'{", ".join(unclear)}: neither 0 nor 1')
    found = []
    for attribute, text in zip(attributes, texts, strict=True):
        if text.lower() in TRUE:
            found.append(attribute)
    return found


def _image_key(text: str, known: Iterable[str]) -> str:
    """The name of an image as it is known: without the suffix of a file, if need be."""
    key = unicodedata.normalize('NFC', text.strip())
    suffix = Path(key).suffix
    if key not in known and suffix.lower() in IMAGE_SUFFIXES:
        return key.removesuffix(suffix)
    return key


def _shortened(names: Sequence[str]) -> str:
    first = names[:LISTED_PROBLEMS]
    listed = ', '.join(first)
    more = len(names) - len(first)
    if more == 0:
        return listed
    return f'{listed} and {more} more'


def _raise(problems: Sequence[str], beginning: str) -> None:
    """Raises ValueError that names all problems, if there are any."""
    if problems:
        raise ValueError(beginning + _shortened(problems))
