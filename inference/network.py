"""Images through a network: sizes, normalisation, memory and device seen to."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from inference.images import Size
from inference.memory import free_memory
from utils import IMAGENET_MEAN, IMAGENET_STD

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
# What a network needs over its weights, in float32: at any size, and for each pixel; one that needs less of the latter
# says so in `bytes_per_pixel`.
BYTES = 2 ** 28
BYTES_PER_PIXEL = 3000


class Predictor:
    """Turns images of one size into foreground probabilities. Safe to call from several threads.

    Args:
        network: takes normalised RGB (B, 3, H, W) and returns [..., logits (B, 1, H, W)].
        device: the device the network is on.
    """

    def __init__(self, network: Callable[[Tensor], Sequence[Tensor]], device: torch.device | str = 'cpu') -> None:
        self.network = network
        self.device = torch.device(device)
        self.mean = torch.tensor(IMAGENET_MEAN, device=self.device) * 255
        self.std = torch.tensor(IMAGENET_STD, device=self.device) * 255

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Predicts the probability of the foreground.

        Args:
            images: B images of one size, each RGB, uint8 (H, W, 3).

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
            logits = self.network(self._normalized(np.stack(images)))[-1]
            probability = logits.float().sigmoid()[:, 0].cpu().numpy()
        if not np.isfinite(probability).all():
            raise ValueError('the network gave values that are no numbers; take float32 (or bfloat16) as dtype')
        return probability

    def _normalized(self, images: np.ndarray) -> Tensor:
        """images (B, H, W, 3), uint8 -> (B, 3, H, W), float32, channels last. By whole rows: an inner loop over three
        channels would take seven times as long."""
        batch, height, width, _ = images.shape
        rows = torch.from_numpy(images).to(self.device).view(batch, height, width * 3).float()
        rows.sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)


def check_memory(size: Size, batch: int, device: torch.device, bytes_per_pixel: int = BYTES_PER_PIXEL) -> None:
    """Raises ValueError where a batch of `size` (width, height) would need more memory than is free."""
    free = free_memory(device)
    needed = BYTES + batch * size[0] * size[1] * bytes_per_pixel
    if free is not None and needed > free:
        side = int((max(0, free - BYTES) / batch / bytes_per_pixel) ** .5) // 32 * 32
        raise ValueError(f'{batch} image(s) at {size[0]}x{size[1]} need about {needed / 2 ** 30:.1f} GiB of memory, '
                         f'{free / 2 ** 30:.1f} are free; take a resolution of at most {side}x{side}')
