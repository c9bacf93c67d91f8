import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import config
import loss
from config import Config, task_record
from loss import PIXEL_LOSSES, Criterion
from models.discriminator import Discriminator

GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'losses.json').read_text())
CASES = [case for case, figures in GOLDEN.items() if 'losses' in figures]
DEFAULT = {'bce': 30.0, 'iou': 0.5, 'ssim': 10.0}
ALL = dict.fromkeys(PIXEL_LOSSES, 1.0)


class Output(NamedTuple):
    logits: list[Tensor]
    edge_pairs: Sequence[tuple[Tensor, Tensor]] = ()
    class_logits: Tensor | None = None


def seeded(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def golden_logit(name: str, shape: list[int]) -> Tensor:
    values = seeded(name).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(2 * values).requires_grad_()


def golden_mask(case: str) -> Tensor:
    values = seeded(f'loss-gt-{case}').random(GOLDEN[case]['shape'])
    return torch.from_numpy((values > 0.6).astype(np.float32))


def random_pair(
    seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logit = torch.randn(shape, generator=generator, dtype=dtype) * 3
    mask = torch.rand(shape, generator=generator, dtype=dtype).gt(0.5).to(dtype)
    return logit, logit.sigmoid(), mask


sizes = st.tuples(st.integers(1, 3), st.just(1), st.integers(3, 150), st.integers(3, 150))
seeds = st.integers(0, 2 ** 31)
few = settings(max_examples=15, deadline=None)


# --- The registry ---------------------------------------------------------------------------------


def test_registered_losses_are_those_of_the_config() -> None:
    assert set(PIXEL_LOSSES) == set(config.PIXEL_LOSSES)


def test_a_name_is_registered_once() -> None:
    def bce(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
        return p.mean()

    with pytest.raises(ValueError, match='bce is registered already'):
        loss.pixel_loss()(bce)


# --- Golden values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('case', 'name'), [(case, name) for case in CASES for name in GOLDEN[case]['losses']])
def test_golden_value_and_gradient(case: str, name: str) -> None:
    expected = GOLDEN[case]['losses'][name]
    logit = golden_logit(f'loss-logit-{case}', GOLDEN[case]['shape'])
    value = PIXEL_LOSSES[name].function(logit, logit.sigmoid(), golden_mask(case))
    value.backward()
    assert value.item() == pytest.approx(expected['value'], rel=2e-6)
    assert logit.grad.norm().item() == pytest.approx(expected['grad_norm'], rel=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_golden_sum_over_outputs(case: str) -> None:
    height, width = GOLDEN[case]['shape'][2:]
    sizes = [(height // n, width // n) for n in (16, 8, 4, 1)]
    leading = GOLDEN[case]['shape'][:2]
    logits = [golden_logit(f'loss-scale{i}-{case}', [*leading, *size])
              for i, size in enumerate(sizes)]
    terms = loss.pixel_terms(logits, golden_mask(case), {**DEFAULT, 'mae': 0})
    assert sum(terms.values()).item() == pytest.approx(GOLDEN[case]['pix_total'], rel=2e-6)
    means = {name: term.item() / 4 for name, term in terms.items()}
    assert means == pytest.approx(GOLDEN[case]['pix_terms'], rel=2e-6)


# --- Pixel losses ---------------------------------------------------------------------------------


@few
@given(sizes, seeds)
def test_iou_patch_is_the_naive_loop(shape: tuple[int, ...], seed: int) -> None:
    _, p, g = random_pair(seed, shape)
    expected = sum(loss.iou(p, p[..., y:y + 64, x:x + 64], g[..., y:y + 64, x:x + 64])
                   for y in range(0, shape[2], 64) for x in range(0, shape[3], 64))
    torch.testing.assert_close(loss.iou_patch(p, p, g), expected)


def naive_ssim(p: Tensor, g: Tensor) -> Tensor:
    taps = torch.exp(-(torch.arange(11, dtype=p.dtype) - 5) ** 2 / (2 * 1.5 ** 2))
    kernel = torch.outer(taps, taps) / taps.sum() ** 2

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel[None, None], padding=5)

    mp, mg = blur(p), blur(g)
    vp, vg, cov = blur(p * p) - mp ** 2, blur(g * g) - mg ** 2, blur(p * g) - mp * mg
    s = (2 * mp * mg + 1e-4) * (2 * cov + 9e-4) / ((mp ** 2 + mg ** 2 + 1e-4) * (vp + vg + 9e-4))
    return (1 - s.mean()) / 2


@few
@given(sizes, seeds)
def test_ssim_is_a_two_dimensional_convolution(shape: tuple[int, ...], seed: int) -> None:
    _, p, g = random_pair(seed, shape)
    p.requires_grad_()
    ours, naive = loss.ssim(p, p, g), naive_ssim(p, g)
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-7)
    (gradient,), (expected,) = torch.autograd.grad(ours, p), torch.autograd.grad(naive, p)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_blur_gradients() -> None:
    x = torch.rand(1, 2, 7, 13, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss._Blur.apply, x)
    assert torch.autograd.gradgradcheck(loss._Blur.apply, x)


@few
@given(sizes, seeds)
def test_perfect_prediction_is_best_and_nothing_is_negative(
    shape: tuple[int, ...], seed: int,
) -> None:
    _, _, g = random_pair(seed, shape)
    rough = random_pair(seed + 1, shape)[0]
    perfect = (2 * g - 1) * 40
    for name, registered in PIXEL_LOSSES.items():
        best, other = (registered.function(z, z.sigmoid(), g) for z in (perfect, rough))
        assert other >= 0, name
        assert best >= -1e-12, name
        if name != 'cnt':  # which also measures the contour of the truth itself
            assert best <= other, name


@pytest.mark.parametrize('name', ['bce', 'mae', 'mse', 'ssim', 'structure'])
def test_perfect_prediction_costs_nothing(name: str) -> None:
    _, _, g = random_pair(0, (2, 1, 70, 40))
    perfect = (2 * g - 1) * 40
    value = PIXEL_LOSSES[name].function(perfect, perfect.sigmoid(), g).item()
    assert value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('name', PIXEL_LOSSES)
@pytest.mark.parametrize('fill', ['empty', 'full', 'random'])
@pytest.mark.parametrize('sign', [-1, 1])
def test_extreme_logits_stay_finite(name: str, fill: str, sign: int) -> None:
    g = {'empty': torch.zeros(2, 1, 80, 70), 'full': torch.ones(2, 1, 80, 70),
         'random': (torch.rand(2, 1, 80, 70) > 0.5).float()}[fill]
    uniform = torch.full_like(g, sign * 1e4)
    extreme = sign * 1e4 * (2 * g - 1)
    for logit in (uniform, extreme, torch.randn_like(g) * 1e4):
        logit.requires_grad_()
        value = loss.pixel_terms([logit], g, {name: 1.0})[name]
        value.backward()
        assert value.isfinite()
        assert logit.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logit = torch.randn(2, 1, 40, 30).to(dtype).requires_grad_()
    mask = (torch.rand(2, 1, 80, 60) > 0.5).float()
    reference = loss.pixel_terms([logit.float()], mask, ALL)
    with torch.autocast('cpu', torch.bfloat16):
        terms = loss.pixel_terms([logit], mask.to(dtype), ALL)
        outward = loss.edge_loss([(logit, mask.to(dtype))])
        classes = loss.class_loss(torch.randn(2, 5).to(dtype), torch.tensor([0, 3]))
    sum(terms.values()).backward()
    assert logit.grad.isfinite().all()
    assert {value.dtype for value in (*terms.values(), outward, classes)} == {torch.float32}
    for name in ALL:
        torch.testing.assert_close(terms[name], reference[name])


def test_double_precision_logits_stay_so() -> None:
    logit, _, g = random_pair(0, (1, 1, 20, 20))
    single = loss.pixel_terms([logit], g.float(), ALL)
    for name, value in loss.pixel_terms([logit], g, ALL).items():
        assert value.dtype == single[name].dtype == torch.float64
        assert value == single[name]


def test_zero_weights_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIXEL_LOSSES, 'cnt', None)
    logit, _, g = random_pair(0, (1, 1, 20, 20))
    assert loss.pixel_terms([logit], g, {'cnt': 0, 'bce': 1}).keys() == {'bce'}


def test_each_loss_is_a_sum_or_a_mean_over_the_batch_as_registered() -> None:
    summed = {name for name, registered in PIXEL_LOSSES.items() if registered.summed_over_batch}
    assert summed == {'iou', 'iou_patch'}
    logit, _, g = random_pair(0, (1, 1, 20, 20))
    one = loss.pixel_terms([logit], g, ALL)
    three = loss.pixel_terms([logit.expand(3, -1, -1, -1)], g.expand(3, -1, -1, -1), ALL)
    for name in ALL:
        factor = 3 if name in summed else 1
        torch.testing.assert_close(three[name], one[name] * factor)


# --- Edge and class loss --------------------------------------------------------------------------


def test_edge_loss_flows_into_prediction_and_label() -> None:
    pairs = [(torch.randn(2, 1, n, n, dtype=torch.float64, requires_grad=True),
              torch.randn(2, 1, 2 * n, 2 * n, dtype=torch.float64, requires_grad=True))
              for n in (3, 4)]
    value = loss.edge_loss(pairs)
    expected = 0
    for prediction, label in pairs:
        resized = F.interpolate(
            prediction, size=label.shape[2:], mode='bilinear', align_corners=True)
        q = resized.sigmoid()
        t = label.sigmoid()
        expected = expected - (t * q.log() + (1 - t) * (1 - q).log()).mean()
    torch.testing.assert_close(value, expected)
    leaves = [x for pair in pairs for x in pair]
    gradients = torch.autograd.grad(value, leaves)
    expected_gradients = torch.autograd.grad(expected, leaves)
    for ours, naive in zip(gradients, expected_gradients, strict=True):
        assert naive.norm() > 0
        torch.testing.assert_close(ours, naive)


def test_edge_loss_of_extreme_logits() -> None:
    values = torch.tensor([1e4, -1e4, 1e4, -1e4]).view(1, 1, 2, 2)
    prediction = values.clone().requires_grad_()
    label = values.clone().requires_grad_()
    loss.edge_loss([(prediction, -label)]).backward()
    assert prediction.grad.isfinite().all()
    assert label.grad.isfinite().all()


# --- Tail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(('task', 'epochs', 'first'), [
    ('DIS5K', 500, 461),
    ('COD', 150, 131),
    ('General-2K', 250, 231),
    ('Matting', 150, 141),
    ('my own', 100, 81),
])
def test_tail_begins_where_published(task: str, epochs: int, first: int) -> None:
    weights = {'bce': 30.0, 'iou': 0.5, 'mae': 100.0, 'mse': 3.0, 'ssim': 10.0}
    tail, factors = Config(task=task, epochs=epochs).tail_epochs, task_record(task).tail_factors
    assert loss.tail_weights(weights, factors, first - 1, epochs, tail) == weights
    once = loss.tail_weights(weights, factors, first, epochs, tail)
    last = loss.tail_weights(weights, factors, epochs, epochs, tail)
    n = epochs - first + 1
    if task == 'Matting':
        assert once == pytest.approx({**weights, 'mse': 2.7, 'ssim': 9.0})
        assert last == pytest.approx({**weights, 'mse': 3 * 0.9 ** n, 'ssim': 10 * 0.9 ** n})
    else:
        assert once == pytest.approx({**weights, 'bce': 0, 'iou': 0.25, 'mae': 90})
        shrunk = {'bce': 0, 'iou': 0.5 * 0.5 ** n, 'mae': 100 * 0.9 ** n}
        assert last == pytest.approx({**weights, **shrunk})


@few
@given(st.sampled_from(['DIS5K', 'COD', 'Matting']), st.integers(1, 80), st.integers(0, 60))
def test_tail_compounds_and_needs_no_history(task: str, epochs: int, last: int) -> None:
    weights, factors = dict.fromkeys(PIXEL_LOSSES, 2.0), {'bce': 0, 'iou': 0.5, 'mae': 0.9}
    if task == 'Matting':
        factors = {'mse': 0.9, 'ssim': 0.9}
    running = weights
    # A loop that multiplies as it goes must agree with the function of the epoch.
    for epoch in range(1, epochs + 1):
        if epoch > epochs - last:
            running = {name: weight * factors.get(name, 1) for name, weight in running.items()}
        published = task_record(task).tail_factors
        found = loss.tail_weights(weights, published, epoch, epochs, last)
        assert found == pytest.approx(running)


# --- Criterion ------------------------------------------------------------------------------------


def test_criterion_names_and_weighs_the_terms() -> None:
    logit, _, g = random_pair(0, (2, 1, 20, 20))
    pair, scores, ids = (logit[..., ::2, ::2], logit), torch.randn(2, 7), torch.tensor([1, 6])
    criterion = Criterion(DEFAULT, 500, 40, task_record('DIS5K').tail_factors)
    assert criterion(Output([logit]), g, epoch=1).keys() == DEFAULT.keys()
    terms = criterion(Output([logit, logit], [pair] * 3, scores), g, ids, epoch=461)
    assert terms.keys() == {'iou', 'ssim', 'edge', 'class'}
    torch.testing.assert_close(terms['iou'], 0.25 * 2 * loss.iou(logit, logit.sigmoid(), g))
    torch.testing.assert_close(terms['edge'], 3 * loss.edge_loss([pair]))
    torch.testing.assert_close(terms['class'], 5 * loss.class_loss(scores, ids))


def test_criterion_refuses_weights_that_cannot_train() -> None:
    with pytest.raises(ValueError, match=r'unknown bec, iuo.*bce, iou'):
        Criterion({'bce': 1, 'iuo': 1, 'bec': 2}, 150)
    with pytest.raises(ValueError, match='epoch 150 of 150'):
        Criterion({'bce': 30}, 150, 20, {'bce': 0.0})
    Criterion({'bce': 30}, 150)


# --- Adversarial ----------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(64, 48), (50, 33), (16, 16)])
@pytest.mark.parametrize('batch', [1, 2])
def test_discriminator_takes_its_size(size: tuple[int, int], batch: int) -> None:
    discriminator = Discriminator(size)
    norms = [m for m in discriminator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [(m.num_features, m.eps) for m in norms] == [(32, 0.8), (64, 0.8), (128, 0.8)]
    assert discriminator(torch.rand(batch, 3, size[1], size[0])).shape == (batch, 1)
    single_value = batch == 1 and size == (16, 16)
    assert norms[-1].num_batches_tracked == (0 if single_value else 1)


def test_dynamic_discriminator_takes_any_size_and_agrees_on_its_own() -> None:
    fixed, dynamic = Discriminator((64, 48)).eval(), Discriminator((64, 48), dynamic=True).eval()
    dynamic.load_state_dict(fixed.state_dict())
    image = torch.rand(2, 3, 48, 64)
    torch.testing.assert_close(dynamic(image), fixed(image))
    assert dynamic(torch.rand(2, 3, 96, 32)).shape == (2, 1)


def test_adversarial_losses_are_cross_entropies() -> None:
    class MeanOfInput(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None]

    image = torch.full((1, 3, 4, 4), 2.0)
    p = torch.full((1, 1, 4, 4), 0.25)
    gt = torch.ones(1, 1, 4, 4)
    softplus = F.softplus(torch.tensor([-0.5, -2.0, 0.5]))  # p * image is 0.5, gt * image is 2
    torch.testing.assert_close(loss.generator_loss(MeanOfInput(), p, image), softplus[0])
    found = loss.discriminator_loss(MeanOfInput(), p, gt, image)
    torch.testing.assert_close(found, (softplus[1] + softplus[2]) / 2)


def test_adversarial_gradients_stay_on_their_side() -> None:
    discriminator, image = Discriminator((32, 32)), torch.randn(2, 3, 32, 32)
    logit = torch.randn(2, 1, 32, 32, requires_grad=True)
    gt = torch.ones(2, 1, 32, 32)
    loss.discriminator_loss(discriminator, logit.sigmoid(), gt, image).backward()
    assert logit.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())
    discriminator.zero_grad()
    loss.generator_loss(discriminator, logit.sigmoid(), image).backward()
    assert logit.grad.norm() > 0
    assert all(p.grad is None for p in discriminator.parameters())


def test_adversarial_losses_under_autocast() -> None:
    discriminator, image = Discriminator((32, 32)), torch.randn(2, 3, 32, 32)
    p = torch.rand(2, 1, 32, 32)
    with torch.autocast('cpu', torch.bfloat16):
        for value in (loss.generator_loss(discriminator, p, image),
                      loss.discriminator_loss(discriminator, p, p.round(), image)):
            assert value.dtype == torch.float32
            assert value.isfinite()


def test_adversarial_game_is_learnt() -> None:
    """A discriminator learns to tell disc from noise; then a free mask learns to fool it."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing='ij')
    gt, image = (x ** 2 + y ** 2 < 0.5).float().expand(4, 1, 32, 32), torch.ones(4, 3, 32, 32)
    logit, discriminator = torch.randn(4, 1, 32, 32, requires_grad=True), Discriminator((32, 32))

    def train(
        parameters: list[Tensor], value: Callable[[], Tensor], steps: int,
    ) -> tuple[float, float]:
        optimizer = torch.optim.Adam(parameters, lr=3e-3 if len(parameters) > 1 else 0.1)
        values = []
        for _ in range(steps):
            optimizer.zero_grad()
            values.append(value())
            values[-1].backward()
            optimizer.step()
        return values[0].item(), values[-1].item()

    first, last = train(list(discriminator.parameters()),
                        lambda: loss.discriminator_loss(discriminator, logit.sigmoid(), gt, image),
                        30)
    assert last < 0.5 * first
    discriminator.eval()
    first, last = train(
        [logit], lambda: loss.generator_loss(discriminator, logit.sigmoid(), image), 40)
    assert last < 0.5 * first
