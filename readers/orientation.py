"""How a picture's pixels are brought upright."""

import re
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from PIL import ExifTags, Image

# By EXIF orientation; 1 is upright, and from 5 on width and height change places.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: partial(cv2.flip, flipCode=1),
    3: partial(cv2.flip, flipCode=-1),
    4: partial(cv2.flip, flipCode=0),
    5: cv2.transpose,
    6: partial(cv2.rotate, rotateCode=cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: partial(cv2.rotate, rotateCode=cv2.ROTATE_90_COUNTERCLOCKWISE),
}
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RAW_PROFILE = 'Raw profile type'
TIFF_XMP = 700  # a tag
# As an attribute or as an element.
XMP_ORIENTATION = re.compile(r'tiff:Orientation\s*(?:=\s*["\']|>)\s*([1-8])')


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) to 8, of an image opened by Pillow.

    It is read from the EXIF data, from the text chunks in which ImageMagick keeps them, or else
    from the XMP data. Data that are damaged say nothing.
    """
    for read in (_by_exif, _by_exif_text, _by_xmp):
        try:
            found = read(image)
        except Exception:  # Pillow raises errors of many types on damaged EXIF data
            continue
        if found is not None:
            is_known = isinstance(found, int) and found in UPRIGHT
            return found if is_known else 1
    return 1


def _by_exif(image: Image.Image) -> int | None:
    # PNG's own method would decode the image to find chunks behind its pixels.
    return Image.Image.getexif(image).get(ExifTags.Base.Orientation)


def _by_exif_text(image: Image.Image) -> int | None:
    data = _raw_profile(image, 'exif') or _raw_profile(image, 'APP1')
    if not data:
        return None
    exif = Image.Exif()
    exif.load(data)
    return exif.get(ExifTags.Base.Orientation)


def _by_xmp(image: Image.Image) -> int | None:
    info = image.info
    xmp = info.get('XML:com.adobe.xmp') or info.get('xmp') or _raw_profile(image, 'xmp')
    if 'xmp' not in info and hasattr(image, 'tag_v2'):  # older Pillow leaves it in the tags
        xmp = image.tag_v2.get(TIFF_XMP, b'')
    if isinstance(xmp, bytes):
        xmp = xmp.decode('utf-8', 'replace')
    found = XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else None


def _raw_profile(image: Image.Image, kind: str) -> bytes:
    """Metadata in a text chunk of PNG: a line of its kind, one of its length, hexadecimal ones."""
    text = image.info.get(f'{RAW_PROFILE} {kind}', '')
    return bytes.fromhex(''.join(text.split('\n')[3:]))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels, (H, W) or (H, W, C), that a file holds in `orientation`."""
    if orientation not in UPRIGHT:
        return pixels
    return UPRIGHT[orientation](pixels)


def upright_image(image: Image.Image) -> Image.Image:
    """Turns a decoded image by its orientation, and drops that from the metadata."""
    orientation = orientation_of(image)
    if orientation not in TRANSPOSITIONS:
        return image
    turned = image.transpose(TRANSPOSITIONS[orientation])
    for name in list(turned.info):
        if str(name).startswith(RAW_PROFILE) or name in ('XML:com.adobe.xmp', 'xmp'):
            del turned.info[name]
    try:
        exif = turned.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        if 'exif' in turned.info:
            turned.info['exif'] = exif.tobytes()
    except Exception:  # damaged EXIF data, of which nothing is left then
        turned.info.pop('exif', None)
    return turned
