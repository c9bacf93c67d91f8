"""How commands begin: with an interrupt before their imports are done, and with closed streams."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.starting import is_main_process

ROOT = Path(__file__).parents[2]
SCRIPTS = ['app.py', 'config.py', 'eval_existingOnes.py', 'export.py', 'gen_best_ep.py',
           'paper.py', 'predict.py', 'test.py', 'train.py',
           '']  # the last: the folder, as `birefnet` does
# Whichever of these modules is imported first gets Ctrl-C.
INTERRUPTED = """
import os, runpy, signal, sys
from importlib.abc import MetaPathFinder
class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ('config', 'difflib', 'fields', 'numpy', 'skimage', 'torch'):
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
script = sys.argv[1]
sys.argv = [script, 'config']
runpy.run_path(script, run_name='__main__')
"""
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(ROOT)}


def run_python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], env=ENVIRONMENT, text=True, check=False,
                          stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize('script', SCRIPTS)
def test_ctrl_c_during_the_imports_is_one_line(script):
    done = run_python('-c', INTERRUPTED, str(ROOT / script))
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.endswith(': interrupted before it began\n')
    assert done.stderr.count('\n') == 1


def test_a_file_is_not_opened_in_the_place_of_a_closed_stream(tmp_path):
    code = ('import sys; from runtime.starting import start_command; start_command("x"); '
            'file = open(sys.argv[1], "w"); print("lost"); print("seen", file=file)')
    for number in range(3):
        path = tmp_path / str(number)
        command = f'exec "$@" {number}>&-'
        subprocess.run(['bash', '-c', command, '-', sys.executable, '-c', code, str(path)],
                       env=ENVIRONMENT, check=True)
        assert path.read_text() == 'seen\n'


def test_output_that_nobody_reads_ends_a_command_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    done = run_python(str(ROOT / 'config.py'), stdout=writer)
    os.close(writer)
    assert done.returncode in (128 + signal.SIGPIPE, -signal.SIGPIPE)  # a shell reports 141
    assert done.stderr == ''


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs a device that is always full')
def test_output_into_a_full_disk_is_one_line():
    with open('/dev/full', 'w') as full:
        done = run_python(str(ROOT / 'config.py'), stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith('config: [Errno 28] No space left on device')
    assert done.stderr.count('\n') == 1


@pytest.mark.parametrize(('variables', 'is_main'), [
    ({}, True),
    ({'RANK': '1'}, True),  # left over: there is no other process
    ({'RANK': '0', 'WORLD_SIZE': '2'}, True),
    ({'RANK': '1', 'WORLD_SIZE': '2'}, False),
])
def test_which_process_speaks_and_writes(monkeypatch, variables, is_main):
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is is_main
