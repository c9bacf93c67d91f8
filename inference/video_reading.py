"""Reads videos and animated images: upright frames with their times, and packets of sound."""

import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from inference.color import color_chunks, profile_of_chunks, to_srgb
from inference.images import from_pil
from readers import TooManyPixels, identify
from readers.orientation import orientation_of, upright
from readers.reasons import UNKNOWN, VIDEO_BOX, first_bytes, stranger
from utils import IMAGE_SUFFIXES

try:
    import av
    from av.video.reformatter import VideoReformatter
except ImportError:
    av = None  # type: ignore[assignment]  # a module has no type that admits None

# Those of FFmpeg's formats that hold their own frames: a playlist would make it open other files
# and addresses.
CONTAINERS = 'mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg'
ANIMATED = ('GIF', 'WEBP', 'PNG', 'AVIF')  # image formats that may have several frames
COLOUR_BYTES = 1 << 16  # at the start of an image, that may say how its colours are meant
DEFAULT_FRAME_MS = 100  # duration of a frame of an animated image that has none
DEFAULT_FRAME_RATE = Fraction(25)
HIGH_DEFINITION = 720  # rows from which unmarked videos have BT.709's colours, below BT.601's
ALPHA_DECODERS = {'vp8': 'libvpx', 'vp9': 'libvpx-vp9'}  # FFmpeg's own ones ignore transparency

# FFmpeg's numbers of colour spaces, primaries and transfer functions.
BT709 = 1
UNSPECIFIED = 2
UNNAMED = {0, UNSPECIFIED, 3}  # 0 and 3 are reserved
TO_BT709 = {'dst_color_primaries': BT709, 'dst_color_trc': BT709}
WIDE_PRIMARIES = {9, 11, 12}  # BT.2020, DCI-P3, Display P3
HDR_TRANSFERS = {16, 18}  # PQ, HLG

# A file of which more is missing is cut off. The last frame's duration is not always stated.
MISSING_SECONDS = 1.
MISSING_SHARE = .02

Report = Callable[[str], object]  # takes one line for the user


class Time(NamedTuple):
    """When a frame is shown and for how long, in units of `base` seconds; duration 0: unknown."""

    start: int
    duration: int
    base: Fraction


@dataclass
class Source:
    """An opened video or animated image.

    Attributes:
        name: its path, for messages.
        rate: mean frames a second.
        frames: yields upright frames, uint8 RGB (H, W, 3) or RGBA (H, W, 4), all of one size. With
            each it appends to `times`, and to `sound` the packets that lie before it.
        count: how many frames there are; 0 if that is not known.
        sound_track: the first sound track, a stream of PyAV, or None.
        pixel_aspect: width of a pixel divided by its height.
        primaries: FFmpeg's number of the frames' colour primaries.
        transfer: FFmpeg's number of the frames' transfer function.
        loops: how often an animated image is repeated; 0: for ever.
        times: of the frames that were read and not yet written.
        sound: the packets that were read and not yet written.
        losses: what was damaged and left out, one line each.
    """

    name: str
    rate: Fraction
    frames: Iterator[np.ndarray] = iter(())
    count: int = 0
    sound_track: Any = None
    pixel_aspect: Fraction = Fraction(1)
    primaries: int = BT709
    transfer: int = BT709
    loops: int = 0
    times: deque[Time] = field(default_factory=deque)
    sound: deque[Any] = field(default_factory=deque)
    losses: list[str] = field(default_factory=list)


@contextmanager
def open_source(path: str | os.PathLike, max_pixels: int, warn: Report) -> Iterator[Source]:
    """Opens a video, or an animated image (GIF, WebP, PNG, AVIF), and reads its first frame.

    Args:
        path: the file.
        max_pixels: larger frames are refused.
        warn: takes a line where something cannot be read as it is meant.

    Raises:
        ValueError: the file cannot be decoded, has no frames, or its frames are too large.
    """
    is_image = Path(path).suffix.lower() in {*IMAGE_SUFFIXES, '.apng'}
    opened = _open_animation(path, max_pixels) if is_image else _open_video(path, max_pixels, warn)
    with opened as source:
        first = next(source.frames, None)
        if first is None:
            reason = f' ({source.losses[0]})' if source.losses else ''
            raise ValueError(f'{path}: holds no frames{reason}')
        source.frames = _one_size(chain([first], source.frames), first.shape)
        yield source


def _one_size(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Brings frames of other sizes to that of the first: a file of video has one size."""
    height, width = shape[:2]
    for frame in frames:
        is_other = frame.shape[:2] != (height, width)
        yield cv2.resize(frame, (width, height)) if is_other else frame


def _check_size(path: str | os.PathLike, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(f'{path}: {width}x{height} pixels are more than the limit of '
                            f'{max_pixels}')


# --- Animated images ------------------------------------------------------------------------------


def is_animated(path: str | os.PathLike, formats: tuple[str, ...] = ANIMATED) -> bool:
    """Whether a file is an image of these formats with several frames; not if it is unreadable."""
    if not Path(path).is_file():  # what a pipe holds can be read only once
        return False
    try:
        with Image.open(path, formats=formats) as image:
            return getattr(image, 'is_animated', False)
    except Exception:  # Pillow raises errors of many types on damaged data
        return False


@contextmanager
def _open_animation(path: str | os.PathLike, max_pixels: int) -> Iterator[Source]:
    with open(path, 'rb') as file:
        try:
            image = identify(file)
        except ValueError as error:
            reason = str(error) if str(error) != UNKNOWN else stranger(first_bytes(path))
            raise ValueError(f'{path}: unreadable image ({reason})') from error
        if image.format not in ANIMATED:
            raise ValueError(f'{path}: a single image, of which no video is made; '
                             'name an image as OUTPUT, such as out.png')
        _check_size(path, *image.size, max_pixels)
        source = Source(os.fspath(path), Fraction(1000, DEFAULT_FRAME_MS))
        # GIF counts repetitions after the first showing, and none where it does not say.
        is_once = image.format == 'GIF' and 'loop' not in image.info
        source.loops = 1 if is_once else image.info.get('loop', 0)
        file.seek(0)
        chunks = color_chunks(file.read(COLOUR_BYTES))
        profile = profile_of_chunks(chunks, image.info.get('icc_profile'))
        source.frames = _animation_frames(image, source, profile)
        yield source


def _animation_frames(
    image: Image.Image,
    source: Source,
    profile: bytes | None,
) -> Iterator[np.ndarray]:
    """Yields upright frames as sRGB, since videos hold no profile."""
    start = 0.
    orientation = orientation_of(image)
    # An APNG may begin with an image for viewers that cannot show its frames.
    number = int(image.info.get('default_image', False))
    while True:
        try:
            image.seek(number)
            frame = from_pil(image)
            pixels = to_srgb(frame.pixels, profile)
            if frame.alpha is not None:
                pixels = np.dstack((pixels, frame.alpha))
        except EOFError:
            return
        except Exception as error:  # Pillow raises errors of many types on damaged data
            source.losses.append(f'damaged after {number} frames ({error})')
            return
        duration = image.info.get('duration') or DEFAULT_FRAME_MS
        end = start + duration
        source.times.append(Time(round(start), round(end) - round(start), Fraction(1, 1000)))
        start = end
        number += 1
        yield np.ascontiguousarray(upright(pixels, orientation))


# --- Videos ---------------------------------------------------------------------------------------


@contextmanager
def _open_video(path: str | os.PathLike, max_pixels: int, warn: Report) -> Iterator[Source]:
    try:
        # Without the protocol, FFmpeg takes what precedes a colon in the name for one.
        container = av.open(f'file:{os.fspath(path)}', options={'format_whitelist': CONTAINERS})
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f'{path}: unreadable video ({_reason(error, path)})') from error
    with container:
        stream = _moving_stream(container, path)
        _check_size(path, stream.width, stream.height, max_pixels)
        source = Source(os.fspath(path), stream.average_rate or DEFAULT_FRAME_RATE)
        source.count = stream.frames
        source.pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        if container.streams.audio:
            source.sound_track = container.streams.audio[0]
        reader = _VideoReader(container, stream, source, max_pixels, warn)
        source.frames = reader.frames()
        try:
            yield source
        finally:
            reader.drain()


def _reason(error: Any, path: str | os.PathLike) -> str:
    """Why FFmpeg does not open a file: what it is instead, or that its index is missing."""
    # FFmpeg's of that kind are of invalid data, or of a format that is not among CONTAINERS.
    if not isinstance(error, ValueError):
        return error.strerror or str(error)
    with open(path, 'rb') as file, suppress(ValueError):
        return f'an image ({identify(file).format})'
    start = first_bytes(path)
    is_mp4 = start[4:8] == VIDEO_BOX
    other = UNKNOWN if is_mp4 else stranger(start)
    return 'damaged or cut off' if other == UNKNOWN else other


def _moving_stream(container: Any, path: str | os.PathLike) -> Any:
    """Returns the first video stream that is no cover art."""
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    stills = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    moving = [stream for stream in streams if not stream.disposition & stills]
    if moving:
        return moving[0]
    reason = 'holds no video but its cover' if streams else 'holds no video stream'
    raise ValueError(f'{path}: {reason}')


class _VideoReader:
    """Decodes a container's frames, and leaves out what is damaged."""

    def __init__(
        self,
        container: Any,
        stream: Any,
        source: Source,
        max_pixels: int,
        warn: Report,
    ) -> None:
        self.container = container
        self.stream = stream
        self.source = source
        self.max_pixels = max_pixels
        self.warn = warn
        self.damaged = 0  # packets of frames
        self.reformatter = VideoReformatter()
        self.converts = False  # wide gamuts to BT.709
        self.step = max(round(1 / source.rate / stream.time_base), 1)  # between two frames
        self.last_start: int | None = None
        self.seconds = 0.  # at which what was read ends
        self.decoder = self._new_decoder()

    def frames(self) -> Iterator[np.ndarray]:
        """Yields upright frames, and fills the source's times, sound and losses."""
        for packet in self._packets():
            self._note_end(packet)
            self._move_to_0(packet)
            if packet.stream is self.source.sound_track:
                self.source.sound.append(packet)
                continue
            for frame in self._decode(packet):
                _check_size(self.source.name, frame.width, frame.height, self.max_pixels)
                if self.last_start is None:
                    self._describe(frame)
                self.source.times.append(self._time(frame))
                yield self._upright(frame)
        if self.damaged:
            self.source.losses.append(f'{self.damaged} damaged packets were left out')
        stated = self._stated_seconds()
        if self.seconds < stated - max(MISSING_SECONDS, MISSING_SHARE * stated):
            self.source.losses.append(
                f'cut off after {self.seconds:.1f} of {stated:.1f} seconds')

    def _note_end(self, packet: Any) -> None:
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            self.seconds = max(self.seconds, float(end))

    def _move_to_0(self, packet: Any) -> None:
        """Lets the file begin at 0: recordings of broadcasts begin hours later, after nothing."""
        start = Fraction(max(self.container.start_time or 0, 0), av.time_base)
        if not start or packet.time_base is None:
            return
        shift = round(start / packet.time_base)
        if packet.pts is not None:
            packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift

    def _stated_seconds(self) -> float:
        """How long the file says that it is; 0 where it does not say that of what is read of it."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        # Of a container it is that of its longest stream, which may be one that is not read.
        num_read = 1 if self.source.sound_track is None else 2
        if self.container.duration is None or len(self.container.streams) > num_read:
            return 0.
        return self.container.duration / av.time_base

    def drain(self) -> None:
        """Decodes what the decoder's threads have begun, so that it can be freed.

        Freeing waits for the threads and keeps Python's lock, for which a thread waits that logs a
        message through PyAV.
        """
        with suppress(av.FFmpegError):
            self.decoder.decode(None)

    def _new_decoder(self) -> Any:
        own = self.stream.codec_context
        own.thread_type = 'AUTO'
        has_alpha = self.stream.metadata.get('alpha_mode') == '1'
        name = ALPHA_DECODERS.get(own.codec.canonical_name)
        if not has_alpha or not name:
            return own
        if name not in av.codec.codecs_available:
            self.warn(f'its transparency is ignored: FFmpeg lacks the decoder {name}')
            return own
        return av.CodecContext.create(name, 'r')

    def _packets(self) -> Iterator[Any]:
        tracks = [self.stream]
        if self.source.sound_track is not None:
            tracks.append(self.source.sound_track)
        try:
            yield from self.container.demux(tracks)
        except av.FFmpegError as error:
            self.source.losses.append(f'damaged from here on ({error})')

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return self.decoder.decode(packet)
        except av.FFmpegError:
            self.damaged += 1
            return []

    def _time(self, frame: Any) -> Time:
        """The frame's time, or a later one: encoders refuse times that do not grow."""
        start = frame.pts
        last = self.last_start
        if last is None:
            start = start or 0
        elif start is None or start <= last - self.step:  # clips in a row each begin at 0
            start = last + self.step
        elif start <= last:
            start = last + 1
        self.last_start = start
        return Time(start, frame.duration or 0, self.stream.time_base)

    def _describe(self, frame: Any) -> None:
        """Takes over from the first frame what is true of all."""
        source = self.source
        if _quarter_turns(frame) % 2:
            source.pixel_aspect = 1 / source.pixel_aspect
        tags = self.stream.codec_context
        is_wide = tags.color_primaries in WIDE_PRIMARIES
        is_hdr = tags.color_trc in HDR_TRANSFERS
        self.converts = (is_wide or is_hdr) and self._can_convert(frame)
        if self.converts:
            return
        if tags.color_primaries not in UNNAMED:
            source.primaries = tags.color_primaries
        if tags.color_trc not in UNNAMED:
            source.transfer = tags.color_trc

    def _can_convert(self, frame: Any) -> bool:
        try:
            self.reformatter.reformat(frame, format='rgb24', **TO_BT709)
        except (av.FFmpegError, TypeError):  # TypeError: by the package av before 17
            self.warn('its wide gamut or high dynamic range is not converted to BT.709; '
                      'the package av of version 17 and later can convert most videos')
            return False
        return True

    def _upright(self, frame: Any) -> np.ndarray:
        """Converts a frame to uint8 RGB or RGBA, turned as the video says.

        Wide gamuts and high dynamic range become BT.709, which the network knows and every target
        holds.

        Raises:
            ValueError: FFmpeg cannot convert the frame.
        """
        space = frame.colorspace
        if space == UNSPECIFIED:
            space = 'ITU709' if frame.height >= HIGH_DEFINITION else 'ITU601'
        has_alpha = any(component.is_alpha for component in frame.format.components)
        # PyAV before 17 ignores the colour space if the target's, by default the frame's own, is
        # the same, and it takes every range for the limited one unless one is named.
        options: dict[str, Any] = {
            'format': 'rgba' if has_alpha else 'rgb24',
            'src_colorspace': space,
            'src_color_range': frame.color_range,
            'dst_colorspace': 'DEFAULT',
        }
        if self.converts:
            options |= TO_BT709
        try:
            pixels = self.reformatter.reformat(frame, **options).to_ndarray()
        except av.FFmpegError as error:
            reason = f'frames of {frame.format.name} cannot be converted ({error})'
            raise ValueError(f'{self.source.name}: {reason}') from error
        turns = _quarter_turns(frame)
        if _is_mirrored(frame):  # before it is turned, and turned by the mirror's angle as well
            pixels = pixels[:, ::-1]
            turns += 2
        return np.ascontiguousarray(np.rot90(pixels, turns))


def _quarter_turns(frame: Any) -> int:
    return round(frame.rotation / 90) % 4


def _is_mirrored(frame: Any) -> bool:
    """Whether the file asks for a mirror image, as cameras on the front of telephones do."""
    matrix = frame.side_data.get('DISPLAYMATRIX')
    if matrix is None:
        return False
    # Of the two rows, the numbers for x and y.
    a, b, _, c, d = struct.unpack_from('5i', bytes(matrix))
    return a * d < b * c
