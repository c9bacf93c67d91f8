"""The decoder with bilateral reference: one loop over levels, lowest resolution first.

A level is named by the stride of the map that it takes. `Architecture` lists the paper's numbers.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architecture import Architecture
from models.modules.attention import ASPP, ASPPDeformable
from models.modules.blocks import AttentionFactory, BasicDecBlk, ResBlk
from models.modules.checkpointing import checkpointed
from models.modules.reference import ImageView, InwardReference, OutwardReference, laplacian
from models.modules.resize import resize

LEVEL_STRIDES = (32, 16, 8, 4)  # of the levels, in the order in which they work


class LevelOutput(NamedTuple):
    """What a level returns: features, and the logits (B, 1, h, w) of its side outputs or None."""

    features: Tensor
    side: Tensor | None
    edge: Tensor | None


class DecoderOutput(NamedTuple):
    """All values are logits; pairs are (prediction (B, 1, h, w), label (B, 1, H, W)).

    All but the last of `logits`, and the pairs, come with `side_outputs` alone.
    """

    logits: list[Tensor]
    edge_pairs: list[tuple[Tensor, Tensor]]


def build_attention(kind: str, architecture: Architecture) -> AttentionFactory | None:
    """The builder of an attention of this kind from (in, out) channels; None for no attention."""
    builders: dict[str, AttentionFactory | None] = {
        '': None,
        'ASPP': ASPP,
        'ASPPDeformable': partial(ASPPDeformable, kernels=architecture.deform_kernels),
    }
    return builders[kind]


def build_block(
    kind: str,
    in_channels: int,
    out_channels: int,
    architecture: Architecture,
) -> nn.Module:
    """A decoder block, or an attention on its own, as the squeeze may have it."""
    blocks = {'BasicDecBlk': BasicDecBlk, 'ResBlk': ResBlk}
    if kind in blocks:
        attention = build_attention(architecture.dec_att, architecture)
        return blocks[kind](in_channels, out_channels, architecture.inner_channels, attention)
    alone = build_attention(kind, architecture)
    assert alone is not None, 'a squeeze without a block has no layers'
    return alone(in_channels, out_channels)


class DecoderLevel(nn.Module):
    """Inward reference, block, side output, outward reference, lateral connection."""

    def __init__(
        self,
        block: nn.Module,
        out_channels: int,
        reference: InwardReference | None,
        *,
        side: bool,
        outward: bool,
        lateral: bool,
    ) -> None:
        super().__init__()
        self.reference = reference
        self.block = block
        self.side = nn.Conv2d(out_channels, 1, 1) if side else None
        self.outward = OutwardReference(out_channels) if outward else None
        self.lateral = nn.Conv2d(out_channels, out_channels, 1) if lateral else None

    def forward(
        self,
        x: Tensor,
        image_view: Tensor | None,
        finer: Tensor | None,
        side_outputs: bool = False,
    ) -> LevelOutput:
        """Decodes one level.

        Args:
            x: features, (B, c_in, h, w).
            image_view: what the inward reference sees of the image, (B, 3 or 3*n*n, h, w).
            finer: the encoder's next finer map, (B, c_out, H, W); the last level has none.
            side_outputs: whether to predict mask and edges at this level, too.

        Returns:
            Features of the size of `finer`, (B, c_out, h, w) of the last level; and side outputs.
        """
        if self.reference is not None:
            x = torch.cat((x, self.reference(image_view)), 1)
        x = self.block(x)

        # Predictions at this level; the outward reference changes the features too.
        side = edge = None
        if side_outputs and self.side is not None:
            side = self.side(x)
        if self.outward is not None:
            x, edge = self.outward(x, side_outputs)

        # On to the next finer level.
        if self.lateral is not None:
            assert finer is not None, 'only the last level has no finer map'
            x = resize(x, finer.shape[-2:]) + self.lateral(finer)
        return LevelOutput(x, side, edge)


class Decoder(nn.Module):
    """Decodes x4..x1 level by level to the final map at full resolution.

    `channels` are those of x1..x4; `reference_channels` the widths of the inward references at
    strides 1, 4, 8, 16, 32.
    """

    def __init__(
        self,
        channels: Sequence[int],
        reference_channels: Mapping[int, int],
        architecture: Architecture,
    ) -> None:
        super().__init__()
        self.view = ImageView(architecture.dec_ipt_split)
        self.grad_checkpointing = False

        # From x4 to x1; each level gives the width of the next, the last half the width of x1.
        self.levels = nn.ModuleList()
        for i, stride in enumerate(LEVEL_STRIDES):
            is_last = stride == LEVEL_STRIDES[-1]
            out_channels = channels[0] // 2 if is_last else channels[2 - i]

            # The block reads the map, and the inward reference where this level has one.
            in_channels = channels[3 - i]
            if stride in architecture.reference_strides:
                in_channels += reference_channels[stride]
            block = build_block(architecture.dec_blk, in_channels, out_channels, architecture)
            level = DecoderLevel(
                block,
                out_channels,
                self._build_reference(stride, reference_channels, architecture),
                side=architecture.ms_supervision and not is_last,
                outward=stride in architecture.outward_strides,
                lateral=not is_last,
            )
            self.levels.append(level)

        # The last reference, at full resolution, joins in front of the head.
        self.reference = self._build_reference(1, reference_channels, architecture)
        head_channels = channels[0] // 2
        if self.reference is not None:
            head_channels += reference_channels[1]
        self.head = nn.Conv2d(head_channels, 1, 1)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each level in the backward pass."""
        self.grad_checkpointing = enable

    def _build_reference(
        self,
        stride: int,
        reference_channels: Mapping[int, int],
        architecture: Architecture,
    ) -> InwardReference | None:
        """The inward reference at a stride; None if the architecture has none there."""
        if stride not in architecture.reference_strides:
            return None
        return InwardReference(self.view.channels_at(stride), reference_channels[stride])

    def forward(
        self,
        image: Tensor,
        maps: Sequence[Tensor],
        side_outputs: bool = False,
    ) -> DecoderOutput:
        """image (B, 3, H, W), maps x1..x4 at strides 4..32 -> logits, the last (B, 1, H, W)."""
        # The full-resolution reference is computed first, so that its backward pass, which takes
        # much memory, comes last, when most of it is free again.
        reference = None
        if self.reference is not None:
            reference = checkpointed(self.reference, image)

        # Level by level, from x4 upwards.
        x1, x2, x3, x = maps
        sides: list[Tensor] = []
        predictions: list[tuple[Tensor, Tensor]] = []
        for level, finer in zip(self.levels, (x3, x2, x1, None), strict=True):
            image_view = None
            if level.reference is not None:
                image_view = self.view(image, x.shape[-2:])
            x, side, edge = self._run(level, x, image_view, finer, side_outputs)
            if side is not None:
                sides.append(side)
            if edge is not None:
                assert side is not None, 'edges are learned beside a side output'
                predictions.append((edge, side))

        final = self._predict(x, reference, image.shape[-2:])
        return DecoderOutput([*sides, final], self._with_labels(image, predictions))

    def _run(self, level: nn.Module, *inputs: Tensor | bool | None) -> LevelOutput:
        """Runs a level, whose activations may be computed again in the backward pass."""
        if self.grad_checkpointing:
            return checkpointed(level, *inputs)
        return level(*inputs)

    def _predict(self, x: Tensor, reference: Tensor | None, size: Sequence[int]) -> Tensor:
        """Final logits (B, 1, *size): `head(torch.cat((resize(x, size), reference), 1))`.

        Resizing and a 1x1 convolution commute, so the features are resized as logits: at full size
        they would be the largest map of the network.
        """
        feature_channels = x.shape[1]
        feature_weight = self.head.weight[:, :feature_channels]
        small_logits = F.conv2d(x, feature_weight, self.head.bias)
        logits = resize(small_logits, size)
        if reference is None:
            return logits
        reference_weight = self.head.weight[:, feature_channels:]
        return logits + F.conv2d(reference, reference_weight)

    def _with_labels(
        self,
        image: Tensor,
        predictions: list[tuple[Tensor, Tensor]],
    ) -> list[tuple[Tensor, Tensor]]:
        """Pairs predicted edges with labels: the image's edges where the side output is large."""
        if not predictions:
            return []
        image_edges = laplacian(image)
        pairs = []
        for edge, side in predictions:
            label = image_edges * resize(side, image_edges.shape[-2:])
            pairs.append((edge, label))
        return pairs
