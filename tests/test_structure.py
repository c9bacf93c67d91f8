"""Rules that the sources keep. Directions of imports are contracts in pyproject.toml."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY_SCRIPTS = {
    'train', 'test', 'eval_existingOnes', 'gen_best_ep', 'paper', 'predict', 'export', 'app',
    'hubconf'}
PACKAGES = {path.parent for path in ROOT.glob('*/__init__.py')}
FILES = [*ROOT.glob('*.py')]
for package in PACKAGES:
    FILES += package.rglob('*.py')
FILES.sort()
NAMES = [file.relative_to(ROOT).as_posix() for file in FILES]
SOURCES = [name for name in NAMES if not name.startswith('tests/')]
# Parts of names that stand for a folder of one machine. They are joined here, so that this file
# passes, too.
MACHINE_PATHS = ['/'.join(('', folder, '')) for folder in ('work', 'home')]


def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding='utf-8'))


def imported_packages(tree: ast.Module) -> Iterator[str]:
    """Top-level names of all modules that a source imports; '' for a relative import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield '' if node.level else node.module.split('.')[0]


def unsafe_calls(tree: ast.Module) -> Iterator[str]:
    """Calls that run code from data, load a pickle, or start a shell."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        runs_code = called in ('eval', 'exec', 'os.system', 'pickle.load', 'pickle.loads')
        unpickles = called == 'torch.load' and options.get('weights_only') != 'True'
        uses_shell = options.get('shell', 'False') != 'False'
        if runs_code or unpickles or uses_shell:
            yield f'line {node.lineno}: {called}'


def statements_at_import(tree: ast.Module) -> Iterator[str]:
    """Statements at the top level that are neither definitions nor behind `__main__`."""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in tree.body[1:]:
        behind_main = isinstance(node, ast.If) and '__main__' in ast.unparse(node.test)
        if not isinstance(node, kinds) and not behind_main:
            yield f'line {node.lineno}: {ast.unparse(node)}'


def test_the_files_are_found():
    assert {'config.py', 'loss.py', 'models/decoder.py', 'tests/test_structure.py'} <= set(NAMES)
    assert {f'{script}.py' for script in ENTRY_SCRIPTS} <= set(NAMES)


@pytest.mark.parametrize('name', SOURCES)
def test_sources_import_neither_scripts_nor_tests(name):
    """Also what the package does not contain. A relative import would hide where it points."""
    assert not set(imported_packages(parse(name))) & {*ENTRY_SCRIPTS, 'tests', ''}


@pytest.mark.parametrize('name', sorted(f'{script}.py' for script in ENTRY_SCRIPTS))
def test_nothing_happens_at_import(name):
    assert list(statements_at_import(parse(name))) == []


@pytest.mark.parametrize('name', SOURCES)
def test_no_code_from_data(name):
    assert list(unsafe_calls(parse(name))) == []


@pytest.mark.parametrize('name', NAMES)
def test_sources_carry_no_path_of_a_machine(name):
    text = (ROOT / name).read_text(encoding='utf-8')
    assert not [path for path in MACHINE_PATHS if path in text]


@pytest.mark.parametrize('source', [
    'eval(text)', 'exec(text)', 'os.system(text)', 'pickle.loads(data)', 'torch.load(path)',
    'torch.load(path, weights_only=False)', 'subprocess.run(text, shell=True)',
])
def test_unsafe_calls_are_recognised(source):
    assert len(list(unsafe_calls(ast.parse(source)))) == 1


def test_what_is_allowed_is_not_reported():
    source = ('"""Title."""\nimport os\nLIMIT = 3\n'
              'if __name__ == "__main__":\n    torch.load(path, weights_only=True)\n')
    assert list(unsafe_calls(ast.parse(source))) == []
    assert list(statements_at_import(ast.parse(source))) == []
    assert len(list(statements_at_import(ast.parse(source + 'main()')))) == 1
    imports = ast.parse('import os.path\nfrom models.zoo import find\nfrom . import x')
    assert list(imported_packages(imports)) == ['os', 'models', '']
