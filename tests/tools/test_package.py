"""The checkout as a package: imports rewritten on disk and in memory."""

import ast
import importlib
import itertools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tools.package import Checkout, load

ROOT = Path(__file__).parents[2]
SMALL = {
    'birefnet.py': '__all__ = []\n',
    '__main__.py': "COMMANDS = {'go': ('run', 'goes'), 'list': ('run all', 'lists')}\n",
    'run.py': 'from part import first\n\nVALUE = first.VALUE\n',
    'config.py': "NAME = 'config'\n",
    'part.py': 'import tests\n',  # a script: what is imported is the folder
    'part/__init__.py': '',
    'part/first.py': 'import config\n\nVALUE = config.NAME\n',
    'part/table.toml': 'import = 1\n',
    'part/__pycache__/first.cpython-311.pyc': '',
    'tests/__init__.py': '',
    'tests/test_run.py': 'import run\n',
}


@pytest.fixture
def small(tmp_path):
    """A checkout of few lines."""
    root = tmp_path / 'checkout'
    for name, text in SMALL.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(('source', 'expected'), [
    ('from part.first import VALUE', 'from own.part.first import VALUE'),
    ('from part import (\n    first,\n    second,\n)',
     'from own.part import (\n    first,\n    second,\n)'),
    ('from  \\\n  part import first', 'from  \\\n  own.part import first'),
    ('def f():\n\tfrom part import first; x = 1', 'def f():\n\tfrom own.part import first; x = 1'),
    ('import config', 'import own.config as config'),
    ('import config as c', 'import own.config as c'),
    ('import part.first as p', 'import own.part.first as p'),
    ('import part.first', 'import own.part.first as part, own.part as part'),
    ('import os, part.first, \\\n    sys, config',
     'import os, own.part.first as part, own.part as part, \\\n    sys, own.config as config'),
    ("é = 'ü'; import config; from part import first",
     "é = 'ü'; import own.config as config; from own.part import first"),
    ('import config\r\nimport part\r\n',
     'import own.config as config\r\nimport own.part as part\r\n'),
])
def test_imports_of_ours_are_rewritten(small, source, expected):
    assert Checkout(small, 'own').rewrite(source.encode()).decode() == expected


@pytest.mark.parametrize('source', [
    'from .part import first', 'from . import config', 'import configparser, partial',
    'from parts.part import config',
    'import os.config', "text = 'import config'", '# import config', 'config = part.first',
    'import birefnet',
    "path = 'run.py'", "text = 'see docs/run.py for more'", "text = 'python -m pytest of run.pyc'",
])
def test_all_else_stays(small, source):
    assert Checkout(small, 'own').rewrite(source.encode()).decode() == source


@pytest.mark.parametrize(('source', 'expected'), [
    ("'Goes: `python run.py [--far]`.'", "'Goes: `birefnet go [--far]`.'"),
    ("f'{x}: call run.py {y} first'", "f'{x}: call birefnet go {y} first'"),
    ("'''First.\n\n    python run.py\n    python -m part.first x\n'''",
     "'''First.\n\n    birefnet go\n    python -m own.part.first x\n'''"),
    ("""'needs pip install ".[app]" to run'""", """'needs pip install "birefnet[app]" to run'"""),
])
def test_sentences_name_the_command(small, source, expected):
    assert Checkout(small, 'own').rewrite(source.encode()).decode() == expected


def test_what_the_commands_need_is_written_and_nothing_else(small, tmp_path):
    Checkout(small).write(tmp_path / 'package')
    package = tmp_path / 'package'
    files = [path for path in package.rglob('*') if path.is_file()]
    assert {path.relative_to(package).as_posix() for path in files} == {
        '__init__.py',
        '__main__.py',
        'run.py',
        'config.py',
        'part/__init__.py',
        'part/first.py',
        'part/table.toml',
    }


def test_in_memory(small, monkeypatch):
    """The checkout's modules are imported as the package's; others of their names stay."""
    monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
    theirs = ModuleType('config')
    monkeypatch.setitem(sys.modules, 'config', theirs)
    package = load(small, 'own_package')
    try:
        assert importlib.import_module('own_package.run').VALUE == 'config'
        assert sys.modules['config'] is theirs
        bytecode = list(small.glob('__pycache__/*'))
        assert not bytecode, 'that of rewritten sources would serve the plain ones'
        assert load(small, 'own_package') is package
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module('own_package.missing')
    finally:
        for name in [name for name in sys.modules if name.split('.')[0] == 'own_package']:
            del sys.modules[name]


def test_this_checkout():
    """Every import of ours is rewritten, lines stay where they are, and no file is missing."""
    checkout = Checkout(ROOT)
    needed = checkout.needed()
    assert set(checkout.commands) <= needed
    assert not needed & {'tests', 'benchmarks', 'tools', 'hubconf', 'hatch_build'}
    files = [checkout.files(name) for name in needed]
    modules = [path for path in itertools.chain(*files) if path.suffix == '.py']
    for path in modules:
        source = path.read_bytes()
        rewritten = checkout.rewrite(source)
        assert rewritten.count(b'\n') == source.count(b'\n'), path
        imported = set()
        for node in ast.walk(ast.parse(rewritten)):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
        heads = {name.split('.')[0] for name in imported}
        assert not heads & checkout.modules, path
        ours = [name for name in imported if name.startswith('birefnet.')]
        assert {name.split('.')[1] for name in ours} <= needed, path


def test_the_folder_itself_runs():
    """`python CHECKOUT COMMAND`: what the installed command does, without an installation."""
    command = [sys.executable, ROOT, 'config', '--print', 'bb', 'task=COD']
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'swin_v1_l\n'), done.stderr
