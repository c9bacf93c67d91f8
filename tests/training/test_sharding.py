"""A network sharded over two ranks is the whole one, in every part of the training loop."""

import re
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.distributed as dist

from loss import Criterion
from runtime.distributed import World
from tests.models.small import without_randomness
from tests.training.runs import call
from tests.training.trainers import (
    ALONE,
    EXACT,
    ROUNDING,
    assert_close,
    batch,
    build_model,
    convert,
    part,
)
from training import sharding
from training.average import MovingAverage
from training.networks import TrainedNetwork
from training.sharding import find_blocks, gather_whole, shard
from training.trainer import StepOptions, Trainer

IMAGES = batch(4)


def build_trainer(world: World, sharded: bool, accumulate: int = 1) -> Trainer:
    """The pyramid runs the backbone twice, and blocks are recomputed."""
    model = convert(build_model(deform_kernels=(3,)), EXACT)
    model.decoder.set_grad_checkpointing()
    model.encoder.backbone.set_grad_checkpointing()
    ema = MovingAverage(deepcopy(model), .5)
    if sharded:
        shard(model, world)
        shard(ema.module, world)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=.9)
    network = TrainedNetwork(model, optimizer, world)
    without_randomness(model, batch_statistics=False)
    criterion = Criterion({'bce': 30., 'iou': .5}, 10)
    options = StepOptions(accumulate=accumulate, grad_clip=1.)
    return Trainer(network, criterion, lambda step: 1., options, world, ema=ema)


def momenta(state: dict[str, Any]) -> dict[int, torch.Tensor]:
    """The momentum of each parameter, from the state of an optimizer."""
    return {index: entries['momentum_buffer'] for index, entries in state['state'].items()}


def own_shards(trainer: Trainer) -> list[torch.Tensor]:
    return [p.to_local().detach().clone() for p in trainer.model.parameters()]


def _compare(world: World) -> None:
    sharded = build_trainer(world, sharded=True, accumulate=2)
    whole = build_trainer(ALONE, sharded=False)
    own = sum(p.numel() for p in own_shards(sharded))
    assert own < .55 * sum(p.numel() for p in whole.model.parameters())

    _check_steps(world, sharded, whole)
    state = sharded.state_dict()
    if world.is_main:
        assert_close(state['model'], whole.model.state_dict())
        assert_close(state['ema'], whole.ema.module.state_dict())
        assert_close(momenta(state['optimizer']), momenta(whole.network.optimizer.state_dict()))
    _check_overflow(world, sharded)
    _check_loading(world, state)


def _check_steps(world: World, sharded: Trainer, whole: Trainer) -> None:
    """Ranks and accumulated batches take an image each."""
    for _ in range(2):
        for i in (0, 1):
            first = 2 * i + world.rank
            sharded.step(part(IMAGES, first, first + 1), group_size=2, completes_group=i == 1)
        whole.step(IMAGES)
        norm = whole.gradient_norm
        assert norm > 1  # clipped
        assert abs(sharded.gradient_norm - norm) < ROUNDING * norm


def _check_overflow(world: World, sharded: Trainer) -> None:
    """A gradient that overflows in one rank's shard makes the scaler skip the step on all."""
    sharded.scaler = torch.amp.GradScaler('cpu')
    before = own_shards(sharded)
    sharded.accumulate_gradients(part(IMAGES, world.rank, world.rank + 1))
    if world.rank == 1:
        weight = sharded.model.decoder.levels[0].block.conv_in.weight
        weight.grad.to_local()[0] = torch.inf
    scale = sharded.scaler.get_scale()
    assert sharded.update_weights() == 0
    assert sharded.scaler.get_scale() == scale / 2
    after = own_shards(sharded)
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


def _check_loading(world: World, state: dict[str, Any]) -> None:
    """Whole states go into networks of both kinds."""
    shared = [state if world.is_main else None]
    dist.broadcast_object_list(shared)
    for sharded in (True, False):
        fresh = build_trainer(world, sharded, accumulate=2)
        fresh.load_state_dict(shared[0])
        weights = gather_whole(fresh.model.state_dict(), world)
        optimizer = gather_whole(fresh.network.optimizer.state_dict(), world)
        if world.is_main:
            assert all(torch.equal(weights[name], value) for name, value in state['model'].items())
            assert torch.equal(momenta(optimizer)[0], momenta(state['optimizer'])[0])


@pytest.mark.slow
@pytest.mark.skipif(not sharding.ON_CPU, reason='FSDP2 on CPUs needs a newer PyTorch')
def test_two_processes_take_the_steps_of_one():
    call(_compare, 2)


def test_a_release_that_cannot_shard_on_cpus_is_named(monkeypatch):
    monkeypatch.setattr(sharding, 'ON_CPU', False)
    with pytest.raises(ValueError, match=re.escape(f'a newer PyTorch than {torch.__version__}')):
        shard(torch.nn.Linear(2, 2), World(0, 2, torch.device('cpu')))


@pytest.mark.parametrize('bb', ['pvt_v2_b0', 'swin_v1_t', 'resnet50'])
def test_every_block_is_called(bb):
    """FSDP2 gathers a block as its forward pass begins; one that has none stays sharded."""
    model = build_model(bb=bb, deform_kernels=(3,))
    blocks = find_blocks(model)
    names = {module: name for name, module in model.named_modules()}
    called = set()
    for block in blocks:
        block.register_forward_pre_hook(lambda module, _: called.add(names[module]))
    with torch.no_grad():
        model(torch.zeros(2, 3, 64, 64))
    assert called == {names[block] for block in blocks}


@pytest.mark.parametrize(('bb', 'deepest'), [
    ('dino_v3_7b', 'EvaBlock'),
    ('swin_v1_l', 'SwinBlock'),
    ('resnet50', 'Bottleneck'),
])
def test_blocks_hold_almost_all_parameters(bb, deepest):
    """What lies outside of blocks is whole on every device from forward to backward."""
    with torch.device('meta'):
        model = build_model(bb=bb, deform_kernels=(3,))
    blocks = find_blocks(model)
    inside = {p for block in blocks for p in block.parameters()}
    outside = sum(p.numel() for p in model.parameters() if p not in inside)
    assert outside < .01 * sum(p.numel() for p in model.parameters())
    assert {deepest, 'DecoderLevel'} <= {type(block).__name__ for block in blocks}
