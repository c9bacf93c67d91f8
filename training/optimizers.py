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
    # Parameters compare by value, so that membership goes by identity.
    backbone_ids = set()
    if backbone is not None:
        backbone_ids = {id(p) for p in backbone.parameters()}
    others = []
    inside = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in backbone_ids:
            inside.append(parameter)
        else:
            others.append(parameter)

    # A frozen backbone has no group.
    groups = []
    if others:
        groups.append({'params': others, 'lr': lr})
    if inside:
        groups.append({'params': inside, 'lr': lr * backbone_factor})
    device = next(model.parameters()).device
    is_fused = device.type in FUSED_DEVICES
    return OPTIMIZERS[name](groups, lr=lr, weight_decay=weight_decay, fused=is_fused)
