"""How much memory is free: of a GPU, of the machine, and under the limits of a container or a batch job."""

from collections.abc import Iterator
from pathlib import Path

import torch

CGROUPS = Path('/sys/fs/cgroup')


def free_memory(device: torch.device) -> int | None:
    """Bytes free on the device, None where that cannot be told."""
    if device.type == 'cuda':
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    file = Path('/proc/meminfo')
    if device.type != 'cpu' or not file.exists():
        return None
    return min(_figure(file, 'MemAvailable:') * 1024, *_left_in_groups())


def _left_in_groups(membership: Path = Path('/proc/self/cgroup'), root: Path = CGROUPS) -> Iterator[int]:
    """Bytes left under each memory limit of the process's control groups (Linux, version 1 or 2); the page cache, which
    gives way, counts as free. A container often sees its own group as the root."""
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, group = line.split(':', 2)
        if controllers == '':
            base, limit, usage, cache = root, 'memory.max', 'memory.current', 'inactive_file'
        elif 'memory' in controllers.split(','):
            base, limit, usage, cache = (root / controllers, 'memory.limit_in_bytes', 'memory.usage_in_bytes',
                                         'total_inactive_file')
        else:
            continue
        folder = base / group.strip('/')
        for level in (folder, *(parent for parent in folder.parents if parent.is_relative_to(base))):
            if (level / limit).is_file() and (most := (level / limit).read_text().strip()) != 'max':
                yield int(most) - int((level / usage).read_text()) + _figure(level / 'memory.stat', cache)


def _figure(file: Path, name: str) -> int:
    """The number behind `name` in a file of lines 'name number ...'."""
    return next(int(words[1]) for line in file.read_text().splitlines() if (words := line.split())[0] == name)
