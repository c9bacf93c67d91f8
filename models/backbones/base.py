"""What every backbone is to the encoder."""

from collections.abc import Sequence

from torch import Tensor, nn

SMALLEST = 32


class Backbone(nn.Module):
    """A network that maps an image to four feature maps, x1..x4, at strides 4, 8, 16, 32.

    Args:
        net: maps an image (B, 3, H, W) to a list of maps.
        channels: of x1..x4.
        outputs: which of the maps of `net` are x1..x4.
        smallest: shortest side of an image that `net` takes.
        channels_last: the maps of `net` are (B, H, W, C).
        needs_neck: the maps are all at one stride, so that a neck must make the pyramid.
        name: the value of `bb`, where it has one.
    """

    def __init__(
        self,
        net: nn.Module,
        channels: Sequence[int],
        outputs: Sequence[int] = (0, 1, 2, 3),
        smallest: int = SMALLEST,
        channels_last: bool = False,
        needs_neck: bool = False,
        name: str = '',
    ) -> None:
        super().__init__()
        self.net = net
        self.channels = tuple(channels)
        self.outputs = tuple(outputs)
        self.smallest = smallest
        self.channels_last = channels_last
        self.needs_neck = needs_neck
        self.name = name

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, 3, H, W) -> x1..x4, (B, channels[i], h, w)."""
        maps = self.net(image)
        maps = [maps[i] for i in self.outputs]
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes activations in the backward pass, if `net` can do so."""
        set_own = getattr(self.net, 'set_grad_checkpointing', None)
        if set_own is not None:
            set_own(enable)
