"""Small networks whose weights follow from their keys, so that every part matters to the output."""

import torch
from torch import nn

from config import Config
from models import BiRefNet, build_birefnet
from models.checkpoints.names import to_official
from tests.models import golden


def build(**switches) -> BiRefNet:
    """BiRefNet on pvt_v2_b0 unless `switches` (fields of Config) say otherwise, in eval mode."""
    model = build_birefnet(Config(**{'bb': 'pvt_v2_b0', **switches}))
    official = to_official(model.state_dict(), model.config.bb)
    weights = {key: golden.tensor(key, list(value.shape)) for key, value in official.items()}
    model.load_state_dict(weights)
    return model.eval()


def image(height: int = 64, width: int = 96, batch: int = 2) -> torch.Tensor:
    """Random, always the same."""
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(batch, 3, height, width, generator=generator)


def output(model: BiRefNet, x: torch.Tensor | None = None) -> torch.Tensor:
    """The final logits in eval mode."""
    with torch.inference_mode():
        return model(image() if x is None else x)[-1]


def without_randomness(model: nn.Module, batch_statistics: bool = True) -> None:
    """Training mode without dropout and stochastic depth.

    BatchNorms are in eval mode unless `batch_statistics`.
    """
    model.train()
    for module in model.modules():
        is_random = isinstance(module, nn.Dropout) or type(module).__name__ == 'DropPath'
        is_norm = isinstance(module, nn.BatchNorm2d)
        if is_random or (is_norm and not batch_statistics):
            module.eval()
