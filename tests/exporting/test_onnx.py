"""ONNX files and torch.export programs: the network's numbers, at every size that they claim."""

import onnx
import pytest
import torch

import exporting
from exporting.onnx import OLDEST_TORCH, bytes_of, operators, run_onnx, save_onnx
from exporting.program import (
    LARGEST,
    OLDEST_FOR_DYNAMIC,
    ExportWrapper,
    compare,
    photographs,
    save_program,
    to_input,
    trace,
)
from exporting.staging import staged
from models.backbones.swin import SWINS
from tests.models.small import build, image, output

pytestmark = pytest.mark.slow  # the first export takes seconds
needs_onnx = pytest.mark.skipif(
    torch.__version__ < OLDEST_TORCH, reason='this PyTorch is too old for ONNX export')
needs_dynamic = pytest.mark.skipif(torch.__version__ < OLDEST_FOR_DYNAMIC,
                                   reason='this PyTorch is too old for programs of every size')


@pytest.fixture(scope='module')
def convnet():
    """Small and quick to export: one deformable kernel, no image pyramid."""
    return build(bb='timm/resnet18', mul_scl_ipt='', deform_kernels=(3,), size=(96, 64))


@pytest.fixture(scope='module')
def program(convnet):
    """Of one size."""
    return trace(ExportWrapper(convnet), (96, 64))


@pytest.fixture(scope='module')
def exported(program, tmp_path_factory):
    path = tmp_path_factory.mktemp('onnx') / 'net.onnx'
    save_onnx(program, path, lambda _: None, metadata={'task': 'General'})
    return path


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a share of the deviation."""
    return float((found - expected).abs().max() / expected.std())


@needs_onnx
def test_a_file_of_fixed_size(exported, convnet):
    x = image(64, 96, batch=1)
    assert error(run_onnx(exported)(x), output(convnet, x)) < 1e-3
    model = onnx.load(exported)
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ('input_image', 'output_image')
    assert [axis.dim_value for axis in given.type.tensor_type.shape.dim] == [1, 3, 64, 96]
    assert [opset.version for opset in model.opset_import if not opset.domain] == [19]
    assert {prop.key: prop.value for prop in model.metadata_props}['task'] == 'General'


@needs_onnx
def test_deformable_convolutions_are_single_nodes(exported):
    kinds = operators(exported)
    assert kinds['DeformConv'] == 10, 'a kernel 1 and a kernel 3 in each of five blocks'
    assert sum(kinds.values()) < 300
    assert not {'GridSample', 'GatherND', 'GatherElements', 'Loop', 'Scan'} & kinds.keys()


@needs_dynamic
@pytest.mark.slow
def test_one_file_for_all_sizes_and_batches(convnet, tmp_path):
    """Probabilities by choice, weights beside the graph by choice."""
    program = trace(ExportWrapper(convnet, sigmoid=True), (96, 64), dynamic=True)
    save_onnx(program, tmp_path / 'net.onnx', lambda _: None, external=True)
    assert {file.name for file in tmp_path.iterdir()} == {'net.onnx', 'net.onnx.data'}
    assert (tmp_path / 'net.onnx').stat().st_size < 1e6 < bytes_of(tmp_path / 'net.onnx')
    run = run_onnx(tmp_path / 'net.onnx')
    for shape in ((64, 96, 1), (128, 64, 3), (160, 224, 2)):
        x = image(*shape)
        assert error(run(x), output(convnet, x).sigmoid()) < 1e-3, shape
    graph = onnx.load(tmp_path / 'net.onnx', load_external_data=False).graph
    axes = graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ['batch', 3, 'height', 'width']


@needs_onnx
@pytest.mark.slow
def test_half_precision_inside(convnet, exported, tmp_path):
    path = tmp_path / 'half.onnx'
    save_onnx(trace(ExportWrapper(convnet, dtype=torch.float16), (96, 64)), path, lambda _: None)
    x = image(64, 96, batch=1)
    found = run_onnx(path)(x)
    assert found.dtype == torch.float32
    assert error(found, output(convnet, x)) < .01
    assert bytes_of(path) < .55 * bytes_of(exported)
    assert next(convnet.parameters()).dtype == torch.float32, 'the network itself stays as it was'


@needs_dynamic
@pytest.mark.slow
def test_swin_at_every_size(monkeypatch, tmp_path):
    """Windows are padded, shifted and masked by sizes that are known only when the file runs."""
    small = {'dim': 24, 'depths': (2, 1, 1, 1), 'heads': (1, 2, 4, 8), 'window': 7}
    monkeypatch.setitem(SWINS, 'swin_v1_t', small)
    model = build(
        bb='swin_v1_t', dec_att='', dec_ipt=False, out_ref=False, squeeze_block='', cxt_num=0)
    program = trace(ExportWrapper(model), (96, 64), dynamic=True)
    save_onnx(program, tmp_path / 'net.onnx', lambda _: None)
    run = run_onnx(tmp_path / 'net.onnx')
    for shape in ((64, 96, 1), (224, 224, 1), (96, 288, 2)):
        x = image(*shape)
        assert error(run(x), output(model, x)) < 1e-3, shape


def test_an_older_torch_is_refused(program, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.onnx, 'OLDEST_TORCH', (99, 1))
    monkeypatch.setattr(exporting.program, 'OLDEST_FOR_DYNAMIC', (99, 2))
    with pytest.raises(ValueError, match=r'ONNX file needs PyTorch 99\.1 or newer, and this is \d'):
        save_onnx(program, tmp_path / 'net.onnx', lambda _: None)
    with pytest.raises(ValueError, match=r'every size needs PyTorch 99\.2'):
        trace(torch.nn.Identity(), (96, 64), dynamic=True)
    assert not list(tmp_path.iterdir())


def test_a_program_of_torch_export(convnet, program, tmp_path):
    x = image(64, 96, batch=1)
    checked = []
    save_program(program, tmp_path / 'net.pt2',
                 lambda run: checked.append(compare(ExportWrapper(convnet), run, {'x': x}, 1e-3)))
    assert checked[0]['x'] < 1e-3
    assert (tmp_path / 'net.pt2').is_file()


def test_a_copy_that_differs_is_refused(convnet):
    wrong = {'photo at 96x64': image(64, 96, batch=1)}

    def shifted(x: torch.Tensor) -> torch.Tensor:
        logits = output(convnet, x)
        return logits + .5 * logits.std()

    with pytest.raises(ValueError, match=r'photo at 96x64 0\.5'):
        compare(ExportWrapper(convnet), shifted, wrong, 1e-3)
    with pytest.raises(ValueError, match='nan'):
        compare(ExportWrapper(convnet), lambda x: output(convnet, x) * float('nan'), wrong, 1e-3)


def test_a_file_that_fails_its_check_does_not_appear(program, tmp_path):
    def fail(_):
        raise ValueError('differs')

    with pytest.raises(ValueError, match='differs'):
        save_program(program, tmp_path / 'net.pt2', fail)
    assert not list(tmp_path.iterdir())


def test_files_appear_together(tmp_path):
    (tmp_path / 'a').write_text('old')
    with staged(tmp_path / 'a') as file:
        file.write_text('new')
        file.with_name('a.data').write_text('more')
        assert (tmp_path / 'a').read_text() == 'old'
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {'a': 'new', 'a.data': 'more'}


def test_photographs():
    assert {'astronaut', 'coffee'} == photographs().keys()
    x = to_input(photographs()['coffee'], (96, 64))
    assert x.shape == (1, 3, 64, 96)
    assert -2.2 < x.min() < x.max() < 2.7
    assert LARGEST % 32 == 0
