"""Ranks that agree on when to save and when to stop."""

from pathlib import Path

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
