"""Converts videos and animated images frame by frame: streamed, with their times and sound."""

import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from inference.video_reading import Report, is_animated, open_source
from inference.video_writing import (
    ANIMATED_FORMATS,
    check_video_target,
    is_sequence,
    numbered,
    open_target,
)
from readers import MAX_PIXELS
from utils import print_error

try:
    from av import FFmpegError
except ImportError:
    FFmpegError = OSError  # type: ignore[assignment, misc]

__all__ = [
    'ANIMATED_FORMATS',
    'VIDEO_SUFFIXES',
    'check_video_target',
    'convert_video',
    'is_animated',
    'is_sequence',
    'numbered',
]

VIDEO_SUFFIXES = frozenset(
    '.mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .flv .ts .mts .m2ts .ogv .3gp'.split())


def convert_video(
    source: str | os.PathLike,
    target: str | os.PathLike,
    render: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]],
    max_pixels: int = MAX_PIXELS,
    *,
    warn: Report = print_error,
    report_loss: Report = print_error,
) -> int:
    """Writes what `render` makes of the frames of a video.

    The times of the frames, the first sound track and the pixels' aspect ratio are kept. Damaged
    parts of the source are left out. An interrupted run leaves no file, or complete images of a
    sequence.

    Args:
        source: a video, or an animated image (GIF, WebP, PNG, AVIF).
        target: as for `check_video_target`.
        render: takes upright frames of one size, uint8 RGB (H, W, 3) or RGBA (H, W, 4), and yields
            a result, uint8 (H, W), (H, W, 3) or (H, W, 4), for each, in order.
        max_pixels: larger frames are refused.
        warn: takes a line on each thing that the target cannot hold, before the first frame.
        report_loss: takes a line on each kind of damage in the source, after the last frame.

    Returns:
        The number of frames.

    Raises:
        ValueError: the source cannot be decoded, has no frames, or its frames are too large.
        OSError: the target cannot be written.
    """
    count = 0

    def warn_by_name(line: str) -> None:
        warn(f'{source}: {line}')

    with open_source(source, max_pixels, warn_by_name) as video:
        try:
            with open_target(target, video, warn_by_name) as writer:
                for result in render(video.frames):
                    writer.add_frame(result, video.times.popleft())
                    count += 1
        except (FFmpegError, OSError) as error:  # errors of reading do not come this far
            reason = error.strerror or error
            raise OSError(f'{target}: cannot be written ({reason})') from error
        for line in video.losses:
            report_loss(f'{source}: {line}')
    return count
