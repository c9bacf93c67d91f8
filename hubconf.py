"""Entry points of torch.hub: `torch.hub.load(<checkout>, 'birefnet', 'lite', source='local')`.

The checkout is imported as a package. That leaves alone the caller's own `utils` and `config`.
"""

import importlib.util
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

dependencies = ['torch', 'torchvision', 'timm', 'cv2', 'safetensors', 'huggingface_hub']


def _checkout() -> ModuleType:
    """This checkout, under a name of its own: another one, or a wheel, may be in use as well."""
    root = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location('package', root / 'tools/package.py')
    assert spec
    assert spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.load(root, f'birefnet_{zlib.crc32(str(root).encode()):08x}')


def birefnet(weights: str = 'general', optimize: bool = False, **options: Any) -> Any:
    """The network in eval mode, with published weights by name, or those of a file or folder.

    `optimize` rearranges it for inference. `options` are `load_model`'s: `device`, and fields of
    Config.
    """
    package = _checkout()
    network = package.load_model(weights, **options)
    return package.optimize(network) if optimize else network
