"""The decoder with bilateral reference: one loop over levels, lowest resolution first."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.modules.recompute import recomputed
from models.modules.reference import InwardReference, OutwardReference, image_to_tiles, laplacian
from models.modules.resize import resize

BlockFactory = Callable[[int, int], nn.Module]


class DecoderOutput(NamedTuple):
    """All values are logits; pairs are (prediction (B, 1, h, w), label (B, 1, H, W)) and come in training alone."""

    logits: list[Tensor]
    edge_pairs: list[tuple[Tensor, Tensor]]


class DecoderLevel(nn.Module):
    """One level: inward reference, block, side output, outward reference and the lateral path to the next finer map."""

    def __init__(self, block: nn.Module, out_channels: int, reference: InwardReference | None, outward: bool,
                 side: bool, lateral: bool) -> None:
        super().__init__()
        self.reference = reference
        self.block = block
        self.side = nn.Conv2d(out_channels, 1, 1) if side else None
        self.outward = OutwardReference(out_channels) if outward else None
        self.lateral = nn.Conv2d(out_channels, out_channels, 1) if lateral else None

    def forward(self, x: Tensor, tiles: Tensor | None,
                finer: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x (B, c_i, h, w), tiles (B, 3*n, h, w), the next finer map (B, c_{i-1}, H, W) -> features of its shape (of
        the last level, which has none, (B, c_0, h, w)), and in training the logits (B, 1, h, w) of the side output and
        of the gradient, where the level has them."""
        if self.reference is not None:
            x = torch.cat((x, self.reference(tiles)), 1)
        x = self.block(x)
        side = self.side(x) if self.training and self.side is not None else None
        x, gradient = self.outward(x) if self.outward is not None else (x, None)
        if self.lateral is not None:
            x = resize(x, finer.shape[-2:]) + self.lateral(finer)
        return x, side, gradient


class Decoder(nn.Module):
    """Decoder of BiRefNet.

    `channels` are those of x1..x4; `block` builds a decoder block from (in, out) channels; `reference_channels` are
    the widths of the inward reference at strides 1, 4, 8, 16, 32. Levels are numbered as in the publication: 5 to 2
    are the references at strides 32 to 4 and 1 the one at full resolution; 4 to 1 are blocks and outward references.
    """

    def __init__(self, channels: Sequence[int], block: BlockFactory, reference_channels: Sequence[int],
                 reference_levels: Collection[int], outward_levels: Collection[int], split: bool = True,
                 tile_order: str = 'row', supervised: bool = True) -> None:
        super().__init__()
        self.split, self.tile_order = split, tile_order
        self.grad_checkpointing = False
        outs = (channels[0] // 2, *channels[:3])  # of blocks 1..4

        def reference(level: int) -> InwardReference | None:
            if level not in reference_levels:
                return None
            grid = 1 if level == 1 or not split else 2 ** level
            return InwardReference(3 * grid * grid, reference_channels[level - 1])

        def width(level: int) -> int:
            return reference_channels[level - 1] if level in reference_levels else 0

        self.levels = nn.ModuleList(
            DecoderLevel(block(channels[i - 1] + width(i + 1), outs[i - 1]), outs[i - 1], reference(i + 1),
                         outward=i in outward_levels and supervised, side=i > 1 and supervised, lateral=i > 1)
            for i in (4, 3, 2, 1))
        self.reference = reference(1)
        self.head = nn.Conv2d(outs[0] + width(1), 1, 1)

    def forward(self, image: Tensor, maps: Sequence[Tensor]) -> DecoderOutput:
        """image (B, 3, H, W), maps x1..x4 at strides 4..32 -> logits, the last (B, 1, H, W); only that one in eval."""
        sides, gradients = [], []
        of_features, of_reference = self.head.weight.tensor_split([self.levels[-1].block.conv_out.out_channels], 1)
        # First, so that its backward pass, which takes much memory, comes when most is free again.
        reference = None if self.reference is None else recomputed(self.reference, self.reference, image)
        x = maps[3]
        for level, finer in zip(self.levels, (*maps[2::-1], None), strict=True):
            tiles = self._tiles(image, x.shape[-2:]) if level.reference is not None else None
            if self.grad_checkpointing:
                x, side, gradient = recomputed(level, level, x, tiles, finer)
            else:
                x, side, gradient = level(x, tiles, finer)
            sides += [side] * (side is not None)
            gradients += [(gradient, side)] * (gradient is not None)
        # A 1x1 convolution and a resizing may change places: the features at full size would be the largest map.
        final = resize(F.conv2d(x, of_features, self.head.bias), image.shape[-2:])
        if reference is not None:
            final = final + F.conv2d(reference, of_reference)
        return DecoderOutput([*sides, final], self._with_labels(image, gradients))

    def _tiles(self, image: Tensor, size: Sequence[int]) -> Tensor:
        return image_to_tiles(image, *size, self.tile_order) if self.split else resize(image, size)

    def _with_labels(self, image: Tensor, gradients: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """The label of a gradient is the image's own where the side output sees the object."""
        if not gradients:
            return []
        edges = laplacian(image)
        return [(gradient, edges * resize(side, edges.shape[-2:])) for gradient, side in gradients]
