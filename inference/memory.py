"""Free memory: of a GPU, of the machine, and within the limits of a container or a batch job."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

CGROUP_ROOT = Path('/sys/fs/cgroup')
CGROUP_MEMBERSHIP = Path('/proc/self/cgroup')
MEMINFO = Path('/proc/meminfo')


class _CgroupFiles(NamedTuple):
    """Where a version of control groups keeps its figures of memory, in bytes."""

    limit: str
    usage: str
    page_cache: str  # a field of memory.stat


VERSION_1 = _CgroupFiles('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')
VERSION_2 = _CgroupFiles('memory.max', 'memory.current', 'inactive_file')


def free_memory(device: torch.device) -> int | None:
    """Returns the bytes of free memory on a device, or None where the system does not say."""
    if device.type == 'cuda':
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    if device.type != 'cpu' or not MEMINFO.exists():
        return None
    try:
        return min([_available_memory(), *free_in_cgroups()])
    except (OSError, ValueError, KeyError):  # files of a kind that we do not know
        return None


def _available_memory() -> int:
    """Bytes that the machine can still give; estimated on kernels and in containers without it."""
    try:
        return _field(MEMINFO, 'MemAvailable:') * 1024
    except KeyError:
        return (_field(MEMINFO, 'MemFree:') + _field(MEMINFO, 'Cached:')) * 1024


def free_in_cgroups(
    membership: Path = CGROUP_MEMBERSHIP,
    root: Path = CGROUP_ROOT,
) -> Iterator[int]:
    """Yields the bytes left under each memory limit of the process's control groups.

    Reads versions 1 and 2 of Linux. The page cache counts as free, because the kernel drops it
    when memory runs short. A container often sees its own group as the root.

    Args:
        membership: the file that lists the process's groups.
        root: the folder where control groups are mounted.
    """
    if not membership.exists():
        return
    for line in membership.read_text().splitlines():
        _, controllers, group = line.split(':', 2)
        if not controllers:
            files = VERSION_2
            base = root
        elif 'memory' in controllers.split(','):
            files = VERSION_1
            base = root / controllers
        else:
            continue
        yield from _free_in_group(base, group.strip('/'), files)


def _free_in_group(base: Path, group: str, files: _CgroupFiles) -> Iterator[int]:
    """Yields the bytes left under the limits of a group and of those above it."""
    folder = base / group
    levels = [folder]
    levels += [parent for parent in folder.parents if parent.is_relative_to(base)]
    for level in levels:
        limit_file = level / files.limit
        if not limit_file.is_file():
            continue
        limit = limit_file.read_text().strip()
        if limit == 'max':
            continue
        usage = int((level / files.usage).read_text())
        page_cache = _field(level / 'memory.stat', files.page_cache)
        yield int(limit) - usage + page_cache


def _field(file: Path, name: str) -> int:
    """Reads the number behind `name` in a file of lines 'name number ...'."""
    for line in file.read_text().splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise KeyError(f'{file}: no {name}')
