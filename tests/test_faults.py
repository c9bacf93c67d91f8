"""Whatever call to the system fails in a command, the last good state is there.

The exit code is not 0 then, and one line says what happened; or the command did all that it was
asked for, because what failed was a convenience. Each command is run over and over, with another of
its calls failing each time: a few of them, the same in each run, or as many as FAULTS=1000 says.
"""

import io
import os
import random
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from config import Config
from models import build_birefnet, save_checkpoint
from runtime.distributed import PREEMPTED
from tests import faults
from tests.evaluation.folders import make_folders
from tests.faults import FAILURES, Fault, Outcome
from tests.training.runs import TINY, make_data
from utils import write_json


class Scenario(NamedTuple):
    """A command in a folder where it, or another one, has worked before."""

    name: str
    script: str
    arguments: list[str]
    prepare: Callable[[Path], None]

    @property
    def program(self) -> str:
        """How the command calls itself."""
        names = {'birefnet': 'predict', 'evaluate': 'eval_existingOnes', 'best': 'gen_best_ep'}
        return names.get(self.name, self.name)


def prepare_training(folder: Path) -> None:
    """A run after the first of its two epochs, as if it had been killed in the second."""
    make_data(folder / 'data', train=4)
    assert faults.run(folder, 'train.py', TRAINING).code == 0
    run = folder / 'run'
    (run / 'last.previous.pt').replace(run / 'last.pt')
    for name in ('epoch_2.pth', 'curves.png'):
        (run / name).unlink()


def prepare_test(folder: Path) -> None:
    """A checkpoint of random weights, and images without masks."""
    make_data(folder / 'data')
    cfg = Config(task='Tiny', bb='pvt_v2_b0', mul_scl_ipt='', dec_att='', size=(32, 32),
                 data_root='data')
    torch.manual_seed(0)
    save_checkpoint(build_birefnet(cfg), folder / 'run' / 'epoch_1.pth')
    write_json(folder / 'run' / 'config.json', cfg.as_dict())


def prepare_masks(folder: Path) -> None:
    """Masks of two checkpoints, of which the first has been scored."""
    make_folders(folder, sets=('TE-A',), images=2)
    first = [*EVALUATION, '--methods', 'run--epoch_5']
    assert faults.run(folder, 'eval_existingOnes.py', first).code == 0


def prepare_scores(folder: Path) -> None:
    """Scores of two checkpoints."""
    make_folders(folder, sets=('TE-A',), images=2)
    assert faults.run(folder, 'eval_existingOnes.py', EVALUATION).code == 0


def prepare_images(folder: Path) -> None:
    """Two images, one of which has a result, and a network."""
    prepare_test(folder)
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{number}.png'), image)
    (folder / 'images').mkdir()
    for number in range(2):
        (folder / f'{number}.png').rename(folder / 'images' / f'{number}.png')
    assert faults.run(folder, 'predict.py', ['images/0.png', 'out/', *PREDICTION]).code == 0


TRAINING = [*TINY, 'lambdas_pix_last=bce:1', 'tail_epochs=0', 'data_root=data', 'load_all=True',
            'resume=auto', 'epochs=2', '--ckpt_dir', 'run']
EVALUATION = ['task=Toy', 'testsets=TE-A', 'workers=1', '--metrics', 'usual+HCE']
PREDICTION = ['-m', 'run/epoch_1.pth', '--device', 'cpu', '-om', '--workers', '1']
SCENARIOS = [
    Scenario('train', 'train.py', TRAINING, prepare_training),
    Scenario('test', 'test.py', ['--ckpt_folder', 'run', 'data_root=data', 'device=cpu'],
             prepare_test),
    Scenario('evaluate', 'eval_existingOnes.py', EVALUATION, prepare_masks),
    Scenario('best', 'gen_best_ep.py', ['task=Toy', 'testsets=TE-A'], prepare_scores),
    Scenario('predict', 'predict.py', ['images', 'out', *PREDICTION], prepare_images),
]
# They take long, or do what others of these do: with FAULTS alone.
MORE_SCENARIOS = [
    Scenario('birefnet', '', ['predict', 'images', 'out', *PREDICTION], prepare_images),
    Scenario('app', 'tests/serve_once.py', ['-m', 'run/epoch_1.pth', '--device', 'cpu'],
             prepare_test),
]


# --- What has to hold -----------------------------------------------------------------------------

# Files that tell of times, or of how often a run was started; and Python's own trial of TMPDIR.
VOLATILE = re.compile(
    r'.*(\.lock|log\.txt|images\.json|last\.previous\.pt|/tensorboard/.*)|[a-z0-9_]{8}')
# What a command can do without, with a warning.
CONVENIENCES = re.compile(r'.*(curves\.png|\.cache/.*|cache/.*|home/.*)')
TEMPORARY = re.compile(r'(.*/)?(\.[^/]*\.tmp|[^/]*\.new)')


class Trees(NamedTuple):
    """The files before a command, after it without a fault, and after it with one."""

    old: dict[str, bytes]
    new: dict[str, bytes]
    now: dict[str, bytes]


def find_problems(trees: Trees, outcome: Outcome, fault: Fault, name: str) -> list[str]:
    """Describes what does not hold after a command whose call has failed."""
    failed = outcome.calls[fault.call] if fault.call < len(outcome.calls) else ''
    problems = [*_of_words(outcome, fault.error, name), *_of_files(trees, outcome, failed)]
    # On a full disk each image fails for itself.
    if outcome.code and not fault.stays and len(own_lines(outcome, name)) > 1:
        problems.append('several lines say what happened')
    return [f'{fault.error} of {failed or "no call"}: {problem}\n{outcome.output}'
            for problem in problems]


def _of_words(outcome: Outcome, error: str, name: str) -> list[str]:
    """What is wrong with the exit code and the lines on the screen."""
    problems = []
    if 'Traceback' in outcome.output:
        problems.append('a traceback')
    codes = (0, PREEMPTED, 128 + getattr(signal, error)) if error.startswith('SIG') else (0, 1)
    if outcome.code not in codes:
        problems.append(f'exit code {outcome.code}')
    if outcome.code not in (0, PREEMPTED) and not own_lines(outcome, name):
        problems.append('no line says what happened')
    return problems


def own_lines(outcome: Outcome, name: str) -> list[str]:
    """The lines in which a program speaks of itself."""
    return [line for line in outcome.output.splitlines() if line.startswith(f'{name}: ')]


def _of_files(trees: Trees, outcome: Outcome, failed: str) -> list[str]:
    """What is wrong with the files."""
    problems = []
    known = {*trees.old, *trees.new}
    for path, content in trees.now.items():
        is_left = path not in known and not VOLATILE.match(path)
        if is_left and not failed.startswith(('os.unlink', 'os.remove')):
            problems.append(f'left behind: {path}')
        wanted = [tree[path] for tree in (trees.old, trees.new) if path in tree]
        if wanted and content not in wanted and not VOLATILE.match(path):
            problems += _damage(path, content, trees.new.get(path, b''))
    for path in trees.old:
        if path not in trees.now:
            problems.append(f'gone: {path}')
    if outcome.code:
        return problems
    for path, content in trees.new.items():
        is_needed = not VOLATILE.match(path) and not CONVENIENCES.match(path)
        if is_needed and not _is_same(path, content, trees.now.get(path, b'')):
            problems.append(f'exit code 0 without {path}')
    return problems


def _is_same(path: str, content: bytes, other: bytes) -> bool:
    """Whether two files hold the same.

    A state that was read and is written again has the same values. Its bytes also tell which equal
    strings were one object, and differ.
    """
    if content == other or not path.endswith('last.pt') or not other:
        return content == other
    states = [torch.load(io.BytesIO(data), weights_only=True) for data in (content, other)]
    return _are_equal(*states)


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(_are_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_are_equal(*pair) for pair in pairs)
    return one == other


def _damage(path: str, content: bytes, new: bytes) -> list[str]:
    """What is wrong with a file that is neither the old one nor the new one."""
    if path.endswith('.jsonl'):  # appended to line by line
        lines = content.splitlines(keepends=True)
        return [] if all(line in new or line == b'\n' for line in lines[:-1]) else [f'half: {path}']
    if path.endswith('.cache'):  # checked against its sources when it is read
        return []
    if path.endswith('last.pt'):  # also of a state within an epoch
        damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()
        return [f'damaged: {path}'] if damaged else []
    return [f'neither old nor new: {path}']


# --- Tests ----------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """A scenario that has been played without a fault: its folders and files, and its calls."""

    scenario: Scenario
    old: Path
    work: Path
    old_tree: dict[str, bytes]
    new_tree: dict[str, bytes]
    calls: list[str]

    def play(self, fault: Fault | None = None) -> Outcome:
        """Runs the command where it has not run before."""
        faults.put_back(self.old, self.work)
        return self.go_on(fault)

    def go_on(self, fault: Fault | None = None) -> Outcome:
        """Runs the command on what an earlier run has left."""
        return faults.run(self.work, self.scenario.script, self.scenario.arguments, fault)


FEW = 4
MANY = int(os.environ.get('FAULTS', 16))
if 'FAULTS' in os.environ:
    SCENARIOS += MORE_SCENARIOS
WRITING = ('create', 'write', 'os.fsync', 'os.replace', 'os.mkdir', 'os.unlink')
SIGNALS = ('SIGINT', 'SIGTERM', 'SIGHUP')
STAGES = []
for scenario in SCENARIOS:
    takes_long = scenario.name != 'evaluate'  # loads a network or draws a report each time
    marks = [pytest.mark.slow] if takes_long else []
    STAGES.append(pytest.param(scenario, id=scenario.name, marks=marks))


@pytest.fixture(scope='module')
def stage(request, tmp_path_factory) -> Stage:
    scenario = request.param
    root = tmp_path_factory.mktemp(scenario.name)
    old, work = root / 'old', root / 'work'
    old.mkdir()
    scenario.prepare(old)
    empty = Stage(scenario, old, work, {}, {}, [])
    outcome = empty.play()
    assert outcome.code == 0, outcome.output
    return Stage(scenario, old, work, faults.read_tree(old), faults.read_tree(work), outcome.calls)


def draw_faults(calls: list[str], count: int, seed: int) -> list[Fault]:
    """Draws faults, most of them of calls that write: an error, a full disk, a signal in turn."""
    rng = random.Random(seed)
    writing = [number for number, call in enumerate(calls) if call.split()[0] in WRITING]
    drawn = []
    for index in range(count):
        call = rng.choice(writing if index % 4 else range(len(calls)))
        function = calls[call].split()[0]
        kinds = (
            Fault(call, rng.choice(FAILURES[function])),
            Fault(call, 'ENOSPC', stays=True),
            Fault(call, rng.choice(SIGNALS)),
        )
        drawn.append(kinds[index % len(kinds)])
    return drawn


def check(stage: Stage, fault: Fault, again: bool) -> None:
    """Plays a scenario with a fault and, with `again`, then without one: all is as it should be."""
    outcome = stage.play(fault)
    trees = Trees(stage.old_tree, stage.new_tree, faults.read_tree(stage.work))
    program = stage.scenario.program
    assert not find_problems(trees, outcome, fault, program)
    if not again or outcome.code == 0:
        return
    repeated = stage.go_on()
    assert repeated.code == 0, f'{fault}, then: {repeated.output}'
    trees = trees._replace(now=faults.read_tree(stage.work))
    assert not _of_files(trees, repeated, '')


@pytest.mark.parametrize('stage', STAGES, indirect=True)
def test_a_few_calls_fail(stage):
    for fault in draw_faults(stage.calls, FEW, seed=0):
        check(stage, fault, again=fault.stays)


@pytest.mark.slow
@pytest.mark.parametrize('stage', STAGES, indirect=True)
def test_many_calls_fail(stage):
    for fault in draw_faults(stage.calls, MANY, seed=1):
        check(stage, fault, again=True)
