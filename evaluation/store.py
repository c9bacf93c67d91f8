"""Scores of single images on disk, one JSON object a line, so that only what is new is ever computed.

JSON lines, since appending a line is all it takes to save a result, a line cut off by a crash is recognised and
dropped, and any tool reads them. A file is appended to while an evaluation runs and rewritten in order, atomically, at
its end: the same inputs give the same bytes, however often the evaluation was interrupted.
"""

import base64
import json
import os
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from evaluation.ground_truth import GROUPS, Measurement
from utils import atomic_write

# Raise it whenever a metric's values change: scores of another version are computed again.
VERSION = 2


def encode(counts: np.ndarray | None) -> str | None:
    """Counts as text: little-endian int64, deflated, base64."""
    if counts is None:
        return None
    return base64.b64encode(zlib.compress(counts.astype('<i8').tobytes(), 9)).decode()


def decode(text: str) -> np.ndarray:
    """The counts (2, 256) behind `encode`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), '<i8').reshape(2, -1)


def make_row(method: str, name: str, files: list[list[int]], groups: Collection[str], measured: Measurement) -> dict:
    """The line for one prediction; `files` are the fingerprints of prediction and mask."""
    return {'method': method, 'name': name, 'files': files, 'version': VERSION,
            'groups': [group for group in GROUPS if group in groups],
            'values': dict(sorted(measured.values.items())),
            'counts': encode(measured.counts), 'edge_counts': encode(measured.edge_counts)}


class ScoreStore:
    """The scores of one test set, in one file."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.rows: dict[tuple[str, str], dict] = {}
        for line in self._lines():
            try:
                row = json.loads(line)
                self.rows[row['method'], row['name']] = row
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a crash: to be computed again

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines() if self.path.exists() else []

    def missing(self, method: str, name: str, files: list[list[int]], groups: Collection[str]) -> set[str]:
        """The groups to compute so that all of `groups` are there: none, or with them those that are there now."""
        row = self.rows.get((method, name))
        if not row or row['version'] != VERSION or row['files'] != files:
            return set(groups)
        stored = set(row['groups'])
        return set() if stored >= set(groups) else stored | set(groups)

    def append(self, rows: list[dict]) -> None:
        """Saves rows at once, in place of older ones of the same method and name."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows |= {(row['method'], row['name']): row for row in rows}
        with open(self.path, 'ab') as file:
            # The line break in front ends a line that a crash may have cut off.
            file.write(b'\n' + b'\n'.join(map(_line, rows)) + b'\n')

    def drop_others(self, methods: Collection[str], names: Collection[str]) -> None:
        """Forgets images that a set no longer has, of these methods."""
        kept = set(names)
        self.rows = {(method, name): row for (method, name), row in self.rows.items()
                     if method not in methods or name in kept}

    def finish(self) -> None:
        """Rewrites the file in order, if it differs."""
        data = b''.join(_line(self.rows[key]) + b'\n' for key in sorted(self.rows))
        if not self.path.exists() or self.path.read_bytes() != data:
            with atomic_write(self.path) as file:
                file.write(data)


def _line(row: dict) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(',', ':')).encode()
