"""The directions in which imports may point, read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY_SCRIPTS = {'train', 'test', 'eval_existingOnes', 'gen_best_ep', 'predict', 'export', 'app', 'hubconf'}
FOLDERS = ('models', 'evaluation', 'demo', 'training', 'inference', 'exporting', 'runtime', 'webapp', 'benchmarks',
           'tools', 'tests')
FILES = sorted([*ROOT.glob('*.py'), *(file for folder in FOLDERS for file in (ROOT / folder).rglob('*.py'))])
NAMES = [file.relative_to(ROOT).as_posix() for file in FILES]
PROJECT = {name.split('/')[0].removesuffix('.py') for name in NAMES}


def imports(name: str) -> set[str]:
    """Every module that a file imports, anywhere in it, with what it takes from it (`models.decoder.Decoder`)."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{name}: a relative import hides where it points'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def packages(name: str) -> set[str]:
    return {module.split('.')[0] for module in imports(name)}


def test_the_files_are_found():
    assert {'config.py', 'loss.py', 'models/decoder.py', 'tests/test_structure.py'} <= set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_imports_point_one_way(name):
    used, folder = packages(name), name.split('/')[0]
    if folder != 'tests':
        assert not used & ENTRY_SCRIPTS, 'nothing imports an entry script'
        assert 'tests' not in used
        # Read, never imported: it becomes a file of its own.
        assert not any(module.startswith('exporting.modeling') for module in imports(name))
    if folder == 'exporting':
        assert not used & {'config', 'dataset', 'training'}
        assert 'transformers' not in used or name == 'exporting/modeling.py'
    if folder == 'models':
        assert used & PROJECT <= {'models', 'config', 'utils'}
        assert 'config' not in used or name == 'models/loading.py', 'only models/loading.py knows Config'
    if folder == 'runtime':
        assert used - sys.stdlib_module_names <= {'torch'}, 'training and inference both stand upon it'
    if folder == 'inference':
        assert not used & {'models', 'config', 'dataset', 'training'}
    if folder == 'webapp':
        assert not used & {'models', 'config', 'dataset', 'training', 'demo'}, 'app.py hands it the networks'
    elif folder != 'tests' and name != 'app.py':
        assert 'webapp' not in used
    if folder in ('evaluation', 'demo') or name in ('utils.py', 'config.py'):
        assert not used & {'torch', 'torchvision', 'timm', 'models'}
    if folder == 'evaluation':
        assert 'config' not in used, 'metrics take plain arguments'


def test_modules_are_leaves():
    for name in NAMES:
        if name.startswith('models/modules/'):
            ours = {m for m in imports(name) if m.startswith('models')}
            assert all(m.startswith('models.modules.') for m in ours), name


def test_models_loads_nothing_that_stands_on_it():
    """Whatever `import models` loads, by way of any module."""
    code = 'import sys, models; print(*{name.split(".")[0] for name in sys.modules})'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - {'__main__'}
    assert loaded & PROJECT == {'models', 'config', 'fields', 'utils'}


def test_loss_imports_torch_alone():
    assert packages('loss.py') - sys.stdlib_module_names == {'torch'}


def test_nothing_happens_at_import():
    """At the top level of the entry scripts stand definitions, and one call behind `__main__`."""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for name in NAMES:
        if name.removesuffix('.py') in ENTRY_SCRIPTS:
            body = ast.parse((ROOT / name).read_text(encoding='utf-8')).body
            for node in body[1:]:
                main = isinstance(node, ast.If) and '__main__' in ast.unparse(node.test)
                assert isinstance(node, kinds) or main, f'{name}, line {node.lineno}'


def test_no_code_from_data():
    """No eval, exec or pickle; torch.load with weights_only; no shell strings."""
    for name in NAMES:
        if name.startswith('tests/'):
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding='utf-8'))):
            if not isinstance(node, ast.Call):
                continue
            called, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            where = f'{name}, line {node.lineno}'
            assert called not in ('eval', 'exec', 'os.system', 'pickle.load', 'pickle.loads'), where
            assert called != 'torch.load' or options.get('weights_only') == 'True', where
            assert options.get('shell', 'False') == 'False', where


def test_sources_carry_no_path_of_a_machine():
    for name in NAMES:
        text = (ROOT / name).read_text(encoding='utf-8')
        assert '/work' + '/' not in text, name
        assert '/ho' + 'me/' not in text, name
