"""Deformable convolution on the CPU: ours against torchvision's operator, seconds and memory, forward and backward.

`python -m benchmarks.deform_conv` prints the best of several runs of each, taken in turns in one process, and the
memory that a forward and backward pass adds at its peak to a fresh process that holds the inputs.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision.ops
from torch import Tensor

from models.modules.deform_conv import deform_conv2d

OUT_CHANNELS = 256
# (batch, channels, size, kernel)
CASES = [*((1, 64, size, kernel) for size in (32, 64, 128, 256) for kernel in (1, 3, 7)),
         *((4, 64, 64, kernel) for kernel in (1, 3, 7))]

Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def torchvision_operator(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    return torchvision.ops.deform_conv2d(x, offset, weight, mask=modulation, padding=weight.shape[-1] // 2)


OPERATORS: dict[str, Operator] = {'torchvision': torchvision_operator, 'ours': deform_conv2d}


def make_inputs(batch: int, channels: int, size: int, kernel: int) -> list[Tensor]:
    """x, offset (standard deviation one pixel), modulation, weight."""
    torch.manual_seed(0)
    taps = kernel**2
    inputs = [torch.randn(batch, channels, size, size), torch.randn(batch, 2 * taps, size, size),
              2 * torch.rand(batch, taps, size, size), torch.randn(OUT_CHANNELS, channels, kernel, kernel) / kernel]
    return [value.requires_grad_() for value in inputs]


def forward_and_backward(operator: Operator, inputs: list[Tensor]) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass."""
    start = time.perf_counter()
    out = operator(*inputs)
    middle = time.perf_counter()
    grad = torch.ones_like(out)
    before_backward = time.perf_counter()
    torch.autograd.grad(out, inputs, grad)
    return middle - start, time.perf_counter() - before_backward


def best_times(inputs: list[Tensor], seconds: float = 5, repeats: int = 5) -> list[tuple[float, float]]:
    """Best forward and backward seconds of each operator; they take turns, `repeats` times or for `seconds`."""
    runs, end = [], time.perf_counter() + seconds
    while len(runs) < repeats and (not runs or time.perf_counter() < end):
        runs.append([forward_and_backward(operator, inputs) for operator in OPERATORS.values()])
    return [tuple(min(times) for times in zip(*own, strict=True)) for own in zip(*runs, strict=True)]


def peak_memory() -> float:
    """Megabytes that this process has held at most (Linux; `getrusage` would count the parent's, too)."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s*(\d+) kB', status)[1]) / 1e3


def added_memory(operator: Operator, case: Sequence[int]) -> float:
    """Megabytes that a forward and backward pass adds at its peak, in a process that has not held more before."""
    forward_and_backward(operator, make_inputs(1, 8, 8, 3))  # loads the libraries
    inputs = make_inputs(*case)
    before = peak_memory()
    forward_and_backward(operator, inputs)
    return peak_memory() - before


def added_memory_in_fresh_process(name: str, case: Sequence[int]) -> float:
    command = [sys.executable, '-m', 'benchmarks.deform_conv', '--memory', name, *map(str, case)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--memory', nargs=5, metavar=('OPERATOR', 'BATCH', 'CHANNELS', 'SIZE', 'KERNEL'),
                        help='only print the megabytes that OPERATOR (ours, torchvision) adds')
    if memory := parser.parse_args().memory:
        print(added_memory(OPERATORS[memory[0]], [int(value) for value in memory[1:]]))
        return
    print(f'{torch.get_num_threads()} threads, {OUT_CHANNELS} output channels; milliseconds and MB, torchvision / ours')
    print(f'{"input":>15} kernel {"forward":>24} {"backward":>24} {"memory":>16}')
    for case in CASES:
        cells = [f'{1e3 * theirs:.1f} / {1e3 * ours:.1f} = {theirs / ours:4.1f}'
                 for theirs, ours in zip(*best_times(make_inputs(*case)), strict=True)]
        memory = ' / '.join(f'{added_memory_in_fresh_process(name, case):.0f}' for name in OPERATORS)
        print(f'{"x".join(map(str, (*case[:3], case[2]))):>15} {case[3]:>6} {cells[0]:>24} {cells[1]:>24} {memory:>16}',
              flush=True)


if __name__ == '__main__':
    main()
