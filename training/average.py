"""The exponential moving average of a network's weights."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """`module` follows a network of the same layout: its weights at the rate 1 - `decay`, its buffers at once.

    torch's AveragedModel does the same, but waits for the device in every step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module.requires_grad_(False)
        self._update = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes a step of `model` into account."""
        self._update(list(self.module.parameters()), list(model.parameters()), None)
        for ours, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)
