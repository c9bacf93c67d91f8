"""Compositing: cut-outs, masks and other backgrounds from an image and its mask."""

from dataclasses import dataclass

import cv2
import numpy as np

from inference.color import from_srgb
from inference.edges import estimate_foreground, refine_mask
from inference.images import DecodedImage

OUTPUTS = ('cutout', 'mask', 'color', 'picture', 'blur', 'side-by-side')
SQUARE = 16  # pixels of the chequered pattern that stands for transparency


@dataclass(frozen=True, kw_only=True)
class Style:
    """What to make of an image and its mask, and how mask and edges are refined.

    Attributes:
        output: one of OUTPUTS: 'cutout', the object on a transparent background; 'mask'; 'color',
            'picture' or 'blur', the object on a colour, on another image or on its own
            background, blurred; 'side-by-side', the image beside the cut-out on a chequered
            pattern.
        color: (R, G, B, A), 0..255, sRGB, the background of 'color'. With A < 255 results are
            RGBA.
        backdrop: the background of 'picture', uint8 sRGB (H, W, 3), scaled to cover the image.
        blur_background: standard deviation, in pixels, of the Gaussian of 'blur'.
        matting: the method that estimates the foreground's colour at soft edges, one of
            `inference.edges.MATTING`; '' for none.
        threshold, fill_holes, min_object, mask_offset, mask_blur: see
            `inference.edges.refine_mask`.

    Raises:
        ValueError: the output is none of OUTPUTS, or the backdrop of 'picture' is missing.
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

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ValueError(f'output {self.output}: take one of {", ".join(OUTPUTS)}')
        if self.output == 'picture' and self.backdrop is None:
            raise ValueError('output picture: give a backdrop')

    @property
    def transparent(self) -> bool:
        """Whether results are RGBA."""
        if self.output == 'color':
            return self.color[3] < 255
        return self.output == 'cutout'


def compose(image: DecodedImage, mask: np.ndarray, style: Style) -> np.ndarray:
    """Makes the result of `style` from an image and its mask.

    The image's own transparency multiplies the mask. Backgrounds are converted to the image's
    colours. Where a cut-out is fully transparent its pixels are 0, so that nothing of the old
    background is left in the file.

    Args:
        image: of H x W pixels.
        mask: uint8 (H, W).
        style: what to make.

    Returns:
        A mask (H, W), RGB (H, W, 3) or RGBA (H, W, 4), uint8; (H, 2 * W, 3) for 'side-by-side'.
    """
    mask = refine_mask(
        mask,
        style.threshold,
        style.fill_holes,
        style.min_object,
        style.mask_offset,
        style.mask_blur,
    )
    if image.alpha is not None:
        mask = cv2.multiply(mask, image.alpha, scale=1 / 255)
    if style.output == 'mask':
        return mask

    foreground = image.pixels
    if style.matting:
        foreground = estimate_foreground(image.pixels, mask, style.matting)
    if style.output == 'cutout':
        visible = cv2.copyTo(foreground, mask)
        return np.dstack((visible, mask))
    if style.output == 'color':
        *color, alpha = style.color
        pixel = from_srgb(np.array([[color]], np.uint8), image.color_profile)
        return _over_color(foreground, mask, (*pixel[0, 0].tolist(), alpha))
    if style.output == 'side-by-side':
        pattern = chequered(*mask.shape)
        original = image.pixels
        if image.alpha is not None:
            original = over(original, image.alpha, pattern)
        return np.hstack((original, over(foreground, mask, pattern)))

    if style.output == 'picture':
        assert style.backdrop is not None, 'Style asks for it'
        background = _cover(style.backdrop, *mask.shape)
        background = from_srgb(background, image.color_profile)
    else:
        background = _blurred_background(image.pixels, mask, style.blur_background)
    return over(foreground, mask, background)


def over(foreground: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Blends two images, uint8 (H, W, 3), by a mask, uint8 (H, W): 255 shows the foreground."""
    alpha = mask.astype(np.float32) * np.float32(1 / 255)
    return cv2.blendLinear(foreground, background, alpha, 1 - alpha)


def _over_color(
    foreground: np.ndarray,
    mask: np.ndarray,
    color: tuple[int, int, int, int],
) -> np.ndarray:
    """RGB over an opaque colour, RGBA over a translucent one."""
    background = np.empty_like(foreground)
    background[:] = color[:3]
    if color[3] == 255:
        return over(foreground, mask, background)

    # Porter and Duff's "over": the colours are weighted by their shares of the total opacity.
    front = mask.astype(np.float32) / 255
    back = (1 - front) * (color[3] / 255)
    total = front + back
    share = front / np.maximum(total, 1e-6)
    pixels = cv2.blendLinear(foreground, background, share, 1 - share)
    alpha = np.rint(255 * total).astype(np.uint8)
    return np.dstack((pixels, alpha))


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
    """Blurs the background without the foreground, whose colour would spread as a halo.

    The blur is computed at a fraction of the size, because its result has no fine details.
    """
    height, width = mask.shape
    factor = max(int(sigma / 4), 1)
    small_size = max(width // factor, 1), max(height // factor, 1)

    def blurred(values: np.ndarray) -> np.ndarray:
        small = cv2.resize(values, small_size, interpolation=cv2.INTER_AREA)
        return cv2.GaussianBlur(small, (0, 0), sigma / factor)

    # A mean that is weighted by the background's share of each pixel.
    weight = 1 - mask.astype(np.float32) / 255
    total = blurred(weight)[..., None]
    weighted = blurred(pixels * weight[..., None])
    mean = np.clip(weighted / np.maximum(total, .01), 0, 255)

    # Deep inside the object there is no background to average, and none that is seen.
    small = np.where(total > .01, mean, blurred(pixels)).astype(np.uint8)
    return cv2.resize(small, (width, height))


def chequered(height: int, width: int) -> np.ndarray:
    """Draws the pattern that stands for transparency, uint8 (H, W, 3)."""
    row = np.arange(height)[:, None] // SQUARE
    column = np.arange(width) // SQUARE
    is_dark = (row + column) % 2
    grey = np.where(is_dark, np.uint8(204), np.uint8(255))
    return np.repeat(grey[..., None], 3, 2)
