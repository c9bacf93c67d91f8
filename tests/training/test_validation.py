"""Validation computes as the test does."""

from contextlib import nullcontext

import torch
from torch import nn

from dataset import find_pairs
from tests.training.runs import make_data
from tests.training.trainers import ALONE
from training.validation import Validator


class Brightness(nn.Module):
    """Takes the first channel for the logits."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [image[:, :1] * 2]


def test_what_is_compiled_for_training_is_not_validated(tmp_path):
    pairs = find_pairs(make_data(tmp_path), 'Tiny', ['TE-Tiny'])
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model = Brightness()
    model.compile(backend=backend)
    validator = Validator(pairs, (64, 32), {'bce': 1.}, ALONE)
    scores = validator.score(model, nullcontext())
    assert scores['loss'] > 0
    assert not compiled
    model(torch.zeros(1, 3, 32, 64))
    assert compiled
