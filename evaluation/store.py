"""Scores of single images on disk, one JSON object a line, so that only new ones are computed.

JSON lines, because appending a line is enough to save a result, a line cut off by a crash is
recognised, and any tool reads them. A file is appended to during an evaluation and rewritten in
order, atomically, at its end: the same inputs give the same bytes, however often the evaluation was
interrupted.
"""

import base64
import json
import os
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.kernels.histograms import BINARY
from evaluation.measuring import Measurement
from evaluation.metrics import METRICS
from runtime.fingerprints import Fingerprint, State
from utils import atomic_write, errors_naming, printable

# Raise it whenever a metric's values or what is kept of files change: scores of another version
# are computed again.
VERSION = 4
# The key of a row for each kind of counts.
COUNTS_KEYS = {'pixels': 'counts', 'boundary': 'edge_counts', 'targets': 'target_counts'}


def encode(counts: np.ndarray) -> str:
    """Encodes counts as text: little-endian int64, deflated, base64."""
    data = counts.astype('<i8').tobytes()
    compressed = zlib.compress(data, 9)
    return base64.b64encode(compressed).decode()


def decode(text: str) -> np.ndarray:
    """Decodes counts (2, ...) from `encode`'s text."""
    data = zlib.decompress(base64.b64decode(text))
    return np.frombuffer(data, '<i8').reshape(2, -1)


def decode_targets(text: str) -> np.ndarray:
    """Decodes counts (targets, 2, 258) from `encode`'s text."""
    return decode(text).reshape(-1, 2, BINARY + 1)


def make_row(
    method: str,
    name: str,
    files: Sequence[Fingerprint],
    metrics: Collection[str],
    measured: Measurement,
) -> dict:
    """Makes the row of one prediction.

    Args:
        method: The prediction's method.
        name: The image's name.
        files: Fingerprints of prediction and mask, and of what else may matter.
        metrics: Names of the metrics that were measured.
        measured: The measurement.
    """
    row = {
        'method': method,
        'name': name,
        'files': files,
        'version': VERSION,
        'groups': sorted(metrics),
        'values': dict(sorted(measured.values.items())),
    }
    for kind, key in COUNTS_KEYS.items():
        counts = measured.counts.get(kind)
        row[key] = None if counts is None else encode(counts)
    return row


def measurement_of(row: dict) -> Measurement:
    """Reads the measurement back from a row. Raises ValueError that names it if it is damaged."""
    counts = {}
    try:
        for kind, key in COUNTS_KEYS.items():
            if row[key]:
                read = decode_targets if kind == 'targets' else decode
                counts[kind] = read(row[key])
        return Measurement(row['values'], counts)
    except (KeyError, TypeError, ValueError, zlib.error):
        raise ValueError(
            f'the stored scores of {row["method"]} for {row["name"]} are damaged; delete the '
            'folder scores in that of the results, and run eval_existingOnes.py again') from None


def stored_metrics(row: dict) -> set[str]:
    """Returns the metrics that a row has: those that were asked for or follow from its counts."""
    return with_derived(row['groups'])


def with_derived(groups: Collection[str]) -> set[str]:
    """Returns the metrics that were measured, and those that follow from any row's counts."""
    derived = {metric.name for metric in METRICS.values() if metric.follows_from_counts}
    return derived.union(groups)


class _Place(NamedTuple):
    """Where a row is, and what tells whether it is up to date."""

    path: Path
    offset: int
    length: int
    version: int
    files: int  # hash of their states
    groups: tuple[str, ...]


class Rows(Mapping[tuple[str, str], dict[str, Any]]):
    """The rows of a store by method and name, read from its files when they are asked for.

    Those of 100,000 predictions would fill gigabytes.
    """

    def __init__(self) -> None:
        self.places: dict[tuple[str, str], _Place] = {}
        self._groups: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __getitem__(self, key: tuple[str, str]) -> dict[str, Any]:
        row = None
        with suppress(ValueError):
            row = json.loads(self.line(key))
        if row is None or (row['method'], row['name']) != key:
            path = self.places[key].path
            raise ValueError(f'{path}: another process has written these scores; run again')
        return row

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def line(self, key: tuple[str, str]) -> bytes:
        """Reads a row as it is written, without the line's end."""
        place = self.places[key]
        with errors_naming(place.path), open(place.path, 'rb') as file:
            file.seek(place.offset)
            return file.read(place.length)

    def read(self, path: Path) -> None:
        """Adds the rows of a file, in place of older ones of the same method and name."""
        offset = 0
        with errors_naming(path), open(path, 'rb') as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError):  # A crash cut the line off.
                    self.add(path, offset, json.loads(line), len(line))
                offset += len(line)

    def add(self, path: Path, offset: int, row: dict[str, Any], length: int) -> None:
        """Notes that a row is in a file."""
        # Equal names and groups are kept once.
        named = tuple(row['groups'])
        groups = self._groups.setdefault(named, named)
        method = sys.intern(row['method'])

        files = _hash([fingerprint[:-1] for fingerprint in row['files']])
        place = _Place(path, offset, length, row['version'], files, groups)
        self.places[method, row['name']] = place


class MethodRows(Mapping[str, dict[str, Any]]):
    """The rows of one method by image name, read when they are asked for."""

    def __init__(self, rows: Rows, method: str, names: Collection[str]) -> None:
        self._rows = rows
        self._method = method
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._rows[self._method, name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ScoreStore:
    """The scores of one test set, in one file.

    Args:
        path: The file, to which new scores are appended.
        files: What is read, `path` among them; later files have the newer scores.
    """

    def __init__(self, path: str | os.PathLike, files: Sequence[Path] = ()) -> None:
        self.path = Path(path)
        self.rows = Rows()
        read_from = files or (self.path,)
        for file in read_from:
            if file.exists():
                self.rows.read(file)

    def missing(
        self, method: str, name: str, files: Sequence[State], metrics: Collection[str],
    ) -> list[str]:
        """Returns the metrics to measure so that a row has all of `metrics`; none if it has them.

        A row is replaced as a whole, so the metrics it has already are measured again with them.
        Metrics that follow from counts are in every row.

        Args:
            method: The prediction's method.
            name: The image's name.
            files: States of prediction and mask, and of what else may matter.
            metrics: Names of the metrics that the row should have.
        """
        place = self.rows.places.get((method, name))
        wanted = set(metrics)
        is_current = place and place.version == VERSION and place.files == _hash(files)
        if place and is_current:
            measured = with_derived(place.groups)
            if measured >= wanted:
                return []
            wanted.update(place.groups)
        return [metric for metric in METRICS if metric in wanted]

    def row_with(
        self, method: str, name: str, metrics: Collection[str],
    ) -> dict[str, Any] | None:
        """Returns the row that has these metrics, though its files may have changed since."""
        place = self.rows.places.get((method, name))
        if place is None or place.version != VERSION:
            return None
        has_all = with_derived(place.groups).issuperset(metrics)
        return self.rows[method, name] if has_all else None

    def append(self, rows: list[dict]) -> None:
        """Saves rows at once, in place of older ones of the same method and name."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The line break in front ends a line that a crash may have cut off.
        lines = [_line(row) for row in rows]
        joined = b'\n'.join(lines)
        data = b'\n' + joined + b'\n'
        with errors_naming(self.path), open(self.path, 'ab') as file:
            offset = file.seek(0, os.SEEK_END) + 1
            file.write(data)
        for row, line in zip(rows, lines, strict=True):
            length = len(line)
            self.rows.add(self.path, offset, row, length)
            offset += length + 1

    def drop_others(self, methods: Collection[str], names: Collection[str]) -> None:
        """Drops the rows of these methods for images that the set no longer has."""
        kept = set(names)
        for method, name in list(self.rows):
            if method in methods and name not in kept:
                del self.rows.places[method, name]

    def finish(self) -> None:
        """Rewrites the file in order, with the rows of all others, if it differs."""
        keys = sorted(self.rows)
        if self._is_in_order(keys):
            return
        with atomic_write(self.path) as file:
            for key in keys:
                line = self.rows.line(key)
                row = line.rstrip(b'\n')
                file.write(row + b'\n')
        self.rows = Rows()
        self.rows.read(self.path)

    def _is_in_order(self, keys: list[tuple[str, str]]) -> bool:
        """Whether the file holds these rows in this order, and nothing else."""
        offset = 0
        for key in keys:
            place = self.rows.places[key]
            if place.path != self.path or place.offset != offset:
                return False
            offset += place.length
        return self.path.exists() and self.path.stat().st_size == offset


def are_same(before: Sequence[Sequence[int]], now: Sequence[Fingerprint]) -> bool:
    """Whether the files of a row, as it was read, have the content that they had."""
    if len(before) != len(now):
        return False
    pairs = zip(before, now, strict=True)
    return all(Fingerprint(*one).has_same_content(other) for one, other in pairs)


def _hash(files: Sequence[Sequence[int]]) -> int:
    """A number for the states of files: for memory, as there may be 100,000 of them."""
    return hash(tuple(tuple(one) for one in files))


def _line(row: dict) -> bytes:
    text = json.dumps(row, ensure_ascii=False, separators=(',', ':'))
    if printable(text) != text:  # a file's name that is not UTF-8, which escapes give back
        text = json.dumps(row, separators=(',', ':'))
    return text.encode()
