"""Steps of the trainer: gradients of a divided batch, clipping, EMA, losses that are not finite."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.discriminator import Discriminator
from runtime.distributed import World
from tests.training.runs import call
from tests.training.trainers import (
    EXACT,
    ROUNDING,
    assert_equal_gradients,
    batch,
    build_model,
    build_trainer,
    convert,
    gradients,
    part,
)
from training.average import MovingAverage
from training.means import NonFiniteLossError
from training.networks import TrainedNetwork
from training.sync_bn import synchronise
from training.trainer import StepOptions, Trainer


def after_global_batch(batch_statistics: bool = False) -> Trainer:
    """A single process after the backward pass of a batch of 4."""
    trainer = build_trainer(dtype=EXACT, batch_statistics=batch_statistics)
    trainer.accumulate_gradients(batch(4))
    return trainer


def test_accumulated_gradients_are_those_of_the_global_batch():
    trainer = build_trainer(dtype=EXACT)
    trainer.accumulate_gradients(part(batch(4), 0, 2), group_size=2, completes_group=False)
    trainer.accumulate_gradients(part(batch(4), 2, 4), group_size=2)
    assert_equal_gradients(gradients(trainer), gradients(after_global_batch()))


def _save_rank_gradients(world: World, folder: Path) -> None:
    share = 4 // world.size
    own = part(batch(4), world.rank * share, (world.rank + 1) * share)
    for batch_statistics in (False, True):
        model = convert(build_model(mul_scl_ipt='', dec_att='ASPP'), EXACT)
        if batch_statistics:
            model = synchronise(model, world)
        trainer = build_trainer(world, model, batch_statistics=batch_statistics)
        trainer.accumulate_gradients(own)
        results = [gradients(trainer), dict(trainer.model.named_buffers())]
        torch.save(results, folder / f'{world.rank}{batch_statistics}.pt')


def test_two_processes_have_the_gradients_of_the_global_batch(tmp_path):
    """With statistics of the batch too, under sync_bn."""
    call(_save_rank_gradients, 2, tmp_path)
    for batch_statistics in (False, True):
        expected = after_global_batch(batch_statistics)
        for rank in (0, 1):
            file = tmp_path / f'{rank}{batch_statistics}.pt'
            found, buffers = torch.load(file, weights_only=True)
            assert_equal_gradients(found, gradients(expected))
            for name, value in expected.model.named_buffers():
                assert torch.allclose(buffers[name], value, rtol=ROUNDING, atol=ROUNDING), name


def test_a_loss_that_is_not_finite_names_step_and_term():
    trainer = build_trainer()
    with torch.no_grad():
        trainer.model.decoder.head.bias.fill_(float('nan'))
    with pytest.raises(NonFiniteLossError, match=r'step 1 .*bce'):
        trainer.step(batch(2))


def test_a_step_reads_nothing_off_the_device():
    """On the meta device nothing has a value: reading one (item, bool, tolist, cpu) is an error."""
    world = World(0, 1, torch.device('meta'))
    module = Discriminator((32, 64)).to('meta')
    discriminator = TrainedNetwork(module, torch.optim.SGD(module.parameters(), .1), world)
    options = StepOptions(grad_clip=1., lambda_adv_g=10.)
    trainer = build_trainer(world, options=options, discriminator=discriminator)
    trainer.ema = MovingAverage(deepcopy(trainer.model), .9)
    for _ in range(2):  # the discriminator learns in the second
        trainer.step(batch(2))
    assert trainer.steps == 2
    with pytest.raises((NotImplementedError, RuntimeError), match='meta'):
        trainer.take_means()


class CountReads(TorchDispatchMode):
    """Counts the values that are read off tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **kwargs or {})


def fused_adamw(parameters, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr, fused=True)


def test_scaler_and_optimizer_read_nothing_off_the_device():
    trainer = build_trainer(optimizer=fused_adamw)
    trainer.scaler = torch.amp.GradScaler('cpu')
    trainer.accumulate_gradients(batch(2))
    with CountReads() as reads:
        trainer.update_weights()
        assert reads.count == 0
        torch.zeros(()).item()
    assert reads.count == 1


def test_clipping_and_the_moving_average():
    trainer = build_trainer(options=StepOptions(grad_clip=.5))
    trainer.ema = MovingAverage(deepcopy(trainer.model), .75)
    to_vector = torch.nn.utils.parameters_to_vector
    before = to_vector(trainer.model.parameters())

    trainer.accumulate_gradients(batch(2))
    length = torch.nn.utils.get_total_norm(gradients(trainer).values())
    assert trainer.update_weights() == length > 1

    moved = to_vector(trainer.model.parameters()) - before  # by SGD at a rate of 1
    assert moved.norm().item() == pytest.approx(.5, rel=1e-3)
    averaged = to_vector(trainer.averaged.parameters())
    assert torch.allclose(averaged, before + moved / 4, atol=1e-6)
    assert not gradients(trainer)


def test_a_step_at_the_end_of_a_group_moves_the_weights():
    trainer = build_trainer(options=StepOptions(grad_clip=1.))
    before = trainer.model.decoder.head.weight.clone()
    trainer.step(batch(2), group_size=2, completes_group=False)
    assert (trainer.batch, trainer.steps) == (1, 0)
    assert torch.equal(trainer.model.decoder.head.weight, before)
    trainer.step(batch(2), group_size=2)
    assert (trainer.batch, trainer.steps) == (2, 1)
    assert not torch.equal(trainer.model.decoder.head.weight, before)
