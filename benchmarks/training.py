"""A training step on the CPU, and its memory, against torchvision's deformable convolution.

`python -m benchmarks.training [--bb pvt_v2_b0 --size 256 --batch 4 --steps 3]`: the two variants
take turns, each time in a process of its own, so that both see the same machine.
"""

import argparse
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor

from config import TASKS, Config
from loss import Criterion, add_losses
from models import build_birefnet
from models.modules import deform_conv
from runtime.memory import resident_memory

MASK_SHARE = .3
VARIANTS = ('ours', 'torchvision')


@dataclass(frozen=True)
class Case:
    """What is measured."""

    bb: str
    size: int
    batch: int
    steps: int


@dataclass
class Figures:
    """Seconds of the best step, and GB at the peak over the process before the network ran."""

    seconds: float = float('inf')
    memory: float = 0.


class PeakMemory:
    """Peak of the resident memory over what it was on entry; bytes in `value`.

    Sampled every few milliseconds.
    """

    def __enter__(self) -> 'PeakMemory':
        self.value = 0
        self._base = resident_memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._over.wait(.005):
            added = resident_memory() - self._base
            self.value = max(self.value, added)

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()


def run_steps(case: Case) -> Figures:
    """Trains on random data; the first step is not timed.

    A step is the forward pass, the losses, the backward pass and AdamW's update.
    """
    # Network, optimizer and losses as in a training of DIS5K.
    torch.manual_seed(0)
    config = Config(bb=case.bb, size=(case.size, case.size))
    model = build_birefnet(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    weights = {'bce': 30., 'iou': .5, 'ssim': 10.}
    criterion = Criterion(weights, 500, 40, TASKS['DIS5K'].tail_factors)

    # One batch serves all steps.
    image = torch.randn(case.batch, 3, case.size, case.size)
    noise = torch.rand(case.batch, 1, case.size, case.size)
    mask = (noise < MASK_SHARE).float()

    seconds = []
    with PeakMemory() as peak:
        for _ in range(case.steps + 1):
            start = time.perf_counter()
            output = model(image, side_outputs=True)
            losses = criterion(output, mask, epoch=1)
            add_losses(losses.values()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - start)
    return Figures(min(seconds[1:]), peak.value / 1e9)


def torchvision_operator(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """torchvision's deformable convolution with the arguments of ours."""
    padding = weight.shape[-1] // 2
    return torchvision.ops.deform_conv2d(x, offset, weight, mask=modulation, padding=padding)


def _run_variant(variant: str, case: Case) -> Figures:
    """`run_steps` in this process, whose operator stays replaced."""
    if variant == 'torchvision':
        deform_conv.deform_conv2d = torchvision_operator
    return run_steps(case)


def measure(variant: str, case: Case) -> Figures:
    """`run_steps` with one of VARIANTS, in a process of its own."""
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(_run_variant, variant, case).result()


def main() -> None:
    """Prints both variants and their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bb', default='pvt_v2_b0')
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--steps', type=int, default=3)
    parser.add_argument('--rounds', type=int, default=2)
    options = parser.parse_args()
    case = Case(options.bb, options.size, options.batch, options.steps)

    # The variants take turns; the least time and the largest memory count.
    best = {variant: Figures() for variant in VARIANTS}
    for _ in range(options.rounds):
        for variant in VARIANTS:
            found = measure(variant, case)
            seconds = min(found.seconds, best[variant].seconds)
            memory = max(found.memory, best[variant].memory)
            best[variant] = Figures(seconds, memory)

    # The table and the ratios.
    threads = torch.get_num_threads()
    print(f'{case.bb}, {case.size}x{case.size}, batch {case.batch}, {threads} threads')
    for variant, figures in best.items():
        print(f'  {variant:12} {figures.seconds:6.2f} s a step  '
              f'{figures.memory:5.2f} GB over the start')
    speedup = best['torchvision'].seconds / best['ours'].seconds
    share = best['ours'].memory / best['torchvision'].memory
    print(f'  ratio        {speedup:6.2f} x faster {share:5.2f} of the memory')


if __name__ == '__main__':
    main()
