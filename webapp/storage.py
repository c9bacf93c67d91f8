"""The files of the page's visitors: all in one temporary folder, none of them longer there than is needed."""

import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread

from filelock import FileLock, Timeout

PREFIX = 'birefnet-app-'
SWEEP_SECONDS = 60.


class Storage:
    """Uploads and results in `folder`: deleted when their visitor leaves, and once unused for `keep_seconds`.

    An upload lies under the hash of its content, so that two visitors may have it in common.
    """

    def __init__(self, folder: Path, keep_seconds: float) -> None:
        self.folder, self.keep_seconds = folder, keep_seconds
        self._used: dict[str, set[Path]] = defaultdict(set)  # visitor -> files and folders
        self._lock = Lock()

    def new_folder(self, visitor: str) -> Path:
        """An empty folder for results, which is the visitor's."""
        folder = Path(tempfile.mkdtemp(prefix='job-', dir=self.folder))
        with self._lock:
            self._used[visitor].add(folder)
        return folder

    def use(self, visitor: str, files: Iterable[Path]) -> None:
        """Notes that a visitor needs these files, from now on for `keep_seconds`."""
        files = list(files)
        for file in files:
            with suppress(FileNotFoundError):  # what reads it will say so
                os.utime(file)
        with self._lock:
            self._used[visitor].update(files)

    def delete(self, visitor: str, folders: Iterable[Path]) -> None:
        """Deletes folders that are the visitor's alone."""
        with self._lock:
            folders = self._used[visitor].intersection(folders)
            self._used[visitor] -= folders
        for folder in folders:
            _delete(folder)

    def leave(self, visitor: str) -> None:
        """Deletes the files of a visitor that no other one uses."""
        with self._lock:
            files = self._used.pop(visitor, set()) - set().union(*self._used.values())
        for file in files:
            _delete(file)

    def size(self) -> int:
        """Bytes of all files."""
        return sum(status.st_size for _, status in self._files())

    def sweep(self) -> None:
        """Deletes files, and empty folders, that have not been used for `keep_seconds`."""
        latest = time.time() - self.keep_seconds
        for path, status in self._files():
            if status.st_mtime < latest:
                path.unlink(missing_ok=True)
        for path, folders, files in os.walk(self.folder, topdown=False):
            if not folders and not files and Path(path) != self.folder:
                with suppress(OSError):  # something has come into it
                    if os.stat(path).st_mtime < latest:
                        os.rmdir(path)
        with self._lock:
            for visitor, used in list(self._used.items()):
                used -= {path for path in used if not path.exists()}
                if not used:
                    del self._used[visitor]

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # another thread was quicker
                    yield path, path.stat()


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def temporary_storage(keep_seconds: float) -> Iterator[Storage]:
    """A Storage in a new temporary folder, swept each minute, and deleted at the end.

    What a killed process has left is deleted too: the lock on its folder is free.
    """
    for left in Path(tempfile.gettempdir()).glob(f'{PREFIX}*/'):
        with suppress(Timeout, OSError), FileLock(left / 'lock', timeout=0):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as root, FileLock(Path(root, 'lock')):
        folder = Path(root, 'files').resolve()
        folder.mkdir()
        storage, done = Storage(folder, keep_seconds), Event()
        sweeper = Thread(target=_sweep_until, args=(storage, done), name='sweeper', daemon=True)
        sweeper.start()
        try:
            yield storage
        finally:
            done.set()
            sweeper.join()


def _sweep_until(storage: Storage, done: Event) -> None:
    while not done.wait(SWEEP_SECONDS):
        storage.sweep()
