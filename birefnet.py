"""BiRefNet in Python: `network = load_model('general')`, then `predict(network, 'photo.jpg')`.

They are imported when one is first used, so that `birefnet --help` need not wait for PyTorch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference import predict
    from models import (
        Architecture,
        BiRefNet,
        build_birefnet,
        convert_tile_order,
        load_model,
        optimize,
        save_checkpoint,
    )

__all__ = [
    'Architecture',
    'BiRefNet',
    'build_birefnet',
    'convert_tile_order',
    'load_model',
    'optimize',
    'predict',
    'save_checkpoint',
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import inference
    import models
    return getattr(inference if name == 'predict' else models, name)
