"""The README's guide to fine-tuning, followed to the letter on a CPU.

It leads to better scores than the checkpoint had before.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.make_data import write_sample
from evaluation.results import read_sets

ROOT = Path(__file__).parents[1]
PUBLISHED = 'BiRefNet-general-epoch_244.pth'
SMALL = ['size=64', 'batch_size=4', 'num_workers=0', 'device=cpu']


def readme_command() -> list[str]:
    """The command of the guide, its GPUs changed to cpu."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8').replace('\\\n', ' ')
    words = shlex.split(re.search(r'^\./sub\.sh my_cutouts .*$', text, re.MULTILINE)[0])
    assert words[2:4] == ['0', '0']
    return [*words[:2], 'cpu', 'cpu', *words[4:]]


@pytest.fixture
def project(tmp_path):
    """A copy of the project with little data.

    Returns its folder and a function that runs a command there.
    """
    for path in (*ROOT.glob('*.py'), *ROOT.glob('*.sh')):
        shutil.copy(path, tmp_path)
    for package in ROOT.glob('*/__init__.py'):
        folder = package.parent
        (tmp_path / folder.name).symlink_to(folder)
    dropped = ('SLURM', 'CPU_PROCESSES')
    environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    # Two threads that wait for each other are slow where others work too.
    environment['OMP_NUM_THREADS'] = '1'
    environment['PATH'] = f'{Path(sys.executable).parent}:{environment["PATH"]}'

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=tmp_path, env=environment,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return tmp_path, run


def write_set(folder: Path, count: int, seed: int, train: bool) -> None:
    for index in range(count):
        write_sample(index, folder, 128, seed, train)


@pytest.mark.slow
def test_the_guide_leads_to_better_scores(project):
    folder, run = project
    write_set(folder / 'datasets/Base/TR-Base', 48, 1, True)
    write_set(folder / 'datasets/my_cutouts/TR-mine', 40, 2, True)
    write_set(folder / 'datasets/my_cutouts/TE-mine', 12, 2, False)
    # A published checkpoint is a file in the official layout, and nothing else.
    network = ('bb=pvt_v2_b0', 'dec_att=')
    training = ('epochs=2', 'lr=3e-4')
    run('python', 'train.py', '--ckpt_dir', 'base', 'task=Base', *network, *training, *SMALL)
    shutil.copy(folder / 'base/epoch_2.pth', folder / PUBLISHED)
    run('python', 'test.py', '--ckpt', PUBLISHED, 'task=my_cutouts', *SMALL)

    run('bash', *readme_command(), 'epochs=8', 'lr=1e-3', 'tail_epochs=0', *SMALL)
    run('python', 'eval_existingOnes.py', 'task=my_cutouts')

    results = read_sets(folder / 'e_results', ['TE-mine'])['TE-mine']
    methods = {m['method']: m for m in results['methods']}
    tuned = [m['scores'] for m in methods.values() if m['run'] == 'my_cutouts']
    before, = (m['scores'] for m in methods.values() if m['run'] != 'my_cutouts')
    assert len(tuned) == 8
    for name in ('sm', 'wfm', 'mae'):
        print(name, 'before and after:', before[name], tuned[-1][name])
    assert tuned[-1]['sm'] > before['sm'] + .02
    assert tuned[-1]['mae'] < before['mae']
