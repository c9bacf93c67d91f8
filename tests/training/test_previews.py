"""Previews for TensorBoard: what they show, and that drawing them changes nothing."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from config import Config
from dataset import normalize, to_tensor
from models import BiRefNet, build_birefnet
from training.previews import GAP, HEIGHT, Preview, draw_strip, evenly_spaced

CPU = torch.device('cpu')
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
MASK = np.random.default_rng(1).integers(0, 2, (32, 64), np.uint8) * 255
PREVIEW = Preview('set/name', IMAGE, MASK)
NETWORK = 'bb=pvt_v2_b0 mul_scl_ipt= size=64x32 dec_att='.split()


def build_network(*overrides: str) -> BiRefNet:
    torch.manual_seed(0)
    return build_birefnet(Config.from_overrides([*NETWORK, *overrides]))


@pytest.mark.parametrize(('overrides', 'panels'), [([], 5), (['out_ref=false'], 3)])
def test_a_strip_shows_image_mask_prediction_and_edges(overrides, panels):
    model = build_network(*overrides)
    strip = draw_strip(model, PREVIEW, CPU, nullcontext())
    width = 2 * HEIGHT
    assert strip.dtype == np.uint8
    assert strip.shape == (HEIGHT, panels * width + (panels - 1) * GAP, 3)

    # The image is enlarged by 8, and sampled beside the centre of its pixels.
    shown_image = strip[4::8, 4:width:8].astype(int)
    assert np.abs(shown_image - IMAGE).max() <= 40

    with torch.no_grad():
        logit = model.eval()(normalize(to_tensor(IMAGE)[None]))[-1]
    probability = logit.sigmoid()[0, 0].numpy()
    start = 2 * (width + GAP)
    shown_prediction = strip[:, start:start + width, 0].mean() / 255
    assert shown_prediction == pytest.approx(probability.mean(), abs=.01)


def test_drawing_leaves_the_network_as_it_was():
    model = build_network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    draw_strip(model, PREVIEW, CPU, nullcontext())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_chosen_pairs_are_evenly_spaced():
    assert evenly_spaced(range(100), 4) == [0, 25, 50, 75]
    assert evenly_spaced(range(3), 4) == [0, 1, 2]
    assert all(len(evenly_spaced(range(n), 4)) <= 4 for n in range(1, 40))
