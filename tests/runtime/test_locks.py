"""Locks between processes, also where the file system has none."""

import errno
import fcntl
import logging
import os
import threading
import time

import pytest
from filelock import FileLock

from runtime.locks import hold_lock


def test_a_second_process_is_refused(tmp_path):
    file = tmp_path / 'new' / '.lock'
    refused = pytest.raises(ValueError, match='busy')
    with hold_lock(file, 'first'), refused, hold_lock(file, 'busy'):
        pass
    with hold_lock(file, 'busy'):
        pass


@pytest.mark.parametrize('error', [errno.ENOLCK, errno.EIO, errno.EACCES, errno.EOPNOTSUPP])
@pytest.mark.parametrize('wait', [False, True])
def test_a_file_system_without_locks_costs_a_warning(tmp_path, monkeypatch, caplog, error, wait):
    """Older releases of filelock take each of these for another's lock, newer ones EACCES."""
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with caplog.at_level(logging.WARNING), hold_lock(tmp_path / '.lock', 'busy', wait):
        pass
    assert 'no lock' in caplog.text
    assert {path.name for path in tmp_path.iterdir()} <= {'.lock'}, 'the trial leaves nothing'


def test_a_release_of_filelock_that_refuses_costs_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, 'acquire', refuse)
    with caplog.at_level(logging.WARNING), hold_lock(tmp_path / '.lock', 'busy'):
        pass
    assert 'no lock' in caplog.text


def test_a_process_that_waits_gets_the_lock_when_it_is_free(tmp_path):
    file, steps = tmp_path / '.lock', []

    def wait():
        with hold_lock(file, 'busy', wait=True):
            steps.append('second')

    waiting = threading.Thread(target=wait)
    with hold_lock(file, 'busy'):
        waiting.start()
        time.sleep(.1)
        steps.append('first')
    waiting.join()
    assert steps == ['first', 'second']


def test_a_lock_that_is_not_released_costs_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError('the disk is gone')

    done = []
    with hold_lock(tmp_path / '.lock', 'busy'):
        monkeypatch.setattr(FileLock, 'release', refuse)
        done.append('work')
    assert done == ['work']
