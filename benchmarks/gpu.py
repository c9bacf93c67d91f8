"""Inference and training on a GPU, against the plain network in the same run.

`python -m benchmarks.gpu` prints milliseconds (the median), and GB over the weights at the peak.
Every line is printed, and appended to --json, as soon as it is measured. A case that fails prints
its error, and the next one follows. On a GPU TF32 is on, as training and inference set it. Weights
are random. `--device cpu --size 64x64 --backbones pvt_v2_b0` tries the script itself.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference import Network, build
from config import TASKS, Config
from dataset import Batch
from loss import Criterion
from models import build_birefnet, optimize
from runtime.device import prepare_device
from runtime.distributed import World
from training.networks import TrainedNetwork
from training.trainer import StepOptions, Trainer

DTYPES = {'float32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
WARM_UP = 2  # runs that are not counted, of which the first compiles and chooses algorithms


@dataclass(frozen=True)
class Case:
    """One thing to measure. `variant` is 'plain', 'optimize' or 'train'."""

    backbone: str
    variant: str
    dtype: str
    batch: int
    compiled: bool = False
    checkpointing: bool = False

    @property
    def name(self) -> str:
        """The case in words, for the table."""
        words = [self.backbone, self.variant, self.dtype, f'batch {self.batch}']
        if self.compiled:
            words.append('compiled')
        if self.checkpointing:
            words.append('grad_checkpointing')
        return ' '.join(words)

    @property
    def reference(self) -> 'Case':
        """What it is compared with."""
        if self.variant == 'train':
            return replace(self, compiled=False, checkpointing=False)
        return replace(self, variant='plain', dtype='float32', compiled=False)


def list_cases(
    parts: list[str],
    backbones: list[str],
    dtypes: list[str],
    batches: list[int],
    train_batch: int,
) -> Iterator[Case]:
    """All cases, each after its reference; those that compile come last, as they take longest."""
    for compiled in (False, True):
        for backbone in backbones:
            if 'inference' in parts:
                yield from _inference_cases(backbone, dtypes, batches, compiled)
            if 'training' in parts:
                for checkpointing in (False, True):
                    yield Case(backbone, 'train', 'bf16', train_batch, compiled, checkpointing)


def _inference_cases(
    backbone: str,
    dtypes: list[str],
    batches: list[int],
    compiled: bool,
) -> Iterator[Case]:
    for batch in batches:
        if not compiled:
            yield Case(backbone, 'plain', 'float32', batch)
        for dtype in dtypes:
            yield Case(backbone, 'optimize', dtype, batch, compiled)


def is_wanted(case: Case, compiled: str) -> bool:
    """Whether --compiled asks for the case; 'only' takes references along."""
    if compiled == 'without':
        return not case.compiled
    if compiled == 'only':
        return case.compiled or case == case.reference
    return True


def prepare(case: Case, size: tuple[int, int], device: torch.device) -> Callable[[], Any]:
    """What a case runs again and again; `size` is (width, height)."""
    if case.variant == 'train':
        return _prepare_training(case, size, device)

    # The network, plain or optimized.
    width, height = size
    model = build([f'bb={case.backbone}', f'size={width}x{height}']).to(device)
    network: Network = model
    if case.variant == 'optimize':
        network = optimize(model, DTYPES[case.dtype], case.compiled)
    image = torch.randn(case.batch, 3, height, width, device=device)

    def run() -> Tensor:
        with torch.inference_mode():
            return network(image)[-1]

    return run


def _prepare_training(
    case: Case,
    size: tuple[int, int],
    device: torch.device,
) -> Callable[[], Any]:
    """A step as train.py makes it, from a batch that lies on the device."""
    # The network with what the case asks for.
    torch.manual_seed(0)
    config = Config(bb=case.backbone, size=size)
    model = build_birefnet(config).to(device)
    for part in (model.encoder.backbone, model.decoder):
        if case.checkpointing:
            part.set_grad_checkpointing()
        if case.compiled:
            part.compile()

    # The trainer of train.py on one GPU.
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    weights = {'bce': 30., 'iou': .5, 'ssim': 10.}
    criterion = Criterion(weights, 500, 40, TASKS['DIS5K'].tail_factors)
    options = StepOptions(mixed_precision=case.dtype)
    world = World(0, 1, device)
    network = TrainedNetwork(model, optimizer, world)
    trainer = Trainer(network, criterion, lambda step: 1., options, world)

    # A batch of random pixels.
    width, height = size
    image_shape = (case.batch, 3, height, width)
    mask_shape = (case.batch, 1, height, width)
    image = torch.randint(0, 256, image_shape, dtype=torch.uint8, device=device)
    mask = torch.randint(0, 2, mask_shape, dtype=torch.uint8, device=device) * 255
    names = [''] * case.batch
    class_ids = torch.full((case.batch,), -1)
    batch = Batch(image, mask, names, class_ids, [])

    def run() -> None:
        trainer.step(batch)
        trainer.take_means()  # waits for the device

    return run


def measure(
    run: Callable[[], Any],
    runs: int,
    device: torch.device,
) -> dict[str, float | None]:
    """Measures `runs` calls of `run`, after those of the warm-up.

    Returns:
        'ms' and 'best_ms': median and least milliseconds. 'first_s': seconds of the very first
        call. 'GB': memory at the peak over what was held before; None without a GPU.
    """
    # The warm-up: compiling falls into its first call.
    on_gpu = device.type == 'cuda'
    held = torch.cuda.memory_allocated(device) if on_gpu else 0
    first = _seconds(run, device)
    for _ in range(WARM_UP - 1):
        run()

    # What is measured.
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [_seconds(run, device) for _ in range(runs)]
    gigabytes = None
    if on_gpu:
        peak = torch.cuda.max_memory_allocated(device)
        gigabytes = (peak - held) / 1e9
    return {
        'ms': 1e3 * statistics.median(seconds),
        'best_ms': 1e3 * min(seconds),
        'first_s': first,
        'GB': gigabytes,
    }


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock seconds of one run, until the device has finished."""
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def attempt(case: Case, size: tuple[int, int], runs: int, device: torch.device) -> dict[str, Any]:
    """The figures of a case, or under 'error' why there are none."""
    try:
        run = prepare(case, size, device)
        return measure(run, runs, device)
    except Exception as error:  # of memory, compiler or driver: the next case may succeed
        lines = str(error).strip().splitlines() or ['']
        return {'error': f'{type(error).__name__}: {lines[0][:200]}'}
    finally:
        torch.compiler.reset()
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()


def describe(case: Case, figures: dict[str, Any], reference: dict[str, Any]) -> str:
    """One line of the table."""
    if 'error' in figures:
        return f'{case.name:58} {figures["error"]}'
    milliseconds = figures['ms']
    ratio = reference.get('ms', float('nan')) / milliseconds
    memory = ''
    if figures['GB'] is not None:
        memory = f'{figures["GB"]:6.2f} GB  '
    return (f'{case.name:58} {milliseconds:9.1f} ms  {ratio:5.2f}x  {memory}'
            f'first {figures["first_s"]:.1f} s')


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; lists are joined by commas."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--device', default='cuda')
    add('--size', default='1024x1024', metavar='WxH')
    add('--parts', default='inference,training')
    add('--backbones', default='swin_v1_t,swin_v1_l')
    add('--dtypes', default=','.join(DTYPES))
    add('--batches', default='1,4')
    add('--train-batch', type=int, default=2)
    add('--runs', type=int, default=10)
    add('--compiled', default='with', choices=('with', 'without', 'only'),
        help='cases that compile: with all others, left out, or with their references alone')
    add('--seconds', type=float, default=float('inf'), help='begin no further case after so many')
    add('--json', default='', metavar='FILE', help='append a line of JSON for each case')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measures case after case; returns 1 if none gave a figure."""
    # Where it is measured.
    args = parse_arguments(arguments)
    end = time.monotonic() + args.seconds
    device = prepare_device(args.device, fixed_size=True)
    width, height = map(int, args.size.split('x'))
    card = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    setup = {'card': card, 'torch': torch.__version__, 'size': args.size}
    print(f'{card}, torch {torch.__version__}, {args.size}; ratios to the plain network in '
          'float32, of training to the same without compiling and checkpointing', flush=True)

    cases = list_cases(
        args.parts.split(','),
        args.backbones.split(','),
        args.dtypes.split(','),
        [int(batch) for batch in args.batches.split(',')],
        args.train_batch,
    )
    # Each case's line appears as soon as it is known.
    results: dict[Case, dict[str, Any]] = {}
    for case in cases:
        if not is_wanted(case, args.compiled):
            continue
        if time.monotonic() > end:
            print(f'{case.name:58} left out: {args.seconds:.0f} s are over', flush=True)
            continue
        figures = attempt(case, (width, height), args.runs, device)
        results[case] = figures
        reference = results.get(case.reference, {})
        print(describe(case, figures, reference), flush=True)
        if args.json:
            append_line(args.json, {**setup, 'case': case.name, **figures})
    has_figures = any('ms' in figures for figures in results.values())
    return 0 if has_figures else 1


def append_line(path: str, record: dict[str, Any]) -> None:
    """Appends a line of JSON to a file."""
    with open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps(record) + '\n')


if __name__ == '__main__':
    raise SystemExit(main())
