"""Pairs the names of predictions with those of masks, also where a method adds words to them.

All predictions of a folder have one prefix and one suffix around the mask's name, e.g. `_sal_fuse`.
It is found from the names: the pair of affixes that fits the most masks.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

ASKED_MASKS = 20  # that propose affixes
CANDIDATES = 50  # affixes that are tried on all masks
# The part that every mask's name may have at its end, such as `_mask` or `_segmentation`.
MASK_SUFFIX = re.compile(r'[-_. ]\D*[^\W\d_]\D*$')


class Naming(NamedTuple):
    """What surrounds a mask's name in the names of its predictions.

    Attributes:
        prefix: In front of it.
        suffix: Behind it.
        mask_suffix: The end of every mask's name that its prediction does not have.
    """

    prefix: str = ''
    suffix: str = ''
    mask_suffix: str = ''

    def core(self, mask: str) -> str:
        """The mask's name as predictions have it."""
        return mask.removesuffix(self.mask_suffix)

    def prediction_of(self, mask: str) -> str:
        """The name of a mask's prediction."""
        return self.prefix + self.core(mask) + self.suffix

    def describe(self) -> str:
        """Says what is taken for what, for the user; empty for plain names."""
        parts = []
        if self.prefix:
            parts.append(f'the prefix {self.prefix!r}')
        if self.suffix:
            parts.append(f'the suffix {self.suffix!r}')
        found = ' and '.join(parts)
        if self.mask_suffix:
            found = f'{found or "nothing"} in place of the masks\' {self.mask_suffix!r}'
        return found


class Pairing(NamedTuple):
    """Names of predictions by mask, what surrounds them, and predictions that are left over.

    A prediction that is left over has with it the mask that it would fit too, if any.
    """

    pairs: dict[str, str]
    naming: Naming
    extra: dict[str, str | None]


def pair_names(masks: Collection[str], predictions: Collection[str]) -> Pairing:
    """Pairs names of masks and predictions, without their file suffixes."""
    names = set(predictions)
    naming = find_naming(masks, names)
    pairs = _fit(naming, masks, names)
    left = names.difference(pairs.values())
    extra = {}
    for name in sorted(left):
        extra[name] = _mask_inside(name, pairs, naming)
    return Pairing(pairs, naming, extra)


def find_naming(masks: Collection[str], predictions: Collection[str]) -> Naming:
    """Finds the affixes that fit the most masks; plain names where others fit few."""
    names = set(predictions)
    plain = Naming()
    best, most = plain, len(_fit(plain, masks, names))
    for mask_suffix in ('', _common_suffix(masks)):
        for naming in _candidates(masks, names, mask_suffix):
            if most == len(masks):
                return best
            count = len(_fit(naming, masks, names))
            if count > most:
                best, most = naming, count
    # A few that fit are chance. The messages are about plain names then.
    fewest = min(len(masks), len(names)) / 2
    return best if most > fewest else plain


def _fit(naming: Naming, masks: Collection[str], names: Collection[str]) -> dict[str, str]:
    """Returns the predictions that a naming finds, by mask."""
    pairs = {}
    for mask in masks:
        name = naming.prediction_of(mask)
        if name in names and _may_join(naming, naming.core(mask)):
            pairs[mask] = name
    # A single one needs more than letters that happen to be there.
    if len(pairs) == 1 and not _is_set_off(naming):
        return {}
    return pairs


def _may_join(naming: Naming, core: str) -> bool:
    """Whether the affixes leave the name's numbers whole: 12 is no 2 with the prefix 1."""
    if not core:
        return False
    before = naming.prefix[-1:]
    behind = naming.suffix[:1]
    splits_first = before.isdigit() and core[:1].isdigit()
    splits_last = behind.isdigit() and core[-1:].isdigit()
    return not splits_first and not splits_last


def _is_set_off(naming: Naming) -> bool:
    """Whether a character other than letters and digits separates the affixes."""
    return not naming.prefix[-1:].isalnum() and not naming.suffix[:1].isalnum()


def _candidates(masks: Collection[str], names: Collection[str], mask_suffix: str) -> list[Naming]:
    """Proposes affixes, the most frequent first. Long names are asked: few others hold them."""
    cores = [mask.removesuffix(mask_suffix) for mask in masks]
    unpaired = [core for core in cores if core and (mask_suffix or core not in names)]
    longest = sorted(unpaired, key=lambda core: (-len(core), core))

    # Each name votes for what surrounds a mask's name in it.
    votes: Counter[Naming] = Counter()
    for core in longest[:ASKED_MASKS]:
        for name in names:
            for prefix, suffix in _around(core, name):
                naming = Naming(prefix, suffix, mask_suffix)
                votes[naming] += 1

    def order(naming: Naming) -> tuple[int, int, Naming]:
        letters = len(''.join(naming))
        return -votes[naming], letters, naming

    ordered = sorted(votes, key=order)
    return ordered[:CANDIDATES]


def _around(core: str, name: str) -> Iterator[tuple[str, str]]:
    """What surrounds `core` in a name, wherever it is."""
    start = name.find(core)
    while start >= 0:
        yield name[:start], name[start + len(core):]
        start = name.find(core, start + 1)


def _common_suffix(masks: Collection[str]) -> str:
    """The words that end all masks' names; empty if there are none."""
    if len(masks) < 2:
        return ''
    reversed_names = [mask[::-1] for mask in masks]
    # What the first and the last of the sorted names share, all share.
    first = min(reversed_names)
    last = max(reversed_names)
    shorter = min(len(first), len(last))
    length = 0
    while length < shorter and first[length] == last[length]:
        length += 1
    reversed_common = first[:length]
    found = MASK_SUFFIX.search(reversed_common[::-1])
    return found.group() if found else ''


def _mask_inside(name: str, masks: Collection[str], naming: Naming) -> str | None:
    """The mask whose name a prediction has as whole words; None if there is none."""
    inside = []
    for mask in masks:
        core = naming.core(mask)
        pattern = rf'(?<![^\W_]){re.escape(core)}(?![^\W_])'
        if core in name and re.search(pattern, name):
            inside.append(mask)
    return max(inside, key=len, default=None)
