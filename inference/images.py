"""Decodes images of any kind, sizes the network's input, and encodes results as files."""

import io
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image

from inference.color import Chunks, color_chunks, profile_of_chunks, to_srgb, with_chunks
from inference.masks import encode_png
from readers import (
    MAX_PIXELS,
    decode,
    decode_rgb,
    grey_values,
    identify,
    load,
    to_rgb,
)
from utils import STRIDE, atomic_write

Size = tuple[int, int]  # width, height
SizeRule = Callable[[Size], Size]  # from an image's size to that of the network's input

JPEG_START = b'\xff\xd8'
FORMATS = {
    '.png': 'PNG',
    '.webp': 'WEBP',
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.tif': 'TIFF',
    '.tiff': 'TIFF',
}
LONGEST_SIDE = {'WEBP': 16_383, 'JPEG': 65_500}  # in pixels
PROFILE_SPACE = slice(16, 20)  # where a profile names the space of its colours
# Of TIFF, whose EXIF data lie among them: where and how that file holds its pixels.
PIXEL_TAGS = (
    *range(254, 260), 262, 263, 266, 273, *range(277, 282), 284, *range(288, 292), 292, 293, 297,
    301, 317, *range(320, 326), 330, 332, 333, 334, 336, *range(338, 348), *range(512, 522),
    529, 530, 531, 532, 700, 34675)
LONGEST_JPEG_EXIF = 65_533  # bytes
ENCODER_OPTIONS = {
    'PNG': {'compress_level': 1},
    'WEBP': {'quality': 90, 'method': 2},
    'JPEG': {'quality': 95},
}


class DecodedImage(NamedTuple):
    """An image, upright, with what its file says of it.

    Attributes:
        pixels: uint8 RGB (H, W, 3).
        alpha: uint8 (H, W); None if the image is opaque.
        profile: the file's ICC profile of the pixels, or None.
        exif: the EXIF data without the orientation, or None.
        chunks: what a PNG says of its colours beside or instead of a profile.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: bytes | None = None
    chunks: Chunks = ()

    @property
    def color_profile(self) -> bytes | None:
        """An ICC profile of the pixels; None for sRGB."""
        return profile_of_chunks(self.chunks, self.profile)


# --- Decoding -------------------------------------------------------------------------------------


def decode_image(
    source: str | os.PathLike | bytes,
    max_pixels: int = MAX_PIXELS,
) -> DecodedImage:
    """Decodes an image, of an animation the first frame.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: larger images are refused.

    Raises:
        ValueError: not an image, damaged or too large; the message names the source.
        OSError: the file is missing or not readable.
    """
    name, data = load(source)  # once: a pipe has nothing left then
    header = _open_header(data) if data.startswith(JPEG_START) else None
    if header is None or header.mode != 'RGB':
        image = from_pil(decode(name, data, max_pixels))
        return image._replace(chunks=color_chunks(data))

    # A JPEG has no transparency, and this takes half of Pillow's time.
    pixels = decode_rgb(name, data, max_pixels)
    profile = _rgb_profile(header)
    return DecodedImage(pixels, None, profile, _exif_without_orientation(header))


def read_backdrop(
    source: str | os.PathLike | bytes,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads an image as sRGB, uint8 (H, W, 3), without alpha. Errors as `decode_image`."""
    image = decode_image(source, max_pixels)
    return to_srgb(image.pixels, image.color_profile)


def _open_header(data: bytes) -> Image.Image | None:
    try:
        return identify(io.BytesIO(data))
    except Exception:  # decoding will say what is wrong
        return None


def _rgb_profile(image: Image.Image) -> bytes | None:
    """The image's ICC profile, if it is one of RGB, as the results are, and not damaged."""
    profile = image.info.get('icc_profile') or b''
    return profile if profile[PROFILE_SPACE] == b'RGB ' else None


def _exif_without_orientation(image: Image.Image) -> bytes | None:
    try:
        exif = image.getexif()
        exif.pop(ExifTags.Base.Orientation, None)  # it has been applied
        for tag in PIXEL_TAGS:
            exif.pop(tag, None)
        return exif.tobytes() if len(exif) else None
    except Exception:  # Pillow raises errors of many types on damaged EXIF data, which is dropped
        return None


def from_pil(image: Image.Image) -> DecodedImage:
    """Converts an upright PIL image of any mode.

    Colours of CMYK and Lab images become sRGB, by their profile. Other profiles are kept where
    they describe RGB.
    """
    exif = _exif_without_orientation(image)
    alpha = None
    deep = grey_values(image)
    if image.has_transparency_data and deep is not None:
        is_clear = deep == image.info['transparency']
        alpha = np.where(is_clear, np.uint8(0), np.uint8(255))
    elif image.has_transparency_data:
        if image.mode not in ('LA', 'PA'):
            image = image.convert('RGBA')
        alpha = np.asarray(image.getchannel('A'))
    if alpha is not None and alpha.min() == 255:
        alpha = None

    profile = _rgb_profile(image) if image.mode in ('RGB', 'RGBA', 'P') else None
    return DecodedImage(to_rgb(image), alpha, profile, exif)


# --- Size of the network's input ------------------------------------------------------------------


def network_size(
    resolution: str,
    image: Size,
    trained: Size,
    dynamic: Sequence[Sequence[int]] | None = None,
) -> Size:
    """Computes the size of the network's input for an image. All sizes are (width, height).

    Args:
        resolution: 'WxH'; 'native', the image's own size; a long side in pixels, which keeps the
            aspect ratio; or '' for the training size.
        image: size of the image, in pixels.
        trained: the training size. Images are resized to it without keeping the aspect ratio,
            because padding scores lower.
        dynamic: the range of sizes of weights that were trained at many, ((w_min, w_max),
            (h_min, h_max)). They keep the aspect ratio, at as many pixels as `trained` has.

    Returns:
        Width and height, multiples of 32.

    Raises:
        ValueError: the resolution is none of these, or WxH has sides that are not multiples of 32.
    """
    width, height = image
    exact = re.fullmatch(r'(\d+)x(\d+)', resolution)
    if exact:
        size = int(exact[1]), int(exact[2])
        nearest = _rounded(*size)
        if size != nearest:
            raise ValueError(f'resolution {resolution}: sides must be multiples of {STRIDE}; '
                             f'nearest: {nearest[0]}x{nearest[1]}')
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
    return _dynamic_size(image, trained, dynamic)


def _dynamic_size(image: Size, trained: Size, dynamic: Sequence[Sequence[int]]) -> Size:
    width, height = image
    (min_width, max_width), (min_height, max_height) = dynamic
    scale = (trained[0] * trained[1] / (width * height)) ** .5
    return _rounded(
        min(max(width * scale, min_width), max_width),
        min(max(height * scale, min_height), max_height),
    )


def _rounded(width: float, height: float) -> Size:
    return _round_to_stride(width), _round_to_stride(height)


def _round_to_stride(side: float) -> int:
    strides = int(side / STRIDE + .5)
    return max(strides, 1) * STRIDE


def is_fixed_size(size_of: SizeRule) -> bool:
    """Whether a rule gives all images the same size."""
    return size_of((1024, 512)) == size_of((512, 1024))


# --- Encoding -------------------------------------------------------------------------------------


def check_format(suffix: str, transparent: bool) -> None:
    """Checks that results can be written to a file with this suffix.

    Raises:
        ValueError: the suffix is of no known format, or results are `transparent` and the format
            has no alpha channel.
    """
    if suffix.lower() not in FORMATS:
        hint = '' if suffix else ', or end the name of a folder with a slash'
        raise ValueError(f'{suffix or "no suffix"}: no format for results; '
                         f'take .png, .webp, .jpg or .tif{hint}')
    if transparent and FORMATS[suffix.lower()] == 'JPEG':
        raise ValueError(f'{suffix}: JPEG holds no transparency; '
                         'take .png or .webp, or a background')


def holds_exif(suffix: str, exif: bytes) -> bool:
    """Whether a file with this suffix, one of FORMATS, can hold EXIF data of this length."""
    is_limited = FORMATS[suffix.lower()] == 'JPEG'
    return not is_limited or len(exif) <= LONGEST_JPEG_EXIF


def encode(
    pixels: np.ndarray,
    suffix: str,
    image: DecodedImage,
    keep_exif: bool = False,
) -> bytes:
    """Encodes a result in the colours of the image that it was made of.

    A PNG gets the image's own profile and chunks, other files an ICC profile of the same meaning.

    Args:
        pixels: uint8 (H, W), RGB (H, W, 3) or RGBA (H, W, 4).
        suffix: of the file, one of FORMATS.
        image: the decoded image.
        keep_exif: write the image's EXIF data as well.

    Raises:
        ValueError: as `check_format`, and for sizes that the format does not allow.
    """
    is_mask = pixels.ndim == 2
    is_transparent = pixels.shape[2:] == (4,)
    check_format(suffix, is_transparent)
    kind = FORMATS[suffix.lower()]

    height, width = pixels.shape[:2]
    if kind in LONGEST_SIDE and max(height, width) > LONGEST_SIDE[kind]:
        raise ValueError(f'{suffix}: {width}x{height} pixels are more than {kind} holds; take .png')

    metadata = {}
    profile = image.profile if kind == 'PNG' else image.color_profile
    if profile and not is_mask:
        metadata['icc_profile'] = profile
    if image.exif and keep_exif:
        metadata['exif'] = image.exif
    data = _encode_pixels(pixels, kind, metadata)
    if kind == 'PNG' and not is_mask:
        return with_chunks(data, image.chunks)
    return data


def _encode_pixels(pixels: np.ndarray, kind: str, metadata: dict[str, bytes]) -> bytes:
    is_mask = pixels.ndim == 2
    if kind == 'PNG' and not metadata:
        return encode_png(pixels) if is_mask else _encode_color_png(pixels)

    options = ENCODER_OPTIONS.get(kind, {})
    if kind == 'WEBP' and is_mask:
        options = {'lossless': True}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options, **metadata)
    return buffer.getvalue()


def _encode_color_png(pixels: np.ndarray) -> bytes:
    has_alpha = pixels.shape[2] == 4
    order = cv2.COLOR_RGBA2BGRA if has_alpha else cv2.COLOR_RGB2BGR
    _, data = cv2.imencode('.png', cv2.cvtColor(pixels, order))
    return data.tobytes()


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file, atomically."""
    with atomic_write(path) as file:
        file.write(data)
