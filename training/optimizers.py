"""The optimizers that `optimizer` names, and the learning rates that they start from."""

from collections.abc import Callable

import torch
from torch import nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    'AdamW': torch.optim.AdamW,
    'Adam': torch.optim.Adam,
}
FUSED_DEVICES = ('cpu', 'cuda')


def build_optimizer(
    name: str,
    model: nn.Module,
    backbone: nn.Module | None = None,
    *,
    lr: float,
    backbone_factor: float = 1.,
    weight_decay: float = 0.,
) -> torch.optim.Optimizer:
    """Builds an optimizer of the parameters that are trained.

    Args:
        name: one of OPTIMIZERS.
        model: the whole network, on its device.
        backbone: the part of it whose parameters are a group of their own, the last one.
        lr: the learning rate.
        backbone_factor: the backbone's learning rate as a share of `lr`.
        weight_decay: as of the optimizer.
    """
    backbone_ids = {id(p) for p in backbone.parameters()} if backbone else set()
    trained = [p for p in model.parameters() if p.requires_grad]
    others = [p for p in trained if id(p) not in backbone_ids]
    inside = [p for p in trained if id(p) in backbone_ids]

    groups = []
    if others:
        groups.append({'params': others, 'lr': lr})
    if inside:
        groups.append({'params': inside, 'lr': lr * backbone_factor})
    is_fused = next(model.parameters()).device.type in FUSED_DEVICES
    return OPTIMIZERS[name](groups, lr=lr, weight_decay=weight_decay, fused=is_fused)
