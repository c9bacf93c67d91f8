"""The files of the page's visitors, in one temporary folder, deleted as soon as possible."""

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
    """Uploads and results, deleted when their visitor leaves, and after a time without use.

    Gradio names an upload by the hash of its content, so that two visitors may share it. A visitor
    is the hash of their session, None for whoever has none.

    Args:
        folder: where the files are.
        keep_seconds: from a file's last use until it is deleted.
    """

    def __init__(self, folder: Path, keep_seconds: float) -> None:
        self.folder = folder
        self.keep_seconds = keep_seconds
        self._used: dict[str | None, set[Path]] = defaultdict(set)  # visitor -> files and folders
        self._lock = Lock()

    def new_folder(self, visitor: str | None) -> Path:
        """Makes an empty folder for a visitor's results."""
        folder = Path(tempfile.mkdtemp(prefix='job-', dir=self.folder))
        with self._lock:
            self._used[visitor].add(folder)
        return folder

    def use(self, visitor: str | None, files: Iterable[Path]) -> None:
        """Keeps files for a visitor, for `keep_seconds` from now on."""
        files = list(files)
        for file in files:
            with suppress(FileNotFoundError):  # whoever reads it will say so
                os.utime(file)
        with self._lock:
            self._used[visitor].update(files)

    def delete(self, visitor: str | None, folders: Iterable[Path]) -> None:
        """Deletes those of the folders that belong to the visitor."""
        with self._lock:
            own = self._used[visitor].intersection(folders)
            self._used[visitor] -= own
        for folder in own:
            _delete(folder)

    def leave(self, visitor: str | None) -> None:
        """Deletes the files of a visitor that no other visitor uses."""
        with self._lock:
            own = self._used.pop(visitor, set())
            shared: set[Path] = set().union(*self._used.values())
        for file in own - shared:
            _delete(file)

    def size(self) -> int:
        """Counts the bytes of all files."""
        return sum(status.st_size for _, status in self._files())

    def sweep(self) -> None:
        """Deletes files, and empty folders, that have not been used for `keep_seconds`."""
        oldest = time.time() - self.keep_seconds
        for path, status in self._files():
            if status.st_mtime < oldest:
                path.unlink(missing_ok=True)
        self._delete_empty_folders(oldest)

        # Visitors need not be remembered with files that are gone.
        with self._lock:
            for visitor, used in list(self._used.items()):
                used -= {path for path in used if not path.exists()}
                if not used:
                    del self._used[visitor]

    def _delete_empty_folders(self, oldest: float) -> None:
        for path, folders, files in os.walk(self.folder, topdown=False):
            if folders or files or Path(path) == self.folder:
                continue
            with suppress(OSError):  # a file has come into it
                if os.stat(path).st_mtime < oldest:
                    os.rmdir(path)

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
    """Makes a Storage in a new temporary folder, swept each minute and deleted at the end.

    Folders that killed processes have left are deleted as well.
    """
    _delete_abandoned()
    temporary = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    with temporary as root, FileLock(Path(root, 'lock')):
        folder = Path(root, 'files').resolve()
        folder.mkdir()
        storage = Storage(folder, keep_seconds)
        done = Event()
        sweeper = Thread(target=_sweep_until, args=(storage, done), name='sweeper', daemon=True)
        sweeper.start()
        try:
            yield storage
        finally:
            done.set()
            sweeper.join()


def _delete_abandoned() -> None:
    """Deletes the folders of processes that have ended, whose locks are free."""
    for folder in Path(tempfile.gettempdir()).glob(f'{PREFIX}*/'):
        with suppress(Timeout, OSError), FileLock(folder / 'lock', timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


def _sweep_until(storage: Storage, done: Event) -> None:
    while not done.wait(SWEEP_SECONDS):
        storage.sweep()
