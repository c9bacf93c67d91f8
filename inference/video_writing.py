"""Writes videos, animated images and numbered images, each of them whole or not at all."""

import os
import re
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from inference.images import ENCODER_OPTIONS
from inference.sound import SoundPlan, SoundWriter, plan_sound
from inference.video_reading import BT709, Report, Source, Time
from utils import atomic_write, write_png

try:
    import av
except ImportError:
    av = None  # type: ignore[assignment]  # a module has no type that admits None

# One number with or without leading zeros, as in frame-%05d.png. A letter behind it makes it a
# word, as in 50%discount.png.
NUMBER = re.compile(r'(?<!%)%(0?\d*)d(?![A-Za-z])')
ANIMATED_FORMATS = {'.gif': 'GIF', '.webp': 'WEBP', '.png': 'PNG', '.apng': 'PNG'}
# Milliseconds, in which formats count the durations of their frames.
TICKS = {'GIF': 10, 'WEBP': 1, 'PNG': 1}
MAX_ANIMATION_BYTES = 4 << 30  # of all frames: Pillow needs them at once


@dataclass(frozen=True)
class _Codec:
    """How a container holds frames."""

    name: str
    opaque_format: str
    alpha_format: str = ''  # '' where there is no transparency
    holds_aspect: bool = True  # of pixels that are not square
    options: tuple[tuple[str, str], ...] = ()


H264 = _Codec(
    'libx264',
    opaque_format='yuv420p',
    # Without B-frames: MP4 would compute its length by the order in which they are decoded, and
    # players would not show the last frames of a video whose frames have different durations.
    options=(('crf', '18'), ('preset', 'veryfast'), ('bf', '0')),
)
PRORES = _Codec('prores_ks', opaque_format='yuv422p10le', alpha_format='yuva444p10le')
VP9 = _Codec(
    'libvpx-vp9',
    opaque_format='yuv420p',
    alpha_format='yuva420p',
    holds_aspect=False,
    options=(
        ('crf', '24'),
        ('b', '0'),
        ('deadline', 'good'),
        ('cpu-used', '4'),
        ('row-mt', '1'),
        ('auto-alt-ref', '0'),
    ),
)
CODECS = {'.webm': VP9, '.mov': PRORES, '.mp4': H264, '.mkv': H264}


def is_sequence(target: Path) -> bool:
    """Whether this names numbered images, such as frame-%05d.png."""
    return target.suffix.lower() == '.png' and len(NUMBER.findall(target.name)) == 1


def numbered(target: Path, number: int) -> Path:
    """Returns the name of one image of a sequence. Other '%' are left as they are."""
    name = NUMBER.sub(lambda match: format(number, f'{match[1]}d'), target.name)
    return target.with_name(name)


def check_video_target(target: str | os.PathLike, transparent: bool) -> None:
    """Checks that a video can be written to a file of this name.

    Args:
        target: a .webm, .mov, .mp4 or .mkv file; an animated .gif, .webp, .png or .apng; or
            numbered images such as frame-%05d.png.
        transparent: whether frames have an alpha channel.

    Raises:
        ValueError: the package av is missing, the suffix is of no known format, or the format has
            no alpha channel.
    """
    suffix = Path(target).suffix.lower()
    if av is None:
        raise ValueError('videos need the package av: pip install av')
    if suffix in ANIMATED_FORMATS:
        return
    if suffix not in CODECS:
        known = ', '.join([*CODECS, *ANIMATED_FORMATS])
        raise ValueError(f'{target}: videos are written to {known} or frame-%05d.png')
    if transparent and not CODECS[suffix].alpha_format:
        raise ValueError(f'{target}: {suffix} holds no transparency; '
                         'take .webm, .mov or frame-%05d.png, or a background')


@contextmanager
def open_target(
    target: str | os.PathLike,
    source: Source,
    warn: Report,
) -> Iterator['_VideoWriter | _AnimationWriter | _SequenceWriter']:
    """Opens a writer. What it writes appears under its name only when it is complete.

    Args:
        target: as for `check_video_target`.
        source: what the frames are made of; its times, sound and colours are kept.
        warn: takes a line on each thing that the target cannot hold, before the first frame.
    """
    target = Path(target)
    suffix = target.suffix.lower()
    target.parent.mkdir(parents=True, exist_ok=True)
    if suffix in ANIMATED_FORMATS:
        if source.sound_track is not None:
            warn('the sound is left out: images hold none')
        writer_class = _SequenceWriter if is_sequence(target) else _AnimationWriter
        writer = writer_class(target, source)
        yield writer
        writer.finish()
        return

    plan = _plan_sound(source, suffix, warn)
    codec = CODECS[suffix]
    # A short prefix: with the target's name in it, it could be longer than file systems allow.
    with tempfile.TemporaryDirectory(prefix='.video.', dir=target.parent) as folder:
        temporary = Path(folder, f'video{suffix}')
        with av.open(f'file:{temporary}', 'w') as container:
            video_writer = _VideoWriter(container, codec, source, plan)
            yield video_writer
            video_writer.finish()
        os.replace(temporary, target)


def _plan_sound(source: Source, suffix: str, warn: Report) -> SoundPlan | None:
    if source.sound_track is None:
        return None
    plan = plan_sound(source.sound_track, suffix)
    if plan is None:
        warn('the sound is left out: FFmpeg cannot decode it')
    elif plan.warning:
        warn(plan.warning)
    return plan


class _SequenceWriter:
    """Writes numbered PNG files."""

    def __init__(self, target: Path, source: Source) -> None:
        self.target = target
        self.source = source
        self.count = 0

    def add_frame(self, pixels: np.ndarray, time: Time) -> None:
        """Writes the next frame."""
        self.count += 1
        self.source.sound.clear()
        pixels = _with_square_pixels(pixels, self.source.pixel_aspect)
        write_png(numbered(self.target, self.count), pixels)

    def finish(self) -> None:
        """Does nothing: all files are written."""


class _AnimationWriter:
    """Writes an animated GIF, WebP or PNG."""

    def __init__(self, target: Path, source: Source) -> None:
        self.target = target
        self.source = source
        self.format = ANIMATED_FORMATS[target.suffix.lower()]
        self.frames: list[Image.Image] = []
        self.times: list[Time] = []

    def add_frame(self, pixels: np.ndarray, time: Time) -> None:
        """Keeps the next frame, uint8 (H, W), (H, W, 3) or (H, W, 4).

        Raises:
            ValueError: the frames are too many to be kept.
        """
        self.source.sound.clear()
        pixels = _with_square_pixels(pixels, self.source.pixel_aspect)
        count = max(self.source.count, len(self.frames) + 1)
        if count * pixels.nbytes > MAX_ANIMATION_BYTES:
            height, width = pixels.shape[:2]
            raise ValueError(f'{self.target}: {count} frames of {width}x{height} pixels are too '
                             'many for an animated image; take .webm, .mov or frame-%05d.png')
        if self.format == 'GIF' and pixels.shape[2:] == (4,):
            pixels = _with_binary_alpha(pixels)
        self.frames.append(Image.fromarray(pixels))
        self.times.append(time)

    def finish(self) -> None:
        """Writes the file."""
        if not self.frames:
            return
        first, *others = self.frames
        options: dict[str, Any] = dict(ENCODER_OPTIONS.get(self.format, {}))
        if first.mode == 'RGBA' and self.format != 'WEBP':
            options['disposal'] = 2  # each frame replaces the one before, also where it is clear
        loops = self.source.loops
        if loops != 1 or self.format != 'GIF':
            options['loop'] = loops
        options['duration'] = self._durations()
        try:
            with atomic_write(self.target) as file:
                first.save(file, self.format, save_all=True, append_images=others, **options)
        except struct.error as error:  # equal frames become a long one
            reason = 'a frame of a GIF lasts 655 seconds at most; take .webp, .png or a video'
            raise ValueError(f'{self.target}: {reason}') from error

    def _durations(self) -> list[int]:
        """Milliseconds of each frame, in the format's ticks. Rounding does not add up."""
        tick = TICKS[self.format]
        last = self.times[-1]
        seconds = [time.start * time.base for time in self.times]
        own_duration = last.duration * last.base
        seconds.append(seconds[-1] + (own_duration or 1 / self.source.rate))
        ticks = [round(1000 * second / tick) for second in seconds]
        return [max(end - start, 1) * tick for start, end in pairwise(ticks)]


def _with_binary_alpha(pixels: np.ndarray) -> np.ndarray:
    """Makes RGBA pixels opaque or clear, as GIF holds them."""
    is_opaque = pixels[..., 3:] >= 128
    alpha = np.where(is_opaque, np.uint8(255), np.uint8(0))
    colour = np.where(is_opaque, pixels[..., :3], np.uint8(0))
    return np.dstack((colour, alpha))


def _with_square_pixels(pixels: np.ndarray, aspect: Fraction) -> np.ndarray:
    """Widens an image whose pixels are `aspect` times as wide as high."""
    if aspect == 1:
        return pixels
    height, width = pixels.shape[:2]
    return cv2.resize(pixels, (max(round(width * aspect), 1), height))


class _VideoWriter:
    """Writes a video file. The first frame opens its streams, because it sets their size."""

    def __init__(
        self,
        container: Any,
        codec: _Codec,
        source: Source,
        sound_plan: SoundPlan | None,
    ) -> None:
        self.container = container
        self.codec = codec
        self.source = source
        self.sound_plan = sound_plan
        self.video: Any = None  # a stream of av
        self.sound: SoundWriter | None = None
        # By the start of frames. Encoders drop the last frame's duration.
        self.durations: dict[int, int] = {}

    def add_frame(self, pixels: np.ndarray, time: Time) -> None:
        """Encodes a frame, uint8 (H, W), (H, W, 3) or (H, W, 4), to be shown at `time`."""
        if pixels.ndim == 2:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        if not self.codec.holds_aspect:
            pixels = _with_square_pixels(pixels, self.source.pixel_aspect)
        if self.video is None:
            self._open(pixels, time.base)

        # Fills up to the even size of the stream.
        height, width = pixels.shape[:2]
        bottom = self.video.height - height
        right = self.video.width - width
        filled: Any = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)

        layout = 'rgba' if pixels.shape[2] == 4 else 'rgb24'
        frame = av.VideoFrame.from_ndarray(filled, layout)
        frame = frame.reformat(format=self.video.pix_fmt, dst_colorspace='ITU709')
        frame.pts = time.start
        frame.duration = time.duration
        frame.time_base = time.base
        self.durations[time.start] = time.duration
        self._mux_frames(self.video.encode(frame))
        self._write_sound()

    def finish(self) -> None:
        """Writes what the encoders still hold."""
        if self.video is None:
            return
        self._mux_frames(self.video.encode(None))
        self._write_sound()
        if self.sound is None:
            return
        self.sound.finish()
        if self.sound.damaged:
            self.source.losses.append(
                f'{self.sound.damaged} damaged packets of sound were left out')

    def _open(self, pixels: np.ndarray, base: Fraction) -> None:
        """Opens the streams for frames of the size of `pixels`, made even for the codecs."""
        height, width = pixels.shape[:2]
        has_alpha = pixels.shape[2] == 4
        options = dict(self.codec.options)
        self.video = self.container.add_stream(
            self.codec.name, rate=self.source.rate, options=options)
        self.video.height = height + height % 2
        self.video.width = width + width % 2
        self.video.pix_fmt = self.codec.alpha_format if has_alpha else self.codec.opaque_format

        context = self.video.codec_context
        context.time_base = base
        if self.codec.holds_aspect and self.source.pixel_aspect != 1:
            context.sample_aspect_ratio = self.source.pixel_aspect
        context.colorspace = BT709
        context.color_primaries = self.source.primaries
        context.color_trc = self.source.transfer
        if self.sound_plan is not None:
            self.sound = SoundWriter(self.container, self.source.sound_track, self.sound_plan)

    def _mux_frames(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts, 0) or packet.duration
            self.container.mux(packet)

    def _write_sound(self) -> None:
        while self.source.sound:
            packet = self.source.sound.popleft()
            if self.sound is not None:
                self.sound.add(packet)
