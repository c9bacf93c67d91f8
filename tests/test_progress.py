"""Progress where the output is no terminal: lines by the clock, and none of them in log.jsonl."""

import io
import itertools
import sys
from pathlib import Path

import pytest

import train
import utils
from tests.training.runs import PICTURES, TINY, make_data
from utils import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """What the clock shows, in seconds, as its only item."""
    shown = [0.]
    monkeypatch.setattr(utils.time, 'monotonic', lambda: shown[0])
    return shown


@pytest.mark.parametrize(('seconds', 'units'), [(1., 100), (4.3, 100), (10., 40)])
def test_a_log_gets_a_line_at_least_every_30_seconds(clock, monkeypatch, seconds, units):
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    said = []

    def say(line: str) -> None:
        said.append((clock[0], line))

    with Progress(units, 'epoch 1/3', 'batch', say=say) as progress:
        for _ in range(units):
            clock[0] += seconds
            progress.update()
    times = [0., *(time for time, _ in said), clock[0]]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps) <= 30
    assert min(gaps[:-1]) >= Progress.INTERVAL
    assert sys.stderr.getvalue() == ''


def test_a_line_counts_from_where_the_work_begins_and_carries_the_note(clock, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    with Progress(50, 'epoch 2/3', 'batch', done=10) as progress:
        progress.note('loss 1.500')
        clock[0] = 25.
        progress.update(5)
    assert sys.stderr.getvalue() == 'epoch 2/3: batch 15 of 50, loss 1.500\n'


def test_a_line_says_the_time_left(clock, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    with Progress(50, 'scoring', 'mask', done=10, says_time_left=True) as progress:
        clock[0] = 25.
        progress.update(5)
    assert sys.stderr.getvalue() == 'scoring: mask 15 of 50, 02:55 left\n'


@pytest.mark.parametrize('quiet', [False, True])
def test_a_terminal_gets_a_bar_instead(clock, monkeypatch, quiet):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    said = []
    with Progress(2, 'scoring', 'mask', quiet=quiet, say=said.append) as progress:
        clock[0] = 60.
        progress.update()
    assert not said
    assert ('scoring' in sys.stderr.getvalue()) is not quiet


def test_work_that_ends_before_the_delay_shows_no_bar(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    with Progress(2, 'comparing', 'image', delay=60.) as progress:
        progress.update(2)
    assert sys.stderr.getvalue() == ''


def test_training_says_lines_that_log_jsonl_knows_nothing_of(tmp_path, monkeypatch, capfd):
    data = make_data(tmp_path / 'data')
    for module in PICTURES:
        monkeypatch.setitem(sys.modules, module, None)
    logs = []
    for interval in (0., 1e9):
        monkeypatch.setattr(Progress, 'INTERVAL', interval)
        folder = tmp_path / f'run-{interval}'
        assert train.main([*TINY, f'data_root={data}', 'epochs=1', '--ckpt_dir', str(folder)]) == 0
        logs.append(Path(folder, 'log.jsonl').read_bytes())
        assert ('epoch 1/1: batch 2 of 3, loss ' in capfd.readouterr().err) == (interval == 0)
    assert logs[0] == logs[1]
