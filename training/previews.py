"""Previews for TensorBoard: what the network makes of a few pairs while it learns."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from dataset import Pair, Size, normalize, to_tensor
from training.validation import ErrorHandler, read_pair
from utils import ceil_div

COUNT = 4
HEIGHT = 256
GAP = 6
WHITE = 255


@dataclass(frozen=True)
class Preview:
    """A pair that is shown: `name` in TensorBoard, image (H, W, 3) and mask (H, W), uint8."""

    name: str
    image: np.ndarray
    mask: np.ndarray


def evenly_spaced(pairs: Sequence[Pair], count: int = COUNT) -> list[Pair]:
    """Chooses at most `count` of the pairs, evenly spaced; all if there are fewer."""
    step = ceil_div(len(pairs), count)
    return list(pairs[::step])


def read_previews(pairs: Sequence[Pair], size: Size, on_error: ErrorHandler) -> list[Preview]:
    """Reads some of the pairs at the network's size; errors as of `read_pair`."""
    previews = []
    for pair in evenly_spaced(pairs):
        pixels = read_pair(pair, size, on_error)
        if pixels is not None:
            previews.append(Preview(f'{pair.set}/{pair.name}', *pixels))
    return previews


@torch.no_grad()
def draw_strip(
    model: nn.Module,
    preview: Preview,
    device: torch.device,
    autocast: AbstractContextManager,
) -> np.ndarray:
    """Draws image, mask and prediction side by side.

    With outward reference, label and prediction of the edges at the finest level follow. Edges are
    shown as the loss compares them, after the sigmoid: grey is none.

    Args:
        model: a BiRefNet, which is left in the mode that it was in, its statistics as they were.
        preview: of a size that the network takes.
        device: the network's.
        autocast: the context in which it computes.

    Returns:
        uint8 (HEIGHT, W, 3).
    """
    batch = to_tensor(preview.image)[None]
    image = normalize(batch.to(device))
    was_training = model.training
    model.eval()
    with autocast:
        output = model(image, side_outputs=True)
    model.train(was_training)

    # The finest level's edges come last.
    logits = [output.logits[-1]]
    if output.edge_pairs:
        prediction, label = output.edge_pairs[-1]
        logits += [label, prediction]
    maps = [_to_pixels(logit) for logit in logits]
    shown = (preview.image, preview.mask, *maps)
    return _side_by_side([_panel(pixels) for pixels in shown])


def _side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Joins panels of one height, with a white gap between them."""
    gap = np.full((HEIGHT, GAP, 3), WHITE, np.uint8)
    parts = [panels[0]]
    for panel in panels[1:]:
        parts += [gap, panel]
    return np.concatenate(parts, axis=1)


def _to_pixels(logit: Tensor) -> np.ndarray:
    """(1, 1, H, W) -> uint8 (H, W)."""
    probability = logit.float().sigmoid()[0, 0]
    levels = (probability * 255).round()
    return levels.byte().cpu().numpy()


def _panel(pixels: np.ndarray) -> np.ndarray:
    """Resizes (H, W, 3) or (H, W) to (HEIGHT, w, 3), uint8, keeping the aspect ratio."""
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    height, width = pixels.shape[:2]
    new_width = round(width * HEIGHT / height)

    # Averaging reduces without aliasing, and would enlarge in blocks.
    is_reduced = height > HEIGHT
    interpolation = cv2.INTER_AREA if is_reduced else cv2.INTER_LINEAR
    return cv2.resize(pixels, (new_width, HEIGHT), interpolation=interpolation)
