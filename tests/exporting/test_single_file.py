"""Several modules in one source file."""

import ast
import sys
import textwrap

import pytest

from exporting import single_file
from exporting.huggingface import modeling_source
from exporting.single_file import join_modules

BACKBONES = ('swin_v1_t', 'pvt_v2_b0', 'vgg16', 'resnet50', 'timm/resnet18')


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package `models` and makes the joiner read them."""
    monkeypatch.setattr(single_file, 'ROOT', tmp_path)
    (tmp_path / 'models').mkdir()

    def write(**modules: str) -> None:
        for name, text in modules.items():
            (tmp_path / 'models' / f'{name}.py').write_text(textwrap.dedent(text))
    return write


def run(source: str) -> dict:
    names: dict = {}
    exec(compile(source, 'joined', 'exec'), names)
    return names


def test_what_is_needed_comes_along_in_order_and_nothing_else(package):
    package(low='''
        import math
        import json
        HALF = .5
        UNUSED = json
        def half(x): return HALF * x
        def unused(): return HALF
        ''', high='''
        from math import pi as PI
        from models.low import half, unused
        registered = []
        @registered.append
        def _(): return 3
        registered.append(1)
        class Circle:
            def area(self): return PI * half(2) ** 2
            def count(self): return len(registered)
        ''')
    source = join_modules([('models.high', 'Circle')])
    circle = run(source)['Circle']()
    assert circle.area() == pytest.approx(3.14159, abs=1e-4)
    assert circle.count() == 2, 'registrations come along'
    assert 'unused' not in source
    assert 'json' not in source
    assert 'models.low import' not in source


@pytest.mark.parametrize(('high', 'complaint'), [
    ('from models.low import x\nfrom models.other import y\n\n\ndef use(): return x, y\n',
     'HALF in'),
    ('from models.low import x as z\n\n\ndef use(): return z\n', 'x is imported as z'),
])
def test_names_that_would_clash(package, high, complaint):
    package(low='HALF = 1\nx = HALF\n', other='HALF = 2\ny = HALF\n', high=high)
    with pytest.raises(ValueError, match=complaint):
        join_modules([('models.high', 'use')])


@pytest.mark.parametrize('bb', BACKBONES)
def test_a_modelling_file_stands_alone(bb):
    """It imports nothing of ours, every name in it is defined, and timm only where it is needed."""
    tree = ast.parse(modeling_source(bb))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module)
    packages = {name.split('.')[0] for name in names} - sys.stdlib_module_names
    assert packages - {'timm'} == {'torch', 'torchvision', 'transformers'}
    assert ('timm' in packages) == bb.startswith(('pvt', 'timm', 'vgg'))


def test_other_backbones_are_refused():
    with pytest.raises(ValueError, match=r'dino_v3_s.*swin_v1_t'):
        modeling_source('dino_v3_s')
