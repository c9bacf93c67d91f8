"""Backbones: channels and strides, any of timm's, and pretrained weights in all known formats."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from timm.models.eva import checkpoint_filter_fn
from torch import nn

import config
from config import Config
from models import Architecture, BiRefNet, build_birefnet
from models.backbones import (
    BACKBONES,
    Backbone,
    backbone_shapes,
    build_backbone,
    find_family,
    register_backbones,
)
from models.backbones.swin import build_swin
from models.backbones.timm_features import OFFICIAL_PVT
from models.checkpoints.files import read_state
from models.checkpoints.pretrained import find_pretrained, load_backbone
from tests.models.small import image

CHANNELS = {
    'swin_v1_t': (96, 192, 384, 768), 'swin_v1_l': (192, 384, 768, 1536),
    'pvt_v2_b0': (32, 64, 160, 256),
    'pvt_v2_b1': (64, 128, 320, 512), 'pvt_v2_b2': (64, 128, 320, 512),
    'pvt_v2_b5': (64, 128, 320, 512),
    'vgg16': (128, 256, 512, 512), 'vgg16bn': (128, 256, 512, 512),
    'resnet50': (256, 512, 1024, 2048),
    'timm/resnet18': (64, 128, 256, 512), 'timm/convnext_atto': (40, 80, 160, 320),
}


@pytest.mark.parametrize('name', CHANNELS)
def test_channels_and_strides(name):
    with torch.device('meta'):
        backbone = build_backbone(name, (96, 64))
        maps = backbone.eval()(torch.zeros(1, 3, 64, 96))
    assert backbone.channels == CHANNELS[name]
    shapes = [tuple(x.shape) for x in maps]
    levels = zip(CHANNELS[name], (4, 8, 16, 32), strict=True)
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in levels]


@pytest.mark.parametrize(('name', 'width', 'blocks'), [
    ('dino_v3_s', 384, 12), ('dino_v3_s_plus', 384, 12), ('dino_v3_b', 768, 12),
    ('dino_v3_l', 1024, 24)])
def test_dino_gives_four_maps_of_one_stride(name, width, blocks):
    with torch.device('meta'):
        backbone = build_backbone(name)
        backbone.to('meta')  # older timm makes some buffers on the CPU
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert backbone.channels == (width,) * 4
    assert backbone.needs_neck
    assert [tuple(m.shape) for m in maps] == [(1, width, 4, 6)] * 4
    assert f'model.blocks.{blocks - 1}.attn.qkv.weight' in backbone_shapes(name)


def test_the_registry_and_config_list_the_same_backbones():
    """config.py, which imports no torch, has a list of its own."""
    assert set(BACKBONES) == {*config.BACKBONES, 'timm/'}
    for name in config.BACKBONES:
        assert find_family(name).frozen == Config(bb=name).freeze_bb, name
    assert find_family('timm/anything') is BACKBONES['timm/']
    assert find_family('unknown/anything') is None


def test_a_backbone_of_ones_own_registers_itself():
    class Pooled(nn.Module):
        def forward(self, x):
            x = x.repeat(1, 3, 1, 1)
            return [nn.functional.avg_pool2d(x, stride) for stride in (4, 8, 16, 32)]

    try:
        @register_backbones('pooled')
        def build_pooled(name, pretrained, sizes):
            return Backbone(Pooled(), (9, 9, 9, 9))

        network = BiRefNet(build_backbone('pooled'), Architecture(dec_att='')).eval()
    finally:
        BACKBONES.pop('pooled', None)
    assert network.encoder.backbone.name == 'pooled'
    assert network(image(64, 96, 1))[-1].shape == (1, 1, 64, 96)


def test_no_two_backbones_have_one_name():
    with pytest.raises(AssertionError, match='swin_v1_t'):
        register_backbones('swin_v1_t')(None)


def test_unknown_names():
    with pytest.raises(KeyError, match=r'swin_v1_xl.*swin_v1_l'):
        build_backbone('swin_v1_xl')
    with pytest.raises(ValueError, match=r'timm/resnt18.*nearest.*resnet18'):
        build_backbone('timm/resnt18')


# --- timm -----------------------------------------------------------------------------------------


def test_timm_maps_are_channels_first():
    size = (224, 224)
    name = 'timm/swin_tiny_patch4_window7_224'
    backbone = build_backbone(name, size)
    assert backbone.channels == (96, 192, 384, 768)
    model = build_birefnet(Config(bb=name, size=size, mul_scl_ipt='', dec_att='')).eval()
    x = image(224, 224, 1)
    with torch.inference_mode():
        maps = model.encoder(x)
        raw = model.encoder.backbone.net(x)
        assert model(x)[-1].shape == (1, 1, 224, 224)
    assert [tuple(m.shape) for m in maps] == [(1, 96 << i, 56 >> i, 56 >> i) for i in range(4)]
    assert torch.equal(maps[2][0, 5], raw[2][0, ..., 5])


def test_timm_models_without_the_strides_are_refused():
    with pytest.raises(ValueError, match=r'timm/vit_tiny_patch16_224.*strides \[4, 8, 32\]'):
        build_backbone('timm/vit_tiny_patch16_224', (224, 224))


def test_timm_models_of_a_fixed_size_are_refused_at_others():
    with pytest.raises(ValueError, match=r"maxvit_pico_rw_256.*64x96 and 32x48.*mul_scl_ipt=''"):
        build_backbone('timm/maxvit_pico_rw_256', (64, 96), (1., .5))


def test_timm_takes_the_last_map_of_each_stride():
    with torch.device('meta'):
        backbone = build_backbone('timm/efficientnet_b0', (64, 64))
        net = timm.create_model('efficientnet_b0', features_only=True)
        reductions = net.feature_info.reduction()
    assert [reductions[i] for i in backbone.outputs] == [4, 8, 16, 32]


def test_timm_norms_take_single_images():
    net = build_backbone('timm/mobilenetv3_small_050', (64, 64)).net.train()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    net(image(32, 32, 1))
    still = [torch.equal(m.running_mean, old) for m, old in zip(norms, before, strict=True)]
    assert any(still)
    assert not all(still)


# --- Pretrained weights ---------------------------------------------------------------------------


def assert_equal(net: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    state = net.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


@pytest.fixture(scope='module')
def official_swin() -> dict[str, torch.Tensor]:
    """The classification file of Swin-T: buffers, last norm and head; no norms between stages."""
    torch.manual_seed(0)
    state = build_swin('swin_v1_t').net.state_dict()
    state = {key: torch.randn_like(value) for key, value in state.items()
             if not re.match(r'norm\d', key)}
    for key in [key for key in state if key.endswith('bias_table')]:
        state[key.replace('bias_table', 'index')] = torch.zeros(49, 49, dtype=torch.long)
    state['layers.0.blocks.1.attn_mask'] = torch.zeros(64, 49, 49)
    state['norm.weight'] = torch.ones(768)
    state['norm.bias'] = torch.ones(768)
    state['head.weight'] = torch.ones(1000, 768)
    state['head.bias'] = torch.ones(1000)
    return state


def test_official_swin(tmp_path, official_swin):
    torch.save({'model': official_swin}, tmp_path / 'swin_tiny.pth')
    model = build_birefnet(Config(bb='swin_v1_t', bb_weights=str(tmp_path / 'swin_tiny.pth')))
    net = model.encoder.backbone.net
    own = net.state_dict().keys() & official_swin.keys()
    assert len(own) == len(net.state_dict()) - 8
    assert_equal(net, {key: official_swin[key] for key in own})
    assert_equal(net, {f'norm{i}.weight': torch.ones(96 << i) for i in range(4)})


def test_official_swin_of_another_window(tmp_path, official_swin):
    state = {key: torch.randn(23 * 23, value.shape[1]) if key.endswith('bias_table') else value
             for key, value in official_swin.items()}
    torch.save({'model': state}, tmp_path / 'swin.pth')
    backbone = build_backbone('swin_v1_t')
    net = backbone.net
    load_backbone(backbone, tmp_path / 'swin.pth')
    key = 'layers.1.blocks.0.attn.relative_position_bias_table'
    grid = state[key].T.reshape(1, -1, 23, 23)
    expected = nn.functional.interpolate(grid, size=(13, 13), mode='bicubic').reshape(-1, 169).T
    assert torch.allclose(net.state_dict()[key], expected)


@pytest.mark.parametrize('naming', ['official', 'timm'])
def test_pvt(tmp_path, naming):
    source = timm.create_model('pvt_v2_b0', num_classes=10).state_dict()
    flat = {re.sub(r'^stages\.', 'stages_', key): value for key, value in source.items()}
    official = {OFFICIAL_PVT.reversed().rename(key): value for key, value in flat.items()}
    state = official if naming == 'official' else source
    assert ('patch_embed1.proj.weight' in state) == (naming == 'official')
    torch.save(state, tmp_path / 'pvt.pth')
    backbone = build_backbone('pvt_v2_b0')
    net = backbone.net
    load_backbone(backbone, tmp_path / 'pvt.pth')
    assert_equal(net, {key: value for key, value in flat.items() if not key.startswith('head')})


@pytest.mark.parametrize('counters', [True, False])
def test_torchvision_resnet(tmp_path, counters):
    """Its files of 2016 have no counters in their norms."""
    source = torchvision.models.resnet50()
    state = {key: value for key, value in source.state_dict().items()
             if counters or 'num_batches_tracked' not in key}
    torch.save(state, tmp_path / 'resnet50.pth')
    backbone = build_backbone('resnet50')
    net = backbone.net
    load_backbone(backbone, tmp_path / 'resnet50.pth')
    x = image(64, 64, 1)
    stages = (source.layer1, source.layer2, source.layer3, source.layer4)
    with torch.inference_mode():
        y = source.eval().maxpool(source.relu(source.bn1(source.conv1(x))))
        for stage, found in zip(stages, net.eval()(x), strict=True):
            y = stage(y)
            assert torch.equal(found, y)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vgg16', 'vgg16bn'])
def test_torchvision_vgg(tmp_path, name):
    build = {'vgg16': torchvision.models.vgg16, 'vgg16bn': torchvision.models.vgg16_bn}[name]
    with torch.device('meta'):
        features = build().features
    features = features.to_empty(device='cpu')
    state = {}
    for key, value in features.state_dict().items():
        state[f'features.{key}'] = torch.randn(value.shape) if value.ndim else value * 0
    torch.save(state | {'classifier.0.weight': torch.zeros(3)}, tmp_path / 'vgg.pth')
    backbone = build_backbone(name)
    net = backbone.net
    load_backbone(backbone, tmp_path / 'vgg.pth')
    numbers = [(1, 0), (2, 10), (4, 28)] if name == 'vgg16' else [(1, 1), (2, 14), (4, 41)]
    expected = {f'conv{stage}.{n}.weight': state[f'features.{n}.weight'] for stage, n in numbers}
    assert_equal(net, expected)
    layers = [layer for stage in (net.conv1, net.conv2, net.conv3, net.conv4) for layer in stage]
    assert len(layers) == len(features)


def test_timm_dino(tmp_path):
    source = timm.create_model('vit_small_patch16_dinov3').state_dict()
    torch.save(source, tmp_path / 'dino.pth')
    backbone = build_backbone('dino_v3_s')
    net = backbone.net
    load_backbone(backbone, tmp_path / 'dino.pth')
    assert_equal(net, {key: source[key.removeprefix('model.')] for key in net.state_dict()})


def official_dino(name: str, depth: int, gated: bool, bias: float) -> dict[str, torch.Tensor]:
    """Random weights with the authors' keys, of one of timm's networks without biases of queries.

    With what the authors' files hold besides: a token and buffers of pretraining, the last norm.
    """
    generator = torch.Generator().manual_seed(0)
    ours = timm.create_model(name, depth=depth).state_dict()
    rules = {'reg_token': 'storage_tokens', 'gamma_1': 'ls1.gamma', 'gamma_2': 'ls2.gamma'}
    if gated:
        rules |= {'fc1_g': 'w1', 'fc1_x': 'w2', 'fc2': 'w3'}
    official = {}
    for key, value in ours.items():
        for old, new in rules.items():
            key = key.replace(old, new)
        official[key] = torch.randn(value.shape, generator=generator) / 20
        if key.endswith('qkv.weight'):
            width = len(value)
            official[key.replace('weight', 'bias')] = bias * torch.ones(width)
            official[key.replace('weight', 'bias_mask')] = torch.full((width,), torch.nan)
    width = official['cls_token'].shape[2]
    official['mask_token'] = torch.zeros(1, width)
    official['rope_embed.periods'] = torch.ones(16)
    return official


def hugging_face_dino(official: dict[str, torch.Tensor], gated: bool) -> dict[str, torch.Tensor]:
    """The same weights with the keys of transformers' DINOv3ViTModel, as its files have them."""
    rules = {
        'blocks.': 'layer.',
        'attn.proj': 'attention.o_proj',
        'ls1.gamma': 'layer_scale1.lambda1',
        'ls2.gamma': 'layer_scale2.lambda1',
        'mlp.w1': 'mlp.gate_proj',
        'mlp.w2': 'mlp.up_proj',
        'mlp.w3': 'mlp.down_proj',
        'mlp.fc1': 'mlp.up_proj',
        'mlp.fc2': 'mlp.down_proj',
        'cls_token': 'embeddings.cls_token',
        'storage_tokens': 'embeddings.register_tokens',
        'mask_token': 'embeddings.mask_token',
        'patch_embed.proj': 'embeddings.patch_embeddings',
    }
    renamed = {}
    for key, value in official.items():
        for old, new in rules.items():
            key = key.replace(old, new)
        if '.attn.qkv.' not in key:
            renamed[key] = value
            continue
        if key.endswith('bias_mask'):
            continue
        for name, part in zip('qkv', value.chunk(3), strict=True):
            projection = key.replace('attn.qkv', f'attention.{name}_proj')
            if not projection.endswith('k_proj.bias'):
                renamed[projection] = part.clone()
    del renamed['rope_embed.periods']
    return renamed


DINO_SIZES = [('vit_small_patch16_dinov3', False), ('vit_small_plus_patch16_dinov3', True)]


@pytest.fixture(params=DINO_SIZES, ids=['mlp', 'gated'])
def small_dino(request):
    """Two blocks of a DINOv3 of timm: its name, whether it is gated, the authors' weights."""
    name, gated = request.param
    return name, gated, official_dino(name, 2, gated, bias=0)


def dino_of_two_blocks(name: str) -> Backbone:
    net = timm.create_model(name, features_only=True, out_indices=(0, 1), depth=2)
    return Backbone(net.eval(), (384, 384), (0, 1), name='dino_v3_s')


def filtered_by_timm(name: str, state: dict[str, torch.Tensor]) -> Backbone:
    """A network with weights that timm itself has converted."""
    backbone = dino_of_two_blocks(name)
    inner = backbone.net.model
    unused = inner.load_state_dict(checkpoint_filter_fn(dict(state), inner), strict=False)
    assert not unused.missing_keys
    return backbone


@pytest.mark.parametrize('prefix', ['', 'layer.', 'model.layer.', 'backbone.'])
def test_dino_of_its_authors_and_of_hugging_face(tmp_path, small_dino, prefix):
    """Both formats give the maps that timm's own conversion of the authors' weights gives."""
    name, gated, official = small_dino
    state = official
    if prefix == 'backbone.':
        state = {f'backbone.{key}': value for key, value in official.items()}
    elif prefix:
        state = hugging_face_dino(official, gated)
        state = {key.replace('layer.', prefix): value for key, value in state.items()}
    torch.save(state, tmp_path / 'dino.pth')
    backbone = dino_of_two_blocks(name)
    load_backbone(backbone, tmp_path / 'dino.pth')
    with torch.inference_mode():
        found = backbone(image())
        expected = filtered_by_timm(name, official)(image())
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_biases_that_a_dino_cannot_take_are_reported(tmp_path, caplog):
    name, gated = DINO_SIZES[0]
    for bias, lines in ((0, 0), (.25, 1)):
        official = official_dino(name, 2, gated, bias)
        for state in (official, hugging_face_dino(official, gated)):
            torch.save(state, tmp_path / 'dino.pth')
            caplog.clear()
            load_backbone(dino_of_two_blocks(name), tmp_path / 'dino.pth')
            assert len(caplog.records) == lines
    assert 'up to 0.25' in caplog.text


def test_an_incomplete_dino_is_refused(tmp_path, small_dino):
    name, gated, official = small_dino
    state = hugging_face_dino(official, gated)
    del state['layer.1.attention.k_proj.weight']
    torch.save(state, tmp_path / 'dino.pth')
    with pytest.raises(ValueError, match=r'dino\.pth: no weights.*blocks\.1\.attn\.qkv'):
        load_backbone(dino_of_two_blocks(name), tmp_path / 'dino.pth')


def write_shards(folder: Path, state: dict[str, torch.Tensor], count: int = 3) -> None:
    """Divides weights as Hugging Face does."""
    folder.mkdir(parents=True)
    places = {}
    for i, key in enumerate(state):
        places[key] = f'model-{i % count + 1:05}-of-{count:05}.safetensors'
    for name in set(places.values()):
        part = {key: state[key].contiguous() for key in state if places[key] == name}
        save_file(part, folder / name)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))


def test_a_whole_network_in_place_of_a_backbone_is_named(tmp_path):
    torch.save({'bb.patch_embed1.proj.weight': torch.zeros(2)}, tmp_path / 'net.pth')
    with pytest.raises(ValueError, match='a whole network, not a backbone alone; weights=FILE'):
        load_backbone(build_backbone('pvt_v2_b0'), tmp_path / 'net.pth')


def test_a_dino_in_several_files(tmp_path, small_dino, monkeypatch):
    """By its folder or its index; the folder is found under the name of the repository."""
    name, gated, official = small_dino
    folder = tmp_path / 'weights/cv/dinov3-vits16-pretrain-lvd1689m'
    write_shards(folder, hugging_face_dino(official, gated))
    index = folder / 'model.safetensors.index.json'
    for path in (folder, index):
        backbone = dino_of_two_blocks(name)
        load_backbone(backbone, path)
        assert_equal(backbone.net, filtered_by_timm(name, official).net.state_dict())
    monkeypatch.chdir(tmp_path)
    assert find_pretrained('dino_v3_s') == index.relative_to(tmp_path)

    # What is missing has a name.
    shard = folder / 'model-00002-of-00003.safetensors'
    part = load_file(shard)
    key = next(iter(part))
    del part[key]
    save_file(part, shard)
    with pytest.raises(ValueError, match=f'{shard.name}: lacks 1 of the keys .*: {key}'):
        load_backbone(dino_of_two_blocks(name), folder)
    shard.unlink()
    with pytest.raises(ValueError, match=f'1 of its 3 files are not beside it: {shard.name}'):
        load_backbone(dino_of_two_blocks(name), folder)
    index.unlink()
    with pytest.raises(ValueError, match=r'lvd1689m: holds none of model\.safetensors,'):
        load_backbone(dino_of_two_blocks(name), folder)


@pytest.mark.parametrize('listed', [{}, [], {'a': '../a.safetensors'}, {'a': 3}])
def test_an_index_of_files_elsewhere_is_refused(tmp_path, listed):
    index = tmp_path / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': listed}))
    with pytest.raises(ValueError, match='lists no files of weights beside it'):
        read_state(index)


@pytest.mark.parametrize('gated', [False, True])
def test_transformers_computes_the_same_dino_from_its_own_file(tmp_path, gated):
    """Transformers saves its DINOv3 with random weights, and ours loads that file."""
    transformers = pytest.importorskip('transformers')
    if not hasattr(transformers, 'DINOv3ViTModel'):
        pytest.skip('this release of transformers has no DINOv3')
    torch.manual_seed(0)
    settings = transformers.DINOv3ViTConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act='silu' if gated else 'gelu',
    )
    theirs = transformers.DINOv3ViTModel(settings).eval()
    theirs.save_pretrained(tmp_path)

    name, _ = DINO_SIZES[gated]
    backbone = dino_of_two_blocks(name)
    load_backbone(backbone, tmp_path / 'model.safetensors')
    x = image(64, 96)
    with torch.inference_mode():
        *_, found = backbone(x)
        tokens = theirs(x, output_hidden_states=True).hidden_states[-1]
    first = 1 + 4  # the class's token and the registers
    expected = tokens[:, first:].transpose(1, 2).reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', [
    'resnet18',
    'convnext_atto',
    'swin_tiny_patch4_window7_224',
    'mobilenetv3_small_050',
])
def test_timm_files(tmp_path, name):
    source = timm.create_model(name).state_dict()
    torch.save({'state_dict': source}, tmp_path / 'weights.pth')
    backbone = build_backbone(f'timm/{name}', (224, 224))
    net = backbone.net
    for value in net.parameters():
        nn.init.constant_(value, 7.)
    load_backbone(backbone, tmp_path / 'weights.pth')
    assert not any((value == 7).all() for value in net.parameters())
    for key, value in list(source.items()):
        source[re.sub(r'^([a-z]+)\.(\d+)\.', r'\1_\2.', key)] = value
    assert_equal(net, {key: source[key] for key in net.state_dict()})


def test_weights_of_another_backbone_are_refused(tmp_path, official_swin):
    torch.save(official_swin, tmp_path / 'swin.pth')
    for bb, words in (('pvt_v2_b0', 'missing'), ('swin_v1_s', r'missing: layers\.2\.blocks\.6'),
                      ('swin_v1_b', 'of another shape')):
        with pytest.raises(ValueError, match=rf'swin\.pth: no weights for bb={bb}: .*{words}'):
            load_backbone(build_backbone(bb, (64, 64)), tmp_path / 'swin.pth')


def test_missing_files_and_hubs():
    with pytest.raises(ValueError, match='no such'):
        build_birefnet(Config(bb='pvt_v2_b0', bb_weights='nowhere.pth'))
    with pytest.raises(ValueError, match='local file'):
        build_backbone('swin_v1_t', pretrained=True)
