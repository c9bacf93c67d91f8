"""Runs under deterministic=true."""

import torch

import train
from tests.training.runs import TINY, finish, make_data, start
from training.loop import Trainer


def test_two_runs_are_equal_to_the_bit(tmp_path):
    data = make_data(tmp_path / 'data', train=4)
    for name in ('one', 'two'):
        arguments = [*TINY, 'epochs=1', 'deterministic=true', f'data_root={data}', '--ckpt_dir', str(tmp_path / name)]
        assert finish(start('train', arguments, tmp_path / 'out')) == [0], (tmp_path / 'out').read_text()
    for file in ('log.jsonl', 'epoch_1.pth'):
        assert (tmp_path / 'one' / file).read_bytes() == (tmp_path / 'two' / file).read_bytes(), file


def test_steps_are_taken_under_deterministic_algorithms(tmp_path, monkeypatch):
    data, seen = make_data(tmp_path / 'data', train=2), []
    step = Trainer._step

    def noted(self, *arguments) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        step(self, *arguments)

    monkeypatch.setattr(Trainer, '_step', noted)
    monkeypatch.setattr(train, 'setup_logging', lambda *_: None)
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    try:
        train.main([*TINY, 'epochs=1', 'deterministic=true', f'data_root={data}', '--ckpt_dir', str(tmp_path / 'run')])
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [True]
