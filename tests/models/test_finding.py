"""What a path or name means: the file, and what is known of it without its weights."""

import argparse
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import BiRefNet, load_model, save_checkpoint, zoo
from models.checkpoints.files import read_state
from models.checkpoints.names import to_official
from models.finding import find_checkpoint, is_repository
from models.loading import resolve
from tests.models.small import build, output

PUBLISHED_CONFIG = {'_name_or_path': 'ZhengPeng7/BiRefNet', 'architectures': ['BiRefNet'],
                    'auto_map': {}, 'bb_pretrained': False}


@pytest.fixture(scope='module')
def model() -> BiRefNet:
    """Not to be changed. Its size is no default."""
    return build(dec_att='', mul_scl_ipt='', size=(64, 96))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """The folder of published weights."""
    folder = tmp_path / 'home'
    folder.mkdir()
    monkeypatch.setenv('BIREFNET_HOME', str(folder))
    return folder


def write_run(folder: Path, model: BiRefNet, *names: str) -> Path:
    """A run's folder with checkpoints of these names, and its config."""
    folder.mkdir(parents=True)
    for name in names:
        if name.startswith('last'):
            torch.save(state_of_run(model), folder / name)
        else:
            save_checkpoint(model, folder / name)
    (folder / 'config.json').write_text(json.dumps(model.config.as_dict()))
    return folder


def state_of_run(model: BiRefNet, average: BiRefNet | None = None) -> dict:
    """What training writes to go on from, as far as it matters here."""
    weight = next(model.parameters())
    return {
        'model': model.state_dict(),
        'ema': average and average.state_dict(),
        'optimizer': {'state': {0: {'exp_avg': torch.zeros_like(weight)}}, 'param_groups': [{}]},
        'adversary': None,
        'gradient_norm': torch.zeros(()),
        'sums': [{'window': {'values': torch.zeros(2)}}],
        'config': model.config.as_dict(),
    }


# --- Sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['shop_hr', 'dynamic_lr', 'tiny-512x512-ft', 'lite-2k', 'hr'])
def test_a_saved_size_goes_before_names(tmp_path, model, name):
    folder = write_run(tmp_path / name, model, 'epoch_1.pth')
    for path in (folder, folder / 'epoch_1.pth'):
        fields = resolve(path).fields
        assert (fields['size'], fields['dynamic_size']) == ([64, 96], None)
        config = load_model(path).config
        assert (config.size, config.dynamic_size) == ((64, 96), None)


@pytest.mark.parametrize('name', ['my_hrnet.pth', 'BiRefNet_dynamic-mine.pth', 'x-512x512.pth'])
def test_names_that_resemble_published_ones_say_nothing(tmp_path, model, name):
    save_checkpoint(model, tmp_path / name)
    assert resolve(tmp_path / name).fields == {}
    assert load_model(tmp_path / name).config.size == (1024, 1024)


@pytest.mark.parametrize(('place', 'size'), [
    ('home/hr.safetensors', (2048, 2048)),
    ('BiRefNet_HR-general-epoch_130.pth', (2048, 2048)),
    ('BiRefNet_lite-2K/model.safetensors', (2560, 1440)),
    ('hub/models--ZhengPeng7--BiRefNet_512x512/snapshots/abc/model.safetensors', (512, 512)),
    ('hub/models--zhengpeng7--BiRefNet_HR/snapshots/abc/model.safetensors', (2048, 2048)),
    ('hr.safetensors', None),
    ('BiRefNet_HR/best.pth', None),
    ('models--someone--BiRefNet_HR/snapshots/abc/model.safetensors', None),
])
def test_published_weights_are_known_by_their_exact_name(tmp_path, place, size):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    fields = resolve_untouched(path)
    assert fields.get('size') == size


def resolve_untouched(path: Path) -> dict:
    """Facts of a file that need not be one."""
    entry = zoo.identify(path)
    return entry.facts() if entry else {}


def test_published_weights_by_name_have_their_size(home, model):
    for name in ('hr', 'legacy'):
        save_checkpoint(model, home / f'{name}.safetensors')
    hr, legacy = resolve('hr'), resolve('legacy')
    assert (hr.file, hr.fields['size']) == (home / 'hr.safetensors', (2048, 2048))
    assert load_model('hr').config.size == (2048, 2048)
    assert legacy.fields['size'] == (1024, 1024)
    assert resolve('ZhengPeng7/BiRefNet_HR') == hr


def test_the_config_of_a_run_goes_before_published_facts(tmp_path, model):
    folder = write_run(tmp_path / 'run', model, 'BiRefNet_HR-general-epoch_130.pth')
    assert load_model(folder / 'BiRefNet_HR-general-epoch_130.pth').config.size == (64, 96)


# --- Configs of others ----------------------------------------------------------------------------


@pytest.mark.parametrize('content', [PUBLISHED_CONFIG, {'learning_rate': 3}, [], 'text', None,
                                     {'bb': 'swin_v1_l', 'size': 'large'}])
def test_a_config_of_another_project_counts_for_none(tmp_path, model, content):
    save_checkpoint(model, tmp_path / 'a.pth')
    (tmp_path / 'config.json').write_text(json.dumps(content))
    assert resolve(tmp_path / 'a.pth').fields == {}
    assert torch.equal(output(load_model(tmp_path / 'a.pth')), output(model))


def test_a_config_that_is_a_folder(tmp_path, model):
    save_checkpoint(model, tmp_path / 'a.pth')
    (tmp_path / 'config.json').mkdir()
    assert torch.equal(output(load_model(tmp_path / 'a.pth')), output(model))


def test_the_snapshot_of_a_repository(tmp_path, model, monkeypatch):
    """As the hub's client keeps it, with the published config, without a network."""
    snapshot = tmp_path / 'hub/models--someone--BiRefNet-ft/snapshots/abc'
    save_checkpoint(model, snapshot / 'model.safetensors')
    (snapshot / 'config.json').write_text(json.dumps(PUBLISHED_CONFIG))
    monkeypatch.setattr('models.zoo.hf_hub_download', lambda _, name: str(snapshot / name))
    source = resolve('someone/BiRefNet-ft')
    assert (source.file, source.fields) == (snapshot / 'model.safetensors', {})
    assert torch.equal(output(load_model('someone/BiRefNet-ft')), output(model))


def test_fields_of_later_versions_are_left_out(tmp_path, model):
    folder = write_run(tmp_path / 'run', model, 'best.pth')
    saved = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**saved, 'field_of_2030': 1}))
    assert 'field_of_2030' not in resolve(folder).fields
    assert load_model(folder).config.size == (64, 96)


# --- Runs -----------------------------------------------------------------------------------------


def test_a_run_that_stopped_early_has_its_state(tmp_path, model):
    folder = write_run(tmp_path / 'early', model, 'last.pt')
    assert resolve(folder).file == folder / 'last.pt'
    loaded = load_model(folder)
    assert torch.equal(output(loaded), output(model))
    assert loaded.config.size == (64, 96)
    save_checkpoint(model, folder / 'epoch_1.pth')
    assert resolve(folder).file == folder / 'epoch_1.pth'


def test_a_state_alone_knows_its_config(tmp_path, model):
    torch.save(state_of_run(model), tmp_path / 'last.pt')
    assert load_model(tmp_path / 'last.pt').config.size == (64, 96)


def test_a_state_gives_its_moving_average(tmp_path, model):
    other = build(dec_att='', mul_scl_ipt='', size=(64, 96))
    other.decoder.head.bias.data += 1
    torch.save(state_of_run(other, average=model), tmp_path / 'last.pt')
    assert torch.equal(output(load_model(tmp_path / 'last.pt')), output(model))


def test_a_state_of_an_earlier_version_in_column_order(tmp_path, model):
    state = state_of_run(model)
    state['config']['tile_order'] = 'column'
    save_checkpoint(model, tmp_path / 'column.pth', tile_order='column')
    column = build(dec_att='', mul_scl_ipt='')
    column.load_state_dict(read_state(tmp_path / 'column.pth'))
    state['model'] = column.state_dict()
    torch.save(state, tmp_path / 'last.pt')
    assert torch.equal(output(load_model(tmp_path / 'last.pt')), output(model))


@pytest.mark.parametrize('switches', [{'bb': 'swin_v1_t'}, {'bb': 'resnet50'}, {'bb': 'vgg16bn'}])
def test_a_state_dict_in_our_names_needs_no_config(tmp_path, switches):
    original = build(dec_att='', mul_scl_ipt='', dec_ipt=False, **switches)
    torch.save(original.state_dict(), tmp_path / 'mine.pth')
    assert torch.equal(output(load_model(tmp_path / 'mine.pth')), output(original))


def test_a_folder_of_others(tmp_path, model):
    """Downloaded checkpoints, without any config."""
    save_checkpoint(model, tmp_path / 'official/epoch_1.pth')
    source = resolve(tmp_path / 'official')
    assert (source.file.name, source.fields, source.is_ours) == ('epoch_1.pth', {}, False)


def test_folders_that_hold_nothing_name_what_would_do(tmp_path):
    with pytest.raises(ValueError, match=r'home: holds neither model\.safetensors.*last\.pt'):
        find_checkpoint(tmp_path / 'home')
    assert not is_repository('run/last.pt')


# --- What others wrap networks in -----------------------------------------------------------------


WRAPPED = {
    'net.': lambda state: {'state_dict': behind('net.', state)},
    'lightning': lambda state: {'state_dict': {**behind('model.', state),
                                               'criterion.weight': torch.zeros(3)}, 'epoch': 3},
    'generator.': lambda state: behind('generator.', state),
    'model_ema': lambda state: {'model_ema': state},
    'ema': lambda state: {'ema': state},
    'ema_state_dict': lambda state: {'ema_state_dict': state, 'epoch': 3},
    'weights': lambda state: {'weights': state},
    'module': lambda state: behind('module._orig_mod.', state),
    'average': lambda state: {**behind('module.', state), 'n_averaged': torch.tensor(3)},
    'EMA': lambda state: {'model': {k: v + 1 for k, v in state.items()}, 'modelEMA': state},
    'both': lambda state: {'model': {k: v + 1 for k, v in state.items()}, 'model_ema': state},
    'beside': lambda state: {**behind('net.', {k: v + 1 for k, v in state.items()}),
                             **behind('net_ema.', state)},
    'deep': lambda state: {'a': {'b': {'c': behind('d.e.', state)}}},
}


def behind(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize('name', WRAPPED)
def test_networks_are_found_wherever_others_put_them(tmp_path, model, name):
    state = to_official(model.state_dict(), 'pvt_v2_b0')
    torch.save(WRAPPED[name](state), tmp_path / 'a.pth')
    assert torch.equal(output(load_model(tmp_path / 'a.pth')), output(model))


def test_of_two_networks_without_an_average_none_is_guessed(tmp_path, model):
    state = to_official(model.state_dict(), 'pvt_v2_b0')
    torch.save({'student': state, 'teacher': dict(state)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match="several networks, 'student', 'teacher'"):
        load_model(tmp_path / 'a.pth')


def test_what_keys_begin_with_is_named(tmp_path):
    torch.save({**nn.Linear(2, 2).state_dict(prefix='head.'), 'body.a': torch.zeros(2)},
               tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'keys begin with head\. \(2 keys\), body\. \(1 keys\)'):
        load_model(tmp_path / 'a.pth')


STRANGERS = {
    'a.pth': (b'<!DOCTYPE html><p>Sign in', 'a web page'),
    'b.pth': (b'version https://git-lfs.github.com/spec/v1', 'git lfs pull'),
    'c.pth': (b'', 'the file is empty'),
    'd.safetensors': (b'<html><body>', 'a web page'),
    'e.safetensors': (b'', 'the file is empty'),
    'photo.png': (b'\x89PNG\r\n\x1a\n', 'not loaded: an image'),
    'net.onnx': (b'\x08\n\x12\x07pytorch', 'an ONNX file; give the checkpoint'),
}


def write_archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, 'w') as archive:
        for name in names:
            archive.writestr(name, '')
    return path


@pytest.mark.parametrize(('name', 'members', 'words'), [
    ('a.pt2', ['a/archive_format', 'a/models/model.json'], 'a program of torch.export'),
    ('a.pth', ['a/data.pkl', 'a/constants.pkl', 'a/code/x.py'], 'a program of TorchScript'),
    ('a.safetensors', ['a/data.pkl'], r'a file of torch\.save; let its name end in \.pth'),
])
@pytest.mark.filterwarnings('ignore:.*TorchScript')
def test_programs_in_place_of_weights_are_named(tmp_path, name, members, words):
    with pytest.raises(ValueError, match=words):
        load_model(write_archive(tmp_path / name, *members))


@pytest.mark.parametrize('beside', [
    {'best': np.float64(.9)}, {'args': argparse.Namespace(lr=1)}, {'folder': Path('ckpts')},
])
def test_what_a_checkpoint_holds_besides_tensors_is_named(tmp_path, model, beside):
    torch.save({'state_dict': model.state_dict(), **beside}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'multiarray\.scalar|Namespace|PosixPath') as raised:
        load_model(tmp_path / 'a.pth')
    assert 'save its state_dict() alone' in str(raised.value)


@pytest.mark.parametrize('dtype', [torch.int8, torch.bool, torch.complex64])
def test_quantised_weights_are_refused(tmp_path, model, dtype):
    """They would load without their scale."""
    state = model.state_dict()
    key = 'decoder.levels.0.lateral.weight'
    torch.save({**state, key: state[key].to(dtype)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=rf'quantised ones: {key} \({dtype}\)'):
        load_model(tmp_path / 'a.pth')


@pytest.mark.parametrize('name', ['a.pth', 'a.ckpt', 'blob'])
def test_safetensors_under_any_name(tmp_path, model, name):
    """As in the hub's cache, whose files have no suffix, or renamed by hand."""
    save_checkpoint(model, tmp_path / 'a.safetensors')
    (tmp_path / 'a.safetensors').rename(tmp_path / name)
    source = resolve(tmp_path / name)
    assert (source.tile_order, source.is_ours) == ('row', True)
    assert torch.equal(output(load_model(tmp_path / name)), output(model))


def test_a_tile_order_of_others_counts_for_none(tmp_path, model):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / 'a.safetensors', {'tile_order': 'diagonal'})
    assert resolve(tmp_path / 'a.safetensors').tile_order == ''
    folder = write_run(tmp_path / 'run', model, 'best.pth')
    config = {**model.config.as_dict(), 'tile_order': 'diagonal'}
    (folder / 'config.json').write_text(json.dumps(config))
    assert resolve(folder).tile_order == ''


@pytest.mark.parametrize(('name', 'words'), [
    ('', 'the name of the weights is empty'),
    ('https://example.org/a/b', 'https://example.org/a/b: there is no such checkpoint'),
])
def test_names_that_mean_nothing(name, words):
    with pytest.raises(ValueError, match=words):
        resolve(name)


@pytest.mark.parametrize('name', STRANGERS)
def test_what_is_no_checkpoint_is_named(tmp_path, name):
    content, words = STRANGERS[name]
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError, match=words) as raised:
        load_model(file)
    assert str(file) in str(raised.value)


def test_a_checkpoint_that_is_cut_off_is_named(tmp_path, model):
    save_checkpoint(model, tmp_path / 'a.pth')
    file = tmp_path / 'b.pth'
    file.write_bytes((tmp_path / 'a.pth').read_bytes()[:5000])
    with pytest.raises(ValueError, match=f'{file}: not loaded: the file is cut off'):
        load_model(file)


def test_a_dict_that_holds_itself_ends(tmp_path):
    content: dict = {}
    content['a'] = content['b'] = content
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='holds no state dict'):
        load_model(tmp_path / 'a.pth')


def test_two_folders_of_one_name(tmp_path, model):
    """The file in a copy of a run's folder is the copy's."""
    folder = write_run(tmp_path / 'run', model, 'best.pth')
    shutil.copytree(folder, tmp_path / 'copy')
    assert resolve(tmp_path / 'copy').file == tmp_path / 'copy/best.pth'
