"""Pictures for TensorBoard: what they show, and that drawing them changes nothing."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from config import Config
from dataset import normalize, to_tensor
from models import BiRefNet, build_birefnet
from training.pictures import COUNT, GAP, HEIGHT, choose, draw_strip

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
MASK = np.random.default_rng(1).integers(0, 2, (32, 64), np.uint8) * 255


def network(*overrides: str) -> BiRefNet:
    torch.manual_seed(0)
    return build_birefnet(Config.from_overrides(['bb=pvt_v2_b0', 'mul_scl_ipt=', 'size=64x32', 'dec_att=', *overrides]))


@pytest.mark.parametrize(('overrides', 'panels'), [([], 5), (['out_ref=false'], 3)])
def test_a_strip_shows_image_mask_prediction_and_gradients(overrides, panels):
    model = network(*overrides)
    strip = draw_strip(model, IMAGE, MASK, torch.device('cpu'), nullcontext())
    width = 2 * HEIGHT
    assert (strip.dtype, strip.shape) == (np.uint8, (HEIGHT, panels * width + (panels - 1) * GAP, 3))
    starts = [i * (width + GAP) for i in range(panels)]
    assert np.abs(strip[4::8, 4:width:8].astype(int) - IMAGE).max() <= 40  # enlarged by 8, sampled beside the centre
    with torch.no_grad():
        probability = model.eval()(normalize(to_tensor(IMAGE)[None]))[-1].sigmoid()[0, 0].numpy()
    shown = strip[:, starts[2]:starts[2] + width, 0].mean() / 255
    assert shown == pytest.approx(probability.mean(), abs=.01)


def test_drawing_leaves_the_network_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    draw_strip(model, IMAGE, MASK, torch.device('cpu'), nullcontext())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_chosen_pairs_are_spread():
    assert choose(range(100)) == [0, 25, 50, 75]
    assert choose(range(3)) == [0, 1, 2]
    assert all(len(choose(range(n))) <= COUNT for n in range(1, 40))
