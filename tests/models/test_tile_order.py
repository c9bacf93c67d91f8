"""The tile order: converted without a change of values, and read from weights."""

import json
import logging

import pytest
import skimage.data
import torch
from torch import Tensor

from models import BiRefNet, convert_tile_order, load_model, save_checkpoint
from models.checkpoints.files import read_metadata, read_state, write_state
from models.checkpoints.names import to_official
from models.checkpoints.tile_order import TileEvidence, read_tile_order, tile_weights
from models.modules.reference import image_to_tiles
from tests.models.small import build, output

KEYS = {n: f'decoder.ipt_blk{n}.conv1.weight' for n in (5, 4, 3, 2)}
OTHER = {'row': 'column', 'column': 'row'}


def column_tiles(image: Tensor, side: int) -> Tensor:
    """Tiles of image (B, 3, H, W) in the order of before November 2024, by its definition."""
    height, width = (size // side for size in image.shape[-2:])
    tiles = []
    for column in range(side):
        for row in range(side):
            for colour in range(3):
                tiles.append(image[:, colour, row * height:(row + 1) * height,
                                   column * width:(column + 1) * width])
    return torch.stack(tiles, 1)


def grow(levels: tuple[int, ...], rate: float, seed: int = 0) -> dict[str, Tensor]:
    """Weights in row order after some steps of gradient descent on photographs.

    The gradients at the convolution's output are random, as those of a network that knows nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for level in set(levels) - {1}:
        side = 2 ** level
        fan_in = 27 * side * side
        weight = (2 * torch.rand(64, 3 * side * side, 3, 3, generator=generator) - 1) / fan_in ** .5
        for photograph in (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()):
            image = torch.from_numpy(photograph[:256, :256].copy()).permute(2, 0, 1)[None] / 255
            tiles = image_to_tiles(image - .45, 256 // side, 256 // side)
            signal = torch.randn(1, 64, *tiles.shape[-2:], generator=generator)
            step = torch.nn.grad.conv2d_weight(tiles, weight.shape, signal, padding=1)
            weight = weight - rate * step / step.std()
        weights[KEYS[level]] = weight
    return weights


@pytest.fixture(scope='module')
def grown() -> dict[str, Tensor]:
    return grow((5, 4, 3, 2), 1e-3)


@pytest.fixture(scope='module')
def trained(grown) -> BiRefNet:
    """A network whose weights show their order. Not to be changed."""
    model = build(dec_att='', mul_scl_ipt='', size=(64, 96))
    model.load_state_dict(grown, strict=False)
    return model


def messages(caplog) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records
            if 'tile order' in record.getMessage()]


def official_state(model: BiRefNet) -> dict[str, Tensor]:
    return to_official(model.state_dict(), model.config.bb)


# --- Conversion -----------------------------------------------------------------------------------


@pytest.mark.parametrize('level', KEYS)
def test_a_converted_convolution_sees_the_same(level):
    side = 2 ** level
    image = torch.randn(1, 3, 2 * side, 3 * side, dtype=torch.float64)
    weight = torch.randn(5, 3 * side * side, 3, 3, dtype=torch.float64)
    converted = convert_tile_order({KEYS[level]: weight}, 'row')[KEYS[level]]
    expected = torch.nn.functional.conv2d(column_tiles(image, side), weight, padding=1)
    result = torch.nn.functional.conv2d(image_to_tiles(image, 2, 3), converted, padding=1)
    assert torch.allclose(result, expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_back_and_forth_gives_the_same_bits(trained, dtype):
    state = {key: value.to(dtype) for key, value in trained.state_dict().items()}
    column = convert_tile_order(state, 'column')
    again = convert_tile_order(column, 'row')
    assert all(torch.equal(again[key], value) for key, value in state.items())
    changed = [key for key, value in state.items() if not torch.equal(column[key], value)]
    assert changed == [f'decoder.levels.{i}.reference.conv_in.weight' for i in range(4)]
    with pytest.raises(ValueError, match=r"'diagonal'.*row, column"):
        convert_tile_order(state, 'diagonal')
    with pytest.raises(ValueError, match=r"part with the weights: \['epoch', 'model'\]"):
        convert_tile_order({'epoch': 3, 'model': state}, 'column')


def test_a_file_for_old_tools_and_back(tmp_path, trained):
    save_checkpoint(trained, tmp_path / 'row.pth')
    save_checkpoint(trained, tmp_path / 'column.safetensors', tile_order='column')
    row, column = read_state(tmp_path / 'row.pth'), read_state(tmp_path / 'column.safetensors')
    assert row.keys() == column.keys()
    assert not torch.equal(row[KEYS[5]], column[KEYS[5]])
    converted = convert_tile_order(row, 'column')
    assert all(torch.equal(value, column[key]) for key, value in converted.items())
    assert read_metadata(tmp_path / 'column.safetensors')['tile_order'] == 'column'
    assert torch.equal(output(load_model(tmp_path / 'column.safetensors')), output(trained))


# --- Evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize('order', OTHER)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('levels', [(5, 4, 3, 2, 1), (4, 3, 2, 1), (5, 1), (4,)])
def test_photographs_leave_the_order_in_weights(levels, dtype, order):
    state = {key: value.to(dtype) for key, value in grow(levels, 1e-2).items()}
    if order == 'column':
        state = convert_tile_order(state, 'column')
    evidence = read_tile_order(state)
    assert evidence.order == order
    assert str(evidence).startswith(f'its weights show {order} (')


def test_the_default_device_of_the_host_program_does_not_matter(grown):
    expected = read_tile_order(grown)
    with torch.device('meta'):
        assert read_tile_order(grown) == expected


@pytest.mark.parametrize('seed', range(5))
def test_untrained_weights_show_none(seed):
    evidence = read_tile_order(grow((5, 4, 3, 2), 0, seed))
    assert evidence.order == ''
    assert 'hardly trained' in str(evidence)


def test_both_orders(grown):
    """As of weights in the column order that were trained on in the row order, by mistake."""
    both = {key: value + convert_tile_order(grown, 'column')[key] for key, value in grown.items()}
    evidence = read_tile_order(both)
    assert evidence.order == ''
    assert 'fine-tuned in the wrong one' in str(evidence)


@pytest.mark.parametrize(('row', 'column', 'order'), [
    (3.9, 0, ''), (4.1, 0, 'row'), (-2, 4.1, 'column'), (4.1, 4.1, ''), (50, 9, 'row'),
    (50, 11, ''), (2.9, 12, 'column'), (3.1, 12, ''), (3.9, 3.5, '')])
def test_what_counts_as_evidence(row, column, order):
    assert TileEvidence(row, column).order == order


@pytest.mark.parametrize('value', [0., float('nan'), float('inf')])
def test_weights_without_meaning_show_none(value):
    state = {KEYS[3]: torch.full((64, 192, 3, 3), value)}
    assert read_tile_order(state) == (0, 0)


def test_what_has_no_tiles_has_no_order():
    state = {
        KEYS[3]: torch.zeros(64, 3, 3, 3),  # resized, not in tiles
        KEYS[4]: torch.zeros(64, 100, 3, 3),
        'bb.x': torch.zeros(3),
    }
    assert tile_weights(state) == {}
    assert read_tile_order(state) == (0, 0)
    assert convert_tile_order(state, 'column') == state


# --- Loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize('order', OTHER)
@pytest.mark.parametrize('half', [False, True])
def test_files_of_others_need_no_option(tmp_path, trained, order, half, caplog):
    caplog.set_level(logging.INFO)
    dtype = torch.float16 if half else None
    save_checkpoint(trained, tmp_path / 'w.pth', tile_order=order, dtype=dtype)
    result = output(load_model(tmp_path / 'w.pth'))
    assert torch.allclose(result, output(trained), atol=.01 * output(trained).std() if half else 0)
    (level, message), = messages(caplog)
    assert level == 'INFO'
    assert f'tile order: {order}, as its weights show {order} (' in message


def test_an_option_that_contradicts_the_weights(tmp_path, trained, caplog):
    save_checkpoint(trained, tmp_path / 'w.pth')
    wrong = load_model(tmp_path / 'w.pth', tile_order='column')
    assert not torch.equal(output(wrong), output(trained))
    (level, message), = messages(caplog)
    assert level == 'WARNING'
    assert 'column, as given, although its weights show row' in message
    caplog.clear()
    load_model(tmp_path / 'w.pth', tile_order='row')
    assert messages(caplog) == []


@pytest.mark.parametrize(('given', 'used'), [({}, 'row'), ({'tile_order': 'column'}, 'column')])
def test_weights_that_do_not_decide(tmp_path, given, used, caplog):
    model = build(dec_att='', mul_scl_ipt='')
    save_checkpoint(model, tmp_path / 'w.pth', tile_order=used)
    assert torch.equal(output(load_model(tmp_path / 'w.pth', **given)), output(model))
    said = messages(caplog)
    assert len(said) == (0 if given else 1)
    if said:
        level, message = said[0]
        assert level == 'WARNING'
        assert 'row, by default' in message
        assert 'give tile_order=column' in message


@pytest.mark.parametrize('name', ['best.pth', 'epoch_3.pth', 'model.safetensors'])
@pytest.mark.parametrize('order', OTHER)
def test_runs_of_earlier_versions_are_converted(tmp_path, trained, name, order, caplog):
    """They could be in either order, which their config says."""
    config = {**trained.config.as_dict(), 'tile_order': order}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    state = official_state(trained)
    if order == 'column':
        state = convert_tile_order(state, 'column')
    write_state(state, tmp_path / name)
    loaded = load_model(tmp_path)
    assert torch.equal(output(loaded), output(trained))
    assert loaded.config.tile_order == 'row', 'what is saved from here is in row order'
    assert messages(caplog) == []


def test_a_published_file_in_the_folder_of_a_run(tmp_path, trained):
    """The run's config says nothing of a file that the run did not write."""
    (tmp_path / 'config.json').write_text(json.dumps(trained.config.as_dict()))
    path = tmp_path / 'BiRefNet-some-epoch_244.pth'
    save_checkpoint(trained, path, tile_order='column')
    assert torch.equal(output(load_model(path)), output(trained))


def test_a_network_is_described_as_it_is():
    assert build(tile_order='column', dec_att='').config.tile_order == 'row'
