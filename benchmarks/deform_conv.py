"""Deformable convolution on the CPU: ours against torchvision's operator, forward and backward.

`python -m benchmarks.deform_conv` prints the best seconds of several runs of each, taken in turns
in one process, and the memory that a forward and backward pass adds at its peak to a fresh process
that holds the inputs.
"""

import argparse
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision.ops
from torch import Tensor

from models.modules.deform_conv import deform_conv2d

OUT_CHANNELS = 256
CHANNELS = 64
MAPS = ((1, 32), (1, 64), (1, 128), (1, 256), (4, 64))  # (batch, size)
KERNELS = (1, 3, 7)  # each with all of MAPS

Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """The sizes of one comparison."""

    batch: int
    channels: int
    size: int
    kernel: int


def torchvision_operator(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """Computes what `deform_conv2d` does, with torchvision's operator."""
    padding = weight.shape[-1] // 2
    return torchvision.ops.deform_conv2d(x, offset, weight, mask=modulation, padding=padding)


OPERATORS: dict[str, Operator] = {'torchvision': torchvision_operator, 'ours': deform_conv2d}


def make_inputs(case: Case) -> list[Tensor]:
    """x, offset (standard deviation one pixel), modulation, weight."""
    torch.manual_seed(0)
    batch, channels, size, kernel = case
    taps = kernel ** 2
    x = torch.randn(batch, channels, size, size)
    offset = torch.randn(batch, 2 * taps, size, size)
    modulation = 2 * torch.rand(batch, taps, size, size)
    weight = torch.randn(OUT_CHANNELS, channels, kernel, kernel) / kernel
    inputs = [x, offset, modulation, weight]
    return [value.requires_grad_() for value in inputs]


def forward_and_backward(operator: Operator, inputs: list[Tensor]) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass."""
    start = time.perf_counter()
    out = operator(*inputs)
    middle = time.perf_counter()
    grad = torch.ones_like(out)
    before_backward = time.perf_counter()
    torch.autograd.grad(out, inputs, grad)
    end = time.perf_counter()
    return middle - start, end - before_backward


def best_times(
    inputs: list[Tensor],
    limit: float = 5,
    repeats: int = 5,
) -> dict[str, tuple[float, float]]:
    """Best forward and backward seconds of each operator.

    They take turns, `repeats` times or for `limit` seconds.
    """
    forward = dict.fromkeys(OPERATORS, math.inf)
    backward = dict.fromkeys(OPERATORS, math.inf)
    end = time.perf_counter() + limit
    for repeat in range(repeats):
        if repeat and time.perf_counter() > end:
            break
        for name, operator in OPERATORS.items():
            there, back = forward_and_backward(operator, inputs)
            forward[name] = min(forward[name], there)
            backward[name] = min(backward[name], back)
    return {name: (forward[name], backward[name]) for name in OPERATORS}


def peak_memory() -> float:
    """Megabytes that this process has held at most (Linux; `getrusage` adds the parent's)."""
    status = Path('/proc/self/status').read_text()
    match = re.search(r'VmHWM:\s*(\d+) kB', status)
    assert match is not None, status
    return int(match[1]) / 1e3


def added_memory(operator: Operator, case: Case) -> float:
    """Megabytes that a forward and backward pass adds at its peak.

    The process must not have held more before.
    """
    forward_and_backward(operator, make_inputs(Case(1, 8, 8, 3)))  # loads the libraries
    inputs = make_inputs(case)
    before = peak_memory()
    forward_and_backward(operator, inputs)
    return peak_memory() - before


def added_memory_in_fresh_process(name: str, case: Case) -> float:
    """Returns the added memory in a new process, where none freed before hides it."""
    numbers = [str(number) for number in case]
    command = [sys.executable, '-m', 'benchmarks.deform_conv', '--memory', name, *numbers]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def print_comparison(case: Case) -> None:
    """One line of the table."""
    # Forward and backward pass.
    inputs = make_inputs(case)
    best = best_times(inputs)
    cells = []
    for theirs, ours in zip(best['torchvision'], best['ours'], strict=True):
        ratio = theirs / ours
        cells.append(f'{1e3 * theirs:.1f} / {1e3 * ours:.1f} = {ratio:4.1f}')

    memory = []
    for name in OPERATORS:
        added = added_memory_in_fresh_process(name, case)
        memory.append(f'{added:.0f}')
    cells.append(' / '.join(memory))

    shape = f'{case.batch}x{case.channels}x{case.size}x{case.size}'
    print_row(shape, str(case.kernel), *cells)


def print_row(shape: str, kernel: str, forward: str, backward: str, memory: str) -> None:
    """Prints a line of the table at once."""
    print(f'{shape:>15} {kernel:>6} {forward:>24} {backward:>24} {memory:>16}', flush=True)


def main() -> None:
    """Prints the table; or, as a fresh process of its own, one memory figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--memory', nargs=5, metavar=('OPERATOR', 'BATCH', 'CHANNELS', 'SIZE', 'KERNEL'),
        help='only print the megabytes that OPERATOR (ours, torchvision) adds')

    # The fresh process.
    memory = parser.parse_args().memory
    if memory:
        name, *numbers = memory
        case = Case(*map(int, numbers))
        print(added_memory(OPERATORS[name], case))
        return

    print(f'{torch.get_num_threads()} threads, {OUT_CHANNELS} output channels; '
          'milliseconds and MB, torchvision / ours')
    print_row('input', 'kernel', 'forward', 'backward', 'memory')
    for batch, size in MAPS:
        for kernel in KERNELS:
            print_comparison(Case(batch, CHANNELS, size, kernel))


if __name__ == '__main__':
    main()
