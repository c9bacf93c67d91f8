"""Activation checkpointing that counts the statistics of BatchNorm once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.modules.norm import frozen_statistics


def checkpointed(module: nn.Module, *inputs: Any) -> Any:
    """`module(*inputs)`; only the inputs are kept, the backward pass computes the rest again."""
    return checkpointed_part(module, module, *inputs)


def checkpointed_part(module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)`, a part of what `module` computes, checkpointed.

    Running statistics of the module count it once. Where nothing is trained, it is a plain call.
    """
    if not (module.training and torch.is_grad_enabled()):
        return function(*inputs)
    if torch.compiler.is_compiling():  # the compiler itself does not repeat updates of statistics
        return checkpoint(function, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), frozen_statistics(module)

    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)
