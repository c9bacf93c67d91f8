"""ONNX Runtime against the network's own fast path, on the CPU: `python -m benchmarks.onnx [key=value ...]`.

Both take turns in one process. `--resolution WxH`, `--runs N`, `--dynamic` (a file for all sizes); everything else are
config overrides (`bb=swin_v1_l`). Weights are random.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.inference import build
from exporting.onnx import bytes_of, operators, run_onnx, save_onnx
from exporting.program import Deployed, trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--resolution', default='1024x1024')
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--dynamic', action='store_true')
    parser.add_argument('overrides', nargs='*', default=['bb=swin_v1_t'])
    args = parser.parse_args()
    width, height = map(int, args.resolution.split('x'))
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    fast = build(args.overrides, 'fast')

    def run_fast(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return fast(x)[-1]

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'network.onnx')
        start = time.perf_counter()
        traced = trace(Deployed(build(args.overrides, 'plain')), (width, height), args.dynamic)
        middle = time.perf_counter()
        save_onnx(traced, file, lambda _: None)
        print(f'{" ".join(args.overrides)} at {args.resolution}{" (dynamic)" * args.dynamic}, '
              f'{torch.get_num_threads()} threads: traced in {middle - start:.1f} s, written in '
              f'{time.perf_counter() - middle:.1f} s; {sum(operators(file).values())} nodes, '
              f'{bytes_of(file) / 1e6:.1f} MB')
        networks = {'fast path': run_fast, 'ONNX Runtime': run_onnx(file, torch.get_num_threads())}
        outputs = {name: run(image) for name, run in networks.items()}
        times: dict[str, list[float]] = {name: [] for name in networks}
        for _ in range(args.runs):
            for name, run in networks.items():
                start = time.perf_counter()
                run(image)
                times[name].append(time.perf_counter() - start)
    expected, found = outputs.values()
    print(f'largest difference {float((found - expected).abs().max() / expected.std()):.1e} of the deviation')
    for name, seconds in times.items():
        print(f'{name:13} best {min(seconds):.2f} s, median {statistics.median(seconds):.2f} s, '
              f'ratio {min(times["fast path"]) / min(seconds):.2f}')


if __name__ == '__main__':
    main()
