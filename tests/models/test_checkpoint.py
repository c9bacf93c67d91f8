"""Checkpoints tell their own architecture, whatever wrote them. Files that are none are refused."""

import copy
import errno
import functools
import itertools
import json
import pickle
import random
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import models.checkpoints.files
import models.loading
from config import ARCHITECTURE, Config, ConfigError
from models import Architecture, BiRefNet, build_birefnet, load_model, save_checkpoint
from models.backbones import build_backbone
from models.checkpoints.files import read_state, write_state
from models.checkpoints.infer import infer_architecture, infer_backbone
from models.checkpoints.names import DERIVED, from_official, to_official
from tests.models.small import build, image, output
from utils import check_state_dict

SQUEEZE_BLOCKS = (
    '', 'BasicDecBlk_x1', 'BasicDecBlk_x3', 'ResBlk_x1', 'ResBlk_x2', 'ASPP_x1', 'ASPP_x2',
    'ASPPDeformable_x1')
SWITCHES = {
    'mul_scl_ipt': ('', 'add', 'cat'),
    'cxt_num': (0, 1, 2, 3),
    'dec_blk': ('BasicDecBlk', 'ResBlk'),
    'squeeze_block': SQUEEZE_BLOCKS,
    'dec_att': ('', 'ASPP', 'ASPPDeformable'),
    'dec_channels_inter': ('fixed', 'adap'),
    'dec_ipt': (True, True, False),
    'dec_ipt_split': (True, False),
    'dec_ipt_levels': ((5, 4, 3, 2, 1), (4, 3, 2, 1), (5, 1), (1,)),
    'ms_supervision': (True, True, False),
    'out_ref': (True, False),
    'out_ref_levels': ((4, 3, 2), (3, 2), (4,)),
    'deform_kernels': ((1, 3, 7), (3,), (1, 5)),
    'auxiliary_classification': (False, True),
    'num_classes': (219, 10),
}


def random_switches(seed: int) -> dict:
    draw = random.Random(seed)
    switches = {name: draw.choice(values) for name, values in SWITCHES.items()}
    return switches if switches['squeeze_block'] else {**switches, 'cxt_num': 0}


def unseen_fields(cfg: Config) -> dict:
    """What keys and shapes do not settle comes from the config saved with a run."""
    return {'mul_scl_ipt': 'add'} if cfg.mul_scl_ipt == 'add' else {}


def visible(cfg: Config) -> dict:
    """The architecture as far as it can matter: what is off has no details."""
    fields = {name: getattr(cfg, name) for name in ARCHITECTURE}
    fields['out_ref'] = cfg.out_ref and cfg.ms_supervision
    hidden = {'dec_ipt_levels': not cfg.dec_ipt, 'out_ref_levels': not fields['out_ref'],
              'dec_ipt_split': not cfg.dec_ipt or cfg.dec_ipt_levels == (1,),
              'deform_kernels': 'ASPPDeformable' not in (cfg.dec_att, cfg.squeeze_block[:-3]),
              'num_classes': not cfg.auxiliary_classification}
    return {name: value for name, value in fields.items() if not hidden.get(name)}


def shapes_of(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Official keys and shapes, without memory for values."""
    with torch.device('meta'):
        state = to_official(build_birefnet(cfg).state_dict(), cfg.bb)
    return {key: tuple(value.shape) for key, value in state.items() if not DERIVED.search(key)}


@functools.cache
def channels_of(bb: str) -> tuple[int, ...]:
    with torch.device('meta'):
        return build_backbone(bb).channels


@pytest.fixture(scope='module')
def model() -> BiRefNet:
    """Not to be changed. Small, without deformable layers and the pyramid.

    These are in `test_files_alone_give_the_network_back`.
    """
    return build(dec_att='', mul_scl_ipt='')


@pytest.fixture(scope='module')
def expected(model) -> torch.Tensor:
    """What `model` makes of the image."""
    return output(model)


@pytest.fixture(scope='module')
def official(model) -> dict[str, torch.Tensor]:
    return to_official(model.state_dict(), 'pvt_v2_b0')


# --- The architecture from keys and shapes --------------------------------------------------------


@pytest.mark.parametrize('seed', range(40))
def test_switches_follow_from_keys(seed):
    cfg = Config(bb='pvt_v2_b0', **random_switches(seed))
    shapes = shapes_of(cfg)
    assert infer_backbone(shapes) == cfg.bb
    channels = channels_of(cfg.bb)
    unseen = unseen_fields(cfg)
    found = Config(bb=cfg.bb, **{**infer_architecture(shapes, channels), **unseen})
    assert visible(found) == visible(cfg)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_files_alone_give_the_network_back(tmp_path, seed, suffix):
    path = tmp_path / f'weights{suffix}'
    original = build(**random_switches(100 + seed))
    save_checkpoint(original, path)
    cfg = original.config
    unseen = unseen_fields(cfg)
    loaded = load_model(path, **unseen)
    assert visible(loaded.config) == visible(cfg)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(output(loaded), output(original))


def test_every_switch_is_in_the_architecture():
    names = {field.name for field in fields(Architecture)}
    assert set(SWITCHES) == names
    assert {*names, 'bb'} == set(ARCHITECTURE)
    assert Architecture.from_config(Config()) == Architecture(), 'the same defaults'


def test_loading_builds_one_network(tmp_path, model, monkeypatch):
    save_checkpoint(model, tmp_path / 'w.pth')
    built = []
    for name in ('BiRefNet', 'build_backbone'):
        original = getattr(models.loading, name)

        def count(*args, _name=name, _original=original, **options):
            built.append(_name)
            return _original(*args, **options)

        monkeypatch.setattr(models.loading, name, count)
    load_model(tmp_path / 'w.pth')
    assert sorted(built) == ['BiRefNet', 'build_backbone']


@pytest.mark.parametrize('bb', [
    'swin_v1_t', 'swin_v1_s', 'swin_v1_b', 'swin_v1_l', 'pvt_v2_b0', 'pvt_v2_b1', 'pvt_v2_b2',
    'pvt_v2_b5', 'vgg16',
    'vgg16bn', 'resnet50', 'dino_v3_s', 'dino_v3_s_plus', 'dino_v3_b', 'dino_v3_l'])
@pytest.mark.parametrize('pyramid', ['cat', ''])
def test_every_backbone_is_told_apart(bb, pyramid):
    cfg = Config(bb=bb, mul_scl_ipt=pyramid)
    shapes = shapes_of(cfg)
    assert infer_backbone(shapes) == bb
    channels = channels_of(bb)
    assert visible(Config(bb=bb, **infer_architecture(shapes, channels))) == visible(cfg)


@pytest.mark.slow
@pytest.mark.parametrize('bb', ['dino_v3_h_plus', 'dino_v3_7b'])
def test_the_largest_backbones_are_told_apart(bb):
    assert infer_backbone(shapes_of(Config(bb=bb))) == bb


def test_generations(tmp_path):
    old = {'dec_ipt_levels': (4, 3, 2, 1), 'out_ref_levels': (3, 2), 'deform_kernels': (3,)}
    original = build(**old)
    path = tmp_path / 'BiRefNet_DIS_ep580.pth'
    save_checkpoint(original, path, tile_order='column')
    keys = read_state(path)
    assert not any(key.startswith(('decoder.ipt_blk5', 'decoder.gdt_convs_4')) for key in keys)
    loaded = load_model(path)
    assert {name: getattr(loaded.config, name) for name in old} == old
    assert torch.equal(output(loaded), output(original))


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('switches', [
    {}, {'squeeze_block': 'ASPPDeformable_x2', 'dec_blk': 'ResBlk'},
    {'dec_att': 'ASPP', 'auxiliary_classification': True},
    {'bb': 'swin_v1_t'}, {'bb': 'resnet50'}, {'bb': 'vgg16bn'}, {'bb': 'dino_v3_s'},
    {'bb': 'timm/resnet18'},
    {'squeeze_block': 'ResBlk_x12'}, {'deform_kernels': (1, 3, 5, 7, 9, 3, 3, 3, 3)}])
def test_names_go_both_ways(switches):
    cfg = Config(**{'bb': 'pvt_v2_b0', **switches})
    with torch.device('meta'):
        ours = build_birefnet(cfg).state_dict()
    official = to_official(ours, cfg.bb)
    assert from_official(official).keys() == ours.keys()
    assert from_official(ours).keys() == ours.keys()
    foreign = (r'encoder|levels|attention|pointwise|deformable|project|residual|pooled|'
               r'class_head|neck\b')
    assert not [key for key in official if re.search(foreign, key)]
    tables = [key for key in official if key.endswith('relative_position_bias_table')]
    assert len(official) == len(ours) + (len(tables) if cfg.bb.startswith('swin') else 0)


def test_a_state_dict_may_have_either_names(model, official, expected):
    other = build_birefnet(model.config).eval()
    assert not other.load_state_dict(official).unexpected_keys
    assert torch.equal(output(other), expected)
    other = build_birefnet(model.config).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(output(other), expected)
    less = {key: value for key, value in official.items() if 'ipt_blk3' not in key}
    with pytest.raises(RuntimeError, match='missing: '):
        other.load_state_dict(less)


def test_wrapped_networks_load_and_save(tmp_path, model, official, expected):
    class Shell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.extra = build_birefnet(model.config), nn.Linear(2, 2)

    shell = Shell()
    inner = {f'module.{key}': value for key, value in official.items()}
    shell.load_state_dict(inner | shell.extra.state_dict(prefix='extra.'))
    average = AveragedModel(model)
    for wrapped in (shell, average, nn.DataParallel(model)):
        save_checkpoint(wrapped, tmp_path / 'wrapped.pth')
        written = read_state(tmp_path / 'wrapped.pth')
        assert written.keys() == official.keys()
        assert all(torch.equal(written[key], official[key]) for key in official)
    again = AveragedModel(build_birefnet(model.config))
    again.load_state_dict(average.state_dict())
    assert torch.equal(output(again.module.eval()), expected)


def test_swin_index_is_written_as_published(tmp_path):
    with torch.device('meta'):
        cfg = Config(bb='swin_v1_t')
        state = to_official(build_birefnet(cfg).state_dict(), cfg.bb)
    index = {key: value for key, value in state.items() if key.endswith('relative_position_index')}
    assert sorted(index) == sorted(f'bb.layers.{i}.blocks.{j}.attn.relative_position_index'
                                   for i, depth in enumerate((2, 2, 6, 2)) for j in range(depth))
    w = 7
    expected = torch.tensor([[(qy - ky + w - 1) * (2 * w - 1) + qx - kx + w - 1
                              for ky, kx in itertools.product(range(w), repeat=2)]
                             for qy, qx in itertools.product(range(w), repeat=2)])
    for value in index.values():
        assert value.dtype == torch.int64
        assert torch.equal(value, expected)
    first, second = list(index.values())[:2]
    assert first.data_ptr() != second.data_ptr()


# --- What people wrap weights in ------------------------------------------------------------------


@pytest.mark.parametrize('prefix', [
    'module.',
    '_orig_mod.',
    'module._orig_mod.',
    '_orig_mod.module.',
    'module.module._orig_mod.module.',
])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_prefixes(tmp_path, official, prefix, suffix):
    write_state({prefix + key: value for key, value in official.items()}, tmp_path / f'w{suffix}')
    assert read_state(tmp_path / f'w{suffix}').keys() == official.keys()


def test_prefixes_inside_and_names_that_look_like_them():
    keys = {
        'bb._orig_mod.stages_0.x': 'bb.stages_0.x',
        'squeeze_module.0.conv_in.x': 'squeeze_module.0.conv_in.x',
        'decoder.module.head': 'decoder.head',
        '_orig_mod.squeeze_module.1.a': 'squeeze_module.1.a',
    }
    assert list(check_state_dict(dict.fromkeys(keys, torch.zeros(())))) == list(keys.values())
    state = {'module.net.bb.x': 1, 'internet.x': 2}
    assert check_state_dict(state, unwanted_prefixes=['module.', 'net.']) == {'bb.x': 1,
                                                                              'internet.x': 2}


@pytest.mark.parametrize('path', [
    'model',
    'state_dict',
    'state_dict/model',
    'model/state_dict',
    'net',
])
def test_nested(tmp_path, official, path):
    content = official
    for key in reversed(path.split('/')):
        content = {'epoch': 3, key: content, 'optimizer': {'state': {}, 'lr': .1}}
    torch.save(content, tmp_path / 'w.pth')
    assert read_state(tmp_path / 'w.pth').keys() == official.keys()


def test_half_precision_and_old_file_formats(tmp_path, official, expected):
    half = {key: value.half() if value.is_floating_point() else value
            for key, value in official.items()}
    save_file(half, tmp_path / 'half.SAFETENSORS')
    loaded = load_model(tmp_path / 'half.SAFETENSORS')
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.allclose(output(loaded), expected, atol=.05 * expected.std())
    torch.save(official, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    assert torch.equal(output(load_model(tmp_path / 'old.pth')), expected)


def test_files_without_counters(tmp_path, official, expected):
    state = {key: value for key, value in official.items() if 'num_batches_tracked' not in key}
    write_state(state, tmp_path / 'w.pth')
    assert torch.equal(output(load_model(tmp_path / 'w.pth')), expected)


def test_what_is_loaded_is_apart_from_its_file(tmp_path, model, expected):
    save_checkpoint(model, tmp_path / 'w.safetensors')
    loaded = load_model(tmp_path / 'w.safetensors')
    with open(tmp_path / 'w.safetensors', 'r+b') as file:  # the same file, not another of its name
        file.write(bytes((tmp_path / 'w.safetensors').stat().st_size))
    assert torch.equal(output(loaded), expected)
    assert all(p.requires_grad for p in loaded.parameters())


def test_loading_draws_no_weights(tmp_path, model):
    save_checkpoint(model, tmp_path / 'w.pth')
    state = torch.get_rng_state()
    load_model(tmp_path / 'w.pth')
    assert torch.equal(torch.get_rng_state(), state)


def test_building_what_computes_buffers_leaves_random_numbers_alone():
    state = torch.get_rng_state()
    backbone = models.loading._build_without_values('dino_v3_s', (64, 64), (1.,))
    assert all(not buffer.is_meta for buffer in backbone.buffers())
    assert torch.equal(torch.get_rng_state(), state)


# --- Folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize('foreign', [
    {'architectures': ['BiRefNet'], 'model_type': 'x', 'size': 'large', 'task': None},
    {'bb_pretrained': False},
    [1, 2], 'text', None,
    {'embed_dim': 192, 'depths': [2, 2, 18, 2], 'dec_channels_inter': 'wide',
     'mul_scl_ipt': 'none'},
])
def test_hugging_face_folder(tmp_path, model, foreign, expected):
    save_checkpoint(model, tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps(foreign))
    assert torch.equal(output(load_model(tmp_path if foreign else str(tmp_path))), expected)


def test_run_folder(tmp_path):
    original = build(mul_scl_ipt='add', task='COD', batch_size=3, dec_att='')
    (tmp_path / 'config.json').write_text(json.dumps(original.config.as_dict()))
    for epoch in (2, 10, 9):
        weakened = copy.deepcopy(original)
        weakened.decoder.head.bias.data += epoch
        save_checkpoint(weakened, tmp_path / f'epoch_{epoch}.pth')
    (tmp_path / 'epoch_last.pth').write_text('a file of the user')
    (tmp_path / 'last_state.pth').write_text('another')
    loaded = load_model(tmp_path)
    assert loaded.config == original.config
    # The head sums 21 terms: partial sums below 16 are rounded to 2^-21 each, in all by up to 1e-5.
    assert torch.allclose(output(loaded), output(original) + 10, atol=1e-5)
    second = load_model(tmp_path / 'epoch_2.pth')
    assert torch.allclose(output(second), output(original) + 2, atol=1e-5)
    save_checkpoint(original, tmp_path / 'best.pth')
    assert torch.equal(output(load_model(tmp_path)), output(original))
    assert load_model(tmp_path, seed=3).config.seed == 3


def test_a_timm_backbone_needs_its_name_once(tmp_path):
    original = build(bb='timm/resnet18', dec_att='', mul_scl_ipt='')
    save_checkpoint(original, tmp_path / 'best.pth')
    with pytest.raises(ValueError, match=r"bb='timm/<name>'"):
        load_model(tmp_path)
    assert torch.equal(output(load_model(tmp_path, bb='timm/resnet18')), output(original))
    (tmp_path / 'config.json').write_text(json.dumps(original.config.as_dict()))
    assert torch.equal(output(load_model(tmp_path)), output(original))


@pytest.mark.parametrize('content', ['{', '', '\x00'])
def test_a_damaged_config_is_named(tmp_path, model, content):
    save_checkpoint(model, tmp_path / 'best.pth')
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=r'config\.json'):
        load_model(tmp_path)


def test_paths_that_hold_nothing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r'model\.safetensors.*best\.pth'):
        load_model(tmp_path)
    for missing in (tmp_path / 'no.pth', 'no.pth', 'a/b/c', tmp_path / 'no' / 'no.safetensors'):
        with pytest.raises(ValueError, match=r'no such checkpoint'):
            load_model(missing)

    def offline(*_):
        raise OSError('no network')

    monkeypatch.setattr('models.zoo.hf_hub_download', offline)
    with pytest.raises(ValueError, match=r'somebody/net.*local file'):
        load_model('somebody/net')

    def without_socks(*_):
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed")

    monkeypatch.setattr('models.zoo.hf_hub_download', without_socks)
    with pytest.raises(ValueError, match=r"somebody/net.*'socksio'.*local file"):
        load_model('somebody/net')


def test_a_repository_of_the_hub(tmp_path, model, monkeypatch, expected):
    save_checkpoint(model, tmp_path / 'model.safetensors')
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        if name == 'config.json':
            raise OSError('has none')
        return str(tmp_path / name)

    monkeypatch.setattr('models.zoo.hf_hub_download', download)
    assert torch.equal(output(load_model('some-body/Net_lite-2K')), expected)
    repository = 'some-body/Net_lite-2K'
    assert asked == [(repository, 'model.safetensors'), (repository, 'config.json')]


# --- Files that fit nothing -----------------------------------------------------------------------


class Bomb:
    """What a hostile pickle does."""

    exploded: Path

    def __reduce__(self):
        return Path.touch, (self.exploded,)


@pytest.mark.parametrize('name', ['bomb.pth', 'bomb.pkl', 'bomb.bin'])
@pytest.mark.parametrize('writer', ['torch', 'old torch', 'pickle'])
def test_code_in_files_is_not_run(tmp_path, name, writer):
    Bomb.exploded = tmp_path / 'exploded'
    content = {'bb.x': torch.zeros(2), 'evil': Bomb()}
    if writer == 'pickle':
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=writer == 'torch')
    with pytest.raises(ValueError, match=re.escape(name)):
        load_model(tmp_path / name)
    assert not Bomb.exploded.exists()


def test_an_error_of_the_disk_is_not_called_damage(tmp_path, official, monkeypatch):
    path = tmp_path / 'weights.pth'
    write_state(official, path)

    def load(*_, **__):
        try:
            raise OSError(errno.EIO, 'Input/output error')
        except OSError:
            raise RuntimeError('the archive is broken')  # noqa: B904 as libraries do

    monkeypatch.setattr(torch, 'load', load)
    with pytest.raises(ValueError, match=r'weights\.pth: not read \(Input/output error\)'):
        read_state(path)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('damage', [
    lambda d: b'',
    lambda d: d[:len(d) // 2],
    lambda d: b'hello\n',
    lambda d: d[:7],
    lambda d: b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n',
], ids=['empty', 'half', 'text', 'head', 'lfs'])
def test_damaged_files_are_named(tmp_path, official, suffix, damage):
    path = tmp_path / f'w{suffix}'
    write_state(official, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_model(path)


@pytest.mark.parametrize('content', [
    {}, [], 3, {'a': 1}, {'model': {}}, [torch.zeros(2)], torch.zeros(2),
])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match='holds no state dict'):
        load_model(tmp_path / 'w.pth')


def test_the_nearest_layout_is_named(tmp_path):
    write_state({'conv.weight': torch.zeros(2), 'a': torch.zeros(1)}, tmp_path / 'random.pth')
    words = r'random\.pth is not a checkpoint.*nearest known layout.*no keys under bb\.'
    with pytest.raises(ValueError, match=words):
        load_model(tmp_path / 'random.pth')
    with torch.device('meta'):
        shapes = build_backbone('swin_v1_t').net.state_dict()
    swin = {key: torch.zeros(value.shape) for key, value in shapes.items()}
    write_state(swin, tmp_path / 'swin.pth')
    words = r'nearest known layout: swin_v1_t.*no keys under bb\. and decoder\.'
    with pytest.raises(ValueError, match=words):
        load_model(tmp_path / 'swin.pth')


def test_what_is_missing_is_named(tmp_path, official):
    for name, change, words in (
            ('less', lambda k: {k: v for k, v in official.items() if 'lateral_block3' not in k},
             r'pvt_v2_b0.*2 missing: decoder\.lateral_block3\.conv\.'),
            ('more', lambda k: official | {'decoder.surplus': torch.zeros(1)},
             r'1 unexpected: decoder\.surplus'),
            ('other', lambda k: official | {'decoder.conv_out1.0.bias': torch.zeros(5)},
             r'conv_out1\.0\.bias \(5,\) instead of \(1,\)'),
            ('bb', lambda k: {k: v for k, v in official.items() if not k.startswith('decoder.')},
             r'no keys under decoder\.'),
            ('head', lambda k: {k: v for k, v in official.items() if not k.startswith('bb.')},
             r'no keys under bb\.')):
        write_state(change(name), tmp_path / f'{name}.pth')
        with pytest.raises(ValueError, match=words):
            load_model(tmp_path / f'{name}.pth')


def test_a_swin_of_another_depth_is_refused(tmp_path):
    cfg = Config(bb='swin_v1_t')
    state = {key: torch.zeros(shape) for key, shape in shapes_of(cfg).items()
             if 'layers.2.blocks.5' not in key}
    write_state(state, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match='nearest known layout: swin_v1_t'):
        load_model(tmp_path / 'w.pth')


@pytest.mark.parametrize(('overrides', 'words'), [
    ({'dec_att': 'ASPP'}, "dec_att='ASPP' as given"),
    ({'bb': 'pvt_v2_b2'}, "bb='pvt_v2_b2' as given"),
    ({'mul_scl_ipt': 'cat'}, "mul_scl_ipt='cat' as given"),
    ({'squeeze_block': 'BasicDecBlk_x2'}, 'as given: .*missing')])
def test_overrides_that_contradict_the_keys(tmp_path, model, overrides, words):
    save_checkpoint(model, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=words):
        load_model(tmp_path / 'w.pth', **overrides)


@pytest.mark.parametrize('overrides', [
    {'tile_ordr': 'row'},
    {'bb': 'swin_v2'},
    {'tile_order': 'diagonal'},
    {'bb': 'timm/foo'},
])
def test_wrong_overrides(tmp_path, model, overrides):
    save_checkpoint(model, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=next(iter(overrides))) as caught:
        load_model(tmp_path / 'w.pth', **overrides)
    assert isinstance(caught.value, ConfigError) or 'timm' in str(overrides)


# --- Writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, model, official, suffix, monkeypatch):
    path = tmp_path / f'w{suffix}'
    save_checkpoint(model, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError('disk full')

    def half(content, file, *_):
        file.write(b'half of it')
        fail()

    monkeypatch.setattr(torch, 'save', half)
    monkeypatch.setattr(models.checkpoints.files, 'save_safetensors', fail)
    with pytest.raises(OSError, match='disk full'):
        save_checkpoint(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_is_written_is_plain(tmp_path, model, expected):
    """CPU tensors without history, strictly loadable by others."""
    training = copy.deepcopy(model).train()
    save_checkpoint(training, tmp_path / 'w.pth')
    assert training.training
    content = torch.load(tmp_path / 'w.pth', weights_only=True)
    for key, value in content.items():
        assert type(value) is torch.Tensor, key
        assert not value.requires_grad, key
        assert value.is_contiguous(), key
    assert content['decoder.decoder_block1.bn_in.num_batches_tracked'].dtype == torch.int64
    save_checkpoint(training.to(memory_format=torch.channels_last), tmp_path / 'nhwc.safetensors')
    assert torch.allclose(output(load_model(tmp_path / 'nhwc.safetensors')), expected, atol=1e-4)
    assert image().shape == (2, 3, 64, 96)
