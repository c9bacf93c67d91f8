"""The sound of videos: copied where the target holds it, else re-encoded or left out."""

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

try:
    import av
except ImportError:
    av = None  # type: ignore[assignment]  # a module has no type that admits None

RATE = 48_000  # samples a second of re-encoded sound
LARGEST_GAP = .1  # seconds. Sound that pauses for longer is encoded at its new time.

# Containers by suffix: FFmpeg's name, the codecs that their players know, and the encoder for all
# other sound. '' stands for every codec that the container can hold.
CONTAINERS = {
    '.mp4': ('mp4', ('aac', 'mp3', 'ac3', 'eac3', 'alac', 'flac', 'opus'), 'aac'),
    '.mov': ('mov', ('aac', 'mp3', 'ac3', 'eac3', 'alac', 'pcm_'), 'aac'),
    '.mkv': ('matroska', ('',), 'aac'),
    '.webm': ('webm', ('opus', 'vorbis'), 'libopus'),
}
# The usual arrangement of loudspeakers by their number. Encoders do not take all others.
USUAL_LAYOUTS = {1: 'mono', 2: 'stereo', 4: 'quad', 5: '5.0', 6: '5.1', 8: '7.1'}


class SoundPlan(NamedTuple):
    """What becomes of a sound track.

    Attributes:
        encoder: FFmpeg's name of the encoder; '' to copy the track.
        layout: the arrangement of loudspeakers that is encoded, e.g. 'stereo'.
        warning: what the listener will miss, one line; '' if nothing.
    """

    encoder: str = ''
    layout: str = ''
    warning: str = ''


def plan_sound(track: Any, suffix: str) -> SoundPlan | None:
    """Decides how a container holds a sound track.

    Args:
        track: the source's sound, a stream of PyAV.
        suffix: of the target, one of CONTAINERS.

    Returns:
        The plan; None if the sound cannot be decoded and has to be left out.
    """
    container, known, encoder = CONTAINERS[suffix]
    context = track.codec_context
    is_readable = context is not None and context.sample_rate and context.layout.nb_channels
    if not is_readable:
        return None
    if context.codec.name.startswith(known) and _can_copy(track, container):
        return SoundPlan()

    own, channels = context.layout.name, context.layout.nb_channels
    candidates = (own, USUAL_LAYOUTS.get(channels, 'stereo'), 'stereo')
    layout = next(name for name in candidates if _can_encode(encoder, name))
    warning = ''
    if channels != av.AudioLayout(layout).nb_channels:
        warning = f'the sound is mixed from {own} to {layout}, for {encoder} holds no {own}'
    return SoundPlan(encoder, layout, warning)


def _can_copy(track: Any, container: str) -> bool:
    """Whether a file with this track alone can be begun."""
    try:
        with av.open(io.BytesIO(), 'w', format=container) as trial:
            trial.add_stream_from_template(track)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _can_encode(encoder: str, layout: str) -> bool:
    context: Any = av.CodecContext.create(encoder, 'w')
    context.sample_rate = RATE
    context.format = context.codec.audio_formats[0].name
    try:
        context.layout = layout
        context.open()
    except (av.FFmpegError, ValueError):
        return False
    return True


class SoundWriter:
    """Writes packets of a sound track into a container. What is damaged is left out."""

    def __init__(self, container: Any, track: Any, plan: SoundPlan) -> None:
        self.container = container
        self.damaged = 0  # packets that were left out
        self.is_copy = not plan.encoder
        self.resampler: Any = None  # of av, for frames of one kind
        self.next_time = 0.  # seconds, at which the sound is expected to go on
        self.end = 0.  # seconds, at which the last packet ends
        self.shift = 0.  # seconds, by which packets are moved
        if self.is_copy:
            self.stream = container.add_stream_from_template(track)
            return
        self.stream = container.add_stream(plan.encoder, rate=RATE)
        self.stream.layout = plan.layout

    def add(self, packet: Any) -> None:
        """Takes the next packet of the track."""
        self._move_behind_the_last(packet)
        try:
            if self.is_copy:
                self._copy(packet)
                return
            for frame in packet.decode():
                self._encode(frame)
        except av.FFmpegError as error:
            if not isinstance(error, ValueError):  # that of invalid data or times
                raise
            self.damaged += 1

    def finish(self) -> None:
        """Writes what the encoder still holds."""
        if self.is_copy:
            return
        self._flush_resampler()
        self.container.mux(self.stream.encode(None))

    def _move_behind_the_last(self, packet: Any) -> None:
        """Lets times grow that begin anew, as in clips that were put in a row."""
        if packet.dts is None:
            return
        base = packet.time_base
        time = float(packet.dts * base)
        if abs(time - self.end) <= LARGEST_GAP:  # after a damaged time
            self.shift = 0.
        elif time + self.shift < self.end - LARGEST_GAP:
            self.shift = self.end - time
        self.end = time + self.shift + float((packet.duration or 0) * base)
        ticks = round(self.shift / base)
        packet.dts += ticks
        if packet.pts is not None:
            packet.pts += ticks

    def _copy(self, packet: Any) -> None:
        if packet.dts is None:  # the last packet is empty and has no time
            return
        packet.stream = self.stream
        self.container.mux(packet)

    def _encode(self, frame: Any) -> None:
        if frame.time is not None:
            if abs(frame.time - self.next_time) > LARGEST_GAP:
                self._flush_resampler()
            self.next_time = frame.time + frame.samples / frame.sample_rate
        try:
            frames = list(self._resampled(frame))
        except ValueError:  # the track has changed its rate or its loudspeakers
            self._flush_resampler()
            frames = list(self._resampled(frame))
        self._mux(frames)

    def _resampled(self, frame: Any) -> Iterator[Any]:
        if self.resampler is None:
            context = self.stream.codec_context
            self.resampler = av.AudioResampler(
                context.format, context.layout, RATE, context.frame_size or None)
        yield from self.resampler.resample(frame)

    def _flush_resampler(self) -> None:
        if self.resampler is None:
            return
        rest = self.resampler.resample(None)
        self.resampler = None
        self._mux(rest)

    def _mux(self, frames: list[Any]) -> None:
        for frame in frames:
            self.container.mux(self.stream.encode(frame))
