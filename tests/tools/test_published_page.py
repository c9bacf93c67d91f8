"""docs/published.md says what published.py says, and its examples run."""

import dataclasses

import pytest

import published
from config import Config, ConfigError
from tools.published_page import PAGE, render


def test_the_page_is_up_to_date():
    text = PAGE.read_text(encoding='utf-8')
    assert '`data_root_dir`' in text
    assert render() == text, 'run: python -m tools.published_page'


def test_every_field_that_stands_for_another_exists():
    known = {spec.name for spec in dataclasses.fields(Config)}
    for name, foreign in published.FIELDS.items():
        assert foreign.field in {*known, ''}
        assert name not in known or name == foreign.field
        assert foreign.field or foreign.note, name
    assert published.REFUSED_VALUES.keys() <= known


@pytest.mark.parametrize(('text', 'field', 'expected'), [
    ('data_root_dir=datasets/dis', 'data_root', 'datasets/dis'),
    ('rand_seed=3', 'seed', 3),
    ('finetune_last_epochs=-40', 'tail_epochs', 40),
    ('finetune_last_epochs=0', 'tail_epochs', 0),
    ('lambdas_cls=7', 'lambda_cls', 7.),
    ('lambdas_cls.ce=6', 'lambda_cls', 6.),
    ('lambdas_cls=ce:3', 'lambda_cls', 3.),
    ("lambdas_cls={'ce': 5.0}", 'lambda_cls', 5.),
    ('val_last=30', 'save_last', 30),
    ('step=2', 'save_step', 2),
    ('weights=a.pth', 'weights', 'a.pth'),
])
def test_a_published_name_sets_the_field(text, field, expected):
    assert getattr(Config.from_overrides([text]), field) == expected


@pytest.mark.parametrize('text', [
    'model=BiRefNet',
    'lat_blk=BasicLatBlk',
    'SDPA_enabled=True',
    'precisionHigh=true',
    'refine=',
    'progressive_ref=False',
])
def test_what_always_holds_changes_nothing(text):
    assert Config.from_overrides([text]) == Config()


@pytest.mark.parametrize(('text', 'words'), [
    ('sys_home_dir=/data', ['sys_home_dir', 'data_root=', 'bb_weights=']),
    ('weights_root_dir=w', ['weights_root_dir', 'bb_weights=']),
    ("weights={'swin_v1_l': 'a.pth'}", ['weights:', 'bb_weights=']),
    ('weights.swin_v1_l=a.pth', ['weights.swin_v1_l', 'bb_weights=']),
    ('batch_size_valid=4', ['batch_size_valid', 'one by one']),
    ('model=BiRefNetC2F', ['model', 'one network']),
    ('SDPA_enabled=False', ['SDPA_enabled', 'always']),
    ('refine=RefUNet', ['refine', 'no further network']),
    ('finetune_last_epochs=many', ['finetune_last_epochs', 'tail_epochs']),
    ('finetune_last_epochs=40', ['tail_epochs', 'too small']),
    ('lambdas_cls=[1]', ['lambda_cls', 'number']),
    ("lambdas_cls={'bce': 1}", ['lambdas_cls', 'lambda_cls', 'ce']),
    ('lambdas_cls.bce=1', ['lambdas_cls.bce', 'lambda_cls']),
    ('mixed_precision=fp8', ['mixed_precision', 'linear layers', 'bf16']),
    ('lambdas_pix_last.triplet=3', ['lambdas_pix_last', 'triplet', 'leave it out']),
])
def test_what_has_no_field_says_why(text, words):
    with pytest.raises(ConfigError) as caught:
        Config.from_overrides([text])
    assert all(word in str(caught.value) for word in words), caught.value
    assert str(caught.value).count('\n') == 0


def test_a_published_name_goes_over_a_saved_value_and_the_last_one_counts():
    saved = Config(seed=5).as_dict()
    assert Config.from_overrides(['rand_seed=3'], saved).seed == 3
    assert Config.from_overrides(['rand_seed=3', 'seed=4'], saved).seed == 4


def test_unknown_names_of_other_functions_get_the_same_sentence():
    assert Config.unknown(['rand_seed']) == ['rand_seed: called seed here']
    assert 'bb_weights' in Config.unknown(['sys_home_dir'])[0]
