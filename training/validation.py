"""Validation during training: pixel losses and the evaluator's metrics on validation pairs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset import Pair, Size, load_pair, normalize, to_tensor, with_path
from evaluation import GroundTruth
from evaluation.measuring import mean_of_present
from evaluation.metrics import VALIDATION_SCORES, higher_is_better, image_score
from inference.masks import to_mask
from loss import add_losses, pixel_terms
from readers import read_mask
from runtime.distributed import World, gather, share_buffers
from utils import round_up

logger = logging.getLogger(__name__)

Pixels = tuple[np.ndarray, np.ndarray]  # image (H, W, 3) and mask (H, W), uint8
ErrorHandler = Callable[[Pair, Exception], None]


# --- Pairs to validate on -------------------------------------------------------------------------


def split_pairs(
    pairs: Sequence[Pair],
    share: float,
    seed: int,
) -> tuple[list[Pair], list[Pair]]:
    """Splits pairs into training pairs and a `share` for validation (at least one).

    The split depends on the seed and the number of pairs alone.
    """
    # At least one pair on either side.
    count = max(1, round(share * len(pairs)))
    count = min(count, len(pairs) - 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pairs))
    held_out = set(order[:count].tolist())

    # Both lists keep the order of the pairs.
    training = []
    validation = []
    for index, pair in enumerate(pairs):
        if index in held_out:
            validation.append(pair)
        else:
            training.append(pair)
    return training, validation


def raise_error(pair: Pair, error: Exception) -> None:
    """Ends the run: an error handler for runs that do not skip pairs."""
    raise error


def skip_into(problems: set[str]) -> ErrorHandler:
    """Returns an error handler that logs each error and adds it to `problems`."""
    def skip(pair: Pair, error: Exception) -> None:
        problem = with_path(pair.image, error)
        logger.warning('skipped: %s', problem)
        problems.add(problem)

    return skip


def read_pair(pair: Pair, size: Size, on_error: ErrorHandler = raise_error) -> Pixels | None:
    """Reads image and mask as `load_pair`; returns None if they cannot be read.

    `on_error` gets the ValueError or OSError then, and may raise it.
    """
    try:
        return load_pair(pair, size)
    except (ValueError, OSError) as error:
        on_error(pair, error)
        return None


# --- Scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Validator:
    """Scores a network on pairs, which the ranks share.

    Args:
        pairs: the validation pairs.
        size: (width, height) of the network's input.
        pixel_weights: weights of the pixel losses, by name.
        world: the ranks.
        on_error: gets pairs that cannot be read, see `read_pair`.
        metric: a score of the evaluator besides VALIDATION_SCORES, or 'loss' for none.
    """

    pairs: Sequence[Pair]
    size: Size
    pixel_weights: Mapping[str, float]
    world: World
    on_error: ErrorHandler = raise_error
    metric: str = 'loss'

    @property
    def names(self) -> list[str]:
        """The scores that are computed, without the loss."""
        if self.metric in ('loss', *VALIDATION_SCORES):
            return list(VALIDATION_SCORES)
        return [*VALIDATION_SCORES, self.metric]

    @torch.no_grad()
    def score(self, model: nn.Module, autocast: AbstractContextManager) -> dict[str, float]:
        """Returns the mean of each score over the pairs. Call it on every rank.

        Args:
            model: a BiRefNet, which is left in the mode that it was in.
            autocast: the context in which it computes.

        Returns:
            'loss', the weighted pixel losses at `size`, and the scores at each mask's own size.
            A score that no mask has, such as mBA without boundaries, is NaN.

        Raises:
            ValueError: no pair can be read.
        """
        # Every rank scores its own pairs with the statistics of the main one. Nothing is compiled,
        # as in test.py, because compiled code rounds otherwise.
        share_buffers(model, self.world)
        was_training = model.training
        model.eval()
        with autocast, torch.compiler.set_stance('force_eager'):
            own_rows = self._score_own_pairs(model)
        model.train(was_training)

        # One row for each pair, of all ranks; one column for the loss and for each score.
        rows = []
        for share in gather(own_rows, self.world):
            rows += share
        if not rows:
            raise ValueError(f'not one of the {len(self.pairs)} validation pairs can be read')
        losses, *columns = np.transpose(rows)
        means = {'loss': float(losses.mean())}
        for name, values in zip(self.names, columns, strict=True):
            means[name] = mean_of_present(values)
        return means

    def _score_own_pairs(self, model: nn.Module) -> list[list[float]]:
        """A row of scores for each pair of this rank.

        Each rank makes as many forward passes as the others, because those of a sharded network
        are collective. Past the last pair it makes one whose result is not used.
        """
        rows = []
        ranks = self.world.size
        end = round_up(len(self.pairs), ranks)
        for index in range(self.world.rank, end, ranks):
            pair: Pair | None = None
            pixels: Pixels | None = None
            if index < len(self.pairs):
                pair = self.pairs[index]
                pixels = read_pair(pair, self.size, self.on_error)

            image, mask = self._to_device(pixels or self._blank())
            logit = model(normalize(image))[-1].float()
            if pair is not None and pixels is not None:
                rows.append(self._score_pair(logit, mask, pair))
        return rows

    def _blank(self) -> Pixels:
        width, height = self.size
        image = np.zeros((height, width, 3), np.uint8)
        mask = np.zeros((height, width), np.uint8)
        return image, mask

    def _to_device(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Image (1, 3, H, W) and mask (1, 1, H, W), uint8."""
        device = self.world.device
        image, mask = (to_tensor(array)[None] for array in pixels)
        return image.to(device), mask.to(device)

    def _score_pair(self, logit: Tensor, mask: Tensor, pair: Pair) -> list[float]:
        """The loss at the network's size, then the scores at the mask's own."""
        soft_mask = mask.float() / 255
        terms = pixel_terms([logit], soft_mask, self.pixel_weights)
        loss = add_losses(terms.values()).item()

        # As test.py and eval_existingOnes.py would score the pair.
        truth = read_mask(pair.mask)
        probability = logit.sigmoid()[0, 0].cpu().numpy()
        prediction = to_mask(probability, *truth.shape)
        scores = GroundTruth(truth).score(prediction, self.names)
        return [loss, *(scores[name] for name in self.names)]


@dataclass
class Best:
    """The best validation so far by one metric.

    Args:
        metric: one of the evaluator's scores, or 'loss'.
        value: the best value; None before the first validation.
        epoch: its epoch, 1-based.
        validations_since: how many validations have passed since.

    Raises:
        ValueError: a metric that no single image has.
    """

    metric: str
    value: float | None = None
    epoch: int = 0
    validations_since: int = 0

    def __post_init__(self) -> None:
        if self.metric != 'loss':
            image_score(self.metric)

    def update(self, scores: Mapping[str, float], epoch: int) -> bool:
        """Compares a validation with the best; returns whether it is better (equal is not)."""
        value = scores[self.metric]
        if self._is_better(value):
            self.value = value
            self.epoch = epoch
            self.validations_since = 0
            return True
        self.validations_since += 1
        return False

    def _is_better(self, value: float) -> bool:
        if self.value is None or isnan(self.value):
            return True
        if self.metric != 'loss' and higher_is_better(self.metric):
            return value > self.value
        return value < self.value

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` needs."""
        return {
            'metric': self.metric,
            'value': self.value,
            'epoch': self.epoch,
            'since': self.validations_since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.metric = state['metric']
        self.value = state['value']
        self.epoch = state['epoch']
        self.validations_since = state['since']
