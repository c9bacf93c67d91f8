"""What a run begins with, and what it says of that: backbone, first epoch, tile order."""

import logging
from pathlib import Path

import pytest
import torch

import train
from config import Config
from models import build_birefnet
from training.state import RunState

# --- The backbone ---------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty folder of weights, and an empty current folder beside it."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    monkeypatch.setenv('BIREFNET_HOME', str(tmp_path / 'home'))
    return tmp_path / 'home'


@pytest.mark.parametrize(('fields', 'count'), [
    ({}, 1),
    ({'bb_weights': 'none'}, 0),
    ({'bb_weights': 'pvt.pth'}, 0),
    ({'weights': 'a.pth'}, 0),
])
def test_a_random_backbone_is_reported_once(fields, count, caplog, home):
    caplog.set_level(logging.WARNING)
    cfg = train.with_backbone_weights(Config(bb='pvt_v2_b0', **fields))
    train.warn_of_random_backbone(cfg)
    assert caplog.text.count('starts from random weights') == count


@pytest.mark.parametrize(('bb', 'words'), [
    ('swin_v1_l', ['swin_large_patch4_window12_384_22kto1k.pth', 'weights/', 'BIREFNET_HOME']),
    ('swin_v1_t', ['swin_tiny_patch4_window7_224_22kto1k_finetune.pth']),
    ('pvt_v2_b2', ['pvt_v2_b2.pth', 'bb_weights=hub']),
    ('vgg16bn', ['vgg16_bn-*.pth', 'bb_weights=hub']),
    ('dino_v3_b', ['dinov3_vitb16_pretrain_lvd*.pth', 'bb_weights=hub', 'keeps them']),
    ('timm/resnet18', ['bb_weights=hub']),
])
def test_the_warning_names_the_file_and_its_place(bb, words, caplog, home):
    train.warn_of_random_backbone(Config(bb=bb))
    assert all(word in caplog.text for word in [*words, 'bb_weights=none', str(bb)])
    assert ('bb_weights=hub' in caplog.text) == (not bb.startswith('swin'))


@pytest.mark.parametrize('place', ['here/weights', 'here/weights/cv', 'home', 'home/cv'])
def test_pretrained_weights_are_found_by_their_name(place, tmp_path, home):
    folder = tmp_path / place
    folder.mkdir(parents=True)
    other = folder / 'pvt_v2_b1.pth'
    other.touch()
    assert train.with_backbone_weights(Config(bb='pvt_v2_b0')).bb_weights == ''

    pretrained = build_birefnet(Config(bb='pvt_v2_b0', mul_scl_ipt='', dec_att='')).encoder.backbone
    torch.save(pretrained.net.state_dict(), folder / 'pvt_v2_b0.pth')
    cfg = train.with_backbone_weights(Config(bb='pvt_v2_b0', mul_scl_ipt='', dec_att=''))
    assert Path(cfg.bb_weights).resolve() == folder / 'pvt_v2_b0.pth'
    model, _ = train.build_model(cfg)
    found = model.encoder.backbone.net.state_dict()
    for name, value in pretrained.net.state_dict().items():
        assert torch.equal(found[name], value), name


def test_a_dino_of_photographs_is_taken(home):
    """Its authors have also trained one on satellite images."""
    home.mkdir()
    for images in ('lvd1689m-8aa4cbdd', 'sat493m-eadcf0ff'):
        (home / f'dinov3_vitl16_pretrain_{images}.pth').touch()
    cfg = train.with_backbone_weights(Config(bb='dino_v3_l'))
    assert Path(cfg.bb_weights).name == 'dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth'


@pytest.mark.parametrize('fields', [{'bb_weights': 'none'}, {'weights': 'a.pth'}])
def test_random_on_purpose_stays_random(fields, home):
    home.mkdir()
    (home / 'pvt_v2_b0.pth').touch()
    cfg = Config(bb='pvt_v2_b0', **fields)
    assert train.with_backbone_weights(cfg) == cfg


# --- The first epoch ------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path) -> str:
    """Where there is a file with a published name."""
    file = tmp_path / 'BiRefNet-general-epoch_244.pth'
    file.touch()
    return str(file)


@pytest.mark.parametrize(('epochs', 'level', 'words'), [
    (294, 'WARNING', ['294 are trained', 'would train 50', 'epochs=50', 'continue_epochs=true']),
    (20, 'INFO', ['epochs 1 to 20 are trained']),
])
def test_a_run_says_how_it_counts(epochs, level, words, published, caplog):
    caplog.set_level(logging.INFO)
    assert train.find_first_epoch(Config(weights=published, epochs=epochs), is_main=True) == 1
    [record] = caplog.records
    assert record.levelname == level
    assert all(word in record.getMessage() for word in words)


def test_a_run_counts_on_as_published(published, caplog):
    caplog.set_level(logging.INFO)
    cfg, _ = train.parse_arguments(['--resume', published, '--epochs', '294'])
    assert cfg.weights == published
    assert train.find_first_epoch(cfg, is_main=True) == 245
    assert 'epochs 245 to 294 are trained' in caplog.text


def test_only_weights_with_an_epoch_are_counted_on_from(published, tmp_path):
    (tmp_path / 'mine.pth').touch()
    cfg, _ = train.parse_arguments(['--resume', str(tmp_path / 'mine.pth'), '--epochs', '9'])
    assert not cfg.continue_epochs
    for fields, words in (({}, 'without weights'),
                          ({'weights': str(tmp_path / 'mine.pth')}, 'holds no epoch'),
                          ({'weights': published, 'epochs': 20}, 'epochs=264 trains 20 more')):
        with pytest.raises(ValueError, match=words):
            train.find_first_epoch(Config(continue_epochs=True, **fields), is_main=True)


# --- Tile orders ----------------------------------------------------------------------------------


def test_what_a_run_writes_is_in_row_order():
    cfg = Config(bb='pvt_v2_b0', dec_att='', mul_scl_ipt='', bb_weights='none', tile_order='column')
    model, cfg = train.build_model(cfg)
    assert (cfg.tile_order, model.config.tile_order) == ('row', 'row')


def test_a_run_in_column_order_is_not_resumed():
    config = {'tile_order': 'column'}
    state = RunState(trainer={}, best={}, log_position=0, config=config, world_size=1)
    with pytest.raises(ValueError, match='weights=<folder of this run>'):
        state.check_tile_order()
    RunState(trainer={}, best={}, log_position=0, config={}, world_size=1).check_tile_order()
