"""TIFF files that Pillow does not know, such as colours in floating point, by OpenCV."""

import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from readers.deep import PHOTOMETRIC, PLANAR, SEPARATE, WHITE_IS_ZERO, image_of

TIFF_STARTS = (b'II*\0', b'MM\0*')
IMAGE_WIDTH = 256
IMAGE_LENGTH = 257
ICC_PROFILE = 34675
KIND = 254  # "NewSubfileType"
REDUCED = 1  # bit of a kind: another image of the file has more pixels
# Raw files of most cameras are TIFF that begin so. Further pages of others may be previews.
PREVIEW = 'a raw photograph (DNG, NEF, ARW), whose preview alone could be read; develop it first'


def open_tiff(data: bytes, check_size: Callable[[tuple[int, int]], None]) -> Image.Image | None:
    """Decodes a TIFF by OpenCV, upright; returns None if it cannot either.

    Args:
        data: the file's bytes.
        check_size: raises an error for (width, height) that are not taken.
    """
    directory = ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    file.seek(directory.next)
    directory.load(file)
    # What OpenCV reads as if it were otherwise.
    is_planar = directory.get(PLANAR) == SEPARATE
    is_inverted = directory.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if is_preview(directory) or is_planar or is_inverted:
        return None
    check_size((directory[IMAGE_WIDTH], directory[IMAGE_LENGTH]))
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return None
    image = image_of(values)
    if ICC_PROFILE in directory:
        image.info['icc_profile'] = directory[ICC_PROFILE]
    return image


def is_preview(directory: ImageFileDirectory_v2) -> bool:
    """Whether an image of a TIFF file is a small version of another one."""
    return bool(directory.get(KIND, 0) & REDUCED)
