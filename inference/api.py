"""Image -> mask or composite: the single steps, and `predict`, which returns its input's type."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from inference.compose import Style, compose
from inference.images import (
    DecodedImage,
    Size,
    SizeRule,
    decode_image,
    encode,
    from_pil,
    network_size,
)
from inference.masks import to_mask
from inference.network import Predictor
from inference.pipeline import DEFAULT_WORKERS, run_pipeline, values_of

DEFAULT_SIZE = (1024, 1024)  # (width, height) of the input of a network without a config
BOX_MARGIN = .1  # of the box's sides, added all round: the network needs the object's surroundings
Box = tuple[int, int, int, int]


class PreparedImage(NamedTuple):
    """An image, and its part that the network sees: `crop` (x1, y1, x2, y2), in pixels."""

    image: DecodedImage
    crop: Box


def prepare(
    image: DecodedImage,
    size_of: SizeRule,
    box: Box | None = None,
) -> tuple[np.ndarray, PreparedImage]:
    """Crops an image and resizes it to the size of the network's input.

    Args:
        image: the decoded image, of H x W pixels.
        size_of: the rule for the size of the network's input.
        box: (x1, y1, x2, y2), in pixels, the part of the image to segment; default: all of it.

    Returns:
        The network's input, uint8 RGB (h, w, 3), and what `finish` needs.

    Raises:
        ValueError: the box is not within the image.
    """
    height, width = image.pixels.shape[:2]
    if box is None:
        crop = 0, 0, width, height
    else:
        crop = _with_margin(box, width, height)

    x1, y1, x2, y2 = crop
    visible = image.pixels[y1:y2, x1:x2]
    size = size_of((x2 - x1, y2 - y1))
    return cv2.resize(visible, size), PreparedImage(image, crop)


def _with_margin(box: Box, width: int, height: int) -> Box:
    x1, y1, x2, y2 = box
    is_within = 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    if not is_within:
        raise ValueError(f'box {x1},{y1},{x2},{y2} is not within the image of {width}x{height} '
                         'pixels: give x1,y1,x2,y2 with x1 < x2 and y1 < y2')
    dx = round(BOX_MARGIN * (x2 - x1))
    dy = round(BOX_MARGIN * (y2 - y1))
    return max(x1 - dx, 0), max(y1 - dy, 0), min(x2 + dx, width), min(y2 + dy, height)


def finish(prepared: PreparedImage, probability: np.ndarray, style: Style) -> np.ndarray:
    """Turns the network's output into a result of the image's size.

    Args:
        prepared: from `prepare`.
        probability: float32 (h, w), 0..1, of the cropped part.
        style: what to make of image and mask.

    Returns:
        A mask (H, W), RGB (H, W, 3) or RGBA (H, W, 4), uint8, as `compose`.
    """
    x1, y1, x2, y2 = prepared.crop
    mask = to_mask(probability, y2 - y1, x2 - x1)
    full_shape = prepared.image.pixels.shape[:2]
    if mask.shape != full_shape:
        full_mask = np.zeros(full_shape, np.uint8)
        full_mask[y1:y2, x1:x2] = mask
        mask = full_mask
    return compose(prepared.image, mask, style)


def render_frames(
    frames: Iterable[np.ndarray],
    network: Callable[[list[np.ndarray]], np.ndarray],
    size_of: SizeRule,
    style: Style,
    box: Box | None = None,
    *,
    workers: int = DEFAULT_WORKERS,
    batch: int = 1,
) -> Iterator[np.ndarray]:
    """Renders each frame of a video, in order.

    Args:
        frames: RGB (H, W, 3) or RGBA (H, W, 4), uint8.
        network: a `Predictor`, or a function like it.
        size_of: the rule for the size of the network's input.
        style: what to make of image and mask.
        box: (x1, y1, x2, y2), in pixels, the part of each frame to segment; default: all of it.
        workers: threads that prepare frames and compose results.
        batch: how many frames go through the network together.

    Yields:
        For each frame a result, uint8, as `compose`.

    Raises:
        Exception: the first error of any frame.
    """
    def load(frame: np.ndarray) -> tuple[np.ndarray, PreparedImage]:
        return prepare(decode_any(frame), size_of, box)

    def save(_: np.ndarray, prepared: PreparedImage, probability: np.ndarray) -> np.ndarray:
        return finish(prepared, probability, style)

    outcomes = run_pipeline(frames, load, network, save, workers=workers, batch=batch)
    yield from values_of(outcomes)


def predict(
    model: nn.Module,
    images: Any,
    output: str = 'mask',
    *,
    resolution: str = '',
    box: Box | None = None,
    batch: int = 1,
    style: Style | None = None,
) -> Any:
    """Segments one image or a list of images, and returns masks or composites of the same type.

    Safe to call from several threads.

    Args:
        model: a network from `load_model`, or `optimize` of one, in eval mode, on any device and
            of any dtype; also within DataParallel or a like wrapper, or as transformers has loaded
            it from an exported folder.
        images: an image or a list of images, which may mix types and sizes. An image is a PIL
            image; an array, uint8 (H, W), (H, W, 3) or (H, W, 4); a tensor (1, H, W), (3, H, W)
            or (4, H, W), uint8 or float in 0..1; the bytes of a file; or a path.
        output: 'mask', or one of the composites 'cutout', 'color', 'picture', 'blur' and
            'side-by-side' (see `inference.compose.Style`).
        resolution: size of the network's input, 'WxH' in multiples of 32, 'native' for the
            image's own size, or a long side in pixels; default: the training size.
        box: (x1, y1, x2, y2), in pixels, the part of the image to segment; default: all of it.
        batch: how many consecutive images go through the network together, if their inputs have
            equal sizes.
        style: options of `output`, and of the mask's refinement.

    Returns:
        For each image a result of its height and width (twice the width for 'side-by-side'):
        a PIL image for a PIL image or a path; an array, uint8 (H, W) or (H, W, C), for an array;
        a tensor (1, H, W) or (C, H, W) of the same dtype and device for a tensor; the bytes of a
        PNG file for bytes. C is 3 (RGB), or 4 (RGBA) where the result is transparent.

    Raises:
        ValueError: an image cannot be read, which the message names; `output`, the box or the
            resolution is wrong; the model is in training mode; or the input would not fit into the
            free memory.
        TypeError: an image is of another type, or the model is no network.

    >>> mask = predict(model, Image.open('photo.jpg'))          # PIL image, mode 'L'
    >>> cutout = predict(model, 'photo.jpg', 'cutout', resolution='2048x2048')    # mode 'RGBA'
    >>> masks = predict(model, [array, other_array], batch=2)   # list of arrays, uint8 (H, W)
    """
    _check_model(model)
    style = replace(style or Style(), output=output)
    size_of = size_rule(model, resolution)
    network = Predictor(model, _device(model))

    def load(image: Any) -> tuple[np.ndarray, PreparedImage]:
        return prepare(decode_any(image), size_of, box)

    def save(image: Any, prepared: PreparedImage, probability: np.ndarray) -> Any:
        result = finish(prepared, probability, style)
        return _as_type_of(image, result, prepared.image)

    # A single image needs no threads.
    is_single = not isinstance(images, list | tuple)
    if is_single:
        pixels, prepared = load(images)
        probability = network([pixels])[0]
        return save(images, prepared, probability)

    workers = min(DEFAULT_WORKERS, len(images) or 1)
    outcomes = run_pipeline(images, load, network, save, workers=workers, batch=batch)
    return list(values_of(outcomes))


def size_rule(model: nn.Module, resolution: str) -> SizeRule:
    """Builds the rule for the size of the network's input.

    Args:
        model: a network whose `config`, or that of the network inside it, gives the training size
            and the range of a dynamic one.
        resolution: as for `network_size`.

    Returns:
        A function from an image's (width, height) to that of the network's input.

    Raises:
        ValueError: the resolution is wrong.
    """
    size, dynamic = _trained_sizes(_unwrapped(model))
    network_size(resolution, (32, 32), size)  # raises before any image is read
    return lambda image_size: network_size(resolution, image_size, size, dynamic)


def _check_model(model: Any) -> None:
    """Raises TypeError for what is no network, ValueError in training mode, which changes masks."""
    if not isinstance(model, nn.Module):
        raise TypeError(f'{type(model).__name__} is not a network: give the model that '
                        'load_model returns for a file or name')
    network = _unwrapped(model)
    is_known = hasattr(network, 'config')  # a wrapper alone does not know the mode of what it wraps
    if is_known and network.training:
        raise ValueError('predict: the model is in training mode; call model.eval() first')


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network that knows its size, in whatever wraps it, as DataParallel does; else `model`."""
    networks = (module for module in model.modules() if _sized_config(module))
    return next(networks, model)


def _trained_sizes(network: nn.Module) -> tuple[Size, Sequence[Sequence[int]] | None]:
    """The training size of a network, and the range of a dynamic one."""
    fields = _sized_config(network)
    size = tuple(fields.get('size', DEFAULT_SIZE))
    return size, fields.get('dynamic_size')


def _sized_config(network: nn.Module) -> Mapping[str, Any]:
    """The fields of a network's config; {} without one of ours."""
    config = getattr(network, 'config', None)
    # That of transformers has our fields inside.
    fields = getattr(config, 'birefnet', None) or getattr(config, '__dict__', {})
    return fields if 'size' in fields else {}


def _device(model: nn.Module) -> torch.device:
    tensors = chain(model.parameters(), model.buffers())
    first = next(tensors, None)
    return torch.device('cpu') if first is None else first.device


# --- Types of images ------------------------------------------------------------------------------


def decode_any(image: Any) -> DecodedImage:
    """Decodes an image of any type that `predict` takes. Raises ValueError and TypeError as it."""
    if isinstance(image, Image.Image):
        return from_pil(ImageOps.exif_transpose(image))
    if isinstance(image, bytes | str | os.PathLike):
        return decode_image(image)
    if isinstance(image, Tensor):
        image = _array_of(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f'{type(image).__name__} is not an image: '
                        'give a PIL image, array, tensor, path or bytes')

    is_grey = image.ndim == 2
    is_color = image.ndim == 3 and image.shape[2] in (3, 4)
    if image.dtype != np.uint8 or not (is_grey or is_color) or not image.size:
        raise ValueError(f'an array of {image.dtype} and shape {image.shape} is not an image: '
                         'give uint8 (H, W, 3)')
    return from_pil(Image.fromarray(image))


def _array_of(image: Tensor) -> np.ndarray:
    """(C, H, W), any dtype -> (H, W) or (H, W, C), uint8 if it was uint8 or float in 0..1."""
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(f'a tensor of shape {tuple(image.shape)} is not an image: give (3, H, W)')
    values = image.detach().cpu()
    if image.is_floating_point():
        levels = (values.float() * 255).round()
        values = levels.clamp(0, 255).to(torch.uint8)
    array = np.ascontiguousarray(values.permute(1, 2, 0).numpy())
    return array[..., 0] if array.shape[2] == 1 else array


def _as_type_of(given: Any, result: np.ndarray, image: DecodedImage) -> Any:
    """Converts `result` to the type of `given`, of which `image` was decoded."""
    if isinstance(given, bytes):
        return encode(result, '.png', image)
    if isinstance(given, np.ndarray):
        return result
    if isinstance(given, Tensor):
        channels_last = torch.from_numpy(np.atleast_3d(result))
        tensor = channels_last.permute(2, 0, 1).contiguous().to(given.device)
        return tensor.to(given.dtype) / 255 if given.is_floating_point() else tensor

    picture = Image.fromarray(result)
    profile = image.color_profile
    if profile and result.ndim == 3:
        picture.info['icc_profile'] = profile
    return picture
