"""The fast network gives the plain one's outputs: golden configs, odd sizes, batches, dtypes."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch

from config import Config
from models import build_birefnet, load_model, optimize
from models.checkpoints.files import write_state
from models.modules.attention import ASPPDeformable
from models.modules.deform_conv import bordered_rows
from models.modules.reference import InwardReference
from models.modules.resize import resize
from models.optimized.algebra import ACTIVATIONS, ONEDNN, linear, merge_3x3, resize_through
from models.optimized.blocks import FastDeformableBranch, FastReference
from tests.models import golden

# 7 and 12 divide none of their maps.
SIZES = {'square': (1, 64, 64), 'wide': (2, 32, 160), 'tall': (1, 224, 96)}


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Weights away from their start values: offsets that move, BatchNorms that scale and shift."""
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith('running_var'):
            value.uniform_(.5, 2, generator=generator)
        elif key.endswith('weight') and value.ndim == 1:
            value.uniform_(.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, value[0].numel() ** -.5 if value.ndim > 1 else .1, generator=generator)
    return model.eval()


def error(model: torch.nn.Module, fast: torch.nn.Module, size: tuple[int, int, int]) -> float:
    """Largest difference, as a share of the output's deviation."""
    image = torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, = model(image)
        got, = fast(image)
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    return ((got - expected).abs().max() / expected.std()).item()


@pytest.fixture(scope='module', params=golden.NAMES)
def golden_model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp('golden') / 'official.pth'
    write_state(golden.state(request.param), path)
    add = golden.spec(request.param)['config'].get('mul_scl_ipt') == 'add'
    return load_model(path, **({'mul_scl_ipt': 'add'} if add else {}))


@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
def test_equals_plain_network(golden_model, size):
    assert error(golden_model, optimize(golden_model), size) < 2e-5


@pytest.mark.parametrize('overrides', [
    {'bb': 'vgg16bn'}, {'bb': 'resnet50', 'dec_att': 'ASPP'}, {'dec_ipt_split': False},
    {'dec_ipt': False},
    {'squeeze_block': '', 'cxt_num': 0}, {'squeeze_block': 'ResBlk_x2', 'cxt_num': 2},
    {'mul_scl_ipt': ''},
    {'squeeze_block': 'ASPPDeformable_x1'}, {'dec_channels_inter': 'adap', 'dec_att': ''},
    {'out_ref': False}],
    ids=lambda overrides: ','.join(f'{k}={v}' for k, v in overrides.items()))
def test_equals_plain_network_of_other_configs(overrides):
    model = randomize(build_birefnet(Config(**{'bb': 'pvt_v2_b0', **overrides})))
    assert error(model, optimize(model), (1, 96, 64)) < 2e-5


def test_original_stays_as_it_was():
    model = randomize(build_birefnet(Config(bb='swin_v1_t')))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = optimize(model, torch.bfloat16)
    with torch.inference_mode():
        fast(torch.zeros(1, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(('dtype', 'most'), [(torch.bfloat16, .05), (torch.float16, .01)])
def test_low_precision(dtype, most):
    model = randomize(build_birefnet(Config(bb='swin_v1_t')))
    assert error(model, optimize(model, dtype), (1, 128, 96)) < most


def test_autocast_of_the_caller_changes_nothing():
    fast = optimize(randomize(build_birefnet(Config(bb='pvt_v2_b0'))))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, = fast(x)
        with torch.autocast('cpu', torch.bfloat16):
            found, = fast(x)
    assert torch.equal(found, expected)


def test_positions_stay_in_float32():
    """Sampled by our blocks and by the operator of other devices.

    Rounded, positions of 60 would move by 1/8 pixel.
    """
    torch.manual_seed(0)
    layer = randomize(ASPPDeformable(8, 16, kernels=(3,)))
    branch = FastDeformableBranch(layer.deformable[0], torch.randn(16, 256) / 16).bfloat16()
    branch.predictor.float().bias.data[:18].uniform_(-60, 60)
    x = torch.randn(1, 8, 130, 130).bfloat16()
    with torch.inference_mode():
        blocks, operator = (torch.zeros(130 * 130, 16, dtype=x.dtype) for _ in range(2))
        branch.add_to(blocks, x, bordered_rows(x.float()))
        branch.add_to(operator, x, None)
    assert (blocks - operator).abs().max() < .05 * blocks.std()


def test_low_precision_keeps_what_predicts_positions():
    fast = optimize(randomize(build_birefnet(Config(bb='pvt_v2_b0'))), torch.bfloat16)
    kept = {name for name, p in fast.named_parameters() if p.dtype == torch.float32}
    assert kept == {name for name, _ in fast.named_parameters() if '.predictor.' in name}
    assert kept


@pytest.mark.parametrize('onednn', [True, False])
@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_linear_with_activation(activation, onednn, monkeypatch):
    monkeypatch.setattr('models.optimized.algebra.ONEDNN', onednn and ONEDNN)
    layer = torch.nn.Linear(20, 7)
    x = torch.randn(50, 60)[:, 20:40]  # rows of a wider matrix, as attention has them
    plain = {'none': torch.nn.Identity(), 'relu': torch.relu, 'gelu': torch.nn.functional.gelu}
    with torch.inference_mode():
        expected = plain[activation](layer(x))
        found = linear(x, layer.weight, layer.bias, activation)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_refuses_what_it_cannot_do():
    model = build_birefnet(Config(bb='pvt_v2_b0'))
    with pytest.raises(ValueError, match=r'model\.eval'):
        optimize(model.train())
    with pytest.raises(ValueError, match='float64'):
        optimize(model.eval(), torch.float64)
    with pytest.raises(ValueError, match='multiples of 32'):
        optimize(model)(torch.zeros(1, 3, 64, 65))


@pytest.mark.parametrize('size', [(6, 6), (7, 31), (5, 40), (1, 1)])
def test_reference_as_one_convolution_keeps_its_borders(size):
    reference = InwardReference(3, 8)
    x = torch.randn(2, 3, *size)
    fast = FastReference(reference)
    assert fast.fused is not None
    torch.testing.assert_close(fast(x), reference(x), atol=1e-5, rtol=1e-5)


def test_composed_convolution_differs_at_the_border_alone():
    reference, x = InwardReference(3, 8), torch.randn(1, 3, 12, 9)
    composed = merge_3x3(reference.conv_in, reference.conv_out)
    difference = (composed(x) - reference(x)).abs()[0].amax(0)
    assert difference[1:-1, 1:-1].max() < 1e-5 < difference.max()


@pytest.mark.parametrize('sizes', [((9, 5), (18, 10), (3, 2)), ((4, 4), (1, 7), (5, 1))])
def test_resizing_through_several_sizes(sizes):
    start, *rest = sizes
    expected = x = torch.randn(2, 3, *start)
    for size in rest:
        expected = resize(expected, size)
    np.testing.assert_allclose(resize_through(x, *rest), expected, atol=1e-5)


def test_work_in_small_parts_gives_the_same(monkeypatch):
    model = randomize(build_birefnet(Config(bb='swin_v1_t')))
    monkeypatch.setattr('models.optimized.swin.CHUNK_VALUES', 1 << 12)
    monkeypatch.setattr('models.modules.deform_conv.BLOCK_VALUES', 1 << 14)
    assert error(model, optimize(model), (2, 64, 96)) < 2e-5


@pytest.mark.slow
def test_compiled_for_each_size(monkeypatch):
    compile_whole = partial(torch.compile, backend='aot_eager', fullgraph=True)
    monkeypatch.setattr(torch, 'compile', compile_whole)
    model = randomize(build_birefnet(Config(bb='pvt_v2_b0', dec_att='')))
    compiled = optimize(model, compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for size in (SIZES['square'], SIZES['tall']):
            assert error(model, compiled, size) < 2e-5


def test_where_compiling_fails_it_goes_on_without(monkeypatch):
    def fail(net, **options):
        def compiled(image):
            raise torch._dynamo.exc.TorchDynamoException('no compiler here')
        return compiled

    monkeypatch.setattr(torch, 'compile', fail)
    model = randomize(build_birefnet(Config(bb='pvt_v2_b0', dec_att='')))
    with pytest.warns(UserWarning, match='no compiler here'):
        assert error(model, optimize(model, compile=True), (1, 64, 64)) < 2e-5
