"""The checks of tests/gpu/checks.py, on a GPU where there is one, and on the CPU."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.checks import EVERYWHERE, GPU_ONLY

CHECKS = EVERYWHERE | GPU_ONLY


@pytest.fixture(autouse=True)
def full_precision(one_thread) -> Iterator[None]:
    """No TF32, whose 11 bits would hide differences."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    flags = {'enabled': True, 'benchmark': False, 'deterministic': False, 'allow_tf32': False}
    with torch.backends.cudnn.flags(**flags):
        yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip('no GPU that PyTorch can use: these checks need CUDA')
    return torch.device('cuda', 0)


def run(check: Callable, arguments: tuple, device: torch.device, folder: Path) -> None:
    """Calls a check; with a folder, if it wants one."""
    folders = {'folder': folder} if 'folder' in inspect.signature(check).parameters else {}
    check(device, *arguments, **folders)


@pytest.mark.gpu
@pytest.mark.parametrize('name', CHECKS)
def test_gpu(name, cuda, tmp_path):
    run(*CHECKS[name], cuda, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('name', EVERYWHERE)
def test_cpu(name, tmp_path):
    run(*EVERYWHERE[name], torch.device('cpu'), tmp_path)
