"""What is made of a picture and its mask: cut-outs, masks, other backgrounds."""

from dataclasses import dataclass

import cv2
import numpy as np

from inference.edges import estimate_foreground, refine_mask
from inference.images import Picture

OUTPUTS = ('cutout', 'mask', 'color', 'picture', 'blur', 'side-by-side')
SQUARE = 16  # pixels of the chequered pattern that stands for transparency


@dataclass(frozen=True, kw_only=True)
class Style:
    """What to make, and how masks and edges are refined (see inference.edges).

    `output` is one of OUTPUTS; 'color' takes `color` (R, G, B, A), 'picture' takes `backdrop`, uint8 (H, W, 3) and cut
    to the picture's aspect, 'blur' a Gaussian of `blur_background` pixels. `matting` names the method that estimates
    the foreground's colour at soft edges, '' none.
    """

    output: str = 'cutout'
    color: tuple[int, int, int, int] = (255, 255, 255, 255)
    backdrop: np.ndarray | None = None
    blur_background: float = 20
    matting: str = ''
    threshold: int | None = None
    fill_holes: int = 0
    min_object: int = 0
    mask_offset: int = 0
    mask_blur: float = 0

    @property
    def transparent(self) -> bool:
        """Whether results are RGBA."""
        return self.output == 'cutout' or (self.output == 'color' and self.color[3] < 255)


def compose(picture: Picture, mask: np.ndarray, style: Style) -> np.ndarray:
    """The result for a picture and its mask (H, W), uint8: a mask (H, W), RGB (H, W, 3) or RGBA (H, W, 4), uint8.

    The picture's own transparency multiplies the mask.
    """
    mask = refine_mask(mask, style.threshold, style.fill_holes, style.min_object, style.mask_offset, style.mask_blur)
    if picture.alpha is not None:
        mask = cv2.multiply(mask, picture.alpha, scale=1 / 255)
    if style.output == 'mask':
        return mask
    colour = estimate_foreground(picture.pixels, mask, style.matting) if style.matting else picture.pixels
    if style.output == 'cutout':
        return np.dstack((colour, mask))
    if style.output == 'color':
        return _over_color(colour, mask, style.color)
    if style.output == 'picture':
        return over(colour, mask, _cover(style.backdrop, *mask.shape))
    if style.output == 'blur':
        return over(colour, mask, _blurred_background(picture.pixels, mask, style.blur_background))
    return np.hstack((picture.pixels, over(colour, mask, chequered(*mask.shape))))


def over(colour: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """`colour` over `background`, both uint8 (H, W, 3), by the mask."""
    alpha = mask.astype(np.float32) * np.float32(1 / 255)
    return cv2.blendLinear(colour, background, alpha, 1 - alpha)


def _over_color(colour: np.ndarray, mask: np.ndarray, color: tuple[int, int, int, int]) -> np.ndarray:
    """RGB over an opaque colour; RGBA over one that lets through."""
    flat = np.empty_like(colour)
    flat[:] = color[:3]
    if color[3] == 255:
        return over(colour, mask, flat)
    front = mask.astype(np.float32) / 255
    total = front + (1 - front) * (color[3] / 255)
    share = front / np.maximum(total, 1e-6)
    return np.dstack((cv2.blendLinear(colour, flat, share, 1 - share), np.rint(255 * total).astype(np.uint8)))


def _cover(backdrop: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales the backdrop to cover (height, width), and crops it to its middle."""
    own_height, own_width = backdrop.shape[:2]
    scale = max(height / own_height, width / own_width)

    # Rounding must not leave the backdrop a pixel short.
    scaled_width = max(width, round(own_width * scale))
    scaled_height = max(height, round(own_height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(backdrop, (scaled_width, scaled_height), interpolation=interpolation)

    top = (scaled_height - height) // 2
    left = (scaled_width - width) // 2
    return scaled[top:top + height, left:left + width].copy()


def _blurred_background(pixels: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred without the foreground, whose colour would spread as a halo. Computed at a fraction of the size: what is
    so smooth has no details to lose."""
    height, width = mask.shape
    factor = max(int(sigma / 4), 1)
    size = max(width // factor, 1), max(height // factor, 1)

    def blurred(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(cv2.resize(values, size, interpolation=cv2.INTER_AREA), (0, 0), sigma / factor)

    weight = 1 - mask.astype(np.float32) / 255
    total = blurred(weight)[..., None]
    colour = blurred(pixels * weight[..., None]) / np.maximum(total, .01)
    small = np.where(total > .01, np.clip(colour, 0, 255), blurred(pixels)).astype(np.uint8)
    return cv2.resize(small, (width, height))


def chequered(height: int, width: int) -> np.ndarray:
    """The pattern that stands for transparency, uint8 (H, W, 3)."""
    row = np.arange(height)[:, None] // SQUARE
    column = np.arange(width) // SQUARE
    is_dark = (row + column) % 2
    grey = np.where(is_dark, np.uint8(204), np.uint8(255))
    return np.repeat(grey[..., None], 3, 2)
