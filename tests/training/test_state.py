"""The state of a run on disk: failed writes, full disks and damage."""

import errno
import io
import os
import resource
import zipfile
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from models.checkpoints import files
from models.checkpoints.files import write_state
from training.state import LAST, PREVIOUS, RunState, load_state, save_state


def test_a_run_state_is_read_as_it_was_written(tmp_path):
    config = {'lr': 1., 'size': [32, 32], 'num_workers': 2}
    state = RunState({'epoch': 3, 'batch': 4}, {'value': .5}, 77, config, world_size=2)
    state.save(tmp_path)
    assert RunState.load(tmp_path) == state
    assert state.position == (3, 4)


def test_a_file_that_is_not_the_state_of_a_run_is_refused(tmp_path):
    save_state(tmp_path, {'best': {}, 'config': {}, 'epoch': 1})
    with pytest.raises(ValueError, match='it holds no log_position, world_size'):
        RunState.load(tmp_path)


def test_a_state_is_compared_with_the_config():
    state = RunState({}, {}, 0, {'lr': 1., 'num_workers': 2}, world_size=2)
    state.check_config({'lr': 1., 'num_workers': 0, 'added': 1})
    with pytest.raises(ValueError, match=r'lr: the run was started with 1\.0, now it is 2\.0'):
        state.check_config({'lr': 2., 'num_workers': 2})
    state.check_images(5)
    with pytest.raises(ValueError, match=r'had 6 training images, now there are 5.*resume=force'):
        replace(state, images=6).check_images(5)
    state.check_world_size(2)
    with pytest.raises(ValueError, match='had 2 processes, now there are 1'):
        state.check_world_size(1)


def test_state_survives_a_failed_write(tmp_path, monkeypatch):
    save_state(tmp_path, {'step': 1})
    save_state(tmp_path, {'step': 2})

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        save_state(tmp_path, {'step': 3})
    assert load_state(tmp_path) == {'step': 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([LAST, PREVIOUS])


@pytest.mark.parametrize('error', [OSError(errno.EIO, 'Input/output error'), KeyboardInterrupt()])
@pytest.mark.parametrize('failing', [1, 2, 3])
def test_state_survives_a_failed_renaming(tmp_path, monkeypatch, failing, error):
    save_state(tmp_path, {'step': 1})
    save_state(tmp_path, {'step': 2})
    calls = []

    def replace(source, target, real=os.replace):
        calls.append(target)
        if len(calls) == failing:
            raise error
        real(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(type(error)):
        save_state(tmp_path, {'step': 3})
    assert load_state(tmp_path) == {'step': 2}
    assert {path.name for path in tmp_path.iterdir()} in ({LAST, PREVIOUS}, {LAST})


def test_a_full_disk_is_an_error_that_leaves_what_was_there(tmp_path):
    save_state(tmp_path, {'step': torch.ones(3)})
    (tmp_path / 'epoch_1.pth').write_bytes(b'before')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r'last\.pt.*is the disk full'):
            save_state(tmp_path, {'step': torch.zeros(100_000)})
        with pytest.raises(OSError, match=r'epoch_1\.pth.*is the disk full'):
            write_state({'weight': torch.zeros(100_000)}, tmp_path / 'epoch_1.pth')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_state(tmp_path)['step'].tolist() == [1, 1, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['epoch_1.pth', LAST]
    assert (tmp_path / 'epoch_1.pth').read_bytes() == b'before'


def test_a_single_changed_byte_is_damage(tmp_path, caplog):
    save_state(tmp_path, {'step': torch.zeros(100)})
    save_state(tmp_path, {'step': torch.ones(100)})
    content = (tmp_path / LAST).read_bytes()
    at = content.index(torch.ones(100).numpy().tobytes()) + 200
    (tmp_path / LAST).write_bytes(content[:at] + b'?' + content[at + 1:])
    assert load_state(tmp_path)['step'].sum() == 0
    assert f'{tmp_path / LAST}: damaged' in caplog.text


def test_a_state_that_is_damaged_throughout_is_an_error(tmp_path):
    assert load_state(tmp_path) is None
    (tmp_path / LAST).write_bytes(b'PK nonsense')
    with pytest.raises(ValueError, match='damaged'):
        load_state(tmp_path)


def test_a_state_is_read_where_files_cannot_be_mapped(tmp_path, monkeypatch):
    save_state(tmp_path, {'step': torch.ones(3)})

    def refuse(*_, **__):
        raise RuntimeError('unable to mmap 100 bytes: No such device (19)')

    monkeypatch.setattr(torch.UntypedStorage, 'from_file', refuse)
    assert load_state(tmp_path)['step'].tolist() == [1, 1, 1]


def test_a_state_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    """The previous state would lose what was trained since, and the file may be whole."""
    save_state(tmp_path, {'step': 1})
    save_state(tmp_path, {'step': 2})

    def stale(*_, **__):
        raise OSError(errno.ESTALE, 'Stale file handle')

    monkeypatch.setattr(zipfile, 'ZipFile', stale)
    with pytest.raises(OSError, match='Stale file handle'):
        load_state(tmp_path)


def test_a_folder_that_cannot_be_synced_keeps_the_state(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, 'Invalid argument')

    monkeypatch.setattr(os, 'fsync', refuse)
    save_state(tmp_path, {'step': 1})
    assert load_state(tmp_path) == {'step': 1}


def test_ctrl_c_during_a_save_is_no_full_disk(tmp_path, monkeypatch):
    save_state(tmp_path, {'step': torch.ones(3)})

    class Interrupted(io.BytesIO):
        def write(self, data):
            raise KeyboardInterrupt

    monkeypatch.setattr(files, 'atomic_write', lambda _: nullcontext(Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, {'step': torch.zeros(3)})
    assert load_state(tmp_path)['step'].tolist() == [1, 1, 1]


def test_an_error_of_the_disk_within_a_state_is_not_called_damage(tmp_path, monkeypatch):
    """zipfile calls any error that it meets at a file's end damage."""
    save_state(tmp_path, {'step': 1})
    save_state(tmp_path, {'step': 2})

    def end_record(_):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(zipfile, '_EndRecData', end_record)
    with pytest.raises(OSError, match=r'Input/output error.*last\.pt'):
        load_state(tmp_path)
