"""Processes under temporary folders of long paths, and in the hands of launchers."""

import multiprocessing
import os
import tempfile

import pytest

from runtime.distributed import refuse_separate_tasks
from runtime.processes import LONGEST_FOLDER, shorten_socket_paths


def _report_folder(queue):
    queue.put(multiprocessing.util.get_temp_dir())


def test_sockets_have_short_paths_whatever_tmpdir_is(tmp_path, monkeypatch):
    long = tmp_path / ('x' * 95)
    long.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(long))
    # As in a process that has started none yet.
    monkeypatch.delitem(multiprocessing.process.current_process()._config, 'tempdir', False)
    shorten_socket_paths()
    folder = multiprocessing.util.get_temp_dir()
    assert len(os.fsencode(folder)) < LONGEST_FOLDER
    assert tempfile.gettempdir() == str(long)

    # What it starts inherits that.
    context = multiprocessing.get_context('spawn')
    queue = context.SimpleQueue()
    process = context.Process(target=_report_folder, args=(queue,))
    process.start()
    assert queue.get() == folder
    process.join()


@pytest.mark.parametrize('variables', [
    {'SLURM_PROCID': '2', 'SLURM_NTASKS': '4'},
    {'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '4'},
    {'OMPI_COMM_WORLD_SIZE': '2'},
], ids=str)
def test_tasks_that_do_not_know_of_each_other_are_refused(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match='torchrun'):
        refuse_separate_tasks()
    monkeypatch.setenv('WORLD_SIZE', '2')  # torchrun's, under srun
    refuse_separate_tasks()


def test_a_batch_script_with_several_tasks_may_train(monkeypatch):
    for name, value in {'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}.items():
        monkeypatch.setenv(name, value)
    refuse_separate_tasks()
