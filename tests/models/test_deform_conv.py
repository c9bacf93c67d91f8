import pytest
import torch
import torchvision.ops
from torch import Tensor, nn

from models.modules import deform_conv
from models.modules.deform_conv import NAMESPACE, DeformableConv2d, deform_conv2d


def reference(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    padding = weight.shape[-1] // 2
    return torchvision.ops.deform_conv2d(x, offset, weight, mask=modulation, padding=padding)


def inputs(shape=(2, 6, 7, 9), out=4, kernel=3, spread=2., dtype=torch.float32) -> list[Tensor]:
    """x, offset (deviation `spread`), modulation, weight: leaves that require gradients."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, height, width = shape
    taps = kernel**2
    values = [torch.randn(size, generator=generator, dtype=dtype) for size in (
        shape, (batch, 2 * taps, height, width), (batch, taps, height, width),
        (out, channels, kernel, kernel))]
    values[1] *= spread
    values[3] /= (channels * taps)**.5
    return [value.requires_grad_() for value in values]


def results(function, values: list[Tensor]) -> tuple[Tensor, ...]:
    """Output, and the gradients of the inputs that require one."""
    out = function(*values)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator).bfloat16().to(out.dtype)
    leaves = [value for value in values if value.requires_grad]
    return out, *torch.autograd.grad(out, leaves, grad)


def assert_agrees(values: list[Tensor], tolerance: float = 1e-6) -> None:
    """Against torchvision, relative to each result's largest value."""
    found = results(deform_conv2d, values)
    expected = results(reference, values)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize('arguments', [
    {},
    {'kernel': 1},
    {'kernel': 7},
    {'shape': (1, 64, 20, 12), 'kernel': 7, 'out': 32},
    {'shape': (1, 65, 5, 12)},
    {'shape': (3, 1, 4, 4), 'out': 1},
    {'shape': (2, 3, 1, 1)},
    {'shape': (2, 3, 1, 8), 'kernel': 7},
    {'spread': 100.},  # nearly all samples lie off the map
    {'spread': .5},
    {'spread': 1e-9},  # the way to the next pixel rounds to one
    {'spread': 0.},  # samples on pixels and exactly one pixel outside, where the slope is one-sided
], ids=str)
def test_equals_torchvision(arguments, dtype, tolerance):
    assert_agrees(inputs(**arguments, dtype=dtype), tolerance)


def test_integer_offsets_up_to_and_across_the_border():
    x, _, modulation, weight = inputs((2, 3, 6, 5), kernel=3)
    generator = torch.Generator().manual_seed(0)
    offset = torch.randint(-8, 9, (2, 18, 6, 5), generator=generator).float().requires_grad_()
    assert_agrees([x, offset, modulation, weight])


@pytest.mark.parametrize('kernel', [1, 3])
def test_gradcheck(kernel):
    values = inputs((2, 3, 4, 5), out=2, kernel=kernel, dtype=torch.float64)
    assert torch.autograd.gradcheck(deform_conv2d, values)


def test_blocks_of_pixels_join_seamlessly(monkeypatch):
    # 11 pixels: ends within rows and across images.
    monkeypatch.setattr(deform_conv, 'BLOCK_VALUES', 11 * 9 * 6)
    assert_agrees(inputs())


@pytest.mark.parametrize('index', range(4))
def test_one_input_requires_a_gradient(index):
    values = [value.requires_grad_(i == index) for i, value in enumerate(inputs())]
    assert_agrees(values)


def test_memory_layouts():
    x, offset, modulation, weight = inputs()
    strided = x.repeat_interleave(2, 3)[..., ::2]
    joined = torch.cat((offset, modulation), 1).to(memory_format=torch.channels_last)
    expected = reference(x, offset, modulation, weight)
    channels_last = [value.to(memory_format=torch.channels_last)
                     for value in (x, offset, modulation, weight)]
    for values in (
        (strided, joined[:, :18], joined[:, 18:], weight),
        channels_last,
        (x.expand(2, -1, -1, -1), offset, modulation, weight.mT.contiguous().mT),
    ):
        assert torch.allclose(deform_conv2d(*values), expected, atol=1e-6)


def test_gradient_that_is_one_value_seen_everywhere():
    values = inputs()
    ours = torch.autograd.grad(deform_conv2d(*values).sum(), values)
    theirs = torch.autograd.grad(reference(*values).sum(), values)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    values = inputs()
    with mode():
        assert torch.allclose(deform_conv2d(*values), reference(*values), atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bit_inputs_are_computed_in_float32(dtype):
    values = [value.detach().to(dtype).requires_grad_() for value in inputs()]
    wide = [value.detach().float().requires_grad_() for value in values]
    found = results(deform_conv2d, values)
    expected = results(deform_conv2d, wide)
    for narrow, exact in zip(found, expected, strict=True):
        assert torch.equal(narrow, exact.to(dtype))


def test_autocast_leaves_it_in_float32():
    values = inputs()
    expected = results(reference, values)
    with torch.autocast('cpu', torch.bfloat16):
        for ours, theirs in zip(results(deform_conv2d, values), expected, strict=True):
            assert ours.dtype == torch.float32
            assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e30])
def test_offsets_that_are_no_positions(value):
    x, offset, modulation, weight = (v.detach() for v in inputs(out=1))
    offset[0, 0, 2, 3] = value
    out = deform_conv2d(x, offset, modulation, weight)
    assert out.isnan().nonzero().tolist() == ([[0, 0, 2, 3]] if value != value else [])
    if value == value:
        offset[0, 0, 2, 3] = 1000
        assert torch.equal(out, deform_conv2d(x, offset, modulation, weight))


def test_second_derivatives_are_refused():
    x, *others = inputs()
    grad, = torch.autograd.grad(deform_conv2d(x, *others).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='deform_conv2d'):
        grad.sum().backward()


def test_batch_is_independent():
    values = inputs((3, 6, 7, 9))
    whole = deform_conv2d(*values)
    for i in range(3):
        alone = deform_conv2d(*(value[i:i + 1] for value in values[:3]), values[3])
        assert torch.allclose(whole[i:i + 1], alone, atol=1e-6)


def test_no_columns_are_kept_for_the_backward_pass():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        values = inputs()
        deform_conv2d(*values)
    assert {t.data_ptr() for t in saved} == {v.data_ptr() for v in values}


def test_module_starts_as_a_convolution():
    module, x = DeformableConv2d(5, 8, 3), torch.randn(2, 5, 6, 7)
    expected = nn.functional.conv2d(x, module.regular_conv.weight, padding=1)
    assert torch.allclose(module(x), expected, atol=1e-6)
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        'offset_conv.weight': (18, 5, 3, 3), 'offset_conv.bias': (18,),
        'modulator_conv.weight': (9, 5, 3, 3), 'modulator_conv.bias': (9,),
        'regular_conv.weight': (8, 5, 3, 3)}


def trained_module() -> DeformableConv2d:
    torch.manual_seed(0)
    module = DeformableConv2d(5, 8, 3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=.2)
    return module


def test_module_follows_its_offsets_and_modulation():
    module, x = trained_module(), torch.randn(2, 5, 6, 7)
    modulation = 2 * module.modulator_conv(x).sigmoid()
    expected = reference(x, module.offset_conv(x), modulation, module.regular_conv.weight)
    assert torch.allclose(module(x), expected, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_module_under_autocast(dtype):
    module, x = trained_module(), torch.randn(2, 5, 6, 7)
    expected = module(x)
    with torch.autocast('cpu', torch.bfloat16):
        out = module(x.to(dtype))
        out.sum().backward()
    assert out.dtype == dtype
    assert (out - expected).abs().max() < .1 * expected.std()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize('strict', [True, False])
def test_export_leaves_torchvisions_operator(strict):
    if strict and not hasattr(torch.compiler, 'is_exporting'):
        pytest.skip('torch before 2.7 does not tell a strict export from compilation; '
                    'exporting/ exports non-strictly')
    module, x = trained_module().eval(), torch.randn(2, 5, 6, 7)
    program = torch.export.export(module, (x,), strict=strict)
    targets = {str(node.target) for node in program.graph.nodes}
    assert 'torchvision.deform_conv2d.default' in targets
    assert torch.allclose(program.module()(x), module(x), atol=1e-5)


# Torch warns that tracing is deprecated, and that sizes become constants.
@pytest.mark.filterwarnings('ignore')
def test_tracing_leaves_torchvisions_operator():
    module, x = trained_module().eval(), torch.randn(2, 5, 6, 7)
    traced = torch.jit.trace(module, x)
    assert 'torchvision::deform_conv2d' in str(traced.inlined_graph)
    other = torch.randn(1, 5, 9, 4)
    assert torch.allclose(traced(other), module(other), atol=1e-5)


def test_operators_are_registered_soundly():
    operators = getattr(torch.ops, NAMESPACE)
    torch.library.opcheck(operators.deform_conv2d.default, tuple(inputs()))


def test_compiles_into_one_graph():
    module, x = trained_module(), torch.randn(2, 5, 6, 7, requires_grad=True)
    compiled = torch.compile(module, fullgraph=True, backend='aot_eager')
    for ours, theirs in zip(results(compiled, [x]), results(module, [x]), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
