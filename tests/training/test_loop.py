"""Gradients of divided batches, schedules, the state on disk."""

import os
from functools import partial

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from config import Config
from dataset import Batch
from loss import Criterion
from models import BiRefNet
from tests.training.runs import call
from training.distributed import World
from training.loop import NonFiniteLossError, Options, Trainer
from training.schedule import COSINE_FLOOR, is_checkpoint, rate_factor
from training.state import LAST, PREVIOUS, load_state, save_state


def batch(n: int) -> Batch:
    rng = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (n, 3, 64, 32), dtype=torch.uint8, generator=rng)
    mask = torch.randint(0, 2, (n, 1, 64, 32), dtype=torch.uint8, generator=rng) * 255
    return Batch(image, mask, [''] * n, torch.full((n,), -1), [])


def part(whole: Batch, start: int, stop: int) -> Batch:
    return Batch(*(values[start:stop] for values in whole))


def trainer(world: World, accumulate: int = 1) -> Trainer:
    """A trainer whose network has nothing random and no statistics of the batch, and which keeps its gradients."""
    torch.manual_seed(0)
    model = BiRefNet(Config(bb='pvt_v2_b0', mul_scl_ipt='', size=(32, 64), dec_att='ASPP'))
    weights = {'bce': 30., 'iou': .5, 'iou_patch': .5, 'ssim': 10., 'structure': 1.}
    made = Trainer(model, torch.optim.SGD(model.parameters(), 1.), Criterion(weights, 'COD', 10), lambda step: 1.,
                   Options(accumulate=accumulate), world)
    made.net.train()
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Dropout)) or type(module).__name__ == 'DropPath':
            module.eval()
    made._optimize = lambda: torch.zeros(())
    return made


def gradients(t: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in t.model.named_parameters() if p.grad is not None}


def assert_equal_gradients(ours: dict, expected: dict) -> None:
    assert ours.keys() == expected.keys()
    for name, grad in expected.items():
        assert (ours[name] - grad).norm() <= 2e-4 * grad.norm() + 1e-6, name


@pytest.fixture(scope='module')
def joined() -> dict[str, torch.Tensor]:
    """Gradients of one process on a batch of 4."""
    t = trainer(World(0, 1, torch.device('cpu')))
    t._step(batch(4), 1)
    return gradients(t)


def test_accumulated_gradients_are_those_of_the_joined_batch(joined):
    t = trainer(World(0, 1, torch.device('cpu')), accumulate=2)
    for i in (0, 1):
        t._step(part(batch(4), 2 * i, 2 * i + 2), 2)
        t.batch += 1
    assert_equal_gradients(gradients(t), joined)


def _rank_gradients(rank: int, size: int, port: int, path: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=size)
    t = trainer(World(rank, size, torch.device('cpu')))
    share = 4 // size
    t._step(part(batch(4), rank * share, (rank + 1) * share), 1)
    torch.save(gradients(t), f'{path}/{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_the_joined_batch(joined, tmp_path):
    call(_rank_gradients, 2, str(tmp_path))
    for rank in (0, 1):
        assert_equal_gradients(torch.load(tmp_path / f'{rank}.pt', weights_only=True), joined)


def test_non_finite_loss_says_where():
    t = trainer(World(0, 1, torch.device('cpu')))
    with torch.no_grad():
        t.model.decoder.head.bias.fill_(float('nan'))
    with pytest.raises(NonFiniteLossError, match=r'step 1 .*bce'):
        t._step(batch(2), 1)


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


def test_kept_epochs():
    assert [e for e in range(1, 501) if is_checkpoint(e, 500, 50, 5)] == list(range(455, 501, 5))
    assert [e for e in range(1, 8) if is_checkpoint(e, 7, 50, 5)] == [5, 7]


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


def test_a_state_that_is_damaged_throughout_is_an_error(tmp_path):
    assert load_state(tmp_path) is None
    (tmp_path / LAST).write_bytes(b'PK nonsense')
    with pytest.raises(ValueError, match='damaged'):
        load_state(tmp_path)
