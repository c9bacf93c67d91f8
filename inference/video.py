"""Videos through anything that turns frames into frames: streamed, with their timing, rotation and sound."""

import itertools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    av = None

VIDEO_SUFFIXES = frozenset('.mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .flv .ts .mts .m2ts .ogv .3gp'.split())
# Of FFmpeg's kinds of files those that hold their own frames: a playlist would have it open other files and addresses.
CONTAINERS = 'mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg'
UNSPECIFIED = 2  # FFmpeg's number for a colour space that is not named
ANIMATED = ('GIF', 'WEBP', 'PNG', 'AVIF')  # kinds of pictures that may have several frames
ANIMATION_MS = 100  # of a frame of an animated picture that does not say
HIGH_DEFINITION = 720  # rows from which unmarked videos have BT.709's colours, below BT.601's


class _Codec(NamedTuple):
    """How a kind of file holds frames; no `alpha`: without transparency; no `audio`: the sound is copied."""

    name: str
    opaque: str
    alpha: str
    audio: str
    options: dict[str, str]


CODECS = {
    '.webm': _Codec('libvpx-vp9', 'yuv420p', 'yuva420p', 'libopus',
                    {'crf': '24', 'b': '0', 'deadline': 'good', 'cpu-used': '4', 'row-mt': '1', 'auto-alt-ref': '0'}),
    '.mov': _Codec('prores_ks', 'yuv422p10le', 'yuva444p10le', '', {}),
    '.mp4': _Codec('libx264', 'yuv420p', '', '', {'crf': '18', 'preset': 'veryfast'}),
    '.mkv': _Codec('libx264', 'yuv420p', '', '', {'crf': '18', 'preset': 'veryfast'}),
}


class Time(NamedTuple):
    """When a frame is shown and for how long, in units of `base` seconds; a duration of 0 is not known."""

    start: int
    duration: int
    base: Fraction


class _Source(NamedTuple):
    """What is read: mean frames a second; the sound track or None; and `frames(times, take_sound)`, upright RGB or
    RGBA, whose times go to `times` and the packets of sound to `take_sound`."""

    rate: Fraction
    audio: Any
    frames: Callable[[deque[Time], Callable[[Any], None]], Iterator[np.ndarray]]


def is_sequence(target: Path) -> bool:
    """Whether this is a name of numbered pictures such as frame-%05d.png."""
    return target.suffix.lower() == '.png' and '%' in target.name


def check_video_target(target: str | os.PathLike, transparent: bool) -> None:
    """Raises ValueError if videos cannot be written, or not to a file of this name: .webm, .mov, .mp4, .mkv, or
    .png with a number's place such as frame-%05d.png."""
    suffix = Path(target).suffix.lower()
    if av is None:
        raise ValueError('videos need the package av: pip install av')
    if is_sequence(Path(target)):
        return
    if suffix not in CODECS:
        raise ValueError(f'{target}: videos are written to {", ".join(CODECS)} or frame-%05d.png')
    if transparent and not CODECS[suffix].alpha:
        raise ValueError(f'{target}: {suffix} holds no transparency; take .webm, .mov or frame-%05d.png, or a '
                         'background')


def convert_video(source: str | os.PathLike, target: str | os.PathLike,
                  render: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]], max_pixels: int = MAX_PIXELS) -> int:
    """Writes what `render` makes of the frames of `source`, and returns their count.

    `source` is a video or an animated picture (GIF, WebP, PNG) of at most `max_pixels` a frame. Its frames are upright
    RGB, uint8 (H, W, 3), or RGBA, (H, W, 4). `render` yields a result, uint8 (H, W), (H, W, 3) or (H, W, 4), for each
    in order. Times of frames are kept, and the first sound track. An interrupted run leaves no file (of a PNG sequence,
    whole pictures). Raises ValueError if `source` is none of these, and for targets as `check_video_target`.
    """
    times: deque[Time] = deque()
    opened = _animation if Path(source).suffix.lower() in IMAGE_SUFFIXES else _video
    with opened(source, max_pixels) as read, _writer(target, read) as write:
        count = 0
        for count, result in enumerate(render(read.frames(times, write.sound)), 1):  # noqa: B007
            write.picture(result, times.popleft())
    if not count:
        raise ValueError(f'{source}: holds no frames')
    return count


def _check_size(source: str | os.PathLike, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(f'{source}: {width}x{height} pixels are more than the limit of {max_pixels}')


@contextmanager
def _animation(source: str | os.PathLike, max_pixels: int) -> Iterator[_Source]:
    try:
        image = Image.open(source, formats=ANIMATED)
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged data
        raise ValueError(f'{source}: unreadable image ({error or type(error).__name__})') from error
    with image:
        _check_size(source, *image.size, max_pixels)
        yield _Source(Fraction(1000, ANIMATION_MS), None, partial(_animation_frames, image))


def _animation_frames(image: Image.Image, times: deque[Time], _: Any) -> Iterator[np.ndarray]:
    start = 0
    for frame in ImageSequence.Iterator(image):
        pixels = np.asarray(frame.convert('RGBA' if frame.has_transparency_data else 'RGB'))
        duration = int(frame.info.get('duration') or ANIMATION_MS)
        times.append(Time(start, duration, Fraction(1, 1000)))
        start += duration
        yield pixels


@contextmanager
def _video(source: str | os.PathLike, max_pixels: int) -> Iterator[_Source]:
    try:
        container = av.open(os.fspath(source), options={'format_whitelist': CONTAINERS})
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f'{source}: unreadable video ({error})') from error
    with container:
        if not container.streams.video:
            raise ValueError(f'{source}: holds no pictures')
        video = container.streams.video[0]
        _check_size(source, video.width, video.height, max_pixels)
        rate = video.average_rate or Fraction(25)
        yield _Source(rate, next(iter(container.streams.audio), None), partial(_video_frames, container, rate))


def _video_frames(container: Any, rate: Fraction, times: deque[Time],
                  take_sound: Callable[[Any], None]) -> Iterator[np.ndarray]:
    number = itertools.count()
    container.streams.video[0].thread_type = 'AUTO'
    for packet in container.demux(*container.streams.video[:1], *container.streams.audio[:1]):
        if packet.stream.type == 'audio':
            take_sound(packet)
            continue
        for frame, index in zip(packet.decode(), number, strict=False):
            untimed = frame.pts is None
            times.append(Time(index, 1, 1 / rate) if untimed else Time(frame.pts, frame.duration, frame.time_base))
            yield _upright(frame)


def _upright(frame: Any) -> np.ndarray:
    space = frame.colorspace
    if space == UNSPECIFIED:
        space = 'ITU709' if frame.height >= HIGH_DEFINITION else 'ITU601'
    form = 'rgba' if any(component.is_alpha for component in frame.format.components) else 'rgb24'
    # PyAV before 17 ignores the colour space if the target's, by default the frame's own, is the
    # same, and it takes every range for the limited one unless one is named.
    pixels = frame.reformat(
        format=form,
        src_colorspace=space,
        src_color_range=frame.color_range,
        dst_colorspace='DEFAULT',
    ).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


@contextmanager
def _writer(target: str | os.PathLike, source: _Source) -> Iterator[Any]:
    """A _FileWriter whose file appears under its name only when all is in it, or a _PictureWriter."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix.lower() == '.png':
        yield _PictureWriter(target)
        return
    with tempfile.TemporaryDirectory(prefix=f'.{target.name}.', dir=target.parent) as folder:
        temporary = Path(folder, f'video{target.suffix.lower()}')
        with av.open(os.fspath(temporary), 'w') as container:
            writer = _FileWriter(container, CODECS[temporary.suffix], source)
            yield writer
            writer.finish()
        os.replace(temporary, target)


class _PictureWriter:
    """Numbered PNG files."""

    def __init__(self, target: Path) -> None:
        self.target, self.number = target, 0

    def picture(self, pixels: np.ndarray, time: Time) -> None:
        """Writes the next picture."""
        self.number += 1
        write_png(self.target.with_name(self.target.name % self.number), pixels)

    def sound(self, packet: Any) -> None:
        """PNG holds no sound."""


class _FileWriter:
    """A video file, whose streams are opened with the first picture: its size is not known before."""

    def __init__(self, container: Any, codec: _Codec, source: _Source) -> None:
        self.container, self.codec, self.source = container, codec, source
        self.video = self.audio = None
        self.durations: dict[int, int] = {}  # by the start of frames; encoders forget the last one's
        self.waiting: list[Any] = []  # packets of sound from before the first picture is done

    def picture(self, pixels: np.ndarray, time: Time) -> None:
        """Encodes `pixels` to be shown at `time`."""
        if pixels.ndim == 2:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        if self.video is None:
            self._open(pixels, time.base)
        height, width = pixels.shape[:2]
        pixels = cv2.copyMakeBorder(pixels, 0, self.video.height - height, 0, self.video.width - width,
                                    cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(pixels, 'rgba' if pixels.shape[2] == 4 else 'rgb24')
        frame = frame.reformat(format=self.video.pix_fmt, dst_colorspace='ITU709')
        frame.pts, frame.duration, frame.time_base = time
        self.durations[time.start] = time.duration
        self._mux_pictures(self.video.encode(frame))
        for packet in self.waiting:
            self._mux_sound(packet)
        self.waiting.clear()

    def _open(self, pixels: np.ndarray, base: Fraction) -> None:
        self.video = self.container.add_stream(self.codec.name, rate=self.source.rate, options=dict(self.codec.options))
        self.video.height, self.video.width = (side + side % 2 for side in pixels.shape[:2])  # halved colour planes
        self.video.pix_fmt = self.codec.alpha if pixels.shape[2] == 4 else self.codec.opaque
        context = self.video.codec_context
        context.time_base = base
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        track = self.source.audio
        if track and self.codec.audio:
            self.audio = self.container.add_stream(self.codec.audio, rate=48000)
            self.audio.layout = track.layout.name
        elif track:
            self.audio = self.container.add_stream_from_template(track)

    def _mux_pictures(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts, 0) or packet.duration
            self.container.mux(packet)

    def sound(self, packet: Any) -> None:
        """Takes a packet of the source's sound."""
        self.waiting.append(packet)

    def _mux_sound(self, packet: Any) -> None:
        if self.codec.audio:
            for frame in packet.decode():
                self.container.mux(self.audio.encode(frame))
        elif packet.dts is not None:  # the last, empty one has no time
            packet.stream = self.audio
            self.container.mux(packet)

    def finish(self) -> None:
        """Writes what the encoders still hold."""
        if self.video is None:
            return
        self._mux_pictures(self.video.encode(None))
        for packet in self.waiting:
            self._mux_sound(packet)
        if self.audio is not None and self.codec.audio:
            self.container.mux(self.audio.encode(None))
