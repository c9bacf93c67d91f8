"""Entry points of torch.hub: `torch.hub.load(<checkout>, 'birefnet', 'lite', source='local')`."""

from typing import Any

from models import BiRefNet, load_model
from models import optimize as _optimize

dependencies = ['torch', 'torchvision', 'timm', 'cv2', 'safetensors', 'huggingface_hub']


def birefnet(weights: str = 'general', optimize: bool = False, **options: Any) -> BiRefNet:
    """The network with published weights by name, or those of a file, folder or repository, in eval mode.

    `optimize` rearranges it for inference; `options` are `load_model`'s (`device`, fields of Config).
    """
    network = load_model(weights, **options)
    return _optimize(network) if optimize else network
