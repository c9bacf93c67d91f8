"""torch.hub on this checkout, in a process that has modules of its own under the names of ours."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from models import save_checkpoint
from tests.models.small import build, image, output
from tools.package import Checkout

ROOT = Path(__file__).parents[1]


@pytest.fixture
def theirs(monkeypatch):
    """Empty modules in the place of all of ours, as another project would have some of them."""
    modules = {name: ModuleType(name) for name in Checkout(ROOT).modules}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules


def test_torch_hub_loads_the_checkout(tmp_path, theirs):
    model = build()
    save_checkpoint(model, tmp_path / 'net.pth', tile_order='column')
    arguments = (str(ROOT), 'birefnet', str(tmp_path / 'net.pth'))
    loaded = torch.hub.load(*arguments, source='local', tile_order='column')
    assert torch.equal(output(loaded), output(model))

    fast = torch.hub.load(*arguments, source='local', optimize=True, tile_order='column')
    with torch.inference_mode():
        assert (fast(image())[-1] - output(model)).abs().max() < 1e-3 * output(model).std()
    assert {name: sys.modules[name] for name in theirs} == theirs
