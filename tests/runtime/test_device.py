"""Devices by name, and what is set on CUDA, which is faked: nothing here needs a GPU."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from runtime import device
from runtime.device import ALLOCATOR_VARIABLES, choose_device, prepare_device

VARIABLES = (*ALLOCATOR_VARIABLES, 'CUBLAS_WORKSPACE_CONFIG', 'LOCAL_RANK')


@pytest.fixture(autouse=True)
def settings(monkeypatch) -> Iterator[None]:
    """PyTorch's settings and the environment are as they were afterwards."""
    for name in VARIABLES:
        monkeypatch.setenv(name, '')  # monkeypatch notes what was there
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    yield
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def cuda(monkeypatch) -> None:
    """A machine with two GPUs of the Ampere generation."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))


@pytest.mark.parametrize('name', ['cuda:99', 'tpu', 'cuda:x'])
def test_a_missing_device_is_an_error(name):
    with pytest.raises(ValueError, match=name):
        choose_device(name)


def test_names_mean_devices(cuda, monkeypatch):
    def chosen(*names: str) -> list[str]:
        return [str(choose_device(name)) for name in names]

    expected = ['cuda:0', 'cuda:0', 'cuda:1', 'cpu']
    assert chosen('auto', 'cuda', 'cuda:1', 'cpu') == expected
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert chosen('auto', 'cuda', 'cuda:0') == ['cuda:1', 'cuda:1', 'cuda:0']
    monkeypatch.setenv('LOCAL_RANK', '2')
    with pytest.raises(ValueError, match='cuda:2: there is none here'):
        choose_device('auto')


def test_cpu_runs_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert prepare_device('auto', fixed_size=True, mixed_precision='no') == torch.device('cpu')
    assert torch.get_float32_matmul_precision() == 'highest'
    assert not torch.backends.cudnn.benchmark
    assert not set(VARIABLES) & set(os.environ)


@pytest.mark.parametrize('fixed_size', [True, False])
def test_cuda_is_set_up_for_speed(cuda, fixed_size):
    assert prepare_device('cuda:1', fixed_size=fixed_size) == torch.device('cuda', 1)
    assert torch.get_float32_matmul_precision() == 'high'
    assert torch.backends.cudnn.benchmark == fixed_size
    assert not torch.are_deterministic_algorithms_enabled()


def allocator_settings() -> dict[str, str]:
    """What the environment tells the allocator."""
    return {name: os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ}


@pytest.mark.parametrize(('version', 'variable'), [
    ('2.8.0+cu128', 'PYTORCH_CUDA_ALLOC_CONF'),
    ('2.9.1', 'PYTORCH_ALLOC_CONF'),
    ('2.14.1', 'PYTORCH_ALLOC_CONF'),
])
def test_segments_may_grow(cuda, monkeypatch, version, variable):
    monkeypatch.setattr(torch, '__version__', type(torch.__version__)(version))
    monkeypatch.setattr(sys, 'platform', 'linux')
    prepare_device('cuda')
    assert allocator_settings() == {variable: 'expandable_segments:True'}


@pytest.mark.parametrize('variable', ALLOCATOR_VARIABLES)
def test_the_environment_configures_the_allocator(cuda, monkeypatch, variable):
    monkeypatch.setenv(variable, 'max_split_size_mb:64')
    prepare_device('cuda')
    assert allocator_settings() == {variable: 'max_split_size_mb:64'}


def test_segments_stay_as_they_are_on_other_systems(cuda, monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'win32')
    prepare_device('cuda')
    assert not allocator_settings()


@pytest.mark.parametrize(('capability', 'mixed_precision', 'suggested'), [
    ((8, 0), 'no', True),
    ((12, 0), 'no', True),
    ((7, 5), 'no', False),
    ((8, 0), 'bf16', False),
    ((8, 0), '', False),
])
def test_bfloat16_is_suggested_once_where_the_card_has_it(
        cuda, monkeypatch, caplog, capability, mixed_precision, suggested):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    with caplog.at_level(logging.INFO):
        prepare_device('cuda', mixed_precision=mixed_precision)
    assert caplog.text.count('mixed_precision=bf16') == suggested


@pytest.mark.parametrize('name', ['cpu', 'cuda'])
def test_deterministic_runs_try_nothing_out(cuda, name):
    prepare_device(name, fixed_size=True, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'


def test_a_workspace_that_the_environment_names_is_kept(monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':16:8')
    prepare_device('cpu', deterministic=True)
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':16:8'


def test_the_allocator_is_configured_before_cuda_is_asked(cuda, monkeypatch):
    def capability(_) -> tuple[int, int]:
        assert set(ALLOCATOR_VARIABLES) & set(os.environ)
        return 9, 0

    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', capability)
    prepare_device('cuda', mixed_precision='no')


def test_importing_and_choosing_leave_cuda_alone():
    """What has initialised CUDA would take no configuration of the allocator any more."""
    code = (f'import torch; from {device.__name__} import choose_device; choose_device("auto"); '
            'assert not torch.cuda.is_initialized()')
    subprocess.run([sys.executable, '-c', code], check=True)
