"""The network as transformers expects it.

`exporting.single_file` joins this module and whatever it uses into one file.

It builds on any device, the meta device included, leaves `self.config` to transformers, and keeps
the official names in its state dict.
"""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from models.architecture import Architecture
from models.backbones.registry import build_backbone
from models.birefnet import BiRefNet, TrainingOutput
from models.checkpoints.names import official_modules


class BiRefNetConfig(PretrainedConfig):
    """`birefnet` holds the fields of the project's Config that build the network."""

    model_type = 'birefnet'

    def __init__(self, birefnet: dict[str, Any] | None = None, **others: Any) -> None:
        self.birefnet = birefnet or {}
        super().__init__(**others)


class BiRefNetForImageSegmentation(PreTrainedModel):
    """Segments the object: `model(x)[-1].sigmoid()` is its mask.

    x is (B, 3, H, W), normalised RGB, its sides multiples of 32.
    """

    config_class = BiRefNetConfig
    main_input_name = 'pixel_values'
    network: BiRefNet

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__(config)
        fields = SimpleNamespace(**config.birefnet)
        architecture = Architecture.from_config(fields)
        backbone = build_backbone(fields.bb, tuple(fields.size), architecture.scales)
        network = BiRefNet(backbone, architecture)
        # The network itself stays out of sight; what is registered are its layers, under their
        # official names.
        object.__setattr__(self, 'network', network)
        for path, module in official_modules(network, fields.bb).items():
            _register(self, path, module)
        self.post_init()

    def train(self, mode: bool = True) -> 'BiRefNetForImageSegmentation':
        """Also for those modules of the network that have no weights of their own."""
        self.network.train(mode)
        return super().train(mode)

    def forward(self, pixel_values: Tensor) -> list[Tensor] | TrainingOutput:
        """(B, 3, H, W), normalised RGB -> [logits (B, 1, H, W)], in training a TrainingOutput."""
        return self.network(pixel_values.to(self.dtype), side_outputs=self.training)

    def _init_weights(self, module: nn.Module) -> None:
        """Layers initialise themselves when they are built, and a checkpoint has them all."""


def _register(root: nn.Module, path: str, module: nn.Module) -> None:
    *folders, name = path.split('.')
    for folder in folders:
        if folder not in dict(root.named_children()):
            root.add_module(folder, nn.Module())
        root = root.get_submodule(folder)
    root.add_module(name, module)
