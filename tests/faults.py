"""Makes one call to the system fail: a command is run, its n-th call raises an error of the system.

`run` runs a script as a user does, in a process forked from one that has imported everything, and
lists its calls: the functions of `os` and its like in FAILURES, and each opening, read and write of
Python's files. Run again with a Fault, one of them fails. What libraries do in C, past Python, is
not counted; nor are the files of Python and its packages.
"""

import builtins
import errno
import fcntl
import io
import json
import mmap
import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.training.runs import finish, start_all

ROOT = Path(__file__).parents[1]
REPORT = 'calls.json'

FULL = ('ENOSPC', 'EDQUOT', 'EIO')
REFUSED = ('EACCES', 'EPERM', 'EROFS', 'EIO')
# By function: what a system may answer.
FAILURES = {
    'os.chmod': ('EPERM', 'EROFS', 'ENOTSUP'),
    'os.fsync': ('EIO', 'ENOSPC', 'EINVAL'),
    'os.ftruncate': FULL,
    'os.link': ('EPERM', 'EMLINK', 'ENOTSUP'),
    'os.listdir': ('EACCES', 'EIO'),
    'os.mkdir': ('EACCES', 'ENOSPC', 'EROFS'),
    'os.open': ('EACCES', 'EMFILE', 'ENOSPC'),
    'os.posix_fallocate': ('ENOSPC', 'ENOTSUP', 'EINVAL'),
    'os.remove': REFUSED,
    'os.rename': (*REFUSED, 'ENOSPC'),
    'os.replace': (*REFUSED, 'EEXIST'),
    'os.rmdir': REFUSED,
    'os.scandir': ('EACCES', 'EIO'),
    'os.stat': ('EACCES', 'EIO'),
    'os.statvfs': ('ENOSYS', 'EIO'),
    'os.symlink': ('EPERM', 'ENOTSUP'),
    'os.truncate': FULL,
    'os.unlink': REFUSED,
    'os.write': FULL,
    'fcntl.flock': ('ENOLCK', 'ENOSYS', 'EIO'),
    'mmap.mmap': ('ENODEV', 'ENOMEM', 'EACCES'),
    'open': ('EACCES', 'EMFILE', 'EIO'),
    'create': ('EACCES', 'EROFS', 'ENOSPC', 'EMFILE'),
    'read': ('EIO', 'ESTALE'),
    'write': FULL,
}
# What fails on a full disk.
FILLING = frozenset(['create', 'write', 'os.fsync', 'os.mkdir', 'os.posix_fallocate'])
MODULES = {'os': os, 'fcntl': fcntl, 'mmap': mmap}
# Where Python, its packages and this project's code lie.
FOREIGN = tuple({sys.prefix, os.path.realpath(sys.prefix), sys.base_prefix, '/usr/', str(ROOT)})
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# Size, time of the content, and time of the last touch, before a digest.
FINGERPRINT = re.compile(rb'(\[\s*\d+,\s*\d+,)\s*\d+(?=,\s*-?\d+\s*\])')
MOST = 3  # reads and writes that count of each file: a checkpoint has hundreds of one kind


class Fault(NamedTuple):
    """Which call fails, counted from 0, and with what: the name of an error, such as ENOSPC.

    With the name of a signal, that signal comes, and the call succeeds. A fault that stays makes
    all later calls fail that would need space on the disk.
    """

    call: int
    error: str
    stays: bool = False

    def meets(self, number: int, name: str) -> bool:
        """Whether this call fails."""
        return number == self.call or (self.stays and number > self.call and name in FILLING)


class Outcome(NamedTuple):
    """How a command ended: its exit code, what it printed, and its calls, 'os.mkdir out'."""

    code: int
    output: str
    calls: list[str]


class Faults:
    """Counts the calls to the system in this process, and lets one of them fail."""

    def __init__(self, fault: Fault | None) -> None:
        self.fault = fault
        self.calls: list[str] = []
        self.real_open = io.open

    def install(self) -> None:
        """Puts itself between this process and the system, for good."""
        for name in FAILURES:
            module, _, function = name.partition('.')
            if function and hasattr(MODULES[module], function):
                real = getattr(MODULES[module], function)
                setattr(MODULES[module], function, self._wrap(name, real))
        builtins.open = io.open = self._open  # type: ignore[assignment]

    def count(self, name: str, place: Any) -> None:
        """Notes a call; raises OSError if it is the one that fails."""
        if _is_foreign(place):
            return
        number = len(self.calls)
        self.calls.append(f'{name} {os.fsdecode(place)}' if _is_path(place) else name)
        if not (self.fault and self.fault.meets(number, name)):
            return
        if self.fault.error.startswith('SIG'):
            os.kill(os.getpid(), getattr(signal, self.fault.error))
        else:
            code = getattr(errno, self.fault.error)
            shown = (os.fspath(place),) if _is_path(place) else ()
            raise OSError(code, os.strerror(code), *shown)

    def _wrap(self, name: str, real: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count(name, arguments[0] if arguments else '.')
            return real(*arguments, **options)
        return call

    def _open(
        self, file: Any, mode: str = 'r', buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None, closefd: bool = True,
        opener: Callable | None = None,
    ) -> Any:
        """Opens a file as `open` does, over a raw file whose reads and writes count."""
        if _is_foreign(file):
            return self.real_open(
                file, mode, buffering, encoding, errors, newline, closefd, opener)
        changes = set(mode) & set('wax+')
        self.count('create' if changes else 'open', file)
        raw = _CountedFile(self, file, mode.replace('b', '').replace('t', ''), closefd, opener)
        if buffering == 0:
            return raw
        if '+' in mode:
            buffered: Any = io.BufferedRandom(raw)
        elif changes:
            buffered = io.BufferedWriter(raw)
        else:
            buffered = io.BufferedReader(raw)
        if 'b' in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text


class _CountedFile(io.FileIO):
    """A file without a buffer whose reads and writes count."""

    def __init__(self, faults: Faults, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        super().__init__(file, mode, closefd, opener)
        self._faults = faults
        self._counted = 0

    def write(self, data: Any) -> int:
        self._count('write')
        return super().write(data)

    def readinto(self, buffer: Any) -> int:
        self._count('read')
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._count('read')
        return super().readall()

    def _count(self, name: str) -> None:
        self._counted += 1
        if self._counted > MOST:
            return
        try:
            self._faults.count(name, self.name)
        except OSError as error:  # as the system does: without the file's name
            raise OSError(error.errno, error.strerror) from None


def _is_path(place: Any) -> bool:
    return isinstance(place, (str, bytes, os.PathLike))


def _is_foreign(place: Any) -> bool:
    """Whether a file is none of those that a command works with."""
    if not _is_path(place):
        return False
    path = os.fsdecode(place)
    return path.startswith(FOREIGN) or path == os.devnull


# --- Running commands -----------------------------------------------------------------------------


def run(folder: Path, script: str, arguments: list[str], fault: Fault | None = None) -> Outcome:
    """Runs a script in `folder`; what it prints and the list of its calls lie beside that."""
    log = folder.with_name('output')
    report = folder.with_name(REPORT)
    for file in (log, report):
        file.unlink(missing_ok=True)
    [code] = finish(start_all(_run_script, [(folder, script, arguments, fault, log, report)]))
    return Outcome(code, log.read_text(errors='replace'), json.loads(report.read_text()))


def _run_script(
    folder: Path, script: str, arguments: list[str], fault: Fault | None, log: Path, report: Path,
) -> None:
    """Does so in a process of its own."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ.update(HOME=str(folder / 'home'), BIREFNET_CACHE='cache', TMPDIR=str(folder))
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    sys.argv = [script, *arguments]

    real_write = Path.write_text
    faults = Faults(fault)
    faults.install()
    try:
        runpy.run_path(str(ROOT / script), run_name='__main__')
    finally:
        faults.fault = None
        real_write(report, json.dumps(list(faults.calls), ensure_ascii=True))


# --- What is left on the disk ---------------------------------------------------------------------


def read_tree(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder, by their paths in it.

    When a file was touched, which is in its fingerprint, is left out: each copy of a folder is
    another time.
    """
    tree = {}
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix in ('.json', '.jsonl'):
                content = FINGERPRINT.sub(rb'\1 0', content)
            tree[path.relative_to(folder).as_posix()] = content
    return tree


def put_back(source: Path, folder: Path) -> None:
    """Makes `folder` a copy of `source`, with the times of its files."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(source, folder)
