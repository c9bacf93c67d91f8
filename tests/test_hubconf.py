"""torch.hub on this checkout."""

from pathlib import Path

import torch

from models import save_checkpoint
from tests.models.small import build, image, output

ROOT = Path(__file__).parents[1]


def test_torch_hub_loads_the_checkout(tmp_path):
    model = build(tile_order='column')
    save_checkpoint(model, tmp_path / 'net.pth')
    loaded = torch.hub.load(str(ROOT), 'birefnet', str(tmp_path / 'net.pth'), source='local', tile_order='column')
    assert torch.equal(output(loaded), output(model))

    fast = torch.hub.load(str(ROOT), 'birefnet', str(tmp_path / 'net.pth'), source='local', optimize=True,
                          tile_order='column')
    with torch.inference_mode():
        assert (fast(image())[-1] - output(model)).abs().max() < 1e-3 * output(model).std()
