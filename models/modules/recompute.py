"""Activations computed again in the backward pass instead of being kept."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.modules.norm import frozen_statistics


def recomputed(module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)`, a part of `module`, of which the backward pass finds only the inputs and computes the rest.

    Running statistics of the module count it once. Where nothing is trained, it is a plain call.
    """
    if not (module.training and torch.is_grad_enabled()):
        return function(*inputs)
    if torch.compiler.is_compiling():  # the compiler repeats no update of statistics by itself
        return checkpoint(function, *inputs, use_reentrant=False)
    return checkpoint(function, *inputs, use_reentrant=False,
                      context_fn=lambda: (nullcontext(), frozen_statistics(module)))
