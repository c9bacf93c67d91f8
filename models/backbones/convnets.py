"""VGG and ResNet from torchvision, cut into four stages named as in the official checkpoints."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torchvision
from torch import Tensor, nn

from models.backbones.base import Backbone
from models.backbones.registry import Shapes, Size, State, register_backbones
from models.checkpoints.rules import KeyRules
from models.modules.norm import BatchNorm2d, allow_any_batch


class FourStages(nn.Module):
    """conv1..conv4 in a row, each giving one map."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = stages

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (B, 3, H, W) -> its four maps, (B, C, H / 2^(i+2), W / 2^(i+2)) for i = 0..3."""
        x1 = self.conv1(x)
        x2 = self.conv2(x1)
        x3 = self.conv3(x2)
        x4 = self.conv4(x3)
        return [x1, x2, x3, x4]


# --- ResNet ---------------------------------------------------------------------------------------

TORCHVISION_RESNET = KeyRules.parse('''
    conv1  -> conv1.0
    bn1    -> conv1.1
    layer1 -> conv1.4
    layer2 -> conv2
    layer3 -> conv3
    layer4 -> conv4
''')


def infer_resnet(shapes: Shapes) -> str:
    """'resnet50', or ''."""
    return 'resnet50' if 'conv1.4.0.conv1.weight' in shapes else ''


def rename_resnet(state: State, net: nn.Module) -> State:
    """Our names for those of torchvision's file."""
    if 'layer1.0.conv1.weight' not in state:
        return state
    return {TORCHVISION_RESNET.rename(key): value for key, value in state.items()}


@register_backbones(
    'resnet50',
    infer=infer_resnet,
    rename_pretrained=rename_resnet,
    pretrained_files={'resnet50': 'resnet50-*.pth'},
)
def build_resnet50(name: str, pretrained: bool = False, sizes: Sequence[Size] = ()) -> Backbone:
    """ResNet-50 (He 2015): x1..x4 are the outputs of layer1..layer4."""
    weights = 'DEFAULT' if pretrained else None
    net = torchvision.models.resnet50(weights=weights, norm_layer=BatchNorm2d)

    # Everything up to layer1 is the first stage; the classifier stays behind.
    first = nn.Sequential(
        net.conv1,
        net.bn1,
        net.relu,
        net.maxpool,
        net.layer1,
    )
    stages = FourStages([first, net.layer2, net.layer3, net.layer4])
    return Backbone(stages, (256, 512, 1024, 2048), smallest=16)


# --- VGG ------------------------------------------------------------------------------------------


def infer_vgg(shapes: Shapes) -> str:
    """'vgg16', 'vgg16bn', or ''."""
    if 'conv4.24.weight' in shapes:
        return 'vgg16'
    return 'vgg16bn' if 'conv4.34.weight' in shapes else ''


def rename_vgg(state: State, net: nn.Module) -> State:
    """Our names for those of torchvision's file: the stage in front of the layer's number."""
    own_names = {}
    for own in net.state_dict():
        layer = own.split('.', 1)[1]
        own_names[layer] = own
        own_names[f'features.{layer}'] = own
    return {own_names.get(key, key): value for key, value in state.items()}


@register_backbones(
    'vgg16',
    'vgg16bn',
    infer=infer_vgg,
    rename_pretrained=rename_vgg,
    pretrained_files={'vgg16': 'vgg16-*.pth', 'vgg16bn': 'vgg16_bn-*.pth'},
)
def build_vgg(name: str, pretrained: bool = False, sizes: Sequence[Size] = ()) -> Backbone:
    """VGG-16 (Simonyan 2014): x1..x4 follow the 2nd to 5th max-pool.

    Layers keep torchvision's numbers within `features`; each stage ends with its max-pool.
    """
    builders = {'vgg16': torchvision.models.vgg16, 'vgg16bn': torchvision.models.vgg16_bn}
    weights = 'DEFAULT' if pretrained else None
    layers = builders[name](weights=weights).features

    # A stage ends behind each max-pool but the first.
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    ends = [pool + 1 for pool in pools[1:]]
    bounds = [0, *ends]
    stages = []
    for first, last in pairwise(bounds):
        numbered = OrderedDict((str(i), layers[i]) for i in range(first, last))
        stages.append(nn.Sequential(numbered))
    net = allow_any_batch(FourStages(stages))
    return Backbone(net, (128, 256, 512, 512))
