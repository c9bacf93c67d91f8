"""What older releases lack, and a newer one may drop: taken away, and the results stay the same."""

import ast
import importlib.metadata
import io
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from evaluation import score_pair
from evaluation.kernels import bits, hce, weighted_f
from models.backbones.timm_features import _RatesWithValues
from models.modules import deform_conv
from models.modules.tracing import is_exporting
from models.optimized import algebra
from readers import plain

ROOT = Path(__file__).parents[1]
OWN = {
    path.stem for path in ROOT.iterdir()
    if path.suffix == '.py' or (path / '__init__.py').exists()
}
# The distribution asked for that provides an import, or brings the one that does.
DISTRIBUTIONS = {'cv2': 'opencv-python-headless', 'gradio_client': 'gradio', 'httpx': 'gradio',
                 'markdown': 'mkdocs-material'}
PEERS = {'py_sod_metrics', 'rembg'}  # what is compared with, in environments of their own


def declared() -> list[Requirement]:
    """All direct requirements, those of extras included."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    extras = project.get('optional-dependencies', {})
    lines = [*project.get('dependencies', []), *chain(*extras.values())]
    for path in ROOT.glob('requirements*.txt'):
        lines += re.findall(r'^\w[^#\n]*', path.read_text(encoding='utf-8'), re.M)
    return [Requirement(line.strip()) for line in lines]


def imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding='utf-8'))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split('.')[0] for name in names}


def test_every_import_is_declared():
    packages = importlib.metadata.packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    sources = [path for path in ROOT.glob('**/*.py')
               if not path.relative_to(ROOT).parts[0].startswith('.')]
    assert len(sources) > 100
    for path in sources:
        for name in imported(path) - OWN - PEERS - set(sys.stdlib_module_names):
            distributions = [DISTRIBUTIONS.get(name, name), *packages.get(name, [])]
            known = {canonicalize_name(distribution) for distribution in distributions}
            assert known & names, f'{path.relative_to(ROOT)} imports {name}, which is not required'


def test_every_requirement_has_its_lowest_release_pinned():
    text = (ROOT / 'constraints-lowest.txt').read_text(encoding='utf-8')
    pins = {}
    for line in re.findall(r'^\w\S*', text, re.M):
        name, version = line.split('==')
        pins[canonicalize_name(name)] = version
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        if name != 'birefnet':  # an extra that is made of others
            pin = pins[name]
            assert requirement.specifier.contains(pin), f'{requirement}: {pin} is pinned'


def test_deformable_convolution_without_the_private_gradient(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 9, 7), (2, 18, 9, 7), (2, 9, 9, 7), (3, 5, 3, 3))
    inputs = []
    for shape in shapes:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        inputs.append(values.requires_grad_())

    def gradients() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(deform_conv.deform_conv2d(*inputs).square().sum(), inputs)

    before = gradients()
    monkeypatch.setattr(deform_conv, 'BAG_GRADIENT', None)
    torch.testing.assert_close(gradients(), before, rtol=1e-12, atol=1e-12)


def test_no_other_operator_is_private():
    private = re.compile(r"torch\.ops\.\w+\._\w+|torch\._C\b")
    sources = [path for path in ROOT.glob('**/*.py')
               if path.relative_to(ROOT).parts[0].removesuffix('.py') in OWN]
    assert {ROOT / 'train.py', ROOT / 'models' / 'decoder.py'} <= set(sources)
    found = set()
    for path in sources:
        is_test = ROOT / 'tests' in path.parents
        if not is_test and private.search(path.read_text(encoding='utf-8')):
            found.add(path.name)
    assert found == set()  # those that are looked for by `getattr` are guarded


@pytest.mark.parametrize('activation', algebra.ACTIVATIONS)
def test_linear_layers_without_the_private_operator(activation, monkeypatch):
    x, weight, bias = torch.randn(50, 20), torch.randn(7, 20), torch.randn(7)
    before = algebra.linear(x, weight, bias, activation)
    monkeypatch.setattr(algebra, 'ONEDNN', False)
    after = algebra.linear(x, weight, bias, activation)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_rates_are_read_while_a_network_is_built_on_any_device(device):
    with torch.device(device), _RatesWithValues():
        assert torch.linspace(0, 1, 3).tolist() == [0, .5, 1]
        typed = torch.linspace(0, 1, 3, dtype=torch.float32)
        assert typed.device.type == torch.zeros(2).device.type == device


class Witness(torch.nn.Module):
    """Multiplies by 2 while it is exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if is_exporting() else x


def test_export_is_told_from_compilation():
    x = torch.ones(2)
    program = torch.export.export(Witness(), (x,), strict=False)
    assert program.module()(x).tolist() == [2, 2]
    assert torch.compile(Witness(), backend='eager')(x).tolist() == Witness()(x).tolist() == [1, 1]


def test_weighted_f_without_look_up_of_16_bits(monkeypatch):
    squares = np.arange(2 ** 16, dtype=np.uint16).reshape(256, 256)
    before = weighted_f.weights(squares)
    monkeypatch.setattr(weighted_f, 'WIDE_LUT', False)
    assert np.array_equal(weighted_f.weights(squares), before)


def test_pixels_are_counted_without_numpy_2(monkeypatch):
    packed = bits.pack(np.random.default_rng(0).random((9, 200)) > .3)
    before = bits.counts(packed).sum(axis=1)
    monkeypatch.delattr(np, 'bitwise_count', raising=False)
    assert np.array_equal(bits.counts(packed).sum(axis=1), before)
    assert bits.count(packed) == before.sum()


@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_pictures_without_decoding_to_rgb(mode, kind, monkeypatch):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    before = plain._decode_by_opencv(buffer.getvalue(), mode)
    monkeypatch.setattr(plain, 'IMREAD_RGB', cv2.IMREAD_COLOR)
    assert np.array_equal(plain._decode_by_opencv(buffer.getvalue(), mode), before)
    assert plain._decode_by_opencv(b'damaged', mode) is None


@pytest.mark.parametrize(('version', 'warned'), [
    ('4.8.0', 1),
    ('4.12.0', 1),
    ('4.13.0-dev', 0),
    ('5.0.0', 0),
])
def test_hce_says_once_that_an_old_opencv_counts_otherwise(version, warned, monkeypatch, recwarn):
    monkeypatch.setattr(cv2, '__version__', version)
    hce.warn_of_old_opencv.cache_clear()
    pair = np.eye(20, dtype=np.uint8) * 255, np.ones((20, 20), np.uint8) * 255
    score_pair(*pair)
    score_pair(*pair)
    assert len([warning for warning in recwarn if 'HCE' in str(warning.message)]) == warned
    hce.warn_of_old_opencv.cache_clear()
