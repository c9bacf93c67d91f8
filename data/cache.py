"""Resized pairs, kept in memory-mapped files that all processes of a machine share."""

import functools
import hashlib
import json
import logging
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from data.pairs import Pair, Size, load_pair, raise_all
from runtime.fingerprints import Fingerprint, State, state_of
from runtime.locks import hold_lock
from utils import LACKING, replace_file, round_up

logger = logging.getLogger(__name__)

PAGE = 4096
# Raised whenever other pixels are read of the same files, or a cache's file is laid out otherwise.
VERSION = 3
RECORDS_PER_SYNC = 64


class _Layout(NamedTuple):
    """Where the parts of a cache's file lie."""

    table_shape: tuple[int, int, int]
    records_offset: int  # in bytes
    file_bytes: int


class SharedCache:
    """`len(sources)` records of `record_bytes` bytes, each computed from its own source files.

    The file holds a header (JSON, one page), a table with the fingerprints of each record's
    sources at the time it was made, and the records. A record is valid if its sources are still
    the same. A build that was interrupted therefore goes on where it stopped, and only records of
    changed sources are made again. The pixels live in the page cache, once per machine, whatever
    the number of processes.

    Args:
        file: the cache's file, made where it is missing.
        sources: the source files of each record, equally many for all.
        record_bytes: size of a record.
    """

    def __init__(self, file: Path, sources: Sequence[Sequence[Path]], record_bytes: int):
        self.file = file
        self.sources = sources
        self.record_bytes = record_bytes
        self._maps: tuple[np.memmap, np.memmap] | None = None

    def __getstate__(self) -> dict:
        # A process that gets a copy maps the file itself, because maps do not travel.
        return {**self.__dict__, '_maps': None}

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, row: int) -> np.ndarray | None:
        """Record `row`, uint8 (record_bytes,), read-only, or None if its sources are unreadable."""
        if self._maps is None:
            if not self._is_on_disk():
                raise RuntimeError(f'{self.file}: replaced by another run; start again')
            self._maps = self._open('r')
        table, records = self._maps
        return records[row] if table[row].any() else None

    def build(
        self,
        make: Callable[[int], np.ndarray],
        workers: int = 8,
        skip_bad: bool = False,
    ) -> None:
        """Makes the records that are missing or whose sources have changed, under a lock.

        Args:
            make: computes record `row`, uint8 (record_bytes,); raises ValueError or OSError if its
                sources cannot be read.
            workers: number of threads.
            skip_bad: log the records that `make` could not make, instead of raising an error.

        Raises:
            ValueError: lists every record that `make` could not make (those made are kept); or,
                before anything is made, that the disk has too little space.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(Path(f'{self.file}.lock'), busy='', wait=True):
            if not self._is_on_disk():
                self._create()
            table, records = self._open('r+')

            # Whether a file that was touched has changed is known when it is read.
            states = self._states(workers)
            is_touched = (table[..., :-1] != states).any(axis=(1, 2))
            touched = np.flatnonzero(is_touched)
            if not touched.size:
                return
            logger.info('%s: making %d of %d records', self.file, touched.size, len(self))
            problems = self._fill(touched, table, records, make, workers)
        if not skip_bad:
            raise_all(problems)
        for problem in problems:
            logger.warning('left out: %s', problem)

    def _fill(
        self,
        rows: np.ndarray,
        table: np.memmap,
        records: np.memmap,
        make: Callable[[int], np.ndarray],
        workers: int,
    ) -> list[str]:
        """Makes those of `rows` whose sources have changed.

        Returns what was wrong with those that could not be made.
        """
        def fill(row: int, values: np.ndarray) -> list[Fingerprint] | str:
            before = [Fingerprint(*of_source) for of_source in values.tolist()]
            try:
                now = self._fingerprints(row, before)
                if not _are_same(before, now):
                    records[row] = make(row)
            except (ValueError, OSError) as error:
                return str(error)
            return now

        problems: list[str] = []
        bar = tqdm(total=len(rows), desc=self.file.name, disable=None)
        with ThreadPoolExecutor(workers) as pool, bar:
            for start in range(0, len(rows), RECORDS_PER_SYNC):
                # The rows are invalid until their records are new: this may be interrupted.
                chunk = rows[start:start + RECORDS_PER_SYNC]
                before = np.array(table[chunk])
                table[chunk] = 0
                results = list(pool.map(fill, chunk, before))
                # A record has to be on disk before the table says that it is.
                records.flush()
                for row, result in zip(chunk, results, strict=True):
                    if isinstance(result, str):
                        problems.append(result)
                    else:
                        table[row] = result
                bar.update(len(chunk))
        table.flush()
        return problems

    @property
    def _header(self) -> dict:
        """What the records are made of, in which order; another cache has another header."""
        names = []
        for paths in self.sources:
            names.append([path.name for path in paths])
        digest = hashlib.sha256(json.dumps(names).encode())
        return {
            'version': VERSION,
            'records': len(self),
            'record_bytes': self.record_bytes,
            'sources': digest.hexdigest(),
        }

    def _is_on_disk(self) -> bool:
        """Whether the file is there, whole, and made for these sources."""
        if not self.file.is_file():
            return False
        try:
            with open(self.file, 'rb') as file:
                header = json.loads(file.read(PAGE).rstrip(b'\0'))
            is_whole = self.file.stat().st_size == self._layout().file_bytes
        except (FileNotFoundError, ValueError):
            return False
        return is_whole and header == self._header

    def _layout(self) -> _Layout:
        table_shape = (len(self), len(self.sources[0]), len(Fingerprint._fields))
        table_bytes = math.prod(table_shape) * np.dtype(np.int64).itemsize

        # The records begin with a page, behind those of the header and of the table.
        records_offset = round_up(PAGE + table_bytes, PAGE)
        records_bytes = len(self) * self.record_bytes
        return _Layout(
            table_shape=table_shape,
            records_offset=records_offset,
            file_bytes=records_offset + records_bytes,
        )

    def _open(self, mode: Literal['r', 'r+']) -> tuple[np.memmap, np.memmap]:
        """The table, int64 (records, sources, 4), and the records, uint8 (records, bytes)."""
        layout = self._layout()
        table = np.memmap(self.file, np.int64, mode, PAGE, layout.table_shape)
        records = np.memmap(
            self.file,
            np.uint8,
            mode,
            layout.records_offset,
            (len(self), self.record_bytes),
        )
        return table, records

    def _create(self) -> None:
        """Replaces whatever is there by an empty file, and allocates its space if that works."""
        self.file.unlink(missing_ok=True)
        size = self._layout().file_bytes
        free = shutil.disk_usage(self.file.parent).free
        needed = f'{size / 1e9:.2f} GB'
        present = f'{free / 1e9:.2f} GB'
        logger.info('%s: %s for %d records, %s are free', self.file, needed, len(self), present)
        if size > free:
            raise ValueError(
                f'{self.file}: takes {needed}, but only {present} are free there; '
                'choose another cache_dir, a smaller size, or load_all=false')

        part = self.file.with_name(f'{self.file.name}.part')
        try:
            with open(part, 'wb') as file:
                header = json.dumps(self._header).encode()
                file.write(header.ljust(PAGE, b'\0'))
                file.truncate(size)
                _allocate(file.fileno(), size)
            replace_file(part, self.file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _states(self, workers: int) -> np.ndarray:
        """Size and times of every source now, int64 (records, sources, 3)."""
        def states(paths: Sequence[Path]) -> list[State]:
            return [state_of(path) for path in paths]

        with ThreadPoolExecutor(workers) as pool:
            rows = list(pool.map(states, self.sources))
        return np.array(rows, np.int64)

    def _fingerprints(self, row: int, before: Sequence[Fingerprint]) -> list[Fingerprint]:
        """Fingerprints of a record's sources now; of those that are as `before` without reading."""
        found = []
        for path, known in zip(self.sources[row], before, strict=True):
            found.append(Fingerprint.of(path, known))
        return found


def _are_same(before: Sequence[Fingerprint], now: Sequence[Fingerprint]) -> bool:
    """Whether the sources of a record are the same."""
    pairs = zip(before, now, strict=True)
    return all(one.is_same(other) for one, other in pairs)


def _allocate(handle: int, size: int) -> None:
    """Takes the space of a file at once, where the file system can."""
    if not hasattr(os, 'posix_fallocate'):
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in LACKING:
            raise


class PairCache:
    """All pairs resized to one size, in one memory-mapped file for each set.

    Building is under a lock, so that a second process waits for the first and then finds the file.

    Args:
        pairs: all of their sets, because a shorter list would replace the file of a longer one.
        size: (width, height).
        cache_dir: where the files are.
        workers: number of threads that build.
        skip_bad: leave out pairs that cannot be read.

    Raises:
        ValueError: as `SharedCache.build`.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: Size,
        cache_dir: str | Path,
        workers: int = 8,
        skip_bad: bool = False,
    ):
        self.size = size
        self._place: dict[Pair, tuple[SharedCache, int]] = {}

        # One file for each set.
        by_set = defaultdict(list)
        for pair in pairs:
            folder = pair.image.parents[1].resolve()
            by_set[pair.set, folder].append(pair)
        for (name, folder), members in by_set.items():
            cache = self._cache_of(name, folder, members, Path(cache_dir))
            make = functools.partial(self._record, members)
            cache.build(make, workers, skip_bad)
            for row, pair in enumerate(members):
                self._place[pair] = (cache, row)

    def _cache_of(
        self,
        name: str,
        folder: Path,
        pairs: Sequence[Pair],
        cache_dir: Path,
    ) -> SharedCache:
        """The cache of the set `name` in `folder`."""
        # Sets of several tasks may share a name. The folder therefore is part of the file's name.
        digest = hashlib.sha256(os.fsencode(folder))
        short_digest = digest.hexdigest()[:8]
        width, height = self.size
        file = cache_dir / f'{name}-{width}x{height}-{short_digest}.cache'

        sources = [(pair.image, pair.mask) for pair in pairs]
        record_bytes = (3 + 1) * width * height  # RGB and mask
        return SharedCache(file, sources, record_bytes)

    def _record(self, pairs: Sequence[Pair], row: int) -> np.ndarray:
        """The pixels of a pair's image, and those of its mask after them, uint8."""
        image, mask = load_pair(pairs[row], self.size)
        return np.concatenate([image.ravel(), mask.ravel()])

    def __getitem__(self, pair: Pair) -> tuple[np.ndarray, np.ndarray] | None:
        """Read-only image and mask as of `load_pair`, or None if that pair could not be read."""
        cache, row = self._place[pair]
        record = cache[row]
        if record is None:
            return None
        width, height = self.size
        image, mask = np.split(record, [3 * width * height])
        return image.reshape(height, width, 3), mask.reshape(height, width)
