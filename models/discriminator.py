"""The discriminator of adversarial training (MCCL, arXiv 2302.14485)."""

from torch import Tensor, nn

from models.modules.norm import BatchNorm2d

WIDTHS = (16, 32, 64, 128)  # output channels of the blocks, each of which halves the map
DROPOUT = 0.25
SLOPE = 0.2
NORM_EPS = 0.8


class Discriminator(nn.Module):
    """Scores whether an image was cut out by the true mask or by a predicted one.

    Args:
        size: (width, height) of the configured input.
        dynamic: accept inputs of any other size too. Their maps are pooled to the grid of `size`.
    """

    def __init__(self, size: tuple[int, int], dynamic: bool = False) -> None:
        super().__init__()
        width, height = size
        blocks = []
        in_channels = 3
        for index, out_channels in enumerate(WIDTHS):
            blocks.append(_block(in_channels, out_channels, norm=index > 0))
            in_channels = out_channels
            # A convolution of stride 2 rounds an odd side up.
            width = (width + 1) // 2
            height = (height + 1) // 2
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d((height, width)) if dynamic else nn.Identity()
        self.linear = nn.Linear(in_channels * height * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logit (B, 1) of `x` being real.

        The losses apply the sigmoid, because that is numerically stable and allowed under autocast.

        Args:
            x: (B, 3, H, W), a normalised image times a mask.
        """
        features = self.blocks(x)
        pooled = self.pool(features)
        return self.linear(pooled.flatten(1))


def _block(in_channels: int, out_channels: int, norm: bool) -> nn.Sequential:
    layers = [
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1),
        nn.LeakyReLU(SLOPE),
        nn.Dropout2d(DROPOUT),
    ]
    if norm:
        layers.append(BatchNorm2d(out_channels, eps=NORM_EPS))
    return nn.Sequential(*layers)
