"""The network as one program, image in and map out, traced by torch.export; the check that a copy computes the same."""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
import torchvision  # noqa: F401  a loaded program calls its deformable convolution
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from exporting.staging import staged
from inference.images import Size
from utils import IMAGENET_MEAN, IMAGENET_STD, STRIDE, read_image

INPUT, OUTPUT = 'input_image', 'output_image'  # the names that the field's tools expect
LARGEST = 8192  # side of an image that a program of dynamic size is made for
MOST = 64  # images in its batch
OLDEST_FOR_DYNAMIC = (2, 14)  # up to 2.9 convolutions ask how many pixels a symbolic size has; none between was tried
# Largest difference from the network, as a share of the deviation of its logits. float16 keeps 11 bits of every map.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2}


class Deployed(nn.Module):
    """What an exported file computes; `network` takes normalised RGB and gives [..., logits]."""

    def __init__(self, network: nn.Module, sigmoid: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network if dtype == torch.float32 else copy.deepcopy(network).to(dtype)
        self.sigmoid, self.dtype = sigmoid, dtype

    def forward(self, input_image: Tensor) -> Tensor:
        """(B, 3, H, W), normalised RGB -> (B, 1, H, W), logits or probabilities; float32 both, whatever is inside."""
        logits = self.network(input_image.to(self.dtype))[-1].float()
        return logits.sigmoid() if self.sigmoid else logits


def require_torch(oldest: tuple[int, int], purpose: str) -> None:
    """Raises ValueError if PyTorch is older than `oldest` (major, minor)."""
    if torch.__version__ < oldest:
        needed = '.'.join(map(str, oldest))
        raise ValueError(f'{purpose} needs PyTorch {needed} or newer, and this is {torch.__version__}')


def trace(module: Deployed, size: Size, dynamic: bool = False) -> ExportedProgram:
    """Traces `module` for one image of `size` (width, height), or, if `dynamic`, for batches of up to MOST images with
    sides of 64 to LARGEST, multiples of 32 (backbones of a fixed input size keep theirs: torch says so in an error).

    Raises ValueError if `dynamic`, and PyTorch is too old for it.
    """
    if dynamic:
        require_torch(OLDEST_FOR_DYNAMIC, 'a program for every size')
    width, height = size
    shapes, batch = None, 1
    if dynamic:
        rows, columns = (STRIDE * Dim(name, min=2, max=LARGEST // STRIDE) for name in ('rows', 'columns'))
        shapes, batch = {INPUT: {0: Dim('batch', min=1, max=MOST), 2: rows, 3: columns}}, 2
        width, height = 256, 320  # only their being unequal, and not small, matters
    example = torch.zeros(batch, 3, height, width)
    with torch.no_grad():
        return torch.export.export(module.eval(), (example,), dynamic_shapes=shapes, strict=False)


def save_program(program: ExportedProgram, path: str | os.PathLike, check: Callable[[Callable], None]) -> None:
    """Writes a `.pt2` file, which appears only once `check` has passed what was read back from it."""
    with staged(path) as file:
        torch.export.save(program, file)
        check(torch.export.load(file).module())


def photographs(files: Sequence[str | os.PathLike] = ()) -> dict[str, np.ndarray]:
    """Photographs by name, uint8 RGB: the files given, or two that come with scikit-image."""
    if files:
        return {Path(file).name: read_image(file) for file in files}
    return {'astronaut': skimage.data.astronaut(), 'coffee': skimage.data.coffee()}


def to_input(pixels: np.ndarray, size: Size) -> Tensor:
    """uint8 RGB (h, w, 3) -> what the network sees at `size` (width, height): (1, 3, H, W), float32, normalised."""
    image = torch.from_numpy(cv2.resize(pixels, size)).permute(2, 0, 1)[None].float() / 255
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]).view(2, 1, 3, 1, 1)
    return (image - mean) / std


def compare(reference: nn.Module, copied: Callable[[Tensor], Tensor], inputs: dict[str, Tensor],
            tolerance: float) -> dict[str, float]:
    """The largest difference of `copied` from `reference` on each input, as a share of the reference's deviation.

    Raises ValueError if one is above `tolerance`, or no number.
    """
    errors = {}
    for name, image in inputs.items():
        with torch.inference_mode():
            expected, found = reference(image), copied(image)
        errors[name] = float((found - expected).abs().max() / expected.std())
    if wrong := {name: error for name, error in errors.items() if not error <= tolerance}:
        raise ValueError('the exported network differs from the original by more than '
                         f'{tolerance:g} of its deviation: ' + ', '.join(f'{n} {e:.2g}' for n, e in wrong.items()))
    return errors
