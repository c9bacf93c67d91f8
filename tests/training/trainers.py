"""Small trainers with nothing random, and batches for them."""

import torch
from torch import nn

from config import Config
from dataset import Batch
from loss import Criterion
from models import BiRefNet, build_birefnet
from runtime.distributed import World
from tests.models.small import without_randomness
from training.networks import TrainedNetwork
from training.trainer import StepOptions, Trainer

ALONE = World(0, 1, torch.device('cpu'))
EXACT = torch.float64  # in which rounding decides on no ReLU
WEIGHTS = {'bce': 30., 'iou': .5, 'iou_patch': .5, 'ssim': 10., 'structure': 1.}

# The order of a sum depends on how the batch is divided and on the processor, so that every sum is
# off by some eps of float64. Norms over few values (the deepest map has 2 x 1) raise that to
# 200 eps as measured; this allows 500 times as much. An error in the division itself, such as a
# factor of 1 / size, would be above 1e-2.
ROUNDING = 1e5 * torch.finfo(EXACT).eps


def batch(count: int) -> Batch:
    """Random images and masks, always the same."""
    rng = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, 3, 64, 32), dtype=torch.uint8, generator=rng)
    mask = torch.randint(0, 2, (count, 1, 64, 32), dtype=torch.uint8, generator=rng) * 255
    return Batch(image, mask, [''] * count, torch.full((count,), -1), [])


def part(whole: Batch, start: int, stop: int) -> Batch:
    """Some of the batch's samples."""
    return Batch(*(values[start:stop] for values in whole))


def convert(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network in `dtype`, to which it converts its input."""
    model.register_forward_pre_hook(lambda _, images: tuple(x.to(dtype) for x in images))
    return model.to(dtype)


def build_model(**fields) -> BiRefNet:
    """A network for `batch`, with the same weights each time."""
    torch.manual_seed(0)
    return build_birefnet(Config(**{'bb': 'pvt_v2_b0', 'size': (32, 64), **fields}))


def build_trainer(
    world: World = ALONE,
    model: nn.Module | None = None,
    *,
    batch_statistics: bool = False,
    dtype: torch.dtype = torch.float32,
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    options: StepOptions | None = None,
    **more,
) -> Trainer:
    """A trainer, at a learning rate of 1; norms use statistics of their own or the batch's."""
    if model is None:
        model = convert(build_model(mul_scl_ipt='', dec_att='ASPP'), dtype)
    model.to(world.device)
    network = TrainedNetwork(model, optimizer(model.parameters(), lr=1.), world)
    without_randomness(model, batch_statistics)
    return Trainer(network, Criterion(WEIGHTS, 10), lambda step: 1., options or StepOptions(),
                   world, **more)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The gradients of the network's parameters, by name."""
    named = trainer.model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def assert_close(
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    scale: float = 1.,
) -> None:
    """Equal by name, but for ROUNDING of the tensor's norm and a hundredth of it of `scale`."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            tolerance = ROUNDING * value.norm() + 1e-2 * ROUNDING * scale
            assert (found[name] - value).norm() <= tolerance, name


def assert_equal_gradients(
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
) -> None:
    """Equal, but for rounding.

    A bias in front of a BatchNorm has no gradient. What is left of the terms that cancel is
    compared with the longest gradient.
    """
    longest = max(gradient.norm() for gradient in expected.values())
    assert_close(found, expected, longest)
