"""A network divided between two processes is the undivided one, in every part of the training loop."""

import os
import re
from copy import deepcopy

import pytest
import torch
import torch.distributed as dist

from config import Config
from loss import Criterion
from models import BiRefNet, build_birefnet
from tests.training.runs import call
from tests.training.test_loop import ROUNDING, batch, part
from training import sharding
from training.average import MovingAverage
from training.distributed import World
from training.loop import Options, Trainer
from training.sharding import blocks, gather_whole, shard

CPU = torch.device('cpu')


def network(bb: str = 'pvt_v2_b0') -> BiRefNet:
    torch.manual_seed(0)
    return build_birefnet(Config(bb=bb, size=(32, 64), deform_kernels=(3,)))


def trainer(world: World, sharded: bool, accumulate: int = 1) -> Trainer:
    """Nothing random and no statistics of the batch; the pyramid runs the backbone twice, and blocks are recomputed.

    In float64, where rounding decides on no ReLU.
    """
    model = network().double()
    model.register_forward_pre_hook(lambda _, images: tuple(x.double() for x in images))
    model.decoder.set_grad_checkpointing()
    model.encoder.backbone.set_grad_checkpointing()
    ema = MovingAverage(deepcopy(model), .5)
    if sharded:
        shard(model, world)
        shard(ema.module, world)
    made = Trainer(model, torch.optim.SGD(model.parameters(), 1e-3, momentum=.9),
                   Criterion({'bce': 30., 'iou': .5}, 10), lambda step: 1.,
                   Options(accumulate=accumulate, grad_clip=1.), world, ema=ema)
    made.net.train()
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Dropout)) or type(module).__name__ == 'DropPath':
            module.eval()
    return made


def assert_close(ours: dict, theirs: dict) -> None:
    """Equal but for `ROUNDING`, see test_loop.py."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if value.is_floating_point():
            assert (ours[name] - value).norm() <= ROUNDING * value.norm() + 1e-2 * ROUNDING, name


def _compare(rank: int, size: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=size)
    world, images = World(rank, size, CPU), batch(4)
    divided, joined = trainer(world, True, accumulate=2), trainer(World(0, 1, CPU), False)
    own = sum(p.to_local().numel() for p in divided.model.parameters())
    assert own < .55 * sum(p.numel() for p in joined.model.parameters())

    for _ in range(2):  # ranks and accumulated batches take an image each
        for i in (0, 1):
            divided._step(part(images, 2 * i + rank, 2 * i + rank + 1), divided.batch + 2 - i)
            divided.batch += 1
        joined._step(images, joined.batch + 1)
        joined.batch += 1
        assert abs(divided.gradient_norm - joined.gradient_norm) < ROUNDING * joined.gradient_norm
        assert joined.gradient_norm > 1  # clipped
    state = divided.state_dict(0)
    if world.is_main:
        assert_close(state['model'], joined.model.state_dict())
        assert_close(state['ema'], joined.ema.module.state_dict())
        moments = [{i: s['momentum_buffer'] for i, s in o['state'].items()}
                   for o in (state['optimizer'], joined.optimizer.state_dict())]
        assert_close(*moments)

    # A gradient that overflows in one rank's share makes the scaler skip the step on all.
    divided.scaler = torch.amp.GradScaler('cpu')
    before = [p.to_local().clone() for p in divided.model.parameters()]
    divided._step(part(images, rank, rank + 1), divided.batch + 2)
    if rank == 1:
        divided.model.decoder.levels[0].block.conv_in.weight.grad.to_local()[0] = torch.inf
    scale = divided.scaler.get_scale()
    assert divided._optimize() == 0
    assert divided.scaler.get_scale() == scale / 2
    assert all(torch.equal(p.to_local(), q) for p, q in zip(divided.model.parameters(), before, strict=True))

    # Whole states go into networks of both kinds.
    shared = [state if world.is_main else None]
    dist.broadcast_object_list(shared)
    for fresh in (trainer(world, True, accumulate=2), trainer(world, False, accumulate=2)):
        fresh.load_state_dict(shared[0])
        again = gather_whole(fresh.model.state_dict(), world)
        momentum = gather_whole(fresh.optimizer.state_dict(), world)['state'][0]['momentum_buffer']
        if world.is_main:
            assert all(torch.equal(again[name], value) for name, value in state['model'].items())
            assert torch.equal(momentum, state['optimizer']['state'][0]['momentum_buffer'])
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not sharding.ON_CPU, reason='FSDP2 on CPUs needs a newer PyTorch')
def test_two_processes_take_the_steps_of_one():
    call(_compare, 2)


def test_a_release_that_cannot_divide_on_cpus_is_named(monkeypatch):
    monkeypatch.setattr(sharding, 'ON_CPU', False)
    with pytest.raises(ValueError, match=re.escape(f'a newer PyTorch than {torch.__version__}')):
        shard(torch.nn.Linear(2, 2), World(0, 2, CPU))


@pytest.mark.parametrize('bb', ['pvt_v2_b0', 'swin_v1_t', 'resnet50'])
def test_every_block_is_called(bb):
    """FSDP2 makes a block whole as its forward pass begins; one that has none stays divided."""
    model = network(bb)
    names = {id(module): name for name, module in model.named_modules()}
    called = set()
    for unit in blocks(model):
        unit.register_forward_pre_hook(lambda module, _: called.add(names[id(module)]))
    with torch.no_grad():
        model(torch.zeros(2, 3, 64, 64))
    assert called == {names[id(unit)] for unit in blocks(model)}


def test_blocks_hold_almost_all_parameters():
    """Of every kind of backbone: what lies outside of blocks is whole on every device from forward to backward."""
    for bb, deepest in (('dino_v3_7b', 'EvaBlock'), ('swin_v1_l', 'SwinBlock'), ('resnet50', 'Bottleneck')):
        with torch.device('meta'):
            model = network(bb)
        units = blocks(model)
        inside = {p for unit in units for p in unit.parameters()}
        outside = sum(p.numel() for p in model.parameters() if p not in inside)
        assert outside < .01 * sum(p.numel() for p in model.parameters()), bb
        assert {deepest, 'DecoderLevel'} <= {type(unit).__name__ for unit in units}
