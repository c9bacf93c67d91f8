"""Inference and training on a GPU, against the plain network in the same run: `python -m benchmarks.gpu`.

Milliseconds (the median), and GB over the weights at the peak. Every line is printed, and appended to --json, as soon
as it is had; a part that fails says why and the next goes on. On a GPU TF32 is on, as training and inference set it.
Weights are random. `--device cpu --size 64x64 --backbones pvt_v2_b0` tries the script itself.
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

from benchmarks.inference import build
from config import TASKS, Config
from dataset import Batch
from loss import Criterion
from models import build_birefnet, optimize
from runtime.device import prepare_device
from training.distributed import World
from training.loop import Options, Trainer

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
        """As it is printed."""
        extras = ['compiled'] * self.compiled + ['grad_checkpointing'] * self.checkpointing
        return ' '.join([self.backbone, self.variant, self.dtype, f'batch {self.batch}', *extras])

    @property
    def reference(self) -> 'Case':
        """What it is compared with."""
        if self.variant == 'train':
            return replace(self, compiled=False, checkpointing=False)
        return replace(self, variant='plain', dtype='float32', compiled=False)


def list_cases(parts: list[str], backbones: list[str], dtypes: list[str], batches: list[int],
               train_batch: int) -> Iterator[Case]:
    """What is compared with comes before what is compared, and what compiles comes last, as it takes longest."""
    for compiled in (False, True):
        for backbone in backbones:
            if 'inference' in parts:
                yield from _inference_cases(backbone, dtypes, batches, compiled)
            if 'training' in parts:
                for checkpointing in (False, True):
                    yield Case(backbone, 'train', 'bf16', train_batch, compiled, checkpointing)


def _inference_cases(backbone: str, dtypes: list[str], batches: list[int], compiled: bool) -> Iterator[Case]:
    for batch in batches:
        if not compiled:
            yield Case(backbone, 'plain', 'float32', batch)
        for dtype in dtypes:
            yield Case(backbone, 'optimize', dtype, batch, compiled)


def is_wanted(case: Case, compiled: str) -> bool:
    """By --compiled."""
    wanted = {'with': True, 'without': not case.compiled, 'only': case.compiled or case == case.reference}
    return wanted[compiled]


def prepare(case: Case, size: tuple[int, int], device: torch.device) -> Callable[[], Any]:
    """What a case runs again and again; `size` is (width, height)."""
    if case.variant == 'train':
        return _prepare_training(case, size, device)
    model = build([f'bb={case.backbone}', f'size={size[0]}x{size[1]}'], 'plain').to(device)
    network = model if case.variant == 'plain' else optimize(model, DTYPES[case.dtype], case.compiled)
    image = torch.randn(case.batch, 3, *size[::-1], device=device)

    def run() -> Tensor:
        with torch.inference_mode():
            return network(image)[-1]

    return run


def _prepare_training(case: Case, size: tuple[int, int], device: torch.device) -> Callable[[], Any]:
    """A step as train.py makes it, from a batch that lies on the device."""
    torch.manual_seed(0)
    model = build_birefnet(Config(bb=case.backbone, size=size)).to(device)
    for part in (model.encoder.backbone, model.decoder):
        if case.checkpointing:
            part.set_grad_checkpointing()
        if case.compiled:
            part.compile()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    criterion = Criterion({'bce': 30., 'iou': .5, 'ssim': 10.}, 500, 40, TASKS['DIS5K'].tail_factors)
    options = Options(mixed_precision=case.dtype)
    trainer = Trainer(model, optimizer, criterion, lambda step: 1., options, World(0, 1, device))
    image = torch.randint(0, 256, (case.batch, 3, *size[::-1]), dtype=torch.uint8, device=device)
    mask = torch.randint(0, 2, (case.batch, 1, *size[::-1]), dtype=torch.uint8, device=device) * 255
    batch = Batch(image, mask, [''] * case.batch, torch.full((case.batch,), -1), [])
    return lambda: trainer.rehearse(batch)


def measure(run: Callable[[], Any], runs: int, device: torch.device) -> dict[str, float | None]:
    """Median and least milliseconds of `runs`, the seconds of the first, and the peak's GB over what was held before
    (None without a GPU)."""
    held = torch.cuda.memory_allocated(device) if device.type == 'cuda' else 0
    first = _seconds(run, device)
    for _ in range(WARM_UP - 1):
        run()
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [_seconds(run, device) for _ in range(runs)]
    gigabytes = (torch.cuda.max_memory_allocated(device) - held) / 1e9 if device.type == 'cuda' else None
    return {'ms': 1e3 * statistics.median(seconds), 'best_ms': 1e3 * min(seconds), 'first_s': first, 'GB': gigabytes}


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one run, the device's work awaited."""
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
        return measure(prepare(case, size, device), runs, device)
    except Exception as error:  # out of memory, a compiler's, a driver's: the next case may do
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
    ratio = reference['ms'] / figures['ms'] if 'ms' in reference else float('nan')
    memory = '' if figures['GB'] is None else f'{figures["GB"]:6.2f} GB  '
    return f'{case.name:58} {figures["ms"]:9.1f} ms  {ratio:5.2f}x  {memory}first {figures["first_s"]:.1f} s'


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; lists are joined by commas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        help='what compiles: with all the rest, not, or with nothing but what it is compared with')
    add('--seconds', type=float, default=float('inf'), help='begin no further case after so many')
    add('--json', default='', metavar='FILE', help='append a line of JSON for each case')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measures case after case; returns 1 if none gave a figure."""
    args = parse_arguments(arguments)
    end = time.monotonic() + args.seconds
    device = prepare_device(args.device, fixed_size=True)
    width, height = map(int, args.size.split('x'))
    card = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    print(f'{card}, torch {torch.__version__}, {args.size}; against the plain network in float32, training against '
          'the same without compiling and checkpointing', flush=True)
    cases = list_cases(args.parts.split(','), args.backbones.split(','), args.dtypes.split(','),
                       [int(batch) for batch in args.batches.split(',')], args.train_batch)
    results: dict[Case, dict[str, Any]] = {}
    for case in cases:
        if not is_wanted(case, args.compiled):
            continue
        if time.monotonic() > end:
            print(f'{case.name:58} left out: {args.seconds:.0f} s are over', flush=True)
            continue
        results[case] = figures = attempt(case, (width, height), args.runs, device)
        print(describe(case, figures, results.get(case.reference, {})), flush=True)
        if args.json:
            with open(args.json, 'a', encoding='utf-8') as file:
                line = {'card': card, 'torch': torch.__version__, 'size': args.size, 'case': case.name, **figures}
                file.write(json.dumps(line) + '\n')
    return 0 if any('ms' in figures for figures in results.values()) else 1


if __name__ == '__main__':
    raise SystemExit(main())
