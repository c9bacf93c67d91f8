"""How methods are shown in tables, figures and the report: their names, order and lines.

A small TOML file decides:

    only_listed = true            # leave out the methods that are not listed

    [[method]]
    folder = "run--epoch_10"      # as on disk
    name = "Ours"
    color = "#d55e00"             # also a name, such as "red"
    ours = true                   # in bold, with a thicker line

    [[method]]
    folder = "SINet"

Its order is that of the tables. `[[run]]` with `run` in place of `folder` does the same for the
runs in the figures of scores over epochs.
"""

import tomllib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.formats import Cell, clean_name, label
from evaluation.lines import Line, distinct_lines

OURS_WIDTH = 2.1
KEYS = {'name': str, 'color': str, 'ours': bool}
TOP_KEYS = {'only_listed': bool, 'method': list, 'run': list}


class Shown(NamedTuple):
    """How a method is shown.

    Attributes:
        folder: Its name on disk.
        name: Its name for people.
        line: Of its curves.
        ours: Whether it is marked as the authors' own.
    """

    folder: str
    name: str
    line: Line
    ours: bool = False

    @property
    def label(self) -> Cell:
        """The cell of a table that names the method."""
        return label(self.name, self.ours)


class MethodsFile(NamedTuple):
    """What the file says: entries by folder and by run, and whether others are left out."""

    path: str
    methods: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]]
    only_listed: bool


def show_all(folders: Sequence[str]) -> list[Shown]:
    """Shows methods by their names on disk, in this order."""
    lines = distinct_lines(len(folders))
    shown = []
    for folder, line in zip(folders, lines, strict=True):
        shown.append(Shown(folder, clean_name(folder), line))
    return shown


def choose_methods(text: str | None, scored: Sequence[str]) -> list[Shown]:
    """Chooses methods by their names on disk, `A+B`, in this order; None for all.

    Raises:
        ValueError: Naming those without scores.
    """
    folders = list(dict.fromkeys(text.split('+'))) if text else list(scored)
    unknown = [folder for folder in folders if folder not in scored]
    if unknown:
        raise ValueError(
            f'--methods: no scores of {", ".join(unknown)}; there are {", ".join(scored)}')
    return show_all(folders)


def is_methods_file(text: str | None) -> bool:
    """Whether `--methods` names a file, and not methods."""
    return text is not None and text.lower().endswith('.toml')


def show_methods(
    text: str | None, methods: Sequence[str], runs: Sequence[str],
) -> tuple[list[Shown], list[Shown]]:
    """Chooses methods and runs, and how they are shown.

    Args:
        text: What `--methods` says: a file, `A+B`, or None for all.
        methods: Those there are, by their names on disk.
        runs: Those that have several epochs.

    Raises:
        ValueError: Naming all that is wrong in the file, or is not there.
    """
    if text is None or not is_methods_file(text):
        return choose_methods(text, methods), show_all(runs)
    file = read_methods_file(text)
    return show_listed(file, methods), show_listed(file, runs, 'run')


def read_methods_file(path: str) -> MethodsFile:
    """Reads the file.

    Raises:
        ValueError: Naming everything in it that is wrong.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding='utf-8-sig'))
    except ValueError as error:  # also of bytes that are not UTF-8
        raise ValueError(f'{path}: not TOML ({error})') from None
    problems = _wrong_keys('the file', content, TOP_KEYS)
    tables = {}
    for kind, key in (('method', 'folder'), ('run', 'run')):
        entries = content.get(kind, [])
        found = entries if isinstance(entries, list) else []
        tables[kind] = _read_entries(kind, key, found, problems)
    if problems:
        raise ValueError(f'{path}: ' + '; '.join(problems))
    return MethodsFile(
        path,
        tables['method'],
        tables['run'],
        content.get('only_listed', False))


def _wrong_keys(place: str, found: Mapping[str, Any], known: Mapping[str, type]) -> list[str]:
    problems = []
    for key, value in found.items():
        if key not in known:
            problems.append(f'{place} has an unknown {key!r}; known: {", ".join(known)}')
        elif not isinstance(value, known[key]):
            problems.append(f'{key} of {place} is {value!r}, which is no {known[key].__name__}')
    return problems


def _read_entries(
    kind: str, key: str, entries: Sequence[Any], problems: list[str],
) -> dict[str, dict[str, Any]]:
    """Reads `[[method]]` or `[[run]]`, by what is on disk, and adds to `problems`."""
    by_key: dict[str, dict[str, Any]] = {}
    names: list[str] = []
    for number, entry in enumerate(entries, 1):
        place = f'{kind} {number}'
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            problems.append(f'{place} has no {key} = "..."')
            continue
        on_disk = entry[key]
        problems += _wrong_keys(f'{place} ({on_disk})', entry, {key: str, **KEYS})
        color = entry.get('color', 'black')
        if isinstance(color, str) and not _is_color(color):
            problems.append(f'{place} ({on_disk}): no colour: {color!r}; write "#d55e00" or "red"')
        if on_disk in by_key:
            problems.append(f'{on_disk} is listed twice')
        by_key[on_disk] = entry
        names.append(str(entry.get('name', on_disk)))
    for name, number in sorted(Counter(names).items()):
        if number > 1:
            problems.append(f'{number} of the {kind}s are shown as {name!r}')
    return by_key


def _is_color(text: str) -> bool:
    from matplotlib.colors import is_color_like  # half a second, for those who name colours
    return is_color_like(text)


def show_listed(
    file: MethodsFile, found: Collection[str], kind: str = 'method',
) -> list[Shown]:
    """Shows methods, or runs, as the file says.

    Args:
        file: The file.
        found: Those there are, by names on disk.
        kind: 'method' or 'run'. A file that lists none of a kind shows all by their names.

    Raises:
        ValueError: Naming what is listed but not there, and what is there but not listed.
    """
    entries = file.methods if kind == 'method' else file.runs
    if not entries:
        return show_all(list(found))

    # Nothing is left out, and nothing is taken for another, silently.
    problems = []
    missing = [name for name in entries if name not in found]
    if missing:
        problems.append(f'there is no {kind} {", ".join(missing)}; there are {", ".join(found)}')
    unlisted = [name for name in found if name not in entries]
    if unlisted and not file.only_listed:
        problems.append(
            f'there, but not listed: {", ".join(unlisted)}; add [[{kind}]], or '
            'only_listed = true to leave them out')
    if problems:
        raise ValueError(f'{file.path}: ' + '; '.join(problems))
    return _as_listed(entries)


def _as_listed(entries: Mapping[str, Mapping[str, Any]]) -> list[Shown]:
    """A line is of the entry's colour, or the next of ours that no entry has taken."""
    # The lines that are left for entries without a colour.
    taken = set()
    for entry in entries.values():
        if 'color' in entry:
            taken.add(entry['color'].lower())
    every = distinct_lines(len(entries) + len(taken))
    untaken = [line for line in every if line.color.lower() not in taken]
    free = cycle(untaken or every)

    shown = []
    for on_disk, entry in entries.items():
        line = Line(entry['color']) if 'color' in entry else next(free)
        ours = entry.get('ours', False)
        if ours:
            line = line._replace(width=OURS_WIDTH)
        name = clean_name(entry.get('name', on_disk))
        shown.append(Shown(on_disk, name, line, ours))
    return shown
