"""Scores of single images on disk, one JSON object a line, so that only new ones are computed.

JSON lines, because appending a line is enough to save a result, a line cut off by a crash is
recognised, and any tool reads them. A file is appended to during an evaluation and rewritten in
order, atomically, at its end: the same inputs give the same bytes, however often the evaluation was
interrupted.
"""

import base64
import json
import os
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from evaluation.kernels.histograms import BINARY
from evaluation.measuring import Measurement
from evaluation.metrics import METRICS
from utils import atomic_write, naming, printable

# Raise it whenever a metric's values change: scores of another version are computed again.
VERSION = 3
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
    files: list[list[int]],
    metrics: Collection[str],
    measured: Measurement,
) -> dict:
    """Makes the row of one prediction.

    Args:
        method: The prediction's method.
        name: The image's name.
        files: Fingerprints of prediction and mask.
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
    """Reads the measurement back from a row."""
    counts = {}
    for kind, key in COUNTS_KEYS.items():
        if row[key]:
            read = decode_targets if kind == 'targets' else decode
            counts[kind] = read(row[key])
    return Measurement(row['values'], counts)


def stored_metrics(row: dict) -> set[str]:
    """Returns the metrics that a row has: those that were asked for or follow from its counts."""
    derived = {metric.name for metric in METRICS.values() if metric.follows_from_counts}
    return derived.union(row['groups'])


class ScoreStore:
    """The scores of one test set, in one file."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.rows: dict[tuple[str, str], dict] = {}
        with naming(self.path):
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
                self.rows[row['method'], row['name']] = row
            except (ValueError, KeyError, TypeError):
                continue  # A crash cut the line off. Its image is computed again.

    def missing(
        self, method: str, name: str, files: list[list[int]], metrics: Collection[str],
    ) -> list[str]:
        """Returns the metrics to measure so that a row has all of `metrics`; none if it has them.

        A row is replaced as a whole, so the metrics it has already are measured again with them.
        Metrics that follow from counts are in every row.
        """
        row = self.rows.get((method, name))
        wanted = set(metrics)
        if row and row['version'] == VERSION and row['files'] == files:
            if stored_metrics(row) >= wanted:
                return []
            wanted.update(row['groups'])
        return [metric for metric in METRICS if metric in wanted]

    def append(self, rows: list[dict]) -> None:
        """Saves rows at once, in place of older ones of the same method and name."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for row in rows:
            self.rows[row['method'], row['name']] = row
        # The line break in front ends a line that a crash may have cut off.
        lines = [_line(row) for row in rows]
        data = b'\n' + b'\n'.join(lines) + b'\n'
        with naming(self.path), open(self.path, 'ab') as file:
            file.write(data)

    def drop_others(self, methods: Collection[str], names: Collection[str]) -> None:
        """Drops the rows of these methods for images that the set no longer has."""
        kept = set(names)
        for method, name in list(self.rows):
            if method in methods and name not in kept:
                del self.rows[method, name]

    def finish(self) -> None:
        """Rewrites the file in order, if it differs."""
        lines = [_line(self.rows[key]) + b'\n' for key in sorted(self.rows)]
        data = b''.join(lines)
        with naming(self.path):
            if self.path.exists() and self.path.read_bytes() == data:
                return
        with atomic_write(self.path) as file:
            file.write(data)


def _line(row: dict) -> bytes:
    text = json.dumps(row, ensure_ascii=False, separators=(',', ':'))
    if printable(text) != text:  # a file's name that is not UTF-8, which escapes give back
        text = json.dumps(row, separators=(',', ':'))
    return text.encode()
