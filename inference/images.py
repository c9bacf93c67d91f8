"""Pictures of any kind in: pixels, transparency and profile; sizes for the network; results out as files."""

import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageCms

from inference.masks import encode_png
from utils import MAX_PIXELS, STRIDE, atomic_write, open_image, read_image, to_rgb

try:  # HEIC, where the extra is installed
    import pillow_heif
    pillow_heif.register_heif_opener()
except ImportError:
    pass

Size = tuple[int, int]  # width, height
FORMATS = {'.png': 'PNG', '.webp': 'WEBP', '.jpg': 'JPEG', '.jpeg': 'JPEG', '.tif': 'TIFF', '.tiff': 'TIFF'}
LONGEST = {'WEBP': 16_383, 'JPEG': 65_500}  # sides, in pixels
ENCODING = {'PNG': {'compress_level': 1}, 'WEBP': {'quality': 90, 'method': 2}, 'JPEG': {'quality': 95}}


class Picture(NamedTuple):
    """`pixels` (H, W, 3), uint8 RGB, upright; `alpha` (H, W), uint8, or None if opaque; `profile`, the ICC profile of
    the pixels, and `exif`, with no orientation left, as bytes or None."""

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: bytes | None = None


def read_picture(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads a picture; of an animation the first frame. Errors as `utils.open_image`."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if data.startswith(b'\xff\xd8') and (header := _header(data)) is not None and header.mode == 'RGB':
        pixels = read_image(source, max_pixels)  # twice as fast, and no JPEG is transparent
        return Picture(pixels, None, header.info.get('icc_profile'), _upright_exif(header))
    return from_pil(open_image(source, max_pixels))


def _header(data: bytes) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(data))
    except Exception:  # decoding will say what is wrong
        return None


def _upright_exif(image: Image.Image) -> bytes | None:
    try:
        exif = image.getexif()
        exif.pop(0x0112, None)  # the orientation has been applied
        return exif.tobytes() if len(exif) else None
    except Exception:  # Pillow raises many kinds on damaged EXIF data, which say nothing then
        return None


def from_pil(image: Image.Image) -> Picture:
    """A Picture of an upright image of any mode. Colours of CMYK and grey profiles become sRGB's."""
    alpha = None
    if image.has_transparency_data:
        image = image if image.mode in ('LA', 'PA') else image.convert('RGBA')
        alpha = np.asarray(image.getchannel('A'))
        alpha = None if alpha.min() == 255 else alpha
    profile = image.info.get('icc_profile')
    if image.mode in ('CMYK', 'LAB') and profile:
        image, profile = _to_srgb(image, profile), None
    elif image.mode not in ('RGB', 'RGBA', 'P'):
        profile = None  # a profile for grey values does not fit the RGB written
    return Picture(to_rgb(image), alpha, profile, _upright_exif(image))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        return ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                         ImageCms.createProfile('sRGB'), outputMode='RGB')
    except ImageCms.PyCMSError:  # a damaged profile says nothing
        return image


def network_size(resolution: str, image: Size, trained: Size, dynamic: Sequence[Sequence[int]] | None = None) -> Size:
    """Width and height, multiples of 32, at which the network sees an image of size `image`.

    `resolution` is 'WxH', 'native' (the image's own), a long side in pixels (the aspect is kept), or '' for what the
    weights were trained at: `trained`, to which images are squashed (padding to keep the aspect measures worse), or,
    for weights of a `dynamic` size ((w_min, w_max), (h_min, h_max)), the aspect at as many pixels as `trained` has.
    Raises ValueError for anything else.
    """
    width, height = image
    if match := re.fullmatch(r'(\d+)x(\d+)', resolution):
        size = int(match[1]), int(match[2])
        if size != _rounded(*size):
            nearest = 'x'.join(map(str, _rounded(*size)))
            raise ValueError(f'resolution {resolution}: sides must be multiples of {STRIDE}; nearest: {nearest}')
        return size
    if resolution == 'native':
        return _rounded(width, height)
    if resolution.isdecimal() and int(resolution):
        scale = int(resolution) / max(width, height)
        return _rounded(width * scale, height * scale)
    if resolution:
        raise ValueError(f"resolution {resolution}: give WxH, 'native' or a long side in pixels")
    if dynamic is None:
        return trained
    scale = (trained[0] * trained[1] / (width * height)) ** .5
    return _rounded(*(min(max(side * scale, low), high)
                      for side, (low, high) in zip(image, dynamic, strict=True)))


def one_size(size_of: Callable[[Size], Size]) -> bool:
    """Whether `size_of`, which gives the network's size for an image's, gives all images the same."""
    return size_of((1024, 512)) == size_of((512, 1024))


def _rounded(*sides: float) -> Size:
    width, height = (max(STRIDE, int(side / STRIDE + .5) * STRIDE) for side in sides)
    return width, height


def check_format(suffix: str, transparent: bool) -> None:
    """Raises ValueError if no file of this suffix can hold results, or none that are `transparent`."""
    if suffix.lower() not in FORMATS:
        raise ValueError(f'{suffix or "no suffix"}: no format for results; take .png, .webp, .jpg or .tif')
    if transparent and FORMATS[suffix.lower()] == 'JPEG':
        raise ValueError(f'{suffix}: JPEG holds no transparency; take .png or .webp, or a background')


def encode(pixels: np.ndarray, suffix: str, picture: Picture, keep_exif: bool = False) -> bytes:
    """A file of `pixels`, uint8 (H, W), (H, W, 3) or (H, W, 4), in the format of `suffix`, with the picture's profile
    and, if asked for, its EXIF data. Raises ValueError as `check_format`, and for sizes that the format cannot hold."""
    check_format(suffix, pixels.shape[2:] == (4,))
    kind = FORMATS[suffix.lower()]
    height, width = pixels.shape[:2]
    if max(height, width) > LONGEST.get(kind, height + width):
        raise ValueError(f'{suffix}: {width}x{height} pixels are more than {kind} holds; take .png')
    info = {'icc_profile': picture.profile if pixels.ndim == 3 else None, 'exif': picture.exif if keep_exif else None}
    info = {key: value for key, value in info.items() if value}
    if kind == 'PNG' and not info:
        return encode_png(pixels) if pixels.ndim == 2 else _plain_png(pixels)
    options = {'lossless': True} if kind == 'WEBP' and pixels.ndim == 2 else ENCODING.get(kind, {})
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options, **info)
    return buffer.getvalue()


def _plain_png(pixels: np.ndarray) -> bytes:
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[pixels.shape[2]]
    return cv2.imencode('.png', cv2.cvtColor(pixels, order))[1].tobytes()


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file, atomically."""
    with atomic_write(path) as file:
        file.write(data)
