"""How often the tile order is read wrongly from weights: `python -m benchmarks.tile_order`.

Trains small networks on photographs and on the demo's images, and reads their order after 20, 100
and 400 steps. Every network is read in both orders, in float32 and in float16. The network of the
other order is a permutation of its input channels: optimizer and initialisation treat all channels
alike, so it is what training in that order would have given. Fine-tuned networks, which began in
the other order by mistake, are read in the order of their last training alone.

`--keep FOLDER` saves the weights that the order is read from, and does not train again for those
that are there.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import skimage.data
import skimage.filters
import torch
from tabulate import tabulate
from torch import Tensor

from config import Config
from demo.make_data import SEED, sample
from loss import edge_loss, pixel_terms
from models import BiRefNet, build_birefnet
from models.checkpoints.files import write_state
from models.checkpoints.names import to_official
from models.checkpoints.tile_order import (
    ORDERS,
    TileEvidence,
    convert_tile_order,
    read_tile_order,
    tile_weights,
)
from utils import IMAGENET_MEAN, IMAGENET_STD

PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket', 'retina', 'immunohistochemistry')
GENERATED = 24
SIZE = 128
BATCH = 2
SNAPSHOTS = (20, 100, 400)
LOSSES = {'bce': 30., 'iou': .5, 'ssim': 10.}

Image = tuple[np.ndarray, np.ndarray]  # RGB uint8 (H, W, 3), and its mask, uint8 (H, W)
State = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A network to train.

    It is trained in row order. `start` is 'random', 'pretrained' (the backbone of the first case,
    trained), or 'other order' (all of the first case as a file in column order, taken for one in
    row order).
    """

    name: str
    data: str = 'photographs'
    start: str = 'random'
    lr: float = 1e-4
    levels: tuple[Literal[5, 4, 3, 2, 1], ...] = (5, 4, 3, 2, 1)
    steps: int = 100
    seed: int = 0


CASES = (
    Case('photographs', steps=400),
    Case('generated', data='generated', start='pretrained', steps=400),
    Case('photographs, pretrained', start='pretrained', seed=1),
    Case('generated', data='generated', seed=2),
    Case('photographs', seed=3),
    Case('lr 1e-5', start='pretrained', lr=1e-5, seed=4),
    Case('lr 1.5e-3', data='generated', lr=1.5e-3, seed=5),
    Case('2024-03', levels=(4, 3, 2, 1), seed=6),
    Case('levels 3, 2, 1', data='generated', levels=(3, 2, 1), seed=7),
    Case('fine-tuned, lr 1e-4', start='other order', seed=8),
    Case('fine-tuned, lr 1e-5', start='other order', lr=1e-5, seed=9),
)


# --- Data -----------------------------------------------------------------------------------------


def load_images(data: str) -> list[Image]:
    """The images of a case. The mask of a photograph is what is brighter than Otsu's threshold."""
    if data == 'generated':
        return [sample(i, 288, SEED, True)[:2] for i in range(GENERATED)]
    images = []
    for name in PHOTOGRAPHS:
        image = getattr(skimage.data, name)()[..., :3]
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        mask = grey > skimage.filters.threshold_otsu(grey)
        images.append((image, mask.astype(np.uint8) * 255))
    return images


def draw_batch(images: list[Image], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random crops, half of them flipped: images (BATCH, 3, SIZE, SIZE), masks (BATCH, 1, ...)."""
    seen, masks = [], []
    for _ in range(BATCH):
        # A square window, 60 to 100% of the shorter side.
        number = rng.integers(len(images))
        image, mask = images[number]
        height, width = mask.shape
        side = int(min(height, width) * rng.uniform(.6, 1))
        top = rng.integers(height - side + 1)
        left = rng.integers(width - side + 1)
        bottom = top + side
        right = left + side
        window = np.s_[top:bottom, left:right]
        direction = rng.choice((-1, 1))

        # Both at the network's size, perhaps mirrored.
        small = cv2.resize(image[window], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        small = small[:, ::direction]
        normalised = (small / 255 - IMAGENET_MEAN) / IMAGENET_STD
        seen.append(normalised)

        target = cv2.resize(mask[window], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        target = target[:, ::direction]
        masks.append(target[None] / 255)

    # Channels in front.
    x = torch.from_numpy(np.stack(seen))
    x = x.permute(0, 3, 1, 2)
    y = torch.from_numpy(np.stack(masks))
    return x.float().contiguous(), y.float()


# --- Training -------------------------------------------------------------------------------------


def build_start(case: Case, first: State) -> BiRefNet:
    """The network of a case before training. `first` are the trained weights of the first case."""
    torch.manual_seed(case.seed)
    config = Config(bb='pvt_v2_b0', dec_att='', mul_scl_ipt='', dec_ipt_levels=case.levels)
    model = build_birefnet(config)
    if case.start == 'pretrained':
        backbone = {key: value for key, value in first.items() if key.startswith('bb.')}
        model.load_state_dict(backbone, strict=False)
    if case.start == 'other order':
        model.load_state_dict(convert_tile_order(first, 'column'))  # as if they had been 'row'
    return model


def train(model: BiRefNet, case: Case) -> Iterator[tuple[int, State]]:
    """Trains, and returns the official state after each of SNAPSHOTS."""
    images = load_images(case.data)
    rng = np.random.default_rng(case.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.lr, weight_decay=.01)
    model.train()
    for step in range(1, case.steps + 1):
        x, mask = draw_batch(images, rng)
        output = model(x, side_outputs=True)
        terms = pixel_terms(output.logits, mask, LOSSES)
        loss = sum(terms.values()) + edge_loss(output.edge_pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        # Copies: the next step would change the tensors themselves.
        if step in SNAPSHOTS:
            official = to_official(model.state_dict(), 'pvt_v2_b0')
            yield step, {key: value.clone() for key, value in official.items()}


def train_all(folder: Path) -> None:
    """Trains all CASES, and writes the weights that see tiles to `<folder>/<case>_<steps>.pth`."""
    first: State = {}
    for number, case in enumerate(CASES):
        for step, state in train(build_start(case, first), case):
            write_state(tile_weights(state), folder / f'{number}_{step}.pth')
        if number == 0:
            first = state


# --- Reading --------------------------------------------------------------------------------------


def read_all(folder: Path) -> tuple[list[list[str]], Counter]:
    """Rows of the table, and how many readings were right, wrong and undecided."""
    rows = []
    verdicts: Counter = Counter()
    for number, case in enumerate(CASES):
        for step in SNAPSHOTS:
            path = folder / f'{number}_{step}.pth'
            if not path.is_file():
                continue
            state = torch.load(path, weights_only=True)

            # Weights of a mixed start have no true column order to convert them to.
            cells = []
            orders = ORDERS if case.start != 'other order' else ORDERS[:1]
            for order in orders:
                for dtype in (torch.float16, torch.float32):
                    evidence = read_tile_order(_as(state, order, dtype))
                    verdict = judge(evidence, order)
                    verdicts[verdict] += 1
                cells += [f'{evidence.row:.1f}', f'{evidence.column:.1f}', verdict]
            rows.append([case.name, case.data, case.start, f'{case.lr:g}', str(step), *cells])
    return rows, verdicts


def _as(state: State, order: str, dtype: torch.dtype) -> State:
    """Weights in row order in another order and precision."""
    cast = {}
    for key, value in state.items():
        cast[key] = value.to(dtype)
    if order == 'row':
        return cast
    return convert_tile_order(cast, order)


def judge(evidence: TileEvidence, order: str) -> str:
    """'right', 'wrong' or 'undecided'."""
    if not evidence.order:
        return 'undecided'
    return 'right' if evidence.order == order else 'wrong'


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--keep', type=Path, metavar='FOLDER')
    folder = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        if not any(folder.glob('*.pth')):
            train_all(folder)
        rows, verdicts = read_all(folder)

    # For each true order: the evidence for both, and what was read.
    truths = []
    for order in ORDERS:
        for column in ('row', 'column', 'verdict'):
            truths.append(f'{order}: {column}')
    headers = ['network', 'images', 'start', 'lr', 'steps', *truths]
    print(tabulate(rows, headers, 'github'))
    counts = [f'{count} {verdict}' for verdict, count in verdicts.items()]
    print(', '.join(counts))


if __name__ == '__main__':
    main()
