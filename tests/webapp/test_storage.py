"""Visitors' files go when they should, and not before."""

import os
import tempfile
import time

import pytest

from webapp.storage import PREFIX, Storage, temporary_storage


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path, keep_seconds=100)


def put(storage, name):
    path = storage.folder / name / 'a.png'
    path.parent.mkdir()
    path.write_bytes(b'12345')
    return path


def test_who_leaves_takes_his_files_along_but_nobody_elses(storage):
    mine, ours, yours = (put(storage, name) for name in ('mine', 'ours', 'yours'))
    storage.use('me', [mine, ours])
    storage.use('you', [ours, yours])
    folder = storage.new_folder('me')
    (folder / 'result').touch()
    assert storage.size() == 15
    storage.leave('me')
    assert not mine.exists()
    assert not folder.exists()
    assert ours.exists()
    storage.leave('you')
    storage.leave('nobody')
    assert storage.size() == 0


def test_only_ones_own_folders_are_deleted(storage):
    mine, yours = storage.new_folder('me'), storage.new_folder('you')
    storage.delete('me', [mine, yours, storage.folder])
    assert not mine.exists()
    assert yours.exists()


def test_what_is_not_used_goes_after_a_while(storage):
    old, used, new = (put(storage, name) for name in ('old', 'used', 'new'))
    past = time.time() - 200
    for path in (old, used, old.parent, used.parent):
        os.utime(path, (past, past))
    storage.use('me', [used, storage.folder / 'gone'])
    storage.sweep()
    assert used.exists()
    assert new.exists()
    assert not old.exists()
    os.utime(old.parent, (past, past))
    storage.sweep()
    assert not old.parent.exists()


def test_nothing_outlives_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    (tmp_path / f'{PREFIX}killed' / 'files').mkdir(parents=True)
    with temporary_storage(100) as first:
        assert len(list(tmp_path.iterdir())) == 1
        with temporary_storage(100) as second:
            assert first.folder.exists()
            assert second.folder != first.folder
        assert first.folder.exists()
    assert list(tmp_path.iterdir()) == []
