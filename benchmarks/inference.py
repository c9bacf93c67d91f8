"""Speed and memory of the network's ways of inference, in one run: `python -m benchmarks.inference [key=value ...]`.

The reference is the plain network with torchvision's deformable convolution. `--resolution WxH`, `--runs N`,
`--variants A,B`; everything else are config overrides (`bb=swin_v1_l`). Weights are random. On a machine that others
use too, processor seconds under OMP_NUM_THREADS=1 mean more than seconds: waiting threads take processor time as well.
"""

import argparse
import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from config import Config
from models import build_birefnet, optimize
from models.optimized.algebra import linear

DTYPES = {'fast': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
VARIANTS = ('reference', 'plain', *DTYPES)
STATUS = Path('/proc/self/status')


def build(overrides: list[str], variant: str) -> Callable[[Tensor], list[Tensor]]:
    """The network under one of VARIANTS: the same random weights each time."""
    torch.manual_seed(0)
    model = build_birefnet(Config.from_overrides(overrides)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():  # offsets start at zero, trained ones are not
            nn.init.normal_(parameter, std=parameter[0].numel() ** -.5)
    if variant in DTYPES:
        return optimize(model, DTYPES[variant])
    return model


def torchvision_kernel() -> AbstractContextManager:
    """Within it, deformable convolutions of the plain network are torchvision's."""
    def kernel(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
        return deform_conv2d(x, offset, weight, mask=modulation, padding=weight.shape[-1] // 2)
    return patch('models.modules.deform_conv.deform_conv2d', kernel)


def run(network: Callable[[Tensor], list[Tensor]], variant: str, image: Tensor) -> tuple[Tensor, float, float]:
    """The output, the seconds it took, and the processor seconds of all threads."""
    with torch.inference_mode(), torchvision_kernel() if variant == 'reference' else nullcontext():
        start, processor = time.perf_counter(), time.process_time()
        output, = network(image)
        return output, time.perf_counter() - start, time.process_time() - processor


def peak_memory(overrides: list[str], variant: str, size: tuple[int, int], threads: int) -> float:
    """GiB that one run in a fresh process takes at its peak over what the process holds before (on Linux alone)."""
    if not STATUS.exists():
        return float('nan')
    torch.set_num_threads(threads)
    network = build(overrides, variant)
    run(network, variant, torch.zeros(1, 3, 64, 64))
    with suppress(AttributeError):  # glibc gives back what building has freed, else the run takes that first, uncounted
        ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # the peak is counted from now
    before = _status('VmRSS')
    run(network, variant, torch.zeros(1, 3, size[1], size[0]))
    return _status('VmHWM') - before


def _status(key: str) -> float:
    """A figure of this process, in GiB."""
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == f'{key}:') / 2 ** 20


def matrix_peak() -> float:
    """GFLOP/s of a large float32 matrix product, by the better of the two libraries in torch."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    times = []
    with torch.inference_mode():
        for product in (torch.mm, linear) * 8:
            start = time.perf_counter()
            product(a, b)
            times.append(time.perf_counter() - start)
    return 2 * 2048 ** 3 / min(times) / 1e9


def flops(overrides: list[str], size: tuple[int, int]) -> float:
    """GFLOP of the plain network, deformable convolutions included, counted without computing."""
    model, total = build(overrides, 'plain').to('meta'), 0

    def kernel(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
        nonlocal total
        total += 2 * weight.numel() * x[:, 0].numel()
        return x.new_empty(x.shape[0], len(weight), *x.shape[2:])

    with patch('models.modules.deform_conv.deform_conv2d', kernel), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, size[1], size[0], device='meta'))
    return (counter.get_total_flops() + total) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--resolution', default='1024x1024')
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--variants', default='reference,plain,fast,bfloat16')
    parser.add_argument('overrides', nargs='*', default=['bb=swin_v1_t'])
    args = parser.parse_args()
    size, variants = tuple(map(int, args.resolution.split('x'))), args.variants.split(',')
    image = torch.randn(1, 3, size[1], size[0], generator=torch.Generator().manual_seed(1))

    networks = {variant: build(args.overrides, variant) for variant in variants}
    outputs = {variant: run(network, variant, image)[0] for variant, network in networks.items()}
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    processor: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(args.runs):
        for variant, network in networks.items():
            _, real, busy = run(network, variant, image)
            seconds[variant].append(real)
            processor[variant].append(busy)
    peak, needed = matrix_peak(), flops(args.overrides, size)
    print(f'{" ".join(args.overrides)} at {args.resolution}, {torch.get_num_threads()} threads; {needed:.0f} GFLOP, '
          f'matrix peak {peak:.0f} GFLOP/s: floor {needed / peak:.1f} s')
    print('variant      best s  median s  ratio  processor s  ratio   extra GiB   error / deviation')
    expected = outputs[variants[0]]
    for variant in variants:
        with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
            memory = pool.submit(peak_memory, args.overrides, variant, size, torch.get_num_threads()).result()
        difference = (outputs[variant] - expected).abs().max() / expected.std()
        best, least = min(seconds[variant]), min(processor[variant])
        ratios = min(seconds[variants[0]]) / best, min(processor[variants[0]]) / least
        print(f'{variant:12} {best:6.2f}  {statistics.median(seconds[variant]):8.2f}  {ratios[0]:5.2f}  {least:11.2f}  '
              f'{ratios[1]:5.2f}  {memory:10.2f}   {difference:.1e}', flush=True)


if __name__ == '__main__':
    main()
