"""Tables of published weights: in the terminal, as JSON, and on a page."""

import json

import pytest
import torch

import export
from config import Config
from exporting.catalogue import PARAMETERS, details, overview
from models import build_birefnet, zoo
from models.zoo import Published
from tools.zoo_page import PAGE, render

ENTRY = Published(
    name='a',
    task='General',
    purpose='cats',
    dynamic_size=((256, 512), (256, 1024)),
    license='CC BY-NC 4.0',
    noncommercial=True,
    relatives=('b',),
    unverified=('license',),
)


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding='utf-8') == render(), 'run: python -m tools.zoo_page'


def test_what_is_not_checked_or_not_commercial_is_marked():
    table = overview([ENTRY])
    assert 'NC: CC BY-NC 4.0 ?' in table
    assert '256x256 to 512x1024' in table
    facts = details(ENTRY)
    assert 'commercial use: excluded' in facts
    assert 'by hand: as a.safetensors or a.pth' in facts
    assert 'published' not in facts, 'nothing is known of it'


@pytest.mark.parametrize('backbone', PARAMETERS)
def test_sizes_are_those_of_the_networks(backbone):
    with torch.device('meta'):
        network = build_birefnet(Config(bb=backbone))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 1) == PARAMETERS[backbone]
    assert {entry.backbone for entry in zoo.zoo().values()} == PARAMETERS.keys()


def test_the_command(capsys):
    assert export.main(['zoo']) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in zoo.zoo():
        assert any(line.startswith(name) for line in lines), name
    assert max(map(len, lines)) <= 160

    assert export.main(['zoo', 'hr', 'lite']) == 0
    out = capsys.readouterr().out
    assert 'BiRefNet_HR-general-epoch_130.pth' in out
    assert 'ZhengPeng7/BiRefNet_lite' in out

    # By all names under which commands know them.
    assert export.main(['zoo', 'zhengpeng7/BiRefNet_HR', 'a/BiRefNet-DIS-epoch_590.pth']) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line and line[0] != ' '] == ['hr', 'dis5k-590']

    assert export.main(['zoo', '--json']) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry['name'] for entry in entries] == list(zoo.zoo())

    assert export.main(['zoo', 'hrr', 'lite', 'x']) == 1
    assert 'hrr, x: no published weights' in capsys.readouterr().err
