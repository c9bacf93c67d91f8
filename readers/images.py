"""Images as RGB, the same pixels for training, testing and prediction."""

import io

import numpy as np
from PIL import Image, ImageCms

from readers.deep import grey_values, to_8_bit
from readers.opening import MAX_PIXELS, Source, decode, load
from readers.plain import decode_plain


def read_image(source: Source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image of any kind, upright, without its alpha.

    Args:
        source: a path, the bytes of a file, or one in an archive.
        max_pixels: the largest number of pixels that is taken.

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        ValueError, OSError: as `open_image`.
    """
    return decode_rgb(*load(source), max_pixels)


def decode_rgb(name: str, data: bytes, max_pixels: int) -> np.ndarray:
    """Decodes the bytes of an image as `read_image`, whose errors call it `name`."""
    pixels = decode_plain(data, 'RGB', max_pixels)
    if pixels is None:
        pixels = to_rgb(decode(name, data, max_pixels))
    return pixels


def to_rgb(image: Image.Image) -> np.ndarray:
    """Returns the pixels of an image of any mode as RGB, uint8, (H, W, 3).

    Colours of CMYK and Lab become sRGB, by the image's profile if it has one. RGB stays as it is.
    """
    values = grey_values(image)
    if values is not None:
        image = Image.fromarray(to_8_bit(values))
    if image.mode == 'P' and 'transparency' in image.info:
        image = image.convert('RGBA')  # which Pillow would recommend in a warning
    profile = image.info.get('icc_profile')
    if profile and image.mode in ('CMYK', 'LAB'):
        image = image_to_srgb(image, profile)
    return np.asarray(image.convert('RGB'))


def image_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts an image by its ICC profile to sRGB; returns it as it is if that is damaged."""
    srgb = ImageCms.createProfile('sRGB')
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, own, srgb, outputMode='RGB')
    except (ImageCms.PyCMSError, OSError):  # the profile is damaged
        return image
    return converted or image
