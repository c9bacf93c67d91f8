"""The import contracts are kept, and a module that breaks one is reported."""

import subprocess
import sys
import tomllib

import pytest

from tools.contracts import ROOT
from tools.package import TOP, Checkout

CODE = ('import sys, pathlib; from tools.contracts import check; '
        'sys.exit(check(pathlib.Path(sys.argv[1])))')


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow  # `make lint` checks them, too
def test_the_contracts_are_kept():
    done = run('-m', 'tools.contracts')
    assert done.returncode == 0, done.stdout + done.stderr
    assert ' 0 broken' in done.stdout


@pytest.mark.parametrize(('importer', 'imported', 'contract'), [
    ('models/decoder.py', 'exporting.card', 'models is the ground floor'),
    ('models/modules/norm.py', 'models.decoder', 'models has layers'),
    ('models/decoder.py', 'config', 'Config is read by'),
    ('utils.py', 'loss', 'evaluation and the demo'),  # evaluation reaches torch by way of utils
    ('inference/compose.py', 'dataset', 'inference runs any network'),
    ('data/cache.py', 'models', 'data knows neither the network'),
    ('webapp/storage.py', 'models.zoo', 'the web page gets its networks'),
    ('exporting/hub.py', 'exporting.modeling', 'exporting.modeling is read'),
    ('training/meter.py', 'predict', 'entry scripts are not imported'),
])
@pytest.mark.slow
def test_a_broken_contract_is_reported(tmp_path, importer, imported, contract):
    Checkout(ROOT).write(tmp_path / TOP)
    with (tmp_path / TOP / importer).open('a', encoding='utf-8') as file:
        file.write(f'\nimport {TOP}.{imported}\n')
    done = run('-c', CODE, str(tmp_path))
    assert done.returncode == 1, done.stderr
    broken = [line for line in done.stdout.splitlines() if 'BROKEN' in line]
    # Within the line: import-linter 2.5 begins each with a colour, even in a pipe.
    assert any(contract in line for line in broken), done.stdout


def test_no_script_is_forgotten():
    settings = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
    contracts = settings['tool']['importlinter']['contracts']
    [scripts] = [contract for contract in contracts if contract['id'] == 'scripts']
    commands = set(Checkout(ROOT).commands) - {'config'}
    assert set(scripts['protected_modules']) == {f'{TOP}.{command}' for command in commands}
