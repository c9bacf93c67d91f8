"""Runs under deterministic=true."""

from pathlib import Path

import pytest
import torch

import train
from tests.training.runs import TINY, finish, make_data, start
from training.trainer import Trainer


def arguments(data: Path, folder: Path) -> list[str]:
    return [*TINY, 'epochs=1', 'deterministic=true', f'data_root={data}', '--ckpt_dir', str(folder)]


@pytest.mark.slow
def test_two_runs_are_equal_to_the_bit(tmp_path):
    data = make_data(tmp_path / 'data', train=4)
    log = tmp_path / 'out'
    one, two = tmp_path / 'one', tmp_path / 'two'
    for folder in (one, two):
        processes = start('train', arguments(data, folder), log)
        assert finish(processes) == [0], log.read_text()
    for file in ('log.jsonl', 'epoch_1.pth'):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_steps_are_taken_under_deterministic_algorithms(tmp_path, monkeypatch):
    data = make_data(tmp_path / 'data', train=2)
    seen = []
    step = Trainer.step

    def observed_step(self, *arguments) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        step(self, *arguments)

    monkeypatch.setattr(Trainer, 'step', observed_step)
    monkeypatch.setattr(train, 'setup_logging', lambda *_: None)
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    try:
        train.main(arguments(data, tmp_path / 'run'))
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [True]
