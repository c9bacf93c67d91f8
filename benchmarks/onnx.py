"""ONNX Runtime against the optimized network, on the CPU.

`python -m benchmarks.onnx [key=value ...]`. Both take turns in one process. Options are
`--resolution WxH`, `--runs N` and `--dynamic` (one file for all sizes); the rest are config
overrides (`bb=swin_v1_l`). Weights are random.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.inference import build, build_variant
from exporting.onnx import bytes_of, operators, run_onnx, save_onnx
from exporting.program import ExportWrapper, trace

Network = Callable[[Tensor], Tensor]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--resolution', default='1024x1024')
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--dynamic', action='store_true')
    parser.add_argument('overrides', nargs='*', default=['bb=swin_v1_t'])
    return parser.parse_args()


def write_network(file: Path, overrides: list[str], size: tuple[int, int], dynamic: bool) -> None:
    """Writes the network as ONNX, and prints times and sizes; `size` is (width, height)."""
    model = ExportWrapper(build(overrides))
    start = time.perf_counter()
    traced = trace(model, size, dynamic)
    middle = time.perf_counter()
    save_onnx(traced, file, lambda _: None)
    end = time.perf_counter()

    nodes = sum(operators(file).values())
    megabytes = bytes_of(file) / 1e6
    print(f'traced in {middle - start:.1f} s, written in {end - middle:.1f} s; '
          f'{nodes} nodes, {megabytes:.1f} MB')


def optimized_network(overrides: list[str]) -> Network:
    """The network's own fast path: image -> logits at full size."""
    network = build_variant(overrides, 'fast')

    def run(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(image)[-1]

    return run


def measure(networks: dict[str, Network], image: Tensor, runs: int) -> dict[str, list[float]]:
    """Seconds of each run of the networks, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(runs):
        for name, network in networks.items():
            start = time.perf_counter()
            network(image)
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Prints times, ratios and the difference of the outputs."""
    args = parse_arguments()
    width, height = map(int, args.resolution.split('x'))
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, height, width, generator=generator)

    # Both ways of running the network, once each before they are timed.
    threads = torch.get_num_threads()
    sizes = ' (dynamic)' if args.dynamic else ''
    print(f'{" ".join(args.overrides)} at {args.resolution}{sizes}, {threads} threads')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'network.onnx')
        write_network(file, args.overrides, (width, height), args.dynamic)
        optimized = optimized_network(args.overrides)
        runtime = run_onnx(file, threads)
        expected = optimized(image)
        found = runtime(image)
        networks = {'optimized': optimized, 'ONNX Runtime': runtime}
        times = measure(networks, image, args.runs)

    # How far they are apart, in results and in time.
    largest = (found - expected).abs().max()
    difference = largest / expected.std()
    print(f'largest difference {float(difference):.1e} of the deviation')
    reference = min(times['optimized'])
    for name, seconds in times.items():
        best = min(seconds)
        median = statistics.median(seconds)
        ratio = reference / best
        print(f'{name:13} best {best:.2f} s, median {median:.2f} s, ratio {ratio:.2f}')


if __name__ == '__main__':
    main()
