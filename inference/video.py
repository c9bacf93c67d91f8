"""Converts videos frame by frame: streamed, with their timing, rotation and sound."""

import itertools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageSequence

from utils import IMAGE_SUFFIXES, MAX_PIXELS, TooManyPixels, write_png

try:
    import av
except ImportError:
    av = None  # type: ignore[assignment]  # a module has no type that admits None

VIDEO_SUFFIXES = frozenset(
    '.mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .flv .ts .mts .m2ts .ogv .3gp'.split())
# Those of FFmpeg's formats that hold their own frames: a playlist would make it open other files
# and addresses.
CONTAINERS = 'mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg'
ANIMATED = ('GIF', 'WEBP', 'PNG', 'AVIF')  # image formats that may have several frames
DEFAULT_FRAME_MS = 100  # duration of a frame of an animated image that has none
DEFAULT_FRAME_RATE = Fraction(25)
UNSPECIFIED = 2  # FFmpeg's number for a colour space that is not named
BT709 = 1  # FFmpeg's number, of colour space, primaries and transfer function
HIGH_DEFINITION = 720  # rows from which unmarked videos have BT.709's colours, below BT.601's
AUDIO_RATE = 48_000  # samples a second of re-encoded sound


@dataclass(frozen=True)
class _Codec:
    """How a container holds frames."""

    name: str
    opaque_format: str
    alpha_format: str = ''  # '' where there is no transparency
    audio: str = ''  # '' where the sound is copied
    options: tuple[tuple[str, str], ...] = ()


H264 = _Codec(
    'libx264',
    opaque_format='yuv420p',
    options=(('crf', '18'), ('preset', 'veryfast')),
)
PRORES = _Codec('prores_ks', opaque_format='yuv422p10le', alpha_format='yuva444p10le')
VP9 = _Codec(
    'libvpx-vp9',
    opaque_format='yuv420p',
    alpha_format='yuva420p',
    audio='libopus',
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


class Time(NamedTuple):
    """When a frame is shown and for how long, in units of `base` seconds; duration 0: unknown."""

    start: int
    duration: int
    base: Fraction


Times = deque[Time]
TakeSound = Callable[[Any], None]


class _Source(NamedTuple):
    """An opened video or animated image.

    Attributes:
        rate: mean frames a second.
        audio: the first sound track, or None.
        frames: frames(times, take_sound) yields upright frames, uint8 RGB or RGBA; it appends
            their times to `times` and calls `take_sound` with the packets of sound.
    """

    rate: Fraction
    audio: Any
    frames: Callable[[Times, TakeSound], Iterator[np.ndarray]]


def is_sequence(target: Path) -> bool:
    """Whether this names numbered images, such as frame-%05d.png."""
    return target.suffix.lower() == '.png' and '%' in target.name


def check_video_target(target: str | os.PathLike, transparent: bool) -> None:
    """Checks that a video can be written to a file of this name.

    Args:
        target: a .webm, .mov, .mp4 or .mkv file, or numbered images such as frame-%05d.png.
        transparent: whether frames have an alpha channel.

    Raises:
        ValueError: the package av is missing, the suffix is of no known format, or the format has
            no alpha channel.
    """
    suffix = Path(target).suffix.lower()
    if av is None:
        raise ValueError('videos need the package av: pip install av')
    if is_sequence(Path(target)):
        return
    if suffix not in CODECS:
        known = ', '.join(CODECS)
        raise ValueError(f'{target}: videos are written to {known} or frame-%05d.png')
    if transparent and not CODECS[suffix].alpha_format:
        raise ValueError(f'{target}: {suffix} holds no transparency; '
                         'take .webm, .mov or frame-%05d.png, or a background')


def convert_video(
    source: str | os.PathLike,
    target: str | os.PathLike,
    render: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]],
    max_pixels: int = MAX_PIXELS,
) -> int:
    """Writes what `render` makes of the frames of a video.

    The times of the frames and the first sound track are kept. An interrupted run leaves no file,
    or complete images of a sequence.

    Args:
        source: a video, or an animated image (GIF, WebP, PNG, AVIF).
        target: as for `check_video_target`.
        render: takes upright frames, uint8 RGB (H, W, 3) or RGBA (H, W, 4), and yields a result,
            uint8 (H, W), (H, W, 3) or (H, W, 4), for each, in order.
        max_pixels: larger frames are refused.

    Returns:
        The number of frames.

    Raises:
        ValueError: the source cannot be decoded, has no frames, or its frames are too large.
    """
    times: Times = deque()
    is_image = Path(source).suffix.lower() in IMAGE_SUFFIXES
    opened = _open_animation if is_image else _open_video
    count = 0
    with opened(source, max_pixels) as video, _writer(target, video) as writer:
        frames = video.frames(times, writer.add_sound)
        for result in render(frames):
            writer.add_frame(result, times.popleft())
            count += 1
    if not count:
        raise ValueError(f'{source}: holds no frames')
    return count


# --- Reading --------------------------------------------------------------------------------------


def _check_size(source: str | os.PathLike, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(f'{source}: {width}x{height} pixels are more than the limit of '
                            f'{max_pixels}')


@contextmanager
def _open_animation(source: str | os.PathLike, max_pixels: int) -> Iterator[_Source]:
    try:
        image = Image.open(source, formats=ANIMATED)
    except Exception as error:  # Pillow raises errors of many types on damaged data
        reason = error or type(error).__name__
        raise ValueError(f'{source}: unreadable image ({reason})') from error
    with image:
        _check_size(source, *image.size, max_pixels)
        rate = Fraction(1000, DEFAULT_FRAME_MS)
        yield _Source(rate, None, partial(_animation_frames, image))


def _animation_frames(image: Image.Image, times: Times, _: TakeSound) -> Iterator[np.ndarray]:
    start = 0
    for frame in ImageSequence.Iterator(image):
        mode = 'RGBA' if frame.has_transparency_data else 'RGB'
        pixels = np.asarray(frame.convert(mode))
        duration = int(frame.info.get('duration') or DEFAULT_FRAME_MS)
        times.append(Time(start, duration, Fraction(1, 1000)))
        start += duration
        yield pixels


@contextmanager
def _open_video(source: str | os.PathLike, max_pixels: int) -> Iterator[_Source]:
    try:
        container = av.open(os.fspath(source), options={'format_whitelist': CONTAINERS})
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f'{source}: unreadable video ({error})') from error
    with container:
        if not container.streams.video:
            raise ValueError(f'{source}: holds no video stream')
        video = container.streams.video[0]
        _check_size(source, video.width, video.height, max_pixels)
        rate = video.average_rate or DEFAULT_FRAME_RATE
        audio = container.streams.audio[0] if container.streams.audio else None
        yield _Source(rate, audio, partial(_video_frames, container, rate))


def _video_frames(
    container: Any,
    rate: Fraction,
    times: Times,
    take_sound: TakeSound,
) -> Iterator[np.ndarray]:
    container.streams.video[0].thread_type = 'AUTO'
    first_streams = (*container.streams.video[:1], *container.streams.audio[:1])
    number = itertools.count()
    for packet in container.demux(*first_streams):
        if packet.stream.type == 'audio':
            take_sound(packet)
            continue
        for frame in packet.decode():
            index = next(number)
            if frame.pts is None:
                time = Time(index, 1, 1 / rate)
            else:
                time = Time(frame.pts, frame.duration, frame.time_base)
            times.append(time)
            yield _upright(frame)


def _upright(frame: Any) -> np.ndarray:
    """Converts a frame to uint8 RGB or RGBA, turned as the video says."""
    space = frame.colorspace
    if space == UNSPECIFIED:
        space = 'ITU709' if frame.height >= HIGH_DEFINITION else 'ITU601'
    has_alpha = any(component.is_alpha for component in frame.format.components)
    # PyAV before 17 ignores the colour space if the target's, by default the frame's own, is the
    # same, and it takes every range for the limited one unless one is named.
    converted = frame.reformat(
        format='rgba' if has_alpha else 'rgb24',
        src_colorspace=space,
        src_color_range=frame.color_range,
        dst_colorspace='DEFAULT',
    )
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(converted.to_ndarray(), quarter_turns))


# --- Writing --------------------------------------------------------------------------------------


@contextmanager
def _writer(
    target: str | os.PathLike,
    source: _Source,
) -> Iterator['_VideoWriter | _SequenceWriter']:
    """Opens a writer. A video appears under its name only when it is complete."""
    target = Path(target)
    suffix = target.suffix.lower()
    target.parent.mkdir(parents=True, exist_ok=True)
    if suffix == '.png':
        yield _SequenceWriter(target)
        return
    with tempfile.TemporaryDirectory(prefix=f'.{target.name}.', dir=target.parent) as folder:
        temporary = Path(folder, f'video{suffix}')
        with av.open(os.fspath(temporary), 'w') as container:
            writer = _VideoWriter(container, CODECS[suffix], source)
            yield writer
            writer.finish()
        os.replace(temporary, target)


class _SequenceWriter:
    """Writes numbered PNG files."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.count = 0

    def add_frame(self, pixels: np.ndarray, time: Time) -> None:
        """Writes the next frame."""
        self.count += 1
        write_png(self.target.with_name(self.target.name % self.count), pixels)

    def add_sound(self, packet: Any) -> None:
        """Drops the sound, which PNG cannot hold."""


class _VideoWriter:
    """Writes a video file. The first frame opens its streams, because it sets their size."""

    def __init__(self, container: Any, codec: _Codec, source: _Source) -> None:
        self.container = container
        self.codec = codec
        self.source = source
        self.video: Any = None  # streams of av
        self.audio: Any = None
        # By the start of frames. Encoders drop the last frame's duration.
        self.durations: dict[int, int] = {}
        # Packets of sound that came before the frame that is now being rendered.
        self.waiting: list[Any] = []

    def add_frame(self, pixels: np.ndarray, time: Time) -> None:
        """Encodes a frame, uint8 (H, W), (H, W, 3) or (H, W, 4), to be shown at `time`."""
        if pixels.ndim == 2:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
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
        self._mux_waiting_sound()

    def add_sound(self, packet: Any) -> None:
        """Takes a packet of the source's sound."""
        self.waiting.append(packet)

    def finish(self) -> None:
        """Writes what the encoders still hold."""
        if self.video is None:
            return
        self._mux_frames(self.video.encode(None))
        self._mux_waiting_sound()
        if self.audio is not None and self.codec.audio:
            self.container.mux(self.audio.encode(None))

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
        context.colorspace = BT709
        context.color_primaries = BT709
        context.color_trc = BT709
        if self.source.audio:
            self._open_audio()

    def _open_audio(self) -> None:
        track = self.source.audio
        if self.codec.audio:
            self.audio = self.container.add_stream(self.codec.audio, rate=AUDIO_RATE)
            self.audio.layout = track.layout.name
        else:
            self.audio = self.container.add_stream_from_template(track)

    def _mux_frames(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts, 0) or packet.duration
            self.container.mux(packet)

    def _mux_waiting_sound(self) -> None:
        for packet in self.waiting:
            if self.codec.audio:
                for frame in packet.decode():
                    self.container.mux(self.audio.encode(frame))
            elif packet.dts is not None:  # the last packet is empty and has no time
                packet.stream = self.audio
                self.container.mux(packet)
        self.waiting.clear()
