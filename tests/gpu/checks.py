"""What must hold on a GPU, each as a function of the device.

A CPU passes most of them too, which shows that the checks themselves are sound; those of GPU_ONLY
are about what a CPU lacks or takes too long over. No package is needed but those that the network,
training and pytest need.

Where two devices, layouts or wrappers compute the same, they do so in float64. It keeps 53 bits,
2e-16: sums of up to 10^4 terms in another order lose at most four digits of 16 and a hundred layers
two more, so that EXACT leaves one to spare. Results of fewer bits differ from float64's by
rounding: a hundred layers that each add a third of a unit in the mean square make three units, and
the largest of some thousand values is four times that, 16 at most. They sum in float32, whose own
results lose up to ten times as much where sums of thousands of terms are subtracted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torchvision.ops
from torch import Tensor, nn

from config import Config
from dataset import Batch, TrainSet, build_loader, find_pairs
from exporting.hub import save_pretrained
from inference import predict
from inference.memory import free_memory
from inference.network import BYTES, BYTES_PER_PIXEL, Predictor
from loss import Criterion
from models import build_birefnet, load_model, optimize, save_checkpoint
from models.modules.deform_conv import deform_conv2d
from models.modules.norm import BatchNorm2d
from runtime.distributed import World
from tests.models import small
from tests.training.runs import make_data
from training.networks import TrainedNetwork, distribute
from training.sharding import gather_whole, shard
from training.state import load_state, save_state
from training.sync_bn import synchronise
from training.trainer import StepOptions, Trainer

# cuBLAS reads it once, before any deterministic check.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

ROOT = Path(__file__).parents[2]
EXACT = 1e-9
# The network of checks that are not about its every part.
LIGHT = {'deform_kernels': (3,), 'mul_scl_ipt': ''}
WEIGHTS = {'bce': 30., 'iou': .5, 'ssim': 10.}
CPU = torch.device('cpu')


# --- What the checks share ------------------------------------------------------------------------


def rounding(dtype: torch.dtype) -> float:
    """What the network's results in `dtype` may differ by."""
    return (160 if dtype == torch.float32 else 16) * torch.finfo(dtype).eps


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the expected values' deviation."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).abs().max() / expected.std())


def assert_equal_gradients(
    found: dict[str, Tensor],
    expected: dict[str, Tensor],
    tolerance: float = EXACT,
) -> None:
    """Each within `tolerance` of its own norm, or of the largest where it is rounding alone."""
    assert found.keys() == expected.keys()
    largest = max(value.norm() for value in expected.values())
    for name, value in expected.items():
        distance = (found[name].cpu() - value.cpu()).norm()
        assert distance <= tolerance * (value.norm() + largest), name


def images(count: int = 2, height: int = 64, width: int = 64) -> Batch:
    """Random pictures and masks, always the same."""
    rng = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=rng)
    mask = torch.randint(0, 2, (count, 1, height, width), dtype=torch.uint8, generator=rng) * 255
    return Batch(image, mask, [''] * count, torch.full((count,), -1), [])


def loss_and_gradients(model: nn.Module, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Of one step in float64."""
    batch = images()
    image, mask = (t.to(device).double() / 255 for t in (batch.image, batch.mask))
    terms = Criterion(WEIGHTS, 10)(model(image, side_outputs=True), mask, epoch=1)
    loss = sum(terms.values())
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name.removeprefix('module.')] = parameter.grad
    return loss.detach(), gradients


def expected_step() -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of the bare network on the CPU."""
    return loss_and_gradients(double_network(CPU), CPU)


def double_network(device: torch.device) -> nn.Module:
    """A network for `loss_and_gradients`."""
    return prepare_double(small.build(**LIGHT), device)


def prepare_double(model: nn.Module, device: torch.device) -> nn.Module:
    """The network in float64, in training mode without randomness."""
    small.without_randomness(model)
    return model.double().to(device)


def build_trainer(device: torch.device, precision: str = 'no') -> Trainer:
    """A trainer of one process, with all that is random in training."""
    model = small.build(**LIGHT).train().to(device)
    torch.manual_seed(2)
    world = World(0, 1, device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    return trainer_of(TrainedNetwork(model, optimizer, world), world, precision)


def trainer_of(network: TrainedNetwork, world: World, precision: str) -> Trainer:
    options = StepOptions(mixed_precision=precision)
    return Trainer(network, Criterion(WEIGHTS, 10), lambda step: 1., options, world)


def step_losses(trainer: Trainer, count: int) -> list[float]:
    """Trains `count` steps; the loss of each."""
    losses = []
    for _ in range(count):
        trainer.step(images())
        losses.append(trainer.take_means()['loss'])
    return losses


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """A group of this process alone. Its World says two, without which nothing would be wrapped."""
    backend = 'cuda:nccl,cpu:gloo' if device.type == 'cuda' else 'gloo'
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield World(0, 2, device)
    finally:
        dist.destroy_process_group()


@contextmanager
def deterministic() -> Iterator[None]:
    """Equal runs give equal bits within."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# --- The network ----------------------------------------------------------------------------------


def check_forward(device: torch.device) -> None:
    """The network's map is the CPU's, for a convolutional pyramid and a windowed backbone."""
    for bb in ('pvt_v2_b0', 'swin_v1_t'):
        model = small.build(bb=bb).double()
        image = small.image().double()
        expected = small.output(model, image)
        found = small.output(model.to(device), image.to(device))
        assert difference(found, expected) < EXACT, bb


def check_training_step(device: torch.device) -> None:
    """Loss and gradients are the CPU's, statistics of the batch included."""
    loss, gradients = loss_and_gradients(prepare_double(small.build(), CPU), CPU)
    found, own = loss_and_gradients(prepare_double(small.build(), device), device)
    assert abs(found.cpu() - loss) < EXACT * loss
    assert_equal_gradients(own, gradients)


def check_deformable_convolution(device: torch.device) -> None:
    """The operator and its gradients are torchvision's, in deterministic runs too."""
    for kernel in (1, 3, 7):
        x, offset, modulation, weight = inputs = operator_inputs(kernel, device)
        expected = torchvision.ops.deform_conv2d(
            x, offset, weight, mask=modulation, padding=kernel // 2)
        gradients = torch.autograd.grad(expected.square().sum(), inputs)
        assert_operator(inputs, expected, gradients)
        with deterministic():
            assert_operator(inputs, expected, gradients)
            first = operator_gradients(inputs)
            second = operator_gradients(inputs)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def operator_inputs(kernel: int, device: torch.device) -> list[Tensor]:
    """Random image, offsets, modulation and weight, in float64."""
    generator = torch.Generator().manual_seed(kernel)
    taps = kernel ** 2
    shapes = ((2, 8, 12, 9), (2, 2 * taps, 12, 9), (2, taps, 12, 9), (5, 8, kernel, kernel))
    inputs = []
    for shape in shapes:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        inputs.append(values.to(device).requires_grad_())
    return inputs


def operator_gradients(inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of the squared sum of our operator's output."""
    return torch.autograd.grad(deform_conv2d(*inputs).square().sum(), inputs)


def assert_operator(inputs: list[Tensor], expected: Tensor, gradients: tuple[Tensor, ...]) -> None:
    """Our operator's output and gradients."""
    assert difference(deform_conv2d(*inputs), expected) < EXACT
    for own, other in zip(operator_gradients(inputs), gradients, strict=True):
        assert difference(own, other) < EXACT


def check_channels_last(device: torch.device) -> None:
    """Either memory format gives the same map."""
    model, image = small.build().double().to(device), small.image().double().to(device)
    expected = small.output(model, image)
    model.to(memory_format=torch.channels_last)
    found = small.output(model, image.contiguous(memory_format=torch.channels_last))
    assert difference(found, expected) < EXACT


def check_optimize(device: torch.device, dtype: torch.dtype, compile: bool = False) -> None:
    """`optimize` gives the plain network's map, to the rounding of its dtype."""
    model = small.build()
    fast = optimize(model.to(device), dtype, compile)
    found = small.output(fast, small.image().to(device))
    expected = small.output(model.cpu().double(), small.image().double())
    assert difference(found, expected) < rounding(dtype)


def check_compiled_step(device: torch.device) -> None:
    """A step of the compiled network has the loss and the gradients of the plain one."""
    loss, gradients = expected_step()
    model = double_network(device)
    for part in (model.encoder.backbone, model.decoder):
        part.compile()
    found, own = loss_and_gradients(model, device)
    assert abs(found.cpu() - loss) < EXACT * loss
    assert_equal_gradients(own, gradients)


# --- Training -------------------------------------------------------------------------------------


def check_autocast(device: torch.device, precision: str) -> None:
    """Steps under autocast start from the float32 loss and move weights that stay float32."""
    dtype = {'bf16': torch.bfloat16, 'fp16': torch.float16}[precision]
    plain = step_losses(build_trainer(device), 1)[0]
    trainer = build_trainer(device, precision)
    losses = step_losses(trainer, 3)
    assert abs(losses[0] - plain) < rounding(dtype) * plain
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())
    assert trainer.scaler.is_enabled() == (precision == 'fp16')
    assert losses[-1] != losses[0]


def check_overflow(device: torch.device) -> None:
    """Under fp16 an infinite gradient halves the scale and leaves the weights alone."""
    trainer = build_trainer(device, 'fp16')
    trainer.accumulate_gradients(images())
    before = [p.clone() for p in trainer.model.parameters()]
    scale = trainer.scaler.get_scale()
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    gradients[0].view(-1)[0] = torch.inf
    assert trainer.update_weights() == 0
    assert trainer.scaler.get_scale() == scale / 2
    assert all(torch.equal(p, q) for p, q in zip(trainer.model.parameters(), before, strict=True))


def check_loading(device: torch.device, folder: Path) -> None:
    """Batches of worker processes, in pinned memory for a GPU, are those of this process."""
    pairs = find_pairs(str(make_data(folder)), 'Tiny', ['TR-Tiny'])
    data, on_gpu = TrainSet(pairs, (64, 32), ('flip',)), device.type == 'cuda'
    order = [[0, 1], [2, 3]]
    plain = list(build_loader(data, order, 0))
    pinned = list(build_loader(data, order, 2 if on_gpu else 0, pin_memory=on_gpu))
    for found, expected in zip(pinned, plain, strict=True):
        assert found.image.is_pinned() == found.mask.is_pinned() == on_gpu
        assert torch.equal(found.image.to(device, non_blocking=True).cpu(), expected.image)


def check_data_parallel(device: torch.device) -> None:
    """DistributedDataParallel of one process has the bare network's gradients."""
    loss, gradients = expected_step()
    with process_group(device) as world:
        net = distribute(double_network(device), world)
        assert isinstance(net, nn.parallel.DistributedDataParallel)
        found, own = loss_and_gradients(net, device)
        assert abs(found.cpu() - loss) < EXACT * loss
        assert_equal_gradients(own, gradients)


def check_synchronised_statistics(device: torch.device) -> None:
    """Under sync_bn one process has output, gradients and running statistics of the plain layer.

    In float32, in which the statistics are summed.
    """
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNorm2d(8)).to(device)
    image = torch.randn(2, 3, 9, 7, device=device)
    with process_group(device) as world:
        synchronised = synchronise(deepcopy(plain), world)
        assert type(synchronised[1]) is not type(plain[1])
        found = norm_results(synchronised, image)
        expected = norm_results(plain, image)
    tolerance = rounding(torch.float32)
    for ours, theirs in zip(found, expected, strict=True):
        absolute = tolerance * float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=absolute)


def norm_results(layers: nn.Sequential, image: Tensor) -> list[Tensor]:
    """Output, running statistics, and gradients of the norm's parameters."""
    output = layers(image)
    output.pow(3).sum().backward()
    gradients = [parameter.grad for parameter in layers[1].parameters()]
    return [output.detach(), *layers.buffers(), *gradients]


def check_sharding(device: torch.device) -> None:
    """A sharded network has the bare one's gradients, takes steps, and its state is whole."""
    loss, gradients = expected_step()
    with process_group(device):
        world = World(0, 1, device)
        model = double_network(device)
        shard(model, world)
        found, own = loss_and_gradients(model, device)
        assert abs(found.cpu() - loss) < EXACT * loss
        assert_equal_gradients({name: grad.full_tensor() for name, grad in own.items()}, gradients)

        model = small.build(**LIGHT).train()
        shard(model, world)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        trainer = trainer_of(TrainedNetwork(model, optimizer, world), world, 'bf16')
        step_losses(trainer, 2)
        bare = build_trainer(device, 'bf16')
        bare.load_state_dict(trainer.state_dict())
        for name, value in gather_whole(trainer.model.state_dict(), world).items():
            assert torch.equal(bare.model.state_dict()[name].cpu(), value.cpu()), name


def check_resume(device: torch.device, folder: Path) -> None:
    """A trainer that resumes has the losses of one that was never stopped, to the bit."""
    with deterministic():
        whole = build_trainer(device, 'bf16')
        step_losses(whole, 2)
        save_state(folder, whole.state_dict())
        expected = step_losses(whole, 2)
        resumed = build_trainer(device, 'bf16')
        resumed.load_state_dict(load_state(folder))
        assert step_losses(resumed, 2) == expected
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


# --- Inference ------------------------------------------------------------------------------------


def check_predict(device: torch.device, folder: Path) -> None:
    """Masks of weights on the device are the CPU's, to one of 255 grey levels.

    Rounding may cross the border between two of them.
    """
    file = folder / 'model.pth'
    save_checkpoint(small.build(), file)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    found = predict(load_model(file, device), pixels, resolution='96x64').astype(int)
    expected = predict(load_model(file, CPU), pixels, resolution='96x64').astype(int)
    assert abs(found - expected).max() <= 1
    assert expected.std() > 0


def check_export(device: torch.device, folder: Path) -> None:
    """Weights on the device are written unchanged, to a checkpoint and to a folder for the hub."""
    model = small.build().to(device)
    save_checkpoint(model, folder / 'model.safetensors')
    save_pretrained(model, folder / 'folder')
    for file in ('model.safetensors', 'folder'):
        copied = load_model(folder / file).state_dict()
        for name, value in model.state_dict().items():
            assert torch.equal(copied[name], value.cpu()), (file, name)


def check_free_memory(device: torch.device) -> None:
    """Free memory is some, and what is taken is missing from it."""
    size = 2 ** 28
    before = free_memory(device)
    assert before > size
    taken = torch.ones(size, dtype=torch.uint8, device=device)
    if device.type == 'cuda':  # other processes move the machine's
        assert abs(before - free_memory(device) - size) < 2 ** 25
    del taken
    if device.type == 'cuda':
        assert abs(before - free_memory(device)) < 2 ** 25


# --- What a CPU lacks, or takes too long over -----------------------------------------------------


def check_memory_estimate(device: torch.device) -> None:
    """Inference runs in no more memory over the weights than what `check_memory` asks for.

    The allocator is held to that much. A peak would tell less, because cuDNN takes larger
    workspaces where memory is free, and does without them where it is not.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    for side in (512, 1024):
        picture = [np.zeros((side, side, 3), np.uint8)]
        model = build_birefnet(Config(bb='swin_v1_t')).eval().to(device)
        for network in (model, optimize(model), optimize(model, torch.bfloat16)):
            predictor = Predictor(network, device)
            torch.cuda.empty_cache()
            stated = BYTES + side ** 2 * getattr(network, 'bytes_per_pixel', BYTES_PER_PIXEL)
            limit = torch.cuda.memory_reserved(device) + stated
            torch.cuda.set_per_process_memory_fraction(limit / total, device)
            try:
                predictor(picture)
            finally:
                torch.cuda.set_per_process_memory_fraction(1., device)


def check_growing_segments(device: torch.device) -> None:
    """What `prepare_device` configures reaches the allocator."""
    code = ('import torch; from runtime.device import prepare_device; '
            f'x = torch.ones(1, device=prepare_device("{device}")); '
            'assert all(segment["is_expandable"] for segment in torch.cuda.memory_snapshot())')
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith('ALLOC_CONF')}
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT, env=environment)


def check_scripts(device: torch.device, folder: Path) -> None:
    """Two equal deterministic runs leave equal files, which test.py and export.py read."""
    data = make_data(folder / 'data')
    common = [
        f'data_root={data}',
        f'pred_root={folder / "masks"}',
        f'device={device.type}',
        'mixed_precision=bf16',
    ]
    training = ('deterministic=true task=Tiny bb=pvt_v2_b0 size=64 batch_size=2 epochs=2 '
                'save_step=1 log_step=1 num_workers=2 grad_checkpointing=true').split()
    runs = [folder / name for name in ('one', 'two')]
    for run in runs:
        call('train.py', '--ckpt_dir', run, *common, *training)
    one, two = ((run / 'log.jsonl').read_text() for run in runs)
    assert one == two
    losses = [json.loads(line).get('loss') for line in one.splitlines()]
    assert any(losses)
    weights = [load_model(run / 'epoch_2.pth').state_dict() for run in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    checkpoint = runs[0] / 'epoch_2.pth'
    call('test.py', '--ckpt', checkpoint, *common)
    assert len(list((folder / 'masks').rglob('*.png'))) == 2
    exported = folder / 'network.pt2'
    call('export.py', 'pt2', '-m', checkpoint, '-o', exported, '--size', '64x64')
    assert exported.exists()


def call(script: str, *arguments: Any) -> None:
    """Runs one of the commands; its output is shown if it fails."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, f'{script}: {done.stdout}\n{done.stderr}'


def variants(check: Callable, *values: Any) -> dict[str, tuple[Callable, tuple]]:
    """One check by the names of its variants."""
    found = {}
    for value in values:
        name = str(value).removeprefix('torch.')
        found[f'{check.__name__}[{name}]'] = (check, (value,))
    return found


def by_name(*checks: Callable) -> dict[str, tuple[Callable, tuple]]:
    """Checks that take the device alone, or a folder besides, by their names."""
    return {check.__name__: (check, ()) for check in checks}


# By name: the check and its arguments behind the device, most important first.
EVERYWHERE: dict[str, tuple[Callable, tuple]] = {
    **by_name(check_forward, check_training_step, check_deformable_convolution),
    **variants(check_optimize, torch.float32, torch.bfloat16, torch.float16),
    **variants(check_autocast, 'bf16'),
    **by_name(
        check_channels_last,
        check_resume,
        check_predict,
        check_export,
        check_loading,
        check_data_parallel,
        check_synchronised_statistics,
        check_sharding,
        check_free_memory,
    ),
}
GPU_ONLY: dict[str, tuple[Callable, tuple]] = {
    **variants(check_autocast, 'fp16'),
    **by_name(
        check_overflow,
        check_memory_estimate,
        check_growing_segments,
        check_scripts,
        check_compiled_step,
    ),
    'check_optimize[compiled]': (check_optimize, (torch.float32, True)),
}
