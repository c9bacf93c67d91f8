"""Optimizers by the names that config gives them."""

from typing import get_args

import torch
from torch import nn

from config import Config
from fields import type_hints
from training.optimizers import OPTIMIZERS, build_optimizer


def test_config_names_every_optimizer():
    choices = get_args(type_hints(Config)['optimizer'])
    assert sorted(OPTIMIZERS) == sorted(choices)


def test_each_takes_a_step_at_the_rates_of_its_groups():
    for name in OPTIMIZERS:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        optimizer = build_optimizer(name, model, model[0], lr=.1, backbone_factor=.5)
        assert [group['lr'] for group in optimizer.param_groups] == [.1, .05], name
        before = [p.detach().clone() for p in model.parameters()]
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        after = list(model.parameters())
        assert not any(torch.equal(p, q) for p, q in zip(before, after, strict=True)), name


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = build_optimizer('AdamW', model, model[0], lr=.1)
    [group] = optimizer.param_groups
    assert {id(p) for p in group['params']} == {id(p) for p in model[1].parameters()}
