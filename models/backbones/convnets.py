"""VGG and ResNet from torchvision, cut into the four stages whose names the official checkpoints use."""

from collections import OrderedDict
from itertools import pairwise

import torchvision
from torch import Tensor, nn

from models.backbones.base import Backbone
from models.modules.norm import BatchNorm2d, allow_any_batch


class FourStages(nn.Module):
    """conv1..conv4 in a row, each giving one map."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = stages

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (B, 3, H, W) -> its four maps, (B, C, H / 2^(i+2), W / 2^(i+2)) for i = 0..3."""
        maps = []
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = stage(x)
            maps.append(x)
        return maps


def build_resnet50(pretrained: bool = False) -> Backbone:
    """ResNet-50 (He 2015): x1..x4 are the outputs of layer1..layer4."""
    net = torchvision.models.resnet50(weights='DEFAULT' if pretrained else None, norm_layer=BatchNorm2d)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
    return Backbone(FourStages([stem, net.layer2, net.layer3, net.layer4]), (256, 512, 1024, 2048), smallest=16)


def build_vgg(name: str, pretrained: bool = False) -> Backbone:
    """VGG-16 (Simonyan 2014), 'vgg16' or 'vgg16bn': x1..x4 follow the 2nd to 5th max-pool.

    Layers keep torchvision's numbers within `features`; each stage ends with its max-pool.
    """
    build = {'vgg16': torchvision.models.vgg16, 'vgg16bn': torchvision.models.vgg16_bn}[name]
    layers = build(weights='DEFAULT' if pretrained else None).features
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    bounds = [0, *(i + 1 for i in pools[1:])]
    stages = [nn.Sequential(OrderedDict((str(i), layers[i]) for i in range(first, last)))
              for first, last in pairwise(bounds)]
    return Backbone(allow_any_batch(FourStages(stages)), (128, 256, 512, 512))
