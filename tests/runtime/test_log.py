"""What a run tells, and what is left of it after a kill."""

import errno
import io
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runtime import log as log_module
from runtime.log import RunLog, setup_logging
from utils import print_error


def tell(log: RunLog, step: int) -> None:
    log.write(step=step)
    log.scalars('loss', {'bce': float(step)}, step)
    log.image('a', np.zeros((8, 8, 3), np.uint8), step)


class CtrlC(BaseException):
    """In place of KeyboardInterrupt, which would end pytest."""


class OneWrite(io.StringIO):
    """The terminal of somebody who presses Ctrl-C after the first write."""

    def write(self, text: str) -> int:
        if text and self.getvalue():
            raise CtrlC
        return super().write(text)


@pytest.mark.parametrize('say', [logging.getLogger().warning, print_error])
def test_ctrl_c_leaves_whole_lines(monkeypatch, say):
    root = logging.getLogger()
    monkeypatch.setattr(root, 'handlers', [])
    monkeypatch.setattr(root, 'level', root.level)
    setup_logging()
    monkeypatch.setattr(sys, 'stderr', OneWrite())
    say('the line before')
    with pytest.raises(CtrlC):
        say('the next line')
    assert sys.stderr.getvalue().endswith('the line before\n')


def test_a_log_opened_anew_goes_on_after_its_step(tmp_path: Path):
    killed = RunLog(tmp_path)
    tell(killed, 1)
    position = killed.position
    tell(killed, 2)
    tell(killed, 3)
    killed.close()
    resumed = RunLog(tmp_path, position, step=1)
    tell(resumed, 2)
    resumed.close()
    assert (tmp_path / 'log.jsonl').read_text() == '{"step": 1}\n{"step": 2}\n'
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [event.step for event in events.Scalars('loss/bce')] == [1, 2]
    assert [event.step for event in events.Images('pictures/a')] == [1, 2]


def test_names_that_are_not_utf8(tmp_path: Path, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, 'handlers', [])
    monkeypatch.setattr(root, 'level', root.level)
    odd = os.fsdecode(b'\xb2\xe2.png')
    log = RunLog(tmp_path)
    log.image(odd, np.zeros((8, 8, 3), np.uint8), 1)
    log.write(skipped=odd)
    log.close()
    setup_logging(tmp_path)
    logging.getLogger().info('skipped: %s', odd)
    setup_logging()
    assert r'skipped: \udcb2\udce2.png' in (tmp_path / 'log.txt').read_text()
    assert json.loads((tmp_path / 'log.jsonl').read_text()) == {'skipped': odd}


def test_a_folder_whose_name_is_not_utf8_has_no_board(tmp_path: Path, caplog):
    folder = tmp_path / os.fsdecode(b'\xb2\xe2')
    folder.mkdir()
    log = RunLog(folder)
    tell(log, 1)
    log.close()
    assert (folder / 'log.jsonl').read_text() == '{"step": 1}\n'
    assert 'log.txt and log.jsonl only' in caplog.text


class FullBoard:
    """TensorBoard's writer on a full disk."""

    def add_scalar(self, *_):
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_run_goes_on_without_tensorboard(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(log_module, '_open_board', lambda *_: FullBoard())
    log = RunLog(tmp_path)
    tell(log, 1)
    tell(log, 2)
    log.close()
    assert (tmp_path / 'log.jsonl').read_text() == '{"step": 1}\n{"step": 2}\n'
    assert caplog.text.count('No space left') == 1


def test_a_full_disk_is_named(tmp_path: Path):
    log = RunLog(tmp_path)
    log._file.close()
    log._file = open('/dev/full', 'ab')  # noqa: SIM115 closed below
    for call in (lambda: log.write(step=1), log.close):
        with pytest.raises(OSError, match=r'No space.*log\.jsonl'):
            call()


class FullTerminal(io.StringIO):
    """The standard error, sent to a file on a full disk."""

    def write(self, _):
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_messages_that_cannot_be_printed_end_nothing(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, 'handlers', [])
    monkeypatch.setattr(root, 'level', root.level)
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    monkeypatch.setattr('sys.stderr', FullTerminal())
    setup_logging()
    logging.getLogger().info('lost')
