"""The command line of export.py."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import export
from exporting.onnx import OLDEST_TORCH, run_onnx
from exporting.program import OLDEST_FOR_DYNAMIC, ExportWrapper, trace
from models import convert_tile_order, load_model, save_checkpoint
from models.checkpoints.files import read_state
from models.checkpoints.names import to_official
from tests.models.small import build, image, output


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A small network, and a run's folder with its weights."""
    model = build(
        bb='timm/resnet18',
        mul_scl_ipt='',
        dec_att='',
        squeeze_block='',
        cxt_num=0,
        out_ref=False,
        size=(96, 64),
    )
    file = tmp_path_factory.mktemp('run') / 'epoch_3.pth'
    save_checkpoint(model, file)
    file.with_name('config.json').write_text(json.dumps(model.config.as_dict()))
    return model, str(file)


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__ < OLDEST_TORCH, reason='this PyTorch is too old for ONNX export')
def test_onnx(weights, tmp_path, capsys):
    model, file = weights
    target = str(tmp_path / 'net.onnx')
    assert export.main(['onnx', '-m', file, '-o', target, '--size', '64x96', '--sigmoid']) == 0
    printed = capsys.readouterr().out
    assert 'astronaut at 64x96: largest difference' in printed
    assert 'passed onnx.checker' in printed
    x = image(96, 64, batch=1)
    found = run_onnx(tmp_path / 'net.onnx')(x)
    assert (found - output(model, x).sigmoid()).abs().max() < 1e-5
    metadata = {p.key: p.value for p in onnx.load(tmp_path / 'net.onnx').metadata_props}
    assert (metadata['output'], metadata['backbone']) == ('probability', 'timm/resnet18')


@pytest.mark.slow
def test_pt2(weights, tmp_path, capsys):
    model, file = weights
    assert export.main(['pt2', '-m', file, '-o', str(tmp_path / 'net.pt2')]) == 0
    assert 'coffee at 96x64' in capsys.readouterr().out
    x = image(64, 96, batch=1)
    loaded = torch.export.load(tmp_path / 'net.pt2').module()
    assert (loaded(x) - output(model, x)).abs().max() < 1e-3 * output(model, x).std()


def test_hf(weights, tmp_path, capsys):
    model, file = weights
    target = str(tmp_path / 'net')
    arguments = ['hf', '-m', file, '-o', target, '--license', 'mit', '--dtype', 'float16']
    assert export.main(arguments) == 0
    assert 'modeling_birefnet.py' in capsys.readouterr().out
    assert 'licence: mit' in (tmp_path / 'net' / 'README.md').read_text().lower()
    difference = output(load_model(tmp_path / 'net')) - output(model)
    assert 0 < difference.abs().max() < .05 * output(model).std()


def test_weights_for_tools_of_the_old_order(weights, tmp_path, capsys):
    model, file = weights
    for order in ('column', 'row'):
        target = tmp_path / f'{order}.pth'
        arguments = ['weights', '-m', file, '-o', str(target), '--tile-order', order]
        assert export.main(arguments) == 0
        assert f'tile order {order}' in capsys.readouterr().out
    row, column = (read_state(tmp_path / f'{order}.pth') for order in ('row', 'column'))
    expected = to_official(model.state_dict(), model.config.bb)
    assert row.keys() == column.keys() == expected.keys()
    assert all(torch.equal(row[key], value) for key, value in expected.items())
    again = convert_tile_order(column, 'row')
    assert all(torch.equal(again[key], value) for key, value in row.items())
    assert not all(torch.equal(column[key], value) for key, value in row.items())

    # Without --dtype the type is that of the source.
    shutil.copy(Path(file).with_name('config.json'), tmp_path)
    for dtype in (torch.float16, torch.bfloat16):
        save_checkpoint(model, tmp_path / 'half.safetensors', dtype=dtype)
        for source, to in (('half', 'column'), ('column', 'row')):
            arguments = ['weights', '-m', str(tmp_path / f'{source}.safetensors'), '-o',
                         str(tmp_path / f'{to}.safetensors'), '--tile-order', to]
            assert export.main(arguments) == 0
        half, again = (read_state(tmp_path / f'{name}.safetensors') for name in ('half', 'row'))
        assert {key: value.dtype for key, value in again.items()} == {
            key: value.dtype for key, value in half.items()}
        assert all(torch.equal(again[key], value) for key, value in half.items())


@pytest.mark.parametrize(('arguments', 'complaint'), [
    (['-m', 'no.pth'], 'no such checkpoint'),
    (['--size', '100x64'], 'nearest: 96x64'),
    (['--photo', 'no.jpg'], 'no.jpg'),
])
def test_what_cannot_be_done(weights, tmp_path, capsys, arguments, complaint):
    _, file = weights
    assert export.main(['pt2', '-m', file, '-o', str(tmp_path / 'x.pt2'), *arguments]) == 1
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('command', 'target', 'complaint'), [
    ('onnx', '', 'TARGET is empty'),
    ('hf', '', 'TARGET is empty'),
    ('pt2', '.', 'a folder; name the file'),
    ('onnx', 'new/', 'a folder; name the file'),
    ('hf', 'file', 'a file; name the folder'),
    ('weights', 'file/net.pth', 'file: not a folder that can be written to'),
])
def test_a_wrong_target_is_named_before_the_work(
        command, target, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    assert export.main([command, '-m', 'net.pth', '-o', target]) == 1
    assert complaint in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize(('dynamic', 'words'), [
    (False, 'cannot be traced for 96x64: made for 64$'),
    (True, 'cannot be traced for all sizes, as --dynamic asks'),
])
def test_a_backbone_of_one_size(dynamic, words):
    """As some of timm's are."""
    class Fixed(nn.Module):
        def forward(self, image):
            assert image.shape[-1] == 64, 'made for 64\nand more of it'
            return [image]

    if dynamic and torch.__version__ < OLDEST_FOR_DYNAMIC:
        pytest.skip('this PyTorch is too old for a dynamic program')
    with pytest.raises(ValueError, match=words) as raised:
        trace(ExportWrapper(Fixed()), (96, 64), dynamic)
    assert '\n' not in str(raised.value)
