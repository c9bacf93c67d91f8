"""Ranks that agree on when to save and when to stop."""

import signal
from pathlib import Path

import pytest
import torch

from runtime.distributed import StopRequest, World
from tests.training.runs import call


def _save_answers(world: World, folder: Path) -> None:
    with StopRequest(world) as stop:
        answers = [stop.agreed(save=world.is_main and step == 2) for step in range(5)]
    torch.save(answers, folder / f'{world.rank}.pt')


def test_all_ranks_save_after_the_same_step(tmp_path):
    call(_save_answers, 2, tmp_path)
    for rank in (0, 1):
        answers = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        assert [save for _, save in answers] == [False, False, False, True, False]
        assert not any(stop for stop, _ in answers)


@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='needs signals of terminals')
@pytest.mark.parametrize('is_ignored', [False, True])
def test_a_closed_terminal_stops_a_run_unless_it_is_ignored(is_ignored):
    """It is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    try:
        with StopRequest(World(0, 1, torch.device('cpu'))) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.agreed() == (not is_ignored, False)
    finally:
        signal.signal(signal.SIGHUP, before)
