"""A training step on the CPU, and its memory, against the same network with torchvision's deformable convolution.

`python -m benchmarks.training [--bb pvt_v2_b0 --size 256 --batch 4 --steps 3]`: each variant in a process of its own,
one after the other in turn, so that both see the same machine.
"""

import argparse
import multiprocessing
import threading
import time

import torch
import torchvision

from config import TASKS, Config
from loss import Criterion
from models import build_birefnet
from models.modules import deform_conv
from training.meter import resident

MASK_SHARE = .3


class PeakMemory:
    """Peak of the resident memory over what it was on entry, sampled every few milliseconds; bytes in `value`."""

    def __enter__(self) -> 'PeakMemory':
        self._base, self.value, self._over = resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._over.wait(.005):
            self.value = max(self.value, resident() - self._base)

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()


def one_step_timer(bb: str = 'pvt_v2_b0', size: int = 256, batch: int = 4, steps: int = 3) -> tuple[float, float]:
    """Seconds of the best of `steps` training steps (after one that is not counted) on the CPU, forward, losses,
    backward and AdamW; and the peak's GB over the process before the network ran."""
    torch.manual_seed(0)
    model = build_birefnet(Config(bb=bb, size=(size, size))).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    criterion = Criterion({'bce': 30., 'iou': .5, 'ssim': 10.}, 500, 40, TASKS['DIS5K'].tail_factors)
    image = torch.randn(batch, 3, size, size)
    mask = (torch.rand(batch, 1, size, size) < MASK_SHARE).float()
    seconds = []
    with PeakMemory() as peak:
        for _ in range(steps + 1):
            began = time.perf_counter()
            sum(criterion(model(image, side_outputs=True), mask, epoch=1).values()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - began)
    return min(seconds[1:]), peak.value / 1e9


def use_torchvision() -> None:
    """Puts torchvision's operator in the place of ours."""
    deform_conv.deform_conv2d = lambda x, offset, modulation, weight: torchvision.ops.deform_conv2d(
        x, offset, weight, mask=modulation, padding=weight.shape[-1] // 2)


def _variant(theirs: bool, arguments: tuple, results: multiprocessing.Queue) -> None:
    if theirs:
        use_torchvision()
    results.put(one_step_timer(*arguments))


def measure(theirs: bool, arguments: tuple) -> tuple[float, float]:
    """`one_step_timer` in a process of its own."""
    context = multiprocessing.get_context('spawn')
    results = context.Queue()
    process = context.Process(target=_variant, args=(theirs, arguments, results))
    process.start()
    value = results.get()
    process.join()
    return value


def main() -> None:
    """Prints both variants and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bb', default='pvt_v2_b0')
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--steps', type=int, default=3)
    parser.add_argument('--rounds', type=int, default=2)
    options = parser.parse_args()
    arguments = (options.bb, options.size, options.batch, options.steps)
    best: dict[bool, tuple[float, float]] = {}
    for _ in range(options.rounds):
        for theirs in (False, True):
            seconds, memory = measure(theirs, arguments)
            before = best.get(theirs, (float('inf'), 0.))
            best[theirs] = min(seconds, before[0]), max(memory, before[1])
    print(f'{options.bb}, {options.size}x{options.size}, batch {options.batch}, {torch.get_num_threads()} threads')
    for theirs, name in ((False, 'ours'), (True, 'torchvision')):
        print(f'  {name:12} {best[theirs][0]:6.2f} s a step  {best[theirs][1]:5.2f} GB over the start')
    print(f'  ratio        {best[True][0] / best[False][0]:6.2f} x faster {best[False][1] / best[True][1]:5.2f} '
          'of the memory')


if __name__ == '__main__':
    main()
