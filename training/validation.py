"""Validation during training: the evaluator's metrics and the pixel losses on a validation set, and what was best."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dataset import Pair, Size, load_pair, normalize, to_tensor, with_path
from evaluation import GroundTruth
from evaluation.measuring import mean_of_present
from evaluation.metrics import VALIDATION_SCORES, higher_is_better, image_score
from inference.masks import to_mask
from loss import pixel_terms
from training.distributed import World, gather, share_buffers
from utils import read_mask

logger = logging.getLogger(__name__)


def split_pairs(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training pairs and the `share` of them (one at least) held out for validation: a function of the seed alone."""
    count = min(max(1, round(share * len(pairs))), len(pairs) - 1)
    held_out = set(np.random.default_rng(seed).permutation(len(pairs))[:count].tolist())
    return ([pair for i, pair in enumerate(pairs) if i not in held_out],
            [pair for i, pair in enumerate(pairs) if i in held_out])


def read_pair(pair: Pair, size: Size, skipped: set[str] | None = None) -> tuple[np.ndarray, np.ndarray] | None:
    """Image and mask as of `load_pair`.

    One that cannot be read raises ValueError or OSError; with `skipped`, what is wrong with it is logged and added
    there, and None returned.
    """
    try:
        return load_pair(pair, size)
    except (ValueError, OSError) as error:
        if skipped is None:
            raise
        problem = with_path(pair.image, error)
        logger.warning('skipped: %s', problem)
        skipped.add(problem)
        return None


@torch.no_grad()
def validate(model: nn.Module, pairs: Sequence[Pair], size: Size, weights: Mapping[str, float], world: World,
             autocast: AbstractContextManager, skipped: set[str] | None = None,
             metric: str = 'loss') -> dict[str, float]:
    """Means over `pairs`: VALIDATION_SCORES and `metric` at each mask's own size, weighted pixel losses at `size`.

    Ranks share the pairs; each makes as many forward passes as the others, for a network that is divided among them.
    The network is left in the mode that it was in. `skipped` as of `read_pair`. Raises ValueError if no pair can be
    read.
    """
    names = list(dict.fromkeys((*VALIDATION_SCORES, *([] if metric == 'loss' else [metric]))))
    share_buffers(model, world)
    was_training = model.training
    model.eval()
    rows = []
    with autocast:
        for i in range(world.rank, -(-len(pairs) // world.size) * world.size, world.size):
            pair = pairs[i] if i < len(pairs) else None  # past the end a pass that counts for nothing
            pixels = pair and read_pair(pair, size, skipped)
            blank = np.zeros((*size[::-1], 3), np.uint8), np.zeros(size[::-1], np.uint8)
            image, mask = (to_tensor(part)[None].to(world.device) for part in pixels or blank)
            logit = model(normalize(image))[-1].float()
            if pixels is None:
                continue
            loss = sum(pixel_terms([logit], mask.float() / 255, weights).values()).item()
            truth = read_mask(pair.mask)
            prediction = to_mask(logit.sigmoid()[0, 0].cpu().numpy(), *truth.shape)
            scores = GroundTruth(truth).score(prediction, names)
            rows.append([loss, *(scores[name] for name in names)])
    model.train(was_training)
    rows = [row for share in gather(rows, world) for row in share]
    if not rows:
        raise ValueError(f'not one of the {len(pairs)} validation pairs can be read')
    columns = zip(('loss', *names), np.transpose(rows), strict=True)
    return {name: mean_of_present(values) for name, values in columns}


@dataclass
class Best:
    """The best validation so far by one metric, and how many have passed since.

    Raises ValueError for a metric that no single image has.
    """

    metric: str
    value: float | None = None
    epoch: int = 0
    since: int = 0

    def __post_init__(self) -> None:
        if self.metric != 'loss':
            image_score(self.metric)

    def update(self, scores: Mapping[str, float], epoch: int) -> bool:
        """Takes note of a validation; whether it is the best so far (of equals the first is)."""
        sign = 1 if self.metric != 'loss' and higher_is_better(self.metric) else -1
        better = self.value is None or sign * scores[self.metric] > sign * self.value
        if better:
            self.value, self.epoch = scores[self.metric], epoch
        self.since = 0 if better else self.since + 1
        return better

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
