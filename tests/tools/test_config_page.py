"""docs/config.md says what config.py says."""

from dataclasses import fields

from config import Config
from fields import rule_of
from tools.config_page import PAGE, render


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding='utf-8') == render(), 'run: python -m tools.config_page'


def test_every_field_has_one_row():
    text = render()
    for spec in fields(Config):
        assert text.count(f'{{ #{spec.name} }}') == 1, spec.name
        assert rule_of(spec).meaning
