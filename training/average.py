"""The exponential moving average (EMA) of a network's weights."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """Lets `module` follow a network: its weights slowly, its buffers at once.

    torch's AveragedModel does the same, but waits for the device in every step.

    Args:
        module: of the same layout as the network, with the weights that it has now.
        decay: in 0..1; weights move by 1 - `decay` of their distance in each step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module.requires_grad_(False)
        self._update_weights = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the weights of `model` after a step into the average."""
        averages = list(self.module.parameters())
        weights = list(model.parameters())
        self._update_weights(averages, weights, None)

        # Buffers, BatchNorm's statistics for the most part, are averages already.
        buffers = zip(self.module.buffers(), model.buffers(), strict=True)
        for ours, theirs in buffers:
            ours.copy_(theirs)
