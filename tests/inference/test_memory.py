"""Free memory counts the limits of control groups, as containers and batch systems set them."""

import pytest
import torch

from inference import memory
from inference.memory import free_in_cgroups, free_memory

GIB = 2 ** 30


def free(tmp_path, membership: str, groups: dict[str, dict[str, object]]) -> list[int]:
    """Returns the free bytes under a tree of control groups: folder -> file -> content."""
    for group, files in groups.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / group / name).write_text(f'{content}\n')
    (tmp_path / 'membership').write_text(membership)
    return list(free_in_cgroups(tmp_path / 'membership', tmp_path))


def test_version_2_own_group_and_those_above(tmp_path):
    step = {'memory.max': 'max', 'memory.current': GIB}
    job = {
        'memory.max': 4 * GIB,
        'memory.current': 3 * GIB,
        'memory.stat': f'anon 7\ninactive_file {GIB // 2}',
    }
    groups = {'job/step': step, 'job': job, '.': {'cgroup.procs': ''}}
    assert free(tmp_path, '0::/job/step\n', groups) == [GIB + GIB // 2]


def test_version_2_in_a_container_that_sees_its_group_as_the_root(tmp_path):
    root = {'memory.max': GIB, 'memory.current': 0, 'memory.stat': 'inactive_file 0'}
    assert free(tmp_path, '0::/../outside\n', {'.': root}) == [GIB]


def test_version_1(tmp_path):
    membership = '9:name=systemd:/\n4:memory:/docker/c3b4\n1:cpu,cpuacct:/\n'
    memory = {
        'memory.limit_in_bytes': 8 * GIB,
        'memory.usage_in_bytes': 3 * GIB,
        'memory.stat': f'inactive_file 5\ntotal_inactive_file {GIB}',
    }
    assert free(tmp_path, membership, {'memory': memory}) == [6 * GIB]


@pytest.mark.parametrize('membership', ['', '1:cpu:/\n', '0::/gone\n'])
def test_no_limit(tmp_path, membership):
    assert free(tmp_path, membership, {}) == []


def test_not_linux(tmp_path):
    assert list(free_in_cgroups(tmp_path / 'missing', tmp_path)) == []


@pytest.mark.parametrize(('limits', 'expected'), [([], 2), ([3], 2), ([3, 1], 1)])
def test_the_least_of_what_machine_and_limits_leave(tmp_path, monkeypatch, limits, expected):
    """Most machines of one user have no limit."""
    meminfo = tmp_path / 'meminfo'
    meminfo.write_text('MemTotal: 7 kB\nMemAvailable: 2 kB\n')
    monkeypatch.setattr(memory, 'MEMINFO', meminfo)
    monkeypatch.setattr(memory, 'free_in_cgroups', lambda: iter(kib * 1024 for kib in limits))
    assert free_memory(torch.device('cpu')) == expected * 1024
