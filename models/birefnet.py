"""BiRefNet: bilateral reference for high-resolution dichotomous image segmentation.

Zheng et al., arXiv 2401.03407.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

import published
from models.architecture import Architecture
from models.backbones import Backbone, build_backbone
from models.checkpoints.infer import differences, infer_backbone
from models.checkpoints.names import (
    DERIVED,
    OFFICIAL_PREFIX,
    accept_official_names,
    to_official,
)
from models.decoder import Decoder, build_block
from models.encoder import Context, Encoder, PyramidNeck
from models.modules.tracing import has_symbolic_size, mark_divisible
from utils import STRIDE, round_up

if not TYPE_CHECKING:  # which would take every name for one of this module
    __getattr__ = functools.partial(published.look_up, __name__)

PUBLISHED_BACKBONE = 'swin_v1_l'
NECK_CHANNELS = (192, 384, 768, 1536)  # Swin-L's


def check_size(image: Tensor) -> None:
    """Raises ValueError if a side of image (B, 3, H, W) is not a multiple of 32."""
    height, width = image.shape[-2:]
    if height % STRIDE or width % STRIDE:
        next_height = round_up(height, STRIDE)
        next_width = round_up(width, STRIDE)
        advice = f'{next_height}x{next_width}'
        raise ValueError(f'input of {height}x{width} (height x width): sides must be multiples of '
                         f'{STRIDE}; resize or pad it to {advice}')


class TrainingOutput(NamedTuple):
    """What the network returns with side outputs; everything is a logit.

    Attributes:
        logits: side outputs m4, m3, m2 (B, 1, h, w) where supervised, then the final (B, 1, H, W).
        edge_pairs: prediction (B, 1, h, w) and label (B, 1, H, W) of each outward reference.
        class_logits: (B, classes), or None without auxiliary classification.
    """

    logits: list[Tensor]
    edge_pairs: list[tuple[Tensor, Tensor]]
    class_logits: Tensor | None


class BiRefNet(nn.Module):
    """The network on any backbone. `models.build_birefnet` builds one from a Config.

    Its state dict has names of our own. `load_state_dict` takes official names, too, in either tile
    order that the weights show. `config` is the Config that it was built from, for those who run
    the network; None without one.

    Args:
        backbone: default: the publication's, Swin-L, with random weights.
        architecture: of all else; default: the publication's.
        bb_pretrained: the publication's argument, for code that passes False.

    Raises:
        ValueError: pretrained weights are asked for, which need a file.
    """

    # The publication's names of `models.load_model`, and of functions of `exporting.hub`. The
    # module of the first sets them: this one knows no files.
    from_pretrained: ClassVar[Callable[..., 'BiRefNet']]
    save_pretrained: ClassVar[Callable[..., None]]
    push_to_hub: ClassVar[Callable[..., str]]

    def __init__(
        self,
        backbone: Backbone | bool | None = None,
        architecture: Architecture | None = None,
        *,
        bb_pretrained: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(backbone, bool):  # the publication's one argument, without its name
            bb_pretrained = backbone
            backbone = None
        if bb_pretrained:
            raise ValueError('bb_pretrained=True: name the file of the pretrained backbone: '
                             'build_birefnet(Config(bb_weights=FILE)); load_model(FILE) loads a '
                             'whole network')
        backbone = backbone or build_backbone(PUBLISHED_BACKBONE)
        architecture = architecture or Architecture()
        self.architecture = architecture
        self.config: Any = None

        # Encoder and what follows it at stride 32.
        self.encoder = Encoder(backbone, architecture.mul_scl_ipt)
        channels = self.encoder.channels
        self.context = Context(architecture.cxt_num)
        self.squeeze = build_squeeze(channels, architecture)
        self.class_head = None
        if architecture.auxiliary_classification:
            self.class_head = nn.Linear(channels[3], architecture.num_classes)

        # Widths of the inward references, by stride. They follow from the encoder, neck or not.
        reference_channels = {
            1: channels[0] // 8,
            4: channels[1] // 8,
            8: channels[2] // 8,
            16: channels[3] // 8,
            32: channels[3] // 8,
        }

        self.neck = None
        if backbone.needs_neck:
            factor = 2 if architecture.mul_scl_ipt == 'cat' else 1
            pyramid_channels = tuple(factor * width for width in NECK_CHANNELS)
            self.neck = PyramidNeck(channels, pyramid_channels)
            channels = pyramid_channels
        self.decoder = Decoder(channels, reference_channels, architecture)
        self.register_load_state_dict_pre_hook(accept_official_names)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False,
    ) -> Any:
        """As of any module, with official names or ours.

        Raises:
            RuntimeError: weights do not fit; says in one line what does not.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            problem = _misfit(self, state_dict)
            if not problem:
                raise
            raise RuntimeError(
                f'{problem}; load_model(FILE) builds the network that a file fits') from error

    def forward(self, image: Tensor, side_outputs: bool = False) -> list[Tensor] | TrainingOutput:
        """Segments images.

        Args:
            image: RGB, normalised with ImageNet's mean and standard deviation, (B, 3, H, W).
            side_outputs: whether to return what training supervises, besides the final map.

        Returns:
            [logits], (B, 1, H, W) each; with `side_outputs` a TrainingOutput.

        Raises:
            ValueError: H or W is not a multiple of 32.
        """
        check_size(image)
        if has_symbolic_size(image):
            image = mark_divisible(image, STRIDE)
        height, width = image.shape[-2:]

        # x1..x4, with x4 squeezed together with its context.
        maps = self.encoder(image)
        classes = None
        if self.class_head is not None and side_outputs:
            pooled = maps[3].mean((2, 3))
            classes = self.class_head(pooled)
        maps[3] = self.squeeze(self.context(maps))
        if self.neck is not None:
            maps = self.neck(maps, height, width)

        output = self.decoder(image, maps, side_outputs)
        if side_outputs:
            return TrainingOutput(output.logits, output.edge_pairs, classes)
        return output.logits


def _misfit(network: BiRefNet, state: Mapping[str, Any]) -> str:
    """What of a state dict does not fit a network, in one line; '' if all does."""
    # Both in official names, without buffers that follow from the architecture.
    own = network.encoder.backbone.name
    is_official = any(key.startswith(OFFICIAL_PREFIX) for key in state)
    given = state if is_official else to_official(state, own)
    shapes = []
    for tensors in (to_official(network.state_dict(), own), given):
        shapes.append(
            {key: tuple(tensors[key].shape) for key in tensors if not DERIVED.search(key)})

    expected, found = shapes
    other = infer_backbone(found)
    if other and other != own:
        return f'weights on the backbone {other} do not fit this network on {own}'
    problem = differences(expected, found)
    return f'these weights do not fit this network on {own}: {problem}' if problem else ''


def build_squeeze(channels: tuple[int, ...], architecture: Architecture) -> nn.Sequential:
    """The blocks that bring x4 with its context to the width of x4; empty for none."""
    # The first block reads the context, the others what it has left.
    kind, count = architecture.squeeze
    width = sum(channels[3 - architecture.cxt_num:])
    blocks = nn.Sequential()
    for _ in range(count):
        blocks.append(build_block(kind, width, channels[3], architecture))
        width = channels[3]
    return blocks
