"""The wheel in an environment of its own, called beside a user's modules of the same names."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

import birefnet
import models
from exporting.huggingface import modeling_source
from hatch_build import link
from models import save_checkpoint
from tests.models.small import build
from tests.training.runs import TINY, make_data
from tools.package import Checkout

ROOT = Path(__file__).parents[1]
SHADOWS = ('utils', 'config', 'models', 'dataset', 'loss', 'train', 'predict')
HUB = """
import sys, types
import torch
theirs = {name: types.ModuleType(name) for name in sys.argv[2:]}
sys.modules |= theirs
network = torch.hub.load(sys.argv[1], 'birefnet', 'net.pth', source='local', size=(64, 64))
assert network(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 1, 64, 64)
import birefnet
assert birefnet.__file__.startswith(sys.prefix)
network = birefnet.optimize(birefnet.load_model('net.pth', size=(64, 64)))
assert birefnet.predict(network, 'photo.png').size == (64, 48)
assert {name: sys.modules[name] for name in theirs} == theirs
"""


class Installed:
    """The wheel's environment, and the folder of a user."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.packages = next(environment.glob('lib/python*/site-packages'))

    def run(self, *command: str | Path) -> str:
        """Runs a program of the environment in the user's folder; returns its output."""
        program, *arguments = command
        program = self.environment / 'bin' / program
        inherited = {name: os.environ[name] for name in os.environ if not name.startswith('PYTHON')}
        done = subprocess.run([program, *arguments], cwd=self.folder, env=inherited, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope='module')
def installed(tmp_path_factory) -> Installed:
    """An environment with a wheel that was built from a source distribution.

    Nothing is downloaded: what the wheel requires is that of the environment in which the tests
    run.
    """
    work = tmp_path_factory.mktemp('packaging')
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
    alone = ['--no-deps', '--no-index']
    build = [sys.executable, '-m', 'hatchling', 'build', '-t', 'sdist', '-d', work]
    subprocess.run(build, cwd=ROOT, check=True)
    source, = work.glob('*.tar.gz')
    subprocess.run([*pip, 'wheel', *alone, '--no-build-isolation', '-w', work, source], check=True)
    wheel, = work.glob('*.whl')
    venv.create(work / 'environment')
    found = Installed(work / 'environment', work / 'folder')
    ours = [path for path in sys.path if Path(path).name in ('site-packages', 'dist-packages')]
    (found.packages / 'behind.pth').write_text('\n'.join(ours))
    python = work / 'environment/bin/python'
    subprocess.run([*pip, '--python', python, 'install', *alone, wheel], check=True)
    found.folder.mkdir()
    for name in SHADOWS:
        shadow = found.folder / f'{name}.py'
        shadow.write_text(f"raise ImportError('{name}.py is the user\\'s own')\n")
    return found


@pytest.mark.slow
def test_one_package_is_installed(installed, tmp_path):
    names = {path.name for path in installed.packages.iterdir()} - {'behind.pth'}
    assert {name for name in names if not name.endswith('.dist-info')} == {'birefnet'}
    assert len(names) == 2
    Checkout(ROOT).write(tmp_path)
    package = installed.packages / 'birefnet'
    files = {path.relative_to(tmp_path): path.read_bytes()
             for path in tmp_path.rglob('*') if path.is_file()}
    assert files == {path.relative_to(package): path.read_bytes()
                     for path in package.rglob('*') if path.is_file() and path.suffix != '.pyc'}


@pytest.mark.slow
def test_a_run_from_training_to_the_best_checkpoint(installed):
    """Data is loaded by a worker and scored by processes, which import the package anew."""
    make_data(installed.folder / 'datasets', train=4)
    options = [text for text in TINY if not text.startswith(('epochs', 'num_workers'))]
    options += ['epochs=1', 'num_workers=1']
    installed.run('birefnet', 'train', '--ckpt_dir', 'ckpts/run', *options)
    installed.run('birefnet', 'test', '--ckpt_folder', 'ckpts/run', 'device=cpu')
    installed.run(
        'birefnet', 'eval', '--ckpt_folder', 'ckpts/run', '--workers', '2', '--cache', 'cache')
    assert 'run--epoch_1' in installed.run('birefnet', 'best', 'task=Tiny')
    masks = installed.folder.glob('e_preds/run--epoch_1-reso_*/TE-Tiny/1.png')
    assert len(list(masks)) == 1
    assert (installed.folder / 'e_results/report.html').is_file()


@pytest.mark.slow
def test_pictures_torch_hub_and_python(installed):
    save_checkpoint(build(), installed.folder / 'net.pth')
    cv2.imwrite(str(installed.folder / 'photo.png'), np.full((48, 64, 3), 90, np.uint8))
    installed.run(
        'birefnet', 'predict', 'photo.png', 'cut.png', '-m', 'net.pth', '--resolution', '64x64')
    assert cv2.imread(str(installed.folder / 'cut.png'), cv2.IMREAD_UNCHANGED).shape == (48, 64, 4)
    installed.run('python', '-c', HUB, ROOT, *SHADOWS)


@pytest.mark.slow
def test_the_file_for_transformers_is_the_same(installed):
    code = ('from birefnet.exporting.huggingface import modeling_source; '
            'print(modeling_source("swin_v1_t"))')
    assert installed.run('python', '-c', code) == modeling_source('swin_v1_t') + '\n'


def test_an_editable_installation(tmp_path):
    """It runs the checkout's own files, and workers of a run find it by the same name."""
    (tmp_path / 'birefnet').mkdir()
    (tmp_path / 'birefnet/__init__.py').write_text(link(ROOT))
    code = ('import birefnet.config, sys; '
            'print(birefnet.__file__, birefnet.config.__file__, "config" in sys.modules)')
    for arguments, expected in (
            (['-c', code], f'{ROOT / "birefnet.py"} {ROOT / "config.py"} False\n'),
            (['-m', 'birefnet', 'config', '--print', 'bb', 'task=COD'], 'swin_v1_l\n')):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.slow
def test_the_command_explains_itself(installed):
    commands = ('train', 'test', 'eval', 'best', 'predict', 'export', 'app', 'zoo', 'config')
    page = installed.run('birefnet', '--help')
    assert all(f'\n  {command} ' in page for command in commands)
    options = installed.run('birefnet', 'predict', '--help')
    assert options.startswith('usage: birefnet predict INPUT')
    assert 'birefnet train task=COD' in installed.run('birefnet', 'config', '--help')
    loaded = installed.run('python', '-X', 'importtime', '-m', 'birefnet', '--help')
    assert re.search(r'\| +argparse$', loaded, re.M)
    slow = re.search(r'\| +(torch|numpy)$', loaded, re.M)
    assert not slow, 'the list of commands need not wait for them'


def test_the_package_has_the_names_of_models():
    assert set(birefnet.__all__) == {*models.__all__, 'predict'}
    assert birefnet.load_model is models.load_model
    with pytest.raises(AttributeError, match="'birefnet' has no attribute 'lode_model'"):
        birefnet.lode_model  # noqa: B018
