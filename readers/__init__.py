"""The one reader of images and masks: what training, testing, evaluation and prediction see."""

from readers.deep import grey_values
from readers.images import decode_rgb, image_to_srgb, read_image, to_rgb
from readers.masks import ZERO_ONE, Interpretation, interpret, read_mask, read_soft_mask
from readers.opening import (
    MAX_PIXELS,
    Readable,
    TooManyPixels,
    check_size,
    decode,
    identify,
    load,
    open_file,
    open_header,
    open_image,
    read_bytes,
)
from readers.survey import survey_masks

__all__ = [
    'MAX_PIXELS',
    'ZERO_ONE',
    'Interpretation',
    'Readable',
    'TooManyPixels',
    'check_size',
    'decode',
    'decode_rgb',
    'grey_values',
    'identify',
    'image_to_srgb',
    'interpret',
    'load',
    'open_file',
    'open_header',
    'open_image',
    'read_bytes',
    'read_image',
    'read_mask',
    'read_soft_mask',
    'survey_masks',
    'to_rgb',
]
