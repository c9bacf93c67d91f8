"""Locks between processes, also where the file system has none."""

import logging

import filelock
import pytest
from filelock import FileLock

from runtime import locks
from runtime.locks import hold_lock


def test_a_second_process_is_refused(tmp_path):
    file = tmp_path / 'new' / '.lock'
    refused = pytest.raises(ValueError, match='busy')
    with hold_lock(file, 'first'), refused, hold_lock(file, 'busy'):
        pass
    with hold_lock(file, 'busy'):
        pass


@pytest.mark.parametrize('error', [NotImplementedError, OSError, filelock.Timeout])
@pytest.mark.parametrize('wait', [False, True])
def test_a_file_system_without_locks_costs_a_warning(tmp_path, monkeypatch, caplog, error, wait):
    def refuse(lock, *_, **__):
        raise error(str(lock.lock_file))

    monkeypatch.setattr(FileLock, 'acquire', refuse)
    with caplog.at_level(logging.WARNING), hold_lock(tmp_path / '.lock', 'busy', wait):
        pass
    assert 'no lock' in caplog.text
    assert not locks._has_locks(tmp_path)
    assert not list(tmp_path.glob('*/'))


def test_a_lock_that_is_not_released_costs_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError('the disk is gone')

    done = []
    with hold_lock(tmp_path / '.lock', 'busy'):
        monkeypatch.setattr(FileLock, 'release', refuse)
        done.append('work')
    assert done == ['work']
