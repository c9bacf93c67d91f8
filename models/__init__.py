"""The network and its checkpoints."""

from models.architecture import Architecture
from models.birefnet import BiRefNet
from models.loading import build_birefnet, load_model, save_checkpoint
from models.optimized import optimize

__all__ = [
    'Architecture',
    'BiRefNet',
    'build_birefnet',
    'load_model',
    'optimize',
    'save_checkpoint',
]
