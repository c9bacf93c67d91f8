"""Runs images through a network: normalisation, device, and a check of the free memory."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from inference.images import Size
from inference.memory import free_memory
from utils import IMAGENET_MEAN, IMAGENET_STD, STRIDE

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
# Working memory of the plain network in float32, besides its weights: a constant part, and one
# for each pixel of the input. A network that needs less of the latter has `bytes_per_pixel`.
BYTES = 2 ** 28
BYTES_PER_PIXEL = 3000
GIB = 2 ** 30


class Predictor:
    """Turns images of one size into foreground probabilities. Safe to call from several threads.

    Args:
        network: takes normalised RGB (B, 3, H, W), of its own dtype if it is a module and else
            float32, and returns [..., logits (B, 1, H, W)].
        device: the device that the network is on.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Sequence[Tensor]],
        device: torch.device | str = 'cpu',
    ) -> None:
        self.network = network
        self.device = torch.device(device)
        self.dtype = _dtype_of(network)
        self.mean = torch.tensor(IMAGENET_MEAN, device=self.device) * 255
        self.std = torch.tensor(IMAGENET_STD, device=self.device) * 255

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Predicts the probability of the foreground.

        Args:
            images: B images of one size, each uint8 RGB (H, W, 3), with sides that are multiples
                of 32.

        Returns:
            Probabilities, float32 (B, H, W), 0..1.

        Raises:
            ValueError: the free memory is too small (checked before any work), or the network's
                output is not finite.
        """
        height, width = images[0].shape[:2]
        bytes_per_pixel = getattr(self.network, 'bytes_per_pixel', BYTES_PER_PIXEL)
        check_memory((width, height), len(images), self.device, bytes_per_pixel)

        with torch.inference_mode():
            normalized = self._normalized(np.stack(images))
            logits = self.network(normalized.to(self.dtype))[-1]
            probability = logits.float().sigmoid()[:, 0].cpu().numpy()
        if not np.isfinite(probability).all():
            raise ValueError("the network's output is not finite; "
                             'take float32 (or bfloat16) as dtype')
        return probability

    def _normalized(self, images: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels last.

        Works on whole rows: an inner loop over three channels would take seven times as long.
        """
        batch, height, width, _ = images.shape
        pixels = torch.from_numpy(images).to(self.device)
        rows = pixels.view(batch, height, width * 3).float()
        rows.sub_(self.mean.repeat(width))
        rows.div_(self.std.repeat(width))
        normalized = rows.view(batch, height, width, 3)
        return normalized.permute(0, 3, 1, 2)


def _dtype_of(network: Callable) -> torch.dtype:
    """The dtype of a network's first weights; float32 for other functions."""
    weights = network.parameters() if isinstance(network, nn.Module) else ()
    dtypes = (weight.dtype for weight in weights if weight.is_floating_point())
    return next(dtypes, torch.float32)


def check_memory(
    size: Size,
    batch: int,
    device: torch.device,
    bytes_per_pixel: int = BYTES_PER_PIXEL,
) -> None:
    """Checks that a batch fits into the free memory.

    Args:
        size: (width, height) of the network's input.
        batch: images in the batch.
        device: the device that the network is on.
        bytes_per_pixel: the network's working memory for each pixel of its input.

    Raises:
        ValueError: it does not; the message names the largest square that does.
    """
    free = free_memory(device)
    width, height = size
    needed = BYTES + batch * width * height * bytes_per_pixel
    if free is None or needed <= free:
        return

    pixels = max(0, free - BYTES) / batch / bytes_per_pixel
    side = int(pixels ** .5) // STRIDE * STRIDE
    raise ValueError(f'{batch} image(s) at {width}x{height} need about {needed / GIB:.1f} GiB of '
                     f'memory, {free / GIB:.1f} are free; take a resolution of at most '
                     f'{side}x{side}')
