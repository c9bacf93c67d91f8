"""What the masks of a set have in common, so that one sentence can be said of all of them."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from readers.masks import interpret
from readers.opening import Readable

FOREGROUND = 128  # values above this are foreground
SAMPLE = 256  # masks that are looked at, spread over the set, if the set is larger

# Numbers of labels, and the least share of pixels that have one.
HIGHEST_LABEL = 40
LABEL_SHARE = .005

LABELS_AND_VOID = (
    'hold 255 and low numbers only; 255 alone is taken as foreground. If these are labels, and 255 '
    'is void, save them as 0 and 255')
NO_FOREGROUND = 'are not black, but hold no foreground (no value above 128)'


class _Look(NamedTuple):
    """What one mask shows."""

    notes: list[str]
    has_foreground: bool
    problem: str = ''  # why it cannot be read


def survey_masks(
    name: str, files: Sequence[Readable], workers: int = 8, skip_bad: bool = False,
) -> list[str]:
    """Looks at the masks of a set, and says how they are understood.

    Args:
        name: the set's, for messages.
        files: its masks. Of many, a sample is read, and then more until one has foreground.
        workers: number of threads.
        skip_bad: leave out masks that cannot be read.

    Returns:
        A sentence for each kind of mask that needs an interpretation; none if all are plain.

    Raises:
        ValueError: not one mask has foreground; or lists the masks that cannot be read.
    """
    looks: dict[Readable, _Look] = {}
    with ThreadPoolExecutor(workers) as pool:
        for part in _parts(files):
            looks.update(zip(part, pool.map(_look, part), strict=True))
            if any(look.has_foreground for look in looks.values()):
                break
    problems = [look.problem for look in looks.values() if look.problem]
    if problems and not skip_bad:
        raise ValueError('\n  '.join([f'{name}: masks that cannot be read:', *problems]))

    by_note: dict[str, list[Readable]] = defaultdict(list)
    for path, look in looks.items():
        for note in look.notes:
            by_note[note].append(path)
    sentences = []
    for note, paths in by_note.items():
        sentences.append(f'{name}: {len(paths)} of {len(looks)} masks {note}, e.g. {paths[0]}')
    num_readable = len(looks) - len(problems)
    if num_readable and not any(look.has_foreground for look in looks.values()):
        listed = '\n  '.join(sentences)
        raise ValueError(
            f'{name}: not one of the {num_readable} masks has foreground, a value above '
            f'{FOREGROUND}, e.g. {files[0]}\n  {listed}'.rstrip())
    return sentences


def _parts(files: Sequence[Readable]) -> list[Sequence[Readable]]:
    """The sample, and the others in parts as large as that."""
    step = max(1, len(files) // SAMPLE)
    parts = [files[::step]]
    rest = [path for number, path in enumerate(files) if number % step]
    for start in range(0, len(rest), SAMPLE):
        parts.append(rest[start:start + SAMPLE])
    return parts


def _look(path: Readable) -> _Look:
    try:
        grey, notes = interpret(path)
    except ValueError as error:
        return _Look([], False, str(error))
    except OSError as error:
        return _Look([], False, f'{path}: {error}')
    highest = grey.max(initial=0)
    if 0 < highest <= FOREGROUND:
        notes = [*notes, NO_FOREGROUND]
    elif highest == 255 and _has_labels(grey):
        notes = [*notes, LABELS_AND_VOID]
    return _Look(notes, highest > FOREGROUND)


def _has_labels(grey: np.ndarray) -> bool:
    """Whether low numbers are all that there is beside 0 and 255."""
    counts = np.bincount(grey.ravel(), minlength=256)
    labelled = counts[1:HIGHEST_LABEL + 1].sum()
    others = counts[HIGHEST_LABEL + 1:255].sum()
    return bool(others == 0 and labelled > LABEL_SHARE * grey.size)
