"""The figure of the network shows the network."""

import re
from pathlib import Path

import pytest

from config import Config
from tools.architecture import describe, draw, main

ROOT = Path(__file__).parents[2]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_default_network():
    shown = describe(Config())
    assert shown.image == (3, 1024, 1024)
    assert shown.maps == [(384, 256, 256), (768, 128, 128), (1536, 64, 64), (3072, 32, 32)]
    published = 220.176498
    assert sum(shown.millions.values()) == pytest.approx(published, abs=1e-3)
    assert shown.squeezed == (3072 + 1536 + 768 + 384, (3072, 32, 32))
    references = [level.reference for level in shown.levels]
    assert references == [(3072, 384), (768, 384), (192, 192), (48, 96)]
    assert [level.block for level in shown.levels] == [
        ('BasicDecBlk', 3456, 1536), ('BasicDecBlk', 1920, 768), ('BasicDecBlk', 960, 384),
        ('BasicDecBlk', 480, 192)]
    assert [level.outward for level in shown.levels] == [16, 16, 16, None]
    assert shown.head == (240, (1, 1024, 1024))


def test_the_figure_follows_the_switches():
    """Another backbone, size and decoder: other numbers, and what is off is not drawn."""
    shown = describe(Config(
        bb='pvt_v2_b0',
        size=(96, 64),
        mul_scl_ipt='',
        squeeze_block='ResBlk_x2',
        dec_blk='ResBlk',
        dec_att='',
        out_ref=False,
        dec_ipt_levels=(2, 1),
    ))
    assert shown.maps == [(32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)]
    assert [level.reference for level in shown.levels] == [None, None, None, (48, 8)]
    drawn = ' '.join(texts(draw(shown)))
    assert 'ResBlk → ResBlk' in drawn
    assert 'pvt_v2_b0' in drawn
    assert 'outward' not in drawn
    assert 'ASPP' not in drawn
    assert drawn.count('inward') == 2


def test_the_committed_figure_is_up_to_date():
    """By the texts in it: lines and letters differ between versions of Matplotlib."""
    svg = (ROOT / 'docs/architecture.svg').read_text(encoding='utf-8')
    written = re.findall(r'<!-- (.*?) -->', svg)
    expected = []
    for text in texts(draw(describe(Config()))):
        expected += [line for line in text.split('\n') if line]
    assert sorted(written) == sorted(expected), 'run: python -m tools.architecture'


@pytest.mark.slow
def test_same_network_same_bytes(tmp_path):
    overrides = ['bb=pvt_v2_b0', 'size=64']
    for name in ('a.svg', 'b.svg'):
        main(['-o', str(tmp_path / name), *overrides])
    assert (tmp_path / 'a.svg').read_bytes() == (tmp_path / 'b.svg').read_bytes()
