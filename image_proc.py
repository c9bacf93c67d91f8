"""The publication's `refine_foreground`, for code that imports it."""

import numpy as np
from PIL import Image

from inference.edges import BLUR_FUSION_SIZES, estimate_foreground


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
