"""The page's jobs on images and videos, without Gradio."""

import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from torch import nn

from inference.api import PreparedImage, prepare, render_frames, size_rule
from inference.compose import Style, chequered, compose, over
from inference.images import Size, SizeRule, decode_image, encode, write_bytes
from inference.masks import to_mask, write_mask
from inference.network import Predictor
from inference.pipeline import run_pipeline
from inference.video import VIDEO_SUFFIXES, check_video_target, convert_video, is_animated
from readers import read_soft_mask
from runtime.full_memory import full_memory_reason
from utils import STRIDE

PREVIEW_SIDE = 1400  # long side, in pixels, of what the page shows
WORKERS = 2  # threads that decode and encode: at most seven images are in memory at once
# With the reason in the place of the braces.
NO_IMAGE = ('this is not an image that can be read ({}). '
            'JPEG, PNG, WebP, TIFF, BMP, GIF and the like can.')
NO_VIDEO = 'this is not a video that can be read ({}). MP4, MOV, WebM, MKV and AVI can.'
HEX_COLOR = re.compile(r'#([0-9a-fA-F]{6}|[0-9a-fA-F]{8})')
NUMBER = r'(\d+(?:\.\d+)?)'
RGB_COLOR = re.compile(rf'rgba?\({NUMBER}, *{NUMBER}, *{NUMBER}(?:, *{NUMBER})?\)')

Network = Callable[[list[np.ndarray]], np.ndarray]
Report = Callable[[int, int | None], object]  # takes the number done, and that of all or None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one visitor may ask of the machine."""

    pixels: int = 50_000_000           # of an image, and of a video frame
    network_pixels: int = 2560 * 2560  # of the network's input
    file_mb: int = 100                 # of an upload
    files: int = 20                    # in one job
    queue: int = 20                    # waiting jobs
    seconds: int = 300                 # of a job
    keep_minutes: int = 30             # from a file's last use until it is deleted
    stored_mb: int = 10_000            # of all uploads and results together


class LoadedModel(NamedTuple):
    """A network that the page offers.

    Attributes:
        module: the optimized network.
        predictor: runs it.
        source: the name or path by which its weights were given.
    """

    module: nn.Module
    predictor: Predictor
    source: str

    def size_rule(self, resolution: str) -> SizeRule:
        """Builds the rule for the size of the network's input, as `inference.api.size_rule`."""
        return size_rule(self.module, resolution)

    def limited_size_rule(self, resolution: str, limits: Limits) -> SizeRule:
        """Builds a rule that raises ValueError where the image or the input exceeds the limits."""
        size_of = self.size_rule(resolution)

        def limited(image: Size) -> Size:
            width, height = image
            if width * height > limits.pixels:
                raise ValueError(f'{width}x{height} pixels are more than the limit of '
                                 f'{limits.pixels}')
            width, height = size_of(image)
            if width * height > limits.network_pixels:
                side = int(limits.network_pixels ** .5) // STRIDE * STRIDE
                raise ValueError(f'a resolution of {width}x{height} is more than this page offers; '
                                 f'take {side}x{side} or less')
            return width, height

        return limited


class Segmentation(NamedTuple):
    """The files of an upload and of its mask (H, W), as the network predicted it."""

    source: Path
    mask: Path


class Result(NamedTuple):
    """The files made of a Segmentation.

    Attributes:
        file: the result, in full size.
        mask: the refined mask, in full size.
        before: a preview of the upload.
        after: a preview of the result.
    """

    file: Path
    mask: Path
    before: Path
    after: Path


class Deadline:
    """Ends a job that takes too long, between two of its steps."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises TimeoutError once the time is up."""
        if time.monotonic() > self.end:
            raise TimeoutError(f'this took longer than {self.seconds:.0f} seconds. '
                               'Try fewer pictures, a shorter video, or a lower resolution.')

    def guard(self, network: Network) -> Network:
        """Returns `network` with a check before each call."""
        def guarded(images: list[np.ndarray]) -> np.ndarray:
            self.check()
            return network(images)

        return guarded


def is_video(file: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return file.suffix.lower() in VIDEO_SUFFIXES


# --- Images ---------------------------------------------------------------------------------------


class _Upload(NamedTuple):
    number: int
    file: Path


def segment(
    files: Sequence[Path],
    model: LoadedModel,
    resolution: str,
    limits: Limits,
    folder: Path,
    report: Report,
) -> tuple[list[Segmentation], list[str]]:
    """Segments images.

    Args:
        files: the uploads.
        model: the network.
        resolution: of its input, as for `inference.images.network_size`.
        limits: of files, pixels and seconds.
        folder: where the masks go.
        report: called after each image.

    Returns:
        The segmentations, in the order of the files, and one line for each file that was refused,
        with the reason, or of which only a part was taken.

    Raises:
        ValueError: the resolution is wrong, or there are too many files.
        TimeoutError: the job took too long.
    """
    if len(files) > limits.files:
        raise ValueError(f'{len(files)} pictures are too many at once: '
                         f'up to {limits.files} can be given.')
    size_of = model.limited_size_rule(resolution, limits)
    network = Deadline(limits.seconds).guard(model.predictor)

    def load(upload: _Upload) -> tuple[np.ndarray, PreparedImage]:
        image = decode_image(upload.file.read_bytes(), limits.pixels)
        return prepare(image, size_of)

    def save(upload: _Upload, prepared: PreparedImage, probability: np.ndarray) -> Segmentation:
        height, width = prepared.image.pixels.shape[:2]
        mask_file = folder / f'{upload.number}.png'
        write_mask(mask_file, to_mask(probability, height, width))
        return Segmentation(upload.file, mask_file)

    segmentations: list[Segmentation] = []
    refused: list[str] = []
    uploads = [_Upload(number, file) for number, file in enumerate(files)]
    report(0, len(files))
    outcomes = run_pipeline(uploads, load, network, save, workers=WORKERS)
    for done, outcome in enumerate(outcomes, 1):
        report(done, len(files))
        if outcome.error is None:
            segmentations.append(outcome.value)
            if is_animated(outcome.item.file):
                refused.append(f'{outcome.item.file.name}: all frames but the first')
        elif isinstance(outcome.error, TimeoutError):
            raise outcome.error
        else:
            refused.append(refusal(outcome.item.file, outcome.error))
    return segmentations, refused


def refusal(file: Path, error: Exception) -> str:
    """Says to a visitor why a file was refused, without a path of this machine."""
    if isinstance(error, OSError):
        return f'{file.name}: the file is no longer here. Please give it again.'
    if full_memory_reason(error):
        return f'{file.name}: the memory is full. A smaller size needs less.'
    reason = str(error).removeprefix('image data: ').removeprefix(f'{file}: ')
    why = reason.partition(' (')[2].removesuffix(')')
    if reason.startswith('unreadable image'):
        reason = NO_IMAGE.format(why)
    elif reason.startswith('unreadable video'):
        reason = NO_VIDEO.format(why)
    elif reason.startswith('holds no'):
        reason = NO_VIDEO.format(reason)
    return f'{file.name}: {reason}'


def render(
    segmentations: Sequence[Segmentation],
    style: Style,
    limits: Limits,
    folder: Path,
    report: Report,
) -> list[Result]:
    """Makes the results of segmentations, as PNG files in full size.

    Args:
        segmentations: uploads and masks.
        style: what to make of them.
        limits: of seconds.
        folder: where the files go, named after the uploads.
        report: called before each image.

    Raises:
        OSError: an upload has been deleted.
        TimeoutError: the job took too long.
    """
    deadline = Deadline(limits.seconds)
    names = result_names([segmentation.source for segmentation in segmentations])
    results: list[Result] = []
    for segmentation, name in zip(segmentations, names, strict=True):
        report(len(results), len(segmentations))
        deadline.check()
        results.append(_render_one(segmentation, name, style, folder))
    return results


def _render_one(segmentation: Segmentation, name: str, style: Style, folder: Path) -> Result:
    image = decode_image(segmentation.source.read_bytes())
    mask = read_soft_mask(segmentation.mask)
    pixels = compose(image, mask, style)
    refined_mask = compose(image, mask, replace(style, output='mask'))

    result = Result(
        file=folder / f'{name}.png',
        mask=folder / 'masks' / f'{name}-mask.png',
        before=folder / 'before' / f'{name}.webp',
        after=folder / 'after' / f'{name}.webp',
    )
    write_bytes(result.file, encode(pixels, '.png', image))
    write_mask(result.mask, refined_mask)
    write_bytes(result.before, encode(_preview(image.pixels), '.webp', image))
    write_bytes(result.after, encode(_preview(pixels), '.webp', image))
    return result


def _preview(pixels: np.ndarray) -> np.ndarray:
    """Reduces a result, and lays it on a chequered pattern where it is transparent."""
    height, width = pixels.shape[:2]
    scale = PREVIEW_SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)

    is_transparent = pixels.shape[2:] == (4,)
    if not is_transparent:
        return pixels
    colour = np.ascontiguousarray(pixels[..., :3])
    alpha = pixels[..., 3]
    return over(colour, alpha, chequered(*alpha.shape))


def result_names(files: Sequence[Path]) -> list[str]:
    """Names results after the files' stems, with a number where two would be equal."""
    taken: set[str] = set()
    names = []
    for file in files:
        name = file.stem
        number = 1
        while name in taken:
            number += 1
            name = f'{file.stem} ({number})'
        taken.add(name)
        names.append(name)
    return names


def pack(results: Sequence[Result], archive: Path) -> Path:
    """Writes all results to one zip archive, and returns its path."""
    # Uncompressed, because PNG does not shrink further.
    with zipfile.ZipFile(archive, 'w', zipfile.ZIP_STORED) as file:
        for result in results:
            file.write(result.file, result.file.name)
    return archive


# --- Videos ---------------------------------------------------------------------------------------


def convert(
    file: Path,
    model: LoadedModel,
    resolution: str,
    style: Style,
    limits: Limits,
    folder: Path,
    report: Report,
) -> tuple[Path, list[str]]:
    """Segments every frame of a video.

    Args:
        file: the upload.
        model: the network.
        resolution: of its input, as for `inference.images.network_size`.
        style: what to make of each frame.
        limits: of pixels and seconds.
        folder: where the result goes, named after the upload.
        report: called after each frame.

    Returns:
        The result, WebM if it is transparent, else MP4; and one line for each thing of the upload
        that it lacks, such as its sound or damaged frames.

    Raises:
        ValueError: the video cannot be decoded or exceeds the limits, or the resolution is wrong.
        TimeoutError: the job took too long.
    """
    suffix = '.webm' if style.transparent else '.mp4'
    target = folder / f'{file.stem}{suffix}'
    check_video_target(target, style.transparent)
    network = Deadline(limits.seconds).guard(model.predictor)
    size_of = model.limited_size_rule(resolution, limits)

    def render_and_report(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        results = render_frames(frames, network, size_of, style, workers=WORKERS)
        for done, result in enumerate(results, 1):
            report(done, None)
            yield result

    notes: list[str] = []

    def note(line: str) -> None:
        reason = line.removeprefix(f'{file}: ')  # without a path of this machine
        notes.append(f'{file.name}: {reason}')

    convert_video(
        file,
        target,
        render_and_report,
        limits.pixels,
        warn=note,
        report_loss=note,
    )
    return target, notes


# --- Colours --------------------------------------------------------------------------------------


def parse_color(text: str) -> tuple[int, int, int, int]:
    """Reads a colour of CSS.

    Args:
        text: '#rrggbb', '#rrggbbaa', 'rgb(r, g, b)' or 'rgba(r, g, b, a)', with r, g and b in
            0..255 and a in 0..1.

    Returns:
        R, G, B, A in 0..255.

    Raises:
        ValueError: the text is no such colour.
    """
    text = text.strip()
    match = RGB_COLOR.fullmatch(text)
    if HEX_COLOR.fullmatch(text):
        red, green, blue, *rest = map(float, bytes.fromhex(text[1:]))
        alpha = rest[0] if rest else 255.
    elif match:
        red, green, blue = (float(value) for value in match.groups()[:3])
        opacity = float(match[4] or 1)
        alpha = 255 * opacity
    else:
        raise ValueError(f'color {text}: give #rrggbb')
    return _level(red), _level(green), _level(blue), _level(alpha)


def _level(value: float) -> int:
    return min(255, round(value))
