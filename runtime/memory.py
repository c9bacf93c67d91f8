"""Memory that this process holds, now and at its peak."""

import mmap
import sys
from pathlib import Path

import torch

STATM = Path('/proc/self/statm')
STATUS = Path('/proc/self/status')
CLEAR_REFS = Path('/proc/self/clear_refs')
RESTART_PEAK = '5'  # what Linux takes there
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


class PeakWatch:
    """The most bytes that this process holds from now on, on the GPU or in the machine's memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_known = True
        if device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            CLEAR_REFS.write_text(RESTART_PEAK)
        except OSError:  # not Linux, or not allowed in this container
            self._is_known = False

    def read(self) -> int | None:
        """The peak so far; None where the system does not say."""
        if not self._is_known:
            return None
        if self._device.type == 'cuda':
            return peak_memory(self._device)
        for line in STATUS.read_text().splitlines():
            if line.startswith('VmHWM:'):
                kilobytes = line.split()[1]
                return int(kilobytes) * 1024
        return None


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
