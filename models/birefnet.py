"""BiRefNet: bilateral reference for high-resolution dichotomous image segmentation (Zheng et al., arXiv 2401.03407)."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from models.backbones.base import Backbone
from models.decoder import Decoder, DecoderLevel
from models.encoder import Context, Encoder, PyramidNeck
from models.modules.attention import ASPP, ASPPDeformable
from models.modules.blocks import BasicDecBlk, ResBlk
from models.modules.reference import OutwardReference
from models.modules.tracing import in_multiples, traced_for_all_sizes
from utils import STRIDE

NECK_CHANNELS = (192, 384, 768, 1536)  # Swin-L's
BLOCKS = {'BasicDecBlk': BasicDecBlk, 'ResBlk': ResBlk}


def check_size(image: Tensor) -> None:
    """Raises ValueError if a side of image (B, 3, H, W) is no multiple of 32, with the size to bring it to."""
    height, width = image.shape[-2:]
    if height % STRIDE or width % STRIDE:
        padded = [-(-side // STRIDE) * STRIDE for side in (height, width)]
        raise ValueError(f'input of {height}x{width} (height x width): sides must be multiples of {STRIDE}; '
                         f'resize or pad it to {padded[0]}x{padded[1]}')


class TrainingOutput(NamedTuple):
    """What the network returns in training mode; everything is a logit.

    `logits`: side outputs m4, m3, m2 (B, 1, h, w) where supervised, and last the final map (B, 1, H, W).
    `edge_pairs`: prediction (B, 1, h, w) and label (B, 1, H, W) of each outward reference.
    `class_logits`: (B, classes), or None without auxiliary classification.
    """

    logits: list[Tensor]
    edge_pairs: list[tuple[Tensor, Tensor]]
    class_logits: Tensor | None


class BiRefNet(nn.Module):
    """The network, composed from plain arguments; `models.BiRefNet` builds it from a Config.

    `neck`: the backbone's maps are all at one stride and are brought to strides 4..32 by 1x1 convolutions.
    `inner` is the width inside the blocks, None for a quarter of their input.
    """

    def __init__(self, backbone: Backbone, *, neck: bool = False, pyramid: str = 'cat', frozen: bool = False,
                 context: int = 3, squeeze: str = 'BasicDecBlk_x1', block: str = 'BasicDecBlk',
                 attention: str = 'ASPPDeformable', kernels: Sequence[int] = (1, 3, 7), inner: int | None = 64,
                 reference_levels: Collection[int] = (5, 4, 3, 2, 1), split: bool = True, tile_order: str = 'row',
                 supervised: bool = True, outward_levels: Collection[int] = (4, 3, 2), num_classes: int = 0) -> None:
        super().__init__()
        self.encoder = Encoder(backbone, pyramid, frozen)
        channels = self.encoder.channels
        deformable = partial(ASPPDeformable, kernels=kernels)
        pooling = {'': None, 'ASPP': ASPP, 'ASPPDeformable': deformable}
        blocks = {name: partial(kind, inner=inner, attention=pooling[attention]) for name, kind in BLOCKS.items()}
        self.context = Context(context)
        self.squeeze = nn.Sequential()
        if squeeze:
            name, count = squeeze.split('_x')
            build = (blocks | pooling)[name]
            widths = (sum(channels[3 - context:]), *[channels[3]] * int(count))
            self.squeeze.extend(build(i, o) for i, o in pairwise(widths))
        self.class_head = nn.Linear(channels[3], num_classes) if num_classes else None
        references = [channels[i] // 8 for i in (0, 1, 2, 3, 3)]
        self.neck = None
        if neck:
            widened = [c * (2 if pyramid == 'cat' else 1) for c in NECK_CHANNELS]
            self.neck, channels = PyramidNeck(channels, widened), widened
        self.decoder = Decoder(channels, blocks[block], references, reference_levels, outward_levels, split,
                               tile_order, supervised)

    def forward(self, image: Tensor) -> list[Tensor] | TrainingOutput:
        """image (B, 3, H, W), normalised RGB -> in eval mode [logits (B, 1, H, W)], in training a TrainingOutput.

        Raises ValueError if H or W is no multiple of 32.
        """
        check_size(image)
        if traced_for_all_sizes(image):
            image = in_multiples(image, STRIDE)
        height, width = image.shape[-2:]
        maps = self.encoder(image)
        classes = None
        if self.class_head is not None and self.training:
            classes = self.class_head(maps[3].mean((2, 3)))
        maps[3] = self.squeeze(self.context(maps))
        if self.neck is not None:
            maps = self.neck(maps, height, width)
        output = self.decoder(image, maps)
        return TrainingOutput(*output, classes) if self.training else output.logits


@contextmanager
def training_outputs(model: nn.Module) -> Iterator[None]:
    """Within, a network in eval mode returns a TrainingOutput: side outputs and gradients too, while BatchNorm and
    dropout do as in eval mode."""
    parts = [m for m in model.modules() if isinstance(m, (BiRefNet, DecoderLevel, OutwardReference)) and not m.training]
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part in parts:
            part.training = False
