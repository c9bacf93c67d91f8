"""Pictures of what the network makes of a few pairs while it learns."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from dataset import Pair, normalize, to_tensor

COUNT, HEIGHT, GAP = 4, 256, 6


def choose(pairs: Sequence[Pair]) -> list[Pair]:
    """COUNT of the pairs, or all if there are fewer, evenly spread."""
    return list(pairs[::-(-len(pairs) // COUNT)])


@torch.no_grad()
def draw_strip(model: nn.Module, image: np.ndarray, mask: np.ndarray, device: torch.device,
               autocast: AbstractContextManager) -> np.ndarray:
    """Image, mask, prediction and, with outward reference, label and prediction of the gradient at its finest level,
    side by side; uint8 (HEIGHT, W, 3).

    `image` (H, W, 3) and `mask` (H, W), uint8, are of a size that the network takes. It is left in the mode it was in,
    its statistics as they were. Gradients are shown as the loss compares them, after the sigmoid: grey is none.
    """
    was_training = model.training
    model.eval()
    with autocast:
        output = model(normalize(to_tensor(image)[None].to(device)), side_outputs=True)
    model.train(was_training)
    maps = [output.logits[-1], *(output.edge_pairs[-1][::-1] if output.edge_pairs else ())]
    panels = [_panel(pixels) for pixels in (image, mask, *map(_to_pixels, maps))]
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], 1)


def _to_pixels(logit: Tensor) -> np.ndarray:
    return (logit.float().sigmoid()[0, 0] * 255).round().byte().cpu().numpy()


def _panel(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) or (H, W) as (HEIGHT, w, 3), its aspect ratio kept."""
    colour = pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    height, width = colour.shape[:2]
    shrinks = cv2.INTER_AREA if height > HEIGHT else cv2.INTER_LINEAR
    return cv2.resize(colour, (round(width * HEIGHT / height), HEIGHT), interpolation=shrinks)
