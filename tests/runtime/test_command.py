"""How commands end, and what importing the library leaves as it was."""

import logging
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from runtime import command
from runtime.command import explain_interrupt, run_command
from runtime.starting import INTERRUPTED

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """Keeps the signals of the tests' own process, which a command changes when it ends."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    monkeypatch.setattr(logging, 'raiseExceptions', True)
    monkeypatch.setattr(threading, 'excepthook', threading.excepthook)
    monkeypatch.setattr(command, '_allow_many_files', lambda: None)
    yield
    for name in command.ENDING_SIGNALS:
        number = getattr(signal, name)
        signal.signal(number, before[number])


@pytest.mark.parametrize(('error', 'code', 'line'), [
    (ValueError('lr: not a number'), 1, 'train: lr: not a number\n'),
    (PermissionError(13, 'Permission denied', '/proc/x'), 1,
     "train: [Errno 13] Permission denied: '/proc/x'\n"),
    (MemoryError('8 GB'), 1, 'train: the memory is full (8 GB); use a smaller size or batch\n'),
    (ZeroDivisionError('its own'), 1, 'train: its own\n'),
    (RuntimeError("can't start new thread"), 1,
     'train: no more threads are allowed: raise the limit of processes (ulimit -u, or '
     '--pids-limit of a container)\n'),
    (KeyboardInterrupt(), INTERRUPTED, 'train: interrupted\n'),
], ids=lambda value: type(value).__name__)
def test_what_a_user_can_cause_is_one_line(capsys, error, code, line):
    def fail():
        raise error

    assert run_command('train', fail, (ZeroDivisionError,)) == code
    assert capsys.readouterr().err == line


def fill_opencv():
    cv2.copyMakeBorder(np.zeros((1, 1)), 0, 1 << 24, 0, 1 << 22, cv2.BORDER_CONSTANT)


def fill_gpu():
    raise torch.OutOfMemoryError(
        'CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8 GiB')


@pytest.mark.parametrize(('fill', 'reason'), [
    (lambda: torch.empty(1 << 48, dtype=torch.uint8),
     r'the memory is full \(allocating 281474976710656 bytes failed\)'),
    (fill_opencv, r'the memory is full \(allocating \d+ bytes failed\)'),
    (fill_gpu, r"the GPU's memory is full \(allocating 20.00 MiB failed\)"),
], ids=['PyTorch', 'OpenCV', 'GPU'])
def test_a_full_memory_is_one_line(capsys, fill, reason):
    assert run_command('train', fill) == 1
    line = capsys.readouterr().err
    assert re.fullmatch(f'train: {reason}; use a smaller size or batch\n', line)


def test_ctrl_c_says_what_was_kept(capsys):
    def interrupted():
        with explain_interrupt('three masks are kept'):
            raise KeyboardInterrupt

    assert run_command('test', interrupted) == INTERRUPTED
    assert capsys.readouterr().err == 'test: interrupted: three masks are kept\n'


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP'])
def test_signals_end_a_command_as_ctrl_c_does(capsys, name):
    undone = []

    def work():
        try:
            signal.raise_signal(getattr(signal, name))
        finally:
            undone.append('what was half done')

    assert run_command('test', work) == 128 + getattr(signal, name)
    assert undone
    assert capsys.readouterr().err == f'test: ended by {name}\n'


def test_signals_that_are_ignored_stay_so():
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert run_command('test', lambda: signal.raise_signal(signal.SIGHUP)) == 0


def test_a_warning_is_said_without_a_line_of_code(capsys, caplog):
    assert run_command('train', lambda: warnings.warn('the masks look odd')) == 0
    assert caplog.messages == ['the masks look odd']
    assert 'warnings.warn' not in capsys.readouterr().err


def test_a_thread_that_the_disk_has_ended_is_one_line(capsys, caplog):
    def fail():
        raise OSError('the disk is full')

    def work():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    assert run_command('train', work) == 0
    assert 'the disk is full' in caplog.text
    assert 'Traceback' not in capsys.readouterr().err


def test_errors_of_the_program_keep_their_traceback():
    with pytest.raises(KeyError):
        run_command('train', lambda: {}['missing'])
    assert run_command('train', lambda: None) == 0
    assert run_command('train', lambda: 75) == 75


HOST = """
import os, signal, sys, threading, warnings
def state():
    umask = os.umask(0o022)
    os.umask(umask)
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return (dict(os.environ), umask, handlers, os.getcwd(), threading.active_count(),
            torch.get_num_threads(), cv2.getNumThreads(), Image.MAX_IMAGE_PIXELS,
            ImageFile.LOAD_TRUNCATED_IMAGES, sys.excepthook)
import cv2, torch, timm, numpy
from PIL import Image, ImageFile
os.umask(0o027)
before = state()
calls = []
real = os.umask
os.umask = lambda mask: calls.append(mask) or real(mask)
import models, inference, exporting, evaluation.runner, train, test, predict
os.umask = real
assert not calls, 'the umask was changed'
for then, now in zip(before, state()):
    assert then == now, (then, now)
"""


@pytest.mark.slow
def test_importing_changes_nothing_for_the_host_program():
    done = subprocess.run([sys.executable, '-c', HOST], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_the_limit_of_open_files_is_raised():
    code = ('import resource; from runtime.command import run_command; '
            'resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512)); run_command("x", lambda: 0); '
            'print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert done.stdout == '512\n'
