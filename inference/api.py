"""Pictures of any kind to masks and cut-outs: the steps, and `predict`, which takes and gives what you have."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from inference.compose import Style, compose
from inference.images import Picture, Size, encode, from_pil, network_size, read_picture
from inference.masks import to_mask
from inference.network import Predictor
from inference.pipeline import DEFAULT_WORKERS, run_pipeline

# Published weights tell only by a part of their name that they were trained at another size, or at many.
PUBLISHED_SIZES = {'512x512': (512, 512), 'lite-2k': (2560, 1440), '_hr': (2048, 2048)}
PUBLISHED_DYNAMIC = ((256, 2304), (256, 2304))
BOX_MARGIN = .1  # of the box's sides, added all round: the network wants to see what the object stands before
Box = tuple[int, int, int, int]


class Loaded(NamedTuple):
    """A picture, and the part of it, (x1, y1, x2, y2), that the network sees."""

    picture: Picture
    crop: Box


def prepare(picture: Picture, size_of: Callable[[Size], Size], box: Box | None = None) -> tuple[np.ndarray, Loaded]:
    """What the network sees of a picture, uint8 (h, w, 3), and what `finish` needs.

    `size_of` gives the network's width and height for a picture's. `box` (x1, y1, x2, y2), in pixels, is the part to
    segment. Raises ValueError if it lies outside.
    """
    height, width = picture.pixels.shape[:2]
    crop = (0, 0, width, height) if box is None else _with_margin(box, width, height)
    x1, y1, x2, y2 = crop
    seen = picture.pixels[y1:y2, x1:x2]
    size = size_of((x2 - x1, y2 - y1))
    return cv2.resize(seen, size), Loaded(picture, crop)


def _with_margin(box: Box, width: int, height: int) -> Box:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(f'box {x1},{y1},{x2},{y2} is not within the image of {width}x{height} pixels: '
                         'give x1,y1,x2,y2 with x1 < x2 and y1 < y2')
    dx = round(BOX_MARGIN * (x2 - x1))
    dy = round(BOX_MARGIN * (y2 - y1))
    return max(x1 - dx, 0), max(y1 - dy, 0), min(x2 + dx, width), min(y2 + dy, height)


def finish(loaded: Loaded, probability: np.ndarray, style: Style) -> np.ndarray:
    """The result, uint8 (see `compose`), from the network's probability (h, w)."""
    x1, y1, x2, y2 = loaded.crop
    mask = to_mask(probability, y2 - y1, x2 - x1)
    if mask.shape != loaded.picture.pixels.shape[:2]:
        whole = np.zeros(loaded.picture.pixels.shape[:2], np.uint8)
        whole[y1:y2, x1:x2] = mask
        mask = whole
    return compose(loaded.picture, mask, style)


def render_frames(frames: Iterable[np.ndarray], network: Callable[[list[np.ndarray]], np.ndarray],
                  size_of: Callable[[Size], Size], style: Style, box: Box | None = None, *,
                  workers: int = DEFAULT_WORKERS, batch: int = 1) -> Iterator[np.ndarray]:
    """The result, uint8 (see `compose`), for each of `frames`, uint8 (H, W, 3), in order; stops at the first error."""
    for outcome in run_pipeline(frames, lambda frame: prepare(to_picture(frame), size_of, box), network,
                                lambda _, loaded, probability: finish(loaded, probability, style),
                                workers=workers, batch=batch):
        if outcome.error is not None:
            raise outcome.error
        yield outcome.value


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
    """Segments one image or a list of them, and returns masks or composites in the kind that was given.

    Safe to call from several threads.

    Args:
        model: a network from `load_model`, or `optimize` of one, on any device.
        images: an image or a list of images, which may mix kinds and sizes. An image is a PIL image; an array,
            uint8 (H, W), (H, W, 3) or (H, W, 4); a tensor (3, H, W), uint8 or float in 0..1; the bytes of a file;
            or a path.
        output: one of `inference.compose.OUTPUTS`.
        resolution: of the network's input, 'WxH', 'native' or a long side; default: as trained.
        box: (x1, y1, x2, y2), in pixels, the part of the image to segment.
        batch: how many images of one size go through the network together.
        style: refines `output`.

    Returns:
        For each image a result of the image's size: a PIL image for PIL images and paths; an array (H, W) or
        (H, W, C), uint8; a tensor (1, H, W) or (C, H, W) of the same dtype and device; or the bytes of a PNG.

    Raises:
        ValueError: an image cannot be read, which the message names, or the box or resolution is wrong.
        TypeError: an image is of another kind.

    >>> mask = predict(model, Image.open('photo.jpg'))                            # PIL image, mode 'L'
    >>> cutout = predict(model, 'photo.jpg', 'cutout', resolution='2048x2048')    # PIL image, mode 'RGBA'
    >>> masks = predict(model, [array, other_array], batch=2)                     # list of uint8 arrays (H, W)
    """
    single = not isinstance(images, list | tuple)
    style = replace(style or Style(), output=output)
    size_of = sizes_of(model, resolution)

    def load(image: Any) -> tuple[np.ndarray, Loaded]:
        return prepare(to_picture(image), size_of, box)

    def save(image: Any, loaded: Loaded, probability: np.ndarray) -> Any:
        return _like(image, finish(loaded, probability, style), loaded.picture)

    network = Predictor(model, _device(model))
    if single:
        array, loaded = load(images)
        return save(images, loaded, network([array])[0])
    results = []
    for outcome in run_pipeline(images, load, network, save, workers=min(DEFAULT_WORKERS, len(images) or 1),
                                batch=batch):
        if outcome.error is not None:
            raise outcome.error
        results.append(outcome)
    return [outcome.value for outcome in results]


def sizes_of(model: nn.Module, resolution: str, trained: Size | None = None,
             dynamic: tuple[Size, Size] | None = None) -> Callable[[Size], Size]:
    """The network's size for an image's, by `resolution` and the model's config; `trained`, or a `dynamic` range,
    overrule what that says."""
    config = getattr(model, 'config', None)
    size = trained or (config.size if config else (1024, 1024))
    dynamic = dynamic or (config.dynamic_size if config else None)
    network_size(resolution, (32, 32), size)  # a wrong resolution is told before any image is read
    return lambda image: network_size(resolution, image, size, dynamic)


def published_sizes(model: str) -> tuple[Size | None, tuple[Size, Size] | None]:
    """The size at which published weights of this name were trained, and the range of a dynamic one, or None."""
    name = Path(model).name.lower()
    size = next((size for part, size in PUBLISHED_SIZES.items() if part in name), None)
    return size, PUBLISHED_DYNAMIC if 'dynamic' in name else None


def _device(model: nn.Module) -> torch.device:
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device('cpu'))


def to_picture(image: Any) -> Picture:
    """A Picture of anything that `predict` takes."""
    if isinstance(image, Image.Image):
        return from_pil(ImageOps.exif_transpose(image))
    if isinstance(image, bytes | str | os.PathLike):
        return read_picture(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
            raise ValueError(f'a tensor of shape {tuple(image.shape)} is not an image: give (3, H, W)')
        values = image.detach().cpu()
        values = (values.float() * 255).round().clamp(0, 255).to(torch.uint8) if image.is_floating_point() else values
        image = np.ascontiguousarray(values.permute(1, 2, 0).numpy())
        image = image[..., 0] if image.shape[2] == 1 else image
    if not isinstance(image, np.ndarray):
        raise TypeError(f'{type(image).__name__} is not an image: give a PIL image, array, tensor, path or bytes')
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)) or not image.size:
        raise ValueError(f'an array of {image.dtype} and shape {image.shape} is not an image: give uint8 (H, W, 3)')
    return from_pil(Image.fromarray(image))


def _like(given: Any, result: np.ndarray, picture: Picture) -> Any:
    """`result` in the kind of `given`."""
    if isinstance(given, bytes):
        return encode(result, '.png', picture)
    if isinstance(given, np.ndarray):
        return result
    if isinstance(given, Tensor):
        tensor = torch.from_numpy(np.atleast_3d(result)).permute(2, 0, 1).contiguous().to(given.device)
        return tensor.to(given.dtype) / 255 if given.is_floating_point() else tensor
    image = Image.fromarray(result)
    if picture.profile and result.ndim == 3:
        image.info['icc_profile'] = picture.profile
    return image
