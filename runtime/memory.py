"""Memory that this process holds, now and at its peak."""

import mmap
import sys
from pathlib import Path

import torch

STATM = Path('/proc/self/statm')
CPU = torch.device('cpu')


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: on the GPU, or resident for any other device."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def resident_memory() -> int:
    """Bytes of memory that this process holds now; its peak where the system does not say."""
    if not STATM.exists():
        return peak_memory(CPU)
    resident_pages = STATM.read_text().split()[1]
    return int(resident_pages) * mmap.PAGESIZE


def memory_in_gigabytes(device: torch.device) -> dict[str, float]:
    """GB that this process holds in the host's memory and, with a GPU, its peak and its reserve."""
    gigabytes = {'host_GB': resident_memory() / 1e9}
    if device.type == 'cuda':
        gigabytes['device_peak_GB'] = peak_memory(device) / 1e9
        gigabytes['device_reserved_GB'] = torch.cuda.memory_reserved(device) / 1e9
    return gigabytes
