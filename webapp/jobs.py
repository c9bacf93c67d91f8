"""What the page does with pictures and videos; nothing of Gradio in here."""

import re
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from torch import nn

from inference.api import Loaded, prepare, published_sizes, render_frames, sizes_of
from inference.compose import Style, chequered, compose, over
from inference.images import Size, encode, read_picture, write_bytes
from inference.masks import to_mask, write_mask
from inference.network import Predictor
from inference.pipeline import run_pipeline
from inference.video import VIDEO_SUFFIXES, check_video_target, convert_video
from utils import read_mask

PREVIEW = 1400   # long side, in pixels, of what the page shows
WORKERS = 2      # threads that decode and encode: at most seven pictures are in memory at once
NO_PICTURE = 'this is not an image that can be read. JPEG, PNG, WebP, TIFF, BMP, GIF and the like can.'

Report = Callable[[int, int | None], object]  # told how many are done, of how many if that is known


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one visitor may ask of the machine."""

    pixels: int = 50_000_000           # of a picture, and of a frame
    network_pixels: int = 2560 * 2560  # at which the network sees it
    file_mb: int = 100                 # of an upload
    files: int = 20                    # at once
    queue: int = 20                    # jobs that wait
    seconds: int = 300                 # of a job
    keep_minutes: int = 30             # from an upload's last use until it is deleted
    stored_mb: int = 10_000            # of all uploads and results together


class Weights(NamedTuple):
    """A network, and the name or path that its weights were given by."""

    model: nn.Module
    network: Predictor
    source: str

    def sizes(self, resolution: str) -> Callable[[Size], Size]:
        """The network's size for an image's, see inference.images.network_size."""
        return sizes_of(self.model, resolution, *published_sizes(self.source))

    def sizes_within(self, limits: Limits, resolution: str) -> Callable[[Size], Size]:
        """As `sizes`, but raises ValueError where either size is beyond the limits."""
        size_of = self.sizes(resolution)

        def limited(image: Size) -> Size:
            if image[0] * image[1] > limits.pixels:
                raise ValueError(f'{image[0]}x{image[1]} pixels are more than the limit of {limits.pixels}')
            width, height = size_of(image)
            if width * height > limits.network_pixels:
                side = int(limits.network_pixels ** .5) // 32 * 32
                raise ValueError(f'a resolution of {width}x{height} is more than this page offers; '
                                 f'take {side}x{side} or less')
            return width, height

        return limited


class Cut(NamedTuple):
    """An upload, and its mask (H, W) as the network gave it, in files."""

    source: Path
    mask: Path


class Result(NamedTuple):
    """What came of a Cut, in files: the result and the mask in full size, and previews of before and after."""

    file: Path
    mask: Path
    before: Path
    after: Path


class Deadline:
    """Ends a job that takes too long, between two steps of it."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        """Raises TimeoutError once the time is up."""
        if time.monotonic() > self.end:
            raise TimeoutError(f'this took longer than {self.seconds:.0f} seconds. Try fewer pictures, a shorter '
                               'video, or a lower resolution.')

    def before(self, network: Callable[[list[np.ndarray]], np.ndarray]) -> Callable[[list[np.ndarray]], np.ndarray]:
        """`network`, checked before each call."""
        def checked(images: list[np.ndarray]) -> np.ndarray:
            self.check()
            return network(images)

        return checked


def is_video(file: Path) -> bool:
    """Whether a file's name is a video's."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def segment(files: Sequence[Path], weights: Weights, resolution: str, limits: Limits, folder: Path,
            report: Report) -> tuple[list[Cut], list[str]]:
    """The masks of pictures, in `folder`, and a line for each file that was refused, which says why.

    Raises ValueError for a wrong resolution or too many files, and TimeoutError.
    """
    if len(files) > limits.files:
        raise ValueError(f'{len(files)} pictures are too many at once: up to {limits.files} can be given.')
    size_of, deadline = weights.sizes_within(limits, resolution), Deadline(limits.seconds)

    def load(item: tuple[int, Path]) -> tuple[np.ndarray, Loaded]:
        return prepare(read_picture(item[1].read_bytes(), limits.pixels), size_of)

    def save(item: tuple[int, Path], loaded: Loaded, probability: np.ndarray) -> Cut:
        cut = Cut(item[1], folder / f'{item[0]}.png')
        write_mask(cut.mask, to_mask(probability, *loaded.picture.pixels.shape[:2]))
        return cut

    cuts, refused = [], []
    report(0, len(files))
    for done, outcome in enumerate(run_pipeline(enumerate(files), load, deadline.before(weights.network), save,
                                                workers=WORKERS), 1):
        report(done, len(files))
        if outcome.error is None:
            cuts.append(outcome.value)
        elif isinstance(outcome.error, TimeoutError):
            raise outcome.error
        else:
            refused.append(refusal(outcome.item[1], outcome.error))
    return sorted(cuts, key=lambda cut: files.index(cut.source)), refused


def refusal(file: Path, error: Exception) -> str:
    """Why a file was refused, in words for people, with no path of this machine."""
    if isinstance(error, OSError):
        return f'{file.name}: the file is no longer here. Please give it again.'
    reason = str(error).removeprefix('image data: ').removeprefix(f'{file}: ')
    if reason.startswith('unreadable image'):
        reason = NO_PICTURE
    elif reason.startswith(('unreadable video', 'holds no')):
        reason = 'this is not a video that can be read. MP4, MOV, WebM, MKV and AVI can.'
    return f'{file.name}: {reason}'


def render(cuts: Sequence[Cut], style: Style, limits: Limits, folder: Path, report: Report) -> list[Result]:
    """The results of `cuts` as full-size PNG named after the uploads, in `folder`. Raises OSError where an upload is
    gone, and TimeoutError."""
    deadline = Deadline(limits.seconds)
    results = []
    for number, (cut, name) in enumerate(zip(cuts, result_names([cut.source for cut in cuts]), strict=True)):
        report(number, len(cuts))
        deadline.check()
        results.append(_render_one(cut, name, style, folder))
    return results


def _render_one(cut: Cut, name: str, style: Style, folder: Path) -> Result:
    picture, mask = read_picture(cut.source.read_bytes()), read_mask(cut.mask)
    pixels = compose(picture, mask, style)
    result = Result(folder / f'{name}.png', folder / 'masks' / f'{name}-mask.png',
                    folder / 'before' / f'{name}.webp', folder / 'after' / f'{name}.webp')
    write_bytes(result.file, encode(pixels, '.png', picture))
    write_mask(result.mask, compose(picture, mask, replace(style, output='mask')))
    for path, full in ((result.before, picture.pixels), (result.after, pixels)):
        write_bytes(path, encode(_preview(full), '.webp', picture))
    return result


def _preview(pixels: np.ndarray) -> np.ndarray:
    """Small, and over a chequered pattern where it is transparent."""
    height, width = pixels.shape[:2]
    if max(height, width) > PREVIEW:
        scale = PREVIEW / max(height, width)
        pixels = cv2.resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))),
                            interpolation=cv2.INTER_AREA)
    if pixels.shape[2:] != (4,):
        return pixels
    return over(np.ascontiguousarray(pixels[..., :3]), pixels[..., 3], chequered(*pixels.shape[:2]))


def result_names(files: Sequence[Path]) -> list[str]:
    """Stems of the files, numbered where two would be the same."""
    taken: set[str] = set()
    names = []
    for file in files:
        name, number = file.stem, 1
        while name in taken:
            number += 1
            name = f'{file.stem} ({number})'
        taken.add(name)
        names.append(name)
    return names


def pack(results: Sequence[Result], archive: Path) -> Path:
    """All results in one zip archive."""
    with zipfile.ZipFile(archive, 'w', zipfile.ZIP_STORED) as file:  # PNG does not shrink further
        for result in results:
            file.write(result.file, result.file.name)
    return archive


def convert(file: Path, weights: Weights, resolution: str, style: Style, limits: Limits, folder: Path,
            report: Report) -> Path:
    """A video with every frame cut out: WebM if it is transparent, else MP4, in `folder`, named after the upload.

    Raises ValueError saying what is wrong with it, and TimeoutError.
    """
    suffix = '.webm' if style.transparent else '.mp4'
    target = folder / f'{file.stem}{suffix}'
    check_video_target(target, style.transparent)
    network = Deadline(limits.seconds).before(weights.network)
    size_of = weights.sizes_within(limits, resolution)

    def counted(frames: Callable) -> Callable:
        for done, frame in enumerate(render_frames(frames, network, size_of, style, workers=WORKERS), 1):
            report(done, None)
            yield frame

    convert_video(file, target, counted)
    return target


def parse_color(text: str) -> tuple[int, int, int, int]:
    """R, G, B, A in 0..255 of '#rrggbb', '#rrggbbaa', 'rgb(r, g, b)' or 'rgba(r, g, b, a)', a in 0..1.

    Raises ValueError for anything else.
    """
    text = text.strip()
    if re.fullmatch(r'#([0-9a-fA-F]{6}|[0-9a-fA-F]{8})', text):
        values = [*bytes.fromhex(text[1:])]
    elif match := re.fullmatch(r'rgba?\(N, *N, *N(?:, *N)?\)'.replace('N', r'(\d+(?:\.\d+)?)'), text):
        *values, alpha = (float(value or 1) for value in match.groups())
        values.append(255 * alpha)
    else:
        raise ValueError(f'color {text}: give #rrggbb')
    red, green, blue, alpha = (min(255, round(value)) for value in (*values, 255)[:4])
    return red, green, blue, alpha
