"""Functions of the publication on images, for code that imports them."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

import published
from inference.edges import BLUR_FUSION_SIZES, estimate_foreground
from readers import read_image
from utils import atomic_write

if not TYPE_CHECKING:  # which would take every name for one of this module
    __getattr__ = functools.partial(published.look_up, __name__)


def refine_foreground(
    image: Image.Image,
    mask: Image.Image,
    r: int = BLUR_FUSION_SIZES[0],
    device: object = 'cpu',
) -> Image.Image:
    """Estimates the foreground's own colour at soft edges: `inference.edges.estimate_foreground`.

    Args:
        image: RGB, or of a mode that converts to it.
        mask: grey, resized to the image where its size is another.
        r: side of the coarse box filter, which is 90 as published.
        device: ignored; it is computed on the CPU.

    Returns:
        RGB, of the size of `image`.

    Raises:
        ValueError: for another `r`.
    """
    coarse, _ = BLUR_FUSION_SIZES
    if r != coarse:
        raise ValueError(f'refine_foreground: r={r}: the box filter has {coarse} pixels')
    resized = mask.convert('L').resize(image.size)
    pixels = estimate_foreground(np.asarray(image.convert('RGB')), np.asarray(resized))
    return Image.fromarray(pixels)


def path_to_image(
    path: str | os.PathLike,
    size: tuple[int, int] | None = (1024, 1024),
    color_type: str = 'rgb',
) -> Image.Image:
    """Reads an image: `readers.read_image`, resized as for training.

    Args:
        path: of a file in any format that is read here.
        size: (width, height), or None for that of the file.
        color_type: 'rgb', or 'gray' for masks.

    Returns:
        RGB, or grey.

    Raises:
        ValueError: for another `color_type`, or a file that cannot be read.
    """
    if color_type not in ('rgb', 'gray'):
        raise ValueError(f'path_to_image: color_type={color_type!r}: give rgb or gray')
    pixels = read_image(path)
    if color_type == 'gray':
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if size:
        pixels = cv2.resize(pixels, size)
    return Image.fromarray(pixels)


def save_tensor_img(tenor_im: Tensor, path: str | os.PathLike) -> None:
    """Writes a map as an image: times 255, truncated.

    Args:
        tenor_im: in 0..1, (H, W), or (1, H, W) grey or (3, H, W) RGB.
        path: of a file, in the format of its suffix.

    Raises:
        ValueError: the suffix is of no known format.
    """
    suffix = Path(path).suffix.lower()
    image_format = Image.registered_extensions().get(suffix)
    if image_format is None:
        raise ValueError(f'{path}: there is no format {suffix!r} of images')
    image = to_pil_image(tenor_im.detach().float().cpu())
    with atomic_write(path) as file:
        image.save(file, image_format)
