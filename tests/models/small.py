"""Small networks with weights that follow from their keys, so that every part of them matters to the output."""

import torch

from config import Config
from models import BiRefNet
from models.checkpoint import to_official
from tests.models import golden


def build(**switches) -> BiRefNet:
    """BiRefNet on pvt_v2_b0 unless `switches` (fields of Config) say otherwise, in eval mode."""
    model = BiRefNet(Config(**{'bb': 'pvt_v2_b0', **switches}))
    official = to_official(model.state_dict(), model.config.bb)
    model.load_state_dict({key: golden.tensor(key, list(value.shape)) for key, value in official.items()})
    return model.eval()


def image(height: int = 64, width: int = 96, batch: int = 2) -> torch.Tensor:
    """Random, always the same."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def output(model: BiRefNet, x: torch.Tensor | None = None) -> torch.Tensor:
    """The final logits in eval mode."""
    with torch.inference_mode():
        return model(image() if x is None else x)[-1]
