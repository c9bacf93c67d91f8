"""Speed and memory of the network's ways of inference, in one run.

`python -m benchmarks.inference [--resolution WxH] [--runs N] [--variants A,B] [key=value ...]`. The
reference is the plain network with torchvision's deformable convolution; weights are random. On a
shared machine processor seconds under OMP_NUM_THREADS=1 mean more than seconds, because waiting
threads take processor time as well.
"""

import argparse
import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from config import Config
from models import BiRefNet, build_birefnet, optimize
from models.optimized.algebra import linear

DTYPES = {'fast': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
VARIANTS = ('reference', 'plain', *DTYPES)
STATUS = Path('/proc/self/status')
Network = Callable[[Tensor], list[Tensor]]


def build(overrides: list[str]) -> BiRefNet:
    """The network in eval mode with the same random weights each time."""
    torch.manual_seed(0)
    model = build_birefnet(Config.from_overrides(overrides)).eval()
    for parameter in model.parameters():
        # Offsets start at zero; trained ones are not.
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=parameter[0].numel() ** -.5)
    return model


def build_variant(overrides: list[str], variant: str) -> Network:
    """The network under one of VARIANTS."""
    model = build(overrides)
    if variant in DTYPES:
        return optimize(model, DTYPES[variant])
    return model


def torchvision_kernel() -> AbstractContextManager:
    """Within it, deformable convolutions of the plain network are torchvision's."""
    def kernel(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
        kernel_size = weight.shape[-1]
        padding = kernel_size // 2
        return deform_conv2d(x, offset, weight, mask=modulation, padding=padding)

    return patch('models.modules.deform_conv.deform_conv2d', kernel)


def run(network: Network, variant: str, image: Tensor) -> tuple[Tensor, float, float]:
    """The output, the seconds it took, and the processor seconds of all threads."""
    kernel = torchvision_kernel() if variant == 'reference' else nullcontext()
    with torch.inference_mode(), kernel:
        start = time.perf_counter()
        processor_start = time.process_time()
        output, = network(image)
        seconds = time.perf_counter() - start
        processor_seconds = time.process_time() - processor_start
    return output, seconds, processor_seconds


def peak_memory(overrides: list[str], variant: str, size: tuple[int, int], threads: int) -> float:
    """GiB that one run takes at its peak over what the process holds before (Linux only)."""
    if not STATUS.exists():
        return float('nan')
    # The first run, on a small image, loads what every run needs.
    torch.set_num_threads(threads)
    network = build_variant(overrides, variant)
    run(network, variant, torch.zeros(1, 3, 64, 64))
    # What building has freed goes back to the system; the run would take it first, uncounted.
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # the peak is counted from now
    before = _status('VmRSS')
    width, height = size
    run(network, variant, torch.zeros(1, 3, height, width))
    return _status('VmHWM') - before


def _status(key: str) -> float:
    """A memory figure of this process, in GiB."""
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(':')
        if name == key:
            return int(value.split()[0]) / 2 ** 20
    raise KeyError(key)


def matrix_peak() -> float:
    """GFLOP/s of a large float32 matrix product, by the better of the two libraries in torch."""
    size = 2048
    a = torch.rand(size, size)
    b = torch.rand(size, size)
    times = []
    with torch.inference_mode():
        for product in (torch.mm, linear) * 8:
            start = time.perf_counter()
            product(a, b)
            times.append(time.perf_counter() - start)
    operations = 2 * size ** 3
    return operations / min(times) / 1e9


def flops(overrides: list[str], size: tuple[int, int]) -> float:
    """GFLOP of the plain network, deformable convolutions included, counted without computing."""
    model = build(overrides).to('meta')
    image = torch.empty(1, 3, size[1], size[0], device='meta')
    deformable = 0

    def kernel(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
        nonlocal deformable
        batch, _, height, width = x.shape
        positions = batch * height * width
        deformable += 2 * weight.numel() * positions
        return x.new_empty(batch, len(weight), height, width)

    counter = FlopCounterMode(display=False)
    with patch('models.modules.deform_conv.deform_conv2d', kernel), counter:
        model(image)
    return (counter.get_total_flops() + deformable) / 1e9


@dataclass
class Timings:
    """Seconds of each run of one variant, by the clock and of all its threads."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def measure(networks: dict[str, Network], image: Tensor, runs: int) -> dict[str, Timings]:
    """Times the variants, which take turns."""
    timings = {variant: Timings() for variant in networks}
    for _ in range(runs):
        for variant, network in networks.items():
            _, seconds, processor = run(network, variant, image)
            timings[variant].seconds.append(seconds)
            timings[variant].processor.append(processor)
    return timings


def peak_memory_in_fresh_process(
    overrides: list[str],
    variant: str,
    size: tuple[int, int],
) -> float:
    """`peak_memory`, whose process has not held more before."""
    threads = torch.get_num_threads()
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(peak_memory, overrides, variant, size, threads).result()


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--resolution', default='1024x1024')
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--variants', default='reference,plain,fast,bfloat16')
    parser.add_argument('overrides', nargs='*', default=['bb=swin_v1_t'])
    return parser.parse_args()


def main() -> None:
    """Prints a table with a row for each variant; ratios are to the first."""
    args = parse_arguments()
    width, height = map(int, args.resolution.split('x'))
    variants = args.variants.split(',')
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, height, width, generator=generator)

    # The first run of each is not timed.
    networks, outputs = {}, {}
    for variant in variants:
        networks[variant] = build_variant(args.overrides, variant)
        outputs[variant], _, _ = run(networks[variant], variant, image)
    timings = measure(networks, image, args.runs)

    # The floor: the time that the counted operations take at the speed of a matrix product.
    needed = flops(args.overrides, (width, height))
    peak = matrix_peak()
    threads = torch.get_num_threads()
    print(f'{" ".join(args.overrides)} at {args.resolution}, {threads} threads; '
          f'{needed:.0f} GFLOP, matrix peak {peak:.0f} GFLOP/s: floor {needed / peak:.1f} s')
    print('variant      best s  median s  ratio  processor s  ratio   extra GiB   '
          'error / deviation')

    # A row for each variant.
    first = timings[variants[0]]
    expected = outputs[variants[0]]
    for variant in variants:
        own = timings[variant]
        best = min(own.seconds)
        median = statistics.median(own.seconds)
        processor = min(own.processor)
        ratio = min(first.seconds) / best
        processor_ratio = min(first.processor) / processor
        memory = peak_memory_in_fresh_process(args.overrides, variant, (width, height))
        largest = (outputs[variant] - expected).abs().max()
        error = largest / expected.std()
        print(f'{variant:12} {best:6.2f}  {median:8.2f}  {ratio:5.2f}  {processor:11.2f}  '
              f'{processor_ratio:5.2f}  {memory:10.2f}   {error:.1e}', flush=True)


if __name__ == '__main__':
    main()
