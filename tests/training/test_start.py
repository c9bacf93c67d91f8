"""What a run says of its beginning: random backbones, and states of earlier versions."""

import logging

import pytest

import train
from config import Config
from training.state import RunState


@pytest.mark.parametrize(('fields', 'count'), [
    ({}, 1),
    ({'bb_weights': 'none'}, 0),
    ({'bb_weights': 'pvt.pth'}, 0),
    ({'weights': 'a.pth'}, 0),
])
def test_a_random_backbone_is_reported_once(fields, count, caplog):
    caplog.set_level(logging.WARNING)
    train.warn_of_random_backbone(Config(bb='pvt_v2_b0', **fields))
    assert caplog.text.count('the backbone starts from random weights') == count


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
