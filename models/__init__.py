"""The network and its checkpoints."""

from models.architecture import Architecture
from models.birefnet import BiRefNet
from models.checkpoints.tile_order import convert_tile_order
from models.loading import build_birefnet, load_model, save_checkpoint
from models.optimized import optimize

__all__ = [
    'Architecture',
    'BiRefNet',
    'build_birefnet',
    'convert_tile_order',
    'load_model',
    'optimize',
    'save_checkpoint',
]
