"""Gradients of divided batches, schedules, the state on disk."""

import os
import resource
import time
from copy import deepcopy
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from config import Config
from dataset import Batch
from loss import Criterion
from models import build_birefnet
from models.checkpoints.files import write_state
from models.discriminator import Discriminator
from runtime.distributed import StopRequest, World
from tests.training.runs import call
from training.average import MovingAverage
from training.loop import Adversary, NonFiniteLossError, Options, Trainer
from training.schedule import COSINE_FLOOR, SaveInterval, is_checkpoint, is_validation, rate_factor
from training.state import LAST, PREVIOUS, load_state, save_state
from training.sync_bn import synchronise

ROUNDING = 1e5 * torch.finfo(torch.float64).eps  # see assert_equal_gradients


def batch(n: int) -> Batch:
    rng = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (n, 3, 64, 32), dtype=torch.uint8, generator=rng)
    mask = torch.randint(0, 2, (n, 1, 64, 32), dtype=torch.uint8, generator=rng) * 255
    return Batch(image, mask, [''] * n, torch.full((n,), -1), [])


def part(whole: Batch, start: int, stop: int) -> Batch:
    return Batch(*(values[start:stop] for values in whole))


def trainer(world: World, accumulate: int = 1, statistics: bool = False, dtype: torch.dtype = torch.float32,
            **more: Any) -> Trainer:
    """A trainer whose network has nothing random and keeps its gradients; its norms use the batch's `statistics` or
    their own. In float64 rounding decides on no ReLU."""
    torch.manual_seed(0)
    model = build_birefnet(Config(bb='pvt_v2_b0', mul_scl_ipt='', size=(32, 64), dec_att='ASPP')).to(dtype)
    model.register_forward_pre_hook(lambda _, images: tuple(x.to(dtype) for x in images))
    weights = {'bce': 30., 'iou': .5, 'iou_patch': .5, 'ssim': 10., 'structure': 1.}
    model = synchronise(model, world) if statistics and world.size > 1 else model
    made = Trainer(model, torch.optim.SGD(model.parameters(), 1.), Criterion(weights, 10), lambda step: 1.,
                   Options(accumulate=accumulate), world, **more)
    made.net.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) or type(module).__name__ == 'DropPath' or (
                isinstance(module, torch.nn.BatchNorm2d) and not statistics):
            module.eval()
    made._optimize = lambda: torch.zeros(())
    return made


def gradients(t: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in t.model.named_parameters() if p.grad is not None}


def assert_equal_gradients(ours: dict, expected: dict) -> None:
    """They differ by the rounding of float64 only.

    The order of a sum depends on how the batch is divided and on the processor, so every sum is off by some eps. Norms
    over few values (the deepest map has 2 x 1) raise that to 200 eps as measured; `ROUNDING` allows 500 times as much.
    An error in the division itself, such as a factor of 1 / size, would be above 1e-2.
    """
    assert ours.keys() == expected.keys()
    longest = max(grad.norm() for grad in expected.values())
    for name, grad in expected.items():
        # A bias in front of a BatchNorm has no gradient: what is left of the terms that cancel is compared with others.
        assert (ours[name] - grad).norm() <= ROUNDING * grad.norm() + 1e-2 * ROUNDING * longest, name


def joined(statistics: bool = False) -> Trainer:
    """One process on a batch of 4."""
    t = trainer(World(0, 1, torch.device('cpu')), statistics=statistics, dtype=torch.float64)
    t._step(batch(4), 1)
    return t


def test_accumulated_gradients_are_those_of_the_joined_batch():
    t = trainer(World(0, 1, torch.device('cpu')), accumulate=2, dtype=torch.float64)
    for i in (0, 1):
        t._step(part(batch(4), 2 * i, 2 * i + 2), 2)
        t.batch += 1
    assert_equal_gradients(gradients(t), gradients(joined()))


def _rank_gradients(rank: int, size: int, port: int, path: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=size)
    share = part(batch(4), rank * 4 // size, (rank + 1) * 4 // size)
    for statistics in (False, True):
        t = trainer(World(rank, size, torch.device('cpu')), statistics=statistics, dtype=torch.float64)
        t._step(share, 1)
        torch.save([gradients(t), dict(t.model.named_buffers())], f'{path}/{rank}{statistics}.pt')
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_the_joined_batch(tmp_path):
    """With statistics of the batch too, under sync_bn."""
    call(_rank_gradients, 2, str(tmp_path))
    for statistics in (False, True):
        expected = joined(statistics)
        for rank in (0, 1):
            ours, buffers = torch.load(tmp_path / f'{rank}{statistics}.pt', weights_only=True)
            assert_equal_gradients(ours, gradients(expected))
            for name, value in expected.model.named_buffers():
                assert torch.allclose(buffers[name], value, rtol=ROUNDING, atol=ROUNDING), name


def test_non_finite_loss_says_where():
    t = trainer(World(0, 1, torch.device('cpu')))
    with torch.no_grad():
        t.model.decoder.head.bias.fill_(float('nan'))
    with pytest.raises(NonFiniteLossError, match=r'step 1 .*bce'):
        t._step(batch(2), 1)


def test_a_step_reads_nothing_off_the_device():
    """On the meta device nothing has a value: whoever wants one (item, bool, tolist, cpu) gets an error."""
    world, unread = World(0, 1, torch.device('meta')), (NotImplementedError, RuntimeError)
    discriminator = Discriminator((32, 64)).to('meta')
    adversary = Adversary(discriminator, torch.optim.SGD(discriminator.parameters(), .1), world)
    t = trainer(world, adversary=adversary)
    t.options.grad_clip, t.options.lambda_adv_g = 1., 10.
    t.model.to('meta')
    t.ema = MovingAverage(deepcopy(t.model), .9)
    t.optimizer = torch.optim.SGD(t.model.parameters(), .1)
    t._optimize = MethodType(Trainer._optimize, t)
    for _ in range(2):  # the discriminator learns in the second
        t._step(batch(2), t.batch + 1)
        t.batch += 1
    assert t.steps == 2
    with pytest.raises(unread, match='meta'):
        t.window.means(world)


def test_scaler_and_optimizer_read_nothing_off_the_device():
    class Reads(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **kwargs or {})

    t = trainer(World(0, 1, torch.device('cpu')))
    t._step(batch(2), 1)
    t.optimizer, t.scaler = torch.optim.AdamW(t.model.parameters(), fused=True), torch.amp.GradScaler('cpu')
    t.scaler.scale(torch.zeros(()))  # makes its tensors
    with Reads() as reads:
        Trainer._optimize(t)
        assert reads.seen == 0
        torch.zeros(()).item()
    assert reads.seen == 1


def test_clipping_and_the_moving_average():
    t = trainer(World(0, 1, torch.device('cpu')))
    t._step(batch(2), 1)
    t.options.grad_clip, t.ema = .5, MovingAverage(deepcopy(t.model), .75)
    before = torch.nn.utils.parameters_to_vector(t.model.parameters())
    length = torch.nn.utils.get_total_norm([p.grad for p in t.model.parameters() if p.grad is not None])
    assert Trainer._optimize(t) == length > 1
    moved = torch.nn.utils.parameters_to_vector(t.model.parameters()) - before  # by SGD at a rate of 1
    assert moved.norm().item() == pytest.approx(.5, rel=1e-3)
    averaged = torch.nn.utils.parameters_to_vector(t.averaged.parameters())
    assert torch.allclose(averaged, before + moved / 4, atol=1e-6)
    assert all(p.grad is None for p in t.model.parameters())


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 30))
def test_cosine_falls_to_its_floor(per_epoch, epochs, warmup):
    factor = partial(rate_factor, steps_per_epoch=per_epoch, epochs=epochs, schedule='cosine', warmup_steps=warmup)
    total = per_epoch * epochs
    after = [factor(step) for step in range(warmup, total)]
    assert after == sorted(after, reverse=True)
    assert all(0 < factor(step) <= 1 for step in range(total))
    if warmup < total:
        assert factor(total) == pytest.approx(COSINE_FLOOR)


def test_published_steps():
    factor = partial(rate_factor, steps_per_epoch=10, epochs=100, decay_epochs=(-20, -10))
    assert [factor(10 * (epoch - 1)) for epoch in (1, 80, 81, 90, 91, 100)] == [1, 1, .5, .5, .25, .25]
    assert rate_factor(999, 10, 100) == 1
    assert [rate_factor(step, 10, 100, warmup_steps=3) for step in range(5)] == [.25, .5, .75, 1, 1]


def test_kept_epochs():
    assert [e for e in range(1, 501) if is_checkpoint(e, 500, 50, 5)] == list(range(455, 501, 5))
    assert [e for e in range(1, 8) if is_checkpoint(e, 7, 50, 5)] == [5, 7]


def test_validated_epochs():
    assert [e for e in range(1, 8) if is_validation(e, 7, 3)] == [3, 6, 7]
    assert not any(is_validation(e, 7, 0) for e in range(1, 8))


def test_saving_by_steps_and_by_the_clock(monkeypatch):
    assert [step for step in range(1, 9) if SaveInterval('3').after(step)] == [3, 6]
    assert not any(SaveInterval('0').after(step) or SaveInterval('0').passed() for step in range(1, 9))
    minutes = iter((0, 5, 10, 11, 19, 20.5, 20.6))
    monkeypatch.setattr(time, 'monotonic', lambda: 60 * now[0])
    now = [next(minutes)]
    interval, passed = SaveInterval('10min'), []
    for now[0] in minutes:
        passed.append(interval.passed())
    assert passed == [False, True, False, False, True, False]
    assert not interval.after(10)


def _wish(rank: int, size: int, port: int, path: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=size)
    stop = StopRequest(World(rank, size, torch.device('cpu')))
    answers = [stop.agreed(save=rank == 0 and step == 2) for step in range(5)]
    stop.close()
    torch.save(answers, f'{path}/{rank}.pt')
    dist.destroy_process_group()


def test_all_ranks_save_after_the_same_step(tmp_path):
    call(_wish, 2, str(tmp_path))
    for rank in (0, 1):
        answers = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        assert [save for _, save in answers] == [False, False, False, True, False]
        assert not any(stop for stop, _ in answers)


def test_state_survives_a_failed_write(tmp_path, monkeypatch):
    save_state(tmp_path, {'step': 1})
    save_state(tmp_path, {'step': 2})

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        save_state(tmp_path, {'step': 3})
    assert load_state(tmp_path) == {'step': 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([LAST, PREVIOUS])


def test_a_full_disk_is_an_error_that_leaves_what_was_there(tmp_path):
    save_state(tmp_path, {'step': torch.ones(3)})
    (tmp_path / 'epoch_1.pth').write_bytes(b'before')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r'last\.pt.*is the disk full'):
            save_state(tmp_path, {'step': torch.zeros(100_000)})
        with pytest.raises(OSError, match=r'epoch_1\.pth.*is the disk full'):
            write_state({'weight': torch.zeros(100_000)}, tmp_path / 'epoch_1.pth')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_state(tmp_path)['step'].tolist() == [1, 1, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['epoch_1.pth', LAST]
    assert (tmp_path / 'epoch_1.pth').read_bytes() == b'before'


def test_a_single_changed_byte_is_damage(tmp_path, caplog):
    save_state(tmp_path, {'step': torch.zeros(100)})
    save_state(tmp_path, {'step': torch.ones(100)})
    content = (tmp_path / LAST).read_bytes()
    at = content.index(torch.ones(100).numpy().tobytes()) + 200
    (tmp_path / LAST).write_bytes(content[:at] + b'?' + content[at + 1:])
    assert load_state(tmp_path)['step'].sum() == 0
    assert f'{tmp_path / LAST}: damaged' in caplog.text


def test_a_state_that_is_damaged_throughout_is_an_error(tmp_path):
    assert load_state(tmp_path) is None
    (tmp_path / LAST).write_bytes(b'PK nonsense')
    with pytest.raises(ValueError, match='damaged'):
        load_state(tmp_path)
