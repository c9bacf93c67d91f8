"""Traces the network by torch.export, and checks that an exported copy computes the same."""

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
from readers import read_image
from utils import IMAGENET_MEAN, IMAGENET_STD, STRIDE

# The names that the field's tools expect.
INPUT = 'input_image'
OUTPUT = 'output_image'
LARGEST = 8192  # side of an image that a program of dynamic size is made for
MOST = 64  # images in its batch
# Up to 2.9, convolutions ask how many pixels a symbolic size has. No version between was tried.
OLDEST_FOR_DYNAMIC = (2, 14)
# Largest difference from the network, as a share of the standard deviation of its logits. float16
# keeps 11 bits of every map.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2}


class ExportWrapper(nn.Module):
    """What an exported file computes.

    Args:
        network: takes normalised RGB and returns [..., logits].
        sigmoid: whether the output is a probability instead of a logit.
        dtype: what the network computes in; another than float32 converts a copy of it.
    """

    def __init__(
        self, network: nn.Module, sigmoid: bool = False, dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if dtype != torch.float32:
            network = copy.deepcopy(network).to(dtype)
        self.network = network
        self.sigmoid = sigmoid
        self.dtype = dtype

    def forward(self, input_image: Tensor) -> Tensor:
        """(B, 3, H, W), normalised RGB -> (B, 1, H, W), logits or probabilities.

        Both are float32, whatever the network computes in.
        """
        outputs = self.network(input_image.to(self.dtype))
        logits = outputs[-1].float()
        return logits.sigmoid() if self.sigmoid else logits


def require_torch(oldest: tuple[int, int], purpose: str) -> None:
    """Raises ValueError if PyTorch is older than `oldest` (major, minor)."""
    if torch.__version__ < oldest:  # type: ignore[operator]  # compares with tuples, too
        needed = '.'.join(map(str, oldest))
        raise ValueError(
            f'{purpose} needs PyTorch {needed} or newer, and this is {torch.__version__}')


def trace(module: ExportWrapper, size: Size, dynamic: bool = False) -> ExportedProgram:
    """Traces the network by torch.export.

    Args:
        module: what the program computes.
        size: (width, height) that it takes, one image at a time.
        dynamic: instead of that, take batches of up to 64 with sides of 64 to 8192, multiples of
            32.

    Raises:
        ValueError: the backbone does not take that size, or not every size; or PyTorch is too old
            for a dynamic program.
    """
    # Of a dynamic program, the example's sizes only have to be unequal, and not small.
    batch = 1
    width, height = size
    shapes = None
    if dynamic:
        require_torch(OLDEST_FOR_DYNAMIC, 'a program for every size')
        batch = 2
        width, height = 256, 320
        rows = STRIDE * Dim('rows', min=2, max=LARGEST // STRIDE)
        columns = STRIDE * Dim('columns', min=2, max=LARGEST // STRIDE)
        shapes = {INPUT: {0: Dim('batch', min=1, max=MOST), 2: rows, 3: columns}}
    example = torch.zeros(batch, 3, height, width)
    try:
        with torch.no_grad():
            return torch.export.export(
                module.eval(), (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch's are of many types, and backbones assert their size
        sizes = 'all sizes, as --dynamic asks' if dynamic else f'{width}x{height}'
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise ValueError(f'this backbone cannot be traced for {sizes}: {reason}') from error


def save_program(
    program: ExportedProgram, path: str | os.PathLike, check: Callable[[Callable], None],
) -> None:
    """Writes a `.pt2` file.

    Args:
        program: of `trace`.
        path: the file, which appears only if `check` raises no error.
        check: gets the program as it was read back, a function of tensors.
    """
    with staged(path) as file:
        torch.export.save(program, file)
        check(torch.export.load(file).module())


def photographs(files: Sequence[str | os.PathLike] = ()) -> dict[str, np.ndarray]:
    """Photographs by name, uint8 RGB: the files given, or two that come with scikit-image."""
    if files:
        return {Path(file).name: read_image(file) for file in files}
    return {
        'astronaut': skimage.data.astronaut(),
        'coffee': skimage.data.coffee(),
    }


def to_input(pixels: np.ndarray, size: Size) -> Tensor:
    """Makes the network's input at `size` (width, height) of uint8 RGB (h, w, 3).

    Returns:
        float32 (1, 3, H, W), normalised.
    """
    resized = torch.from_numpy(cv2.resize(pixels, size))
    channels_first = resized.permute(2, 0, 1)[None]
    image = channels_first.float() / 255
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return (image - mean) / std


def compare(
    reference: nn.Module,
    exported: Callable[[Tensor], Tensor],
    inputs: dict[str, Tensor],
    tolerance: float,
) -> dict[str, float]:
    """Compares an exported copy with the network.

    Args:
        reference: the network.
        exported: the copy, a function of tensors.
        inputs: what both get, by name.
        tolerance: largest difference that is allowed.

    Returns:
        The largest difference on each input, as a share of the reference's standard deviation.

    Raises:
        ValueError: if a difference is above `tolerance`, or not a number.
    """
    errors = {}
    for name, image in inputs.items():
        with torch.inference_mode():
            expected = reference(image)
            found = exported(image)
        difference = (found - expected).abs().max()
        errors[name] = float(difference / expected.std())
    # A comparison with NaN is false.
    wrong = [f'{name} {error:.2g}' for name, error in errors.items() if not error <= tolerance]
    if wrong:
        raise ValueError('the exported network differs from the original by more than '
                         f'{tolerance:g} of its standard deviation: {", ".join(wrong)}')
    return errors
