"""Records of bytes computed from files, kept in one memory-mapped file that all processes of a machine share."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

logger = logging.getLogger(__name__)

PAGE = 4096
VERSION = 1
RECORDS_PER_SYNC = 64


class SharedCache:
    """`len(sources)` records of `record_bytes` bytes, each computed from its own source files.

    The file holds a header (JSON, one page), a table with size and modification time of each record's sources at the
    time it was made, and the records. A record is valid if its row of the table is what the sources say now, so a build
    that was interrupted goes on where it stopped, and only records of changed sources are made again. The pixels live
    in the page cache, once per machine, whatever the number of processes.
    """

    def __init__(self, file: Path, sources: Sequence[Sequence[Path]], record_bytes: int):
        self.file, self.sources, self.record_bytes = file, sources, record_bytes
        self._maps: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_maps': None}  # a process that gets a copy maps the file itself

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, row: int) -> np.ndarray | None:
        """Record `row`, uint8 (record_bytes,), read-only, or None if its sources could not be read."""
        if self._maps is None:
            if not self._is_on_disk():
                raise RuntimeError(f'{self.file}: replaced by another run; start again')
            self._maps = self._open('r')
        table, records = self._maps
        return records[row] if table[row].any() else None

    def build(self, make: Callable[[int], np.ndarray], workers: int = 8, skip_bad: bool = False) -> None:
        """Makes the records that are missing or whose sources have changed, `workers` at a time, under a lock.

        Raises one ValueError that lists every record that `make` could not make (those made are kept), unless
        `skip_bad`; and one before anything is made if the disk has too little space.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{self.file}.lock'):
            if not self._is_on_disk():
                self._create()
            table, records = self._open('r+')
            now = self._fingerprints(workers)
            stale = np.flatnonzero((table != now).any(axis=1))
            if stale.size:
                logger.info('%s: making %d of %d records', self.file, stale.size, len(self))
                problems = self._fill(stale, table, records, now, make, workers)
                if problems and not skip_bad:
                    raise ValueError(f'{len(problems)} problem(s) in the data:\n  ' + '\n  '.join(problems))
                for problem in problems:
                    logger.warning('left out: %s', problem)

    def _fill(self, rows: np.ndarray, table: np.memmap, records: np.memmap, now: np.ndarray,
              make: Callable[[int], np.ndarray], workers: int) -> list[str]:
        """Makes `rows`, and returns what was wrong with those that could not be made."""
        def fill(row: int) -> str | None:
            try:
                records[row] = make(row)
            except (ValueError, OSError) as error:
                return str(error)
            return None

        problems: list[str] = []
        with ThreadPoolExecutor(workers) as pool, tqdm(total=len(rows), desc=self.file.name, disable=None) as bar:
            for start in range(0, len(rows), RECORDS_PER_SYNC):
                chunk = rows[start:start + RECORDS_PER_SYNC]
                table[chunk] = 0
                results = list(pool.map(fill, chunk))
                records.flush()  # what the table says is on disk has to be there before it says so
                made = [row for row, problem in zip(chunk, results, strict=True) if problem is None]
                table[made] = now[made]
                problems += [problem for problem in results if problem is not None]
                bar.update(len(chunk))
        table.flush()
        return problems

    @property
    def _header(self) -> dict:
        names = json.dumps([[path.name for path in paths] for paths in self.sources])
        digest = hashlib.sha256(names.encode()).hexdigest()
        return {'version': VERSION, 'records': len(self), 'record_bytes': self.record_bytes, 'sources': digest}

    def _is_on_disk(self) -> bool:
        """Whether the file is there, whole, and made for these sources."""
        try:
            with open(self.file, 'rb') as file:
                header = json.loads(file.read(PAGE).rstrip(b'\0'))
            return header == self._header and self.file.stat().st_size == self._layout()[2]
        except (FileNotFoundError, ValueError):
            return False

    def _layout(self) -> tuple[tuple[int, int], int, int]:
        """The table's shape, the offset of the records, and the file's size, in bytes."""
        shape = (len(self), 2 * len(self.sources[0]))
        offset = -(-(PAGE + shape[0] * shape[1] * 8) // PAGE) * PAGE
        return shape, offset, offset + len(self) * self.record_bytes

    def _open(self, mode: str) -> tuple[np.memmap, np.memmap]:
        shape, offset, _ = self._layout()
        return (np.memmap(self.file, np.int64, mode, PAGE, shape),
                np.memmap(self.file, np.uint8, mode, offset, (len(self), self.record_bytes)))

    def _create(self) -> None:
        """An empty file of full size in the place of whatever is there; its space is taken at once where that works."""
        self.file.unlink(missing_ok=True)
        size, free = self._layout()[2], shutil.disk_usage(self.file.parent).free
        logger.info('%s: %.2f GB for %d records, %.2f GB are free', self.file, size / 1e9, len(self), free / 1e9)
        if size > free:
            raise ValueError(f'{self.file}: takes {size / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free there; '
                             'choose another cache_dir, a smaller size, or load_all=false')
        part = self.file.with_name(f'{self.file.name}.part')
        try:
            with open(part, 'wb') as file:
                file.write(json.dumps(self._header).encode().ljust(PAGE, b'\0'))
                file.truncate(size)
                if hasattr(os, 'posix_fallocate'):
                    os.posix_fallocate(file.fileno(), 0, size)
            os.replace(part, self.file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _fingerprints(self, workers: int) -> np.ndarray:
        """Size and modification time of every source now, int64 (records, 2 * sources per record)."""
        def fingerprint(paths: Sequence[Path]) -> list[int]:
            return [value for stat in (path.stat() for path in paths) for value in (stat.st_size, stat.st_mtime_ns)]

        with ThreadPoolExecutor(workers) as pool:
            return np.array(list(pool.map(fingerprint, self.sources)), np.int64)
