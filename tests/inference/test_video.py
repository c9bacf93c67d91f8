"""Videos: times, sound, transparency, rotation, and no half-written files."""

import io
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

av = pytest.importorskip('av')

from inference import video_writing  # noqa: E402
from inference.color import to_srgb, with_chunks  # noqa: E402
from inference.images import decode_image  # noqa: E402
from inference.video import check_video_target, convert_video  # noqa: E402
from tests.readers.files import by_opencv  # noqa: E402

ROOT = Path(__file__).parents[2]
TIMES = [0, 250, 350, 600, 700, 950]  # milliseconds, of varying distance
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'in.mp4'
    with av.open(str(path), 'w') as container:
        video = container.add_stream('libx264', rate=10)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream('aac', rate=44100)
        audio.layout = 'mono'
        for time in TIMES:
            pixels = np.full((HEIGHT, WIDTH, 3), (20, 200, 20), np.uint8)
            pixels[:, :WIDTH // 2] = (200, 20, 20)
            frame = av.VideoFrame.from_ndarray(pixels, 'rgb24')
            frame.pts = time
            frame.time_base = Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for i in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
            frame.sample_rate = 44100
            frame.pts = i * 1024
            frame.time_base = Fraction(1, 44100)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def unchanged(frames):
    yield from frames


def encoded(path, colorspace, color_range):
    """A video of (200, 20, 20), marked with FFmpeg's numbers of a colour space and a range."""
    with av.open(str(path), 'w') as container:
        video = container.add_stream('libx264', rate=10)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        video.codec_context.colorspace, video.codec_context.color_range = colorspace, color_range
        pixels = np.full((HEIGHT, WIDTH, 3), (200, 20, 20), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, 'rgb24')
        coded = frame.reformat(
            format='yuv420p', dst_colorspace=colorspace, dst_color_range=color_range)
        container.mux(video.encode(coded))
        container.mux(video.encode(None))


def with_alpha(frames):
    for frame in frames:
        yield np.dstack((frame, np.full(frame.shape[:2], 128, np.uint8)))


@pytest.mark.parametrize(('name', 'render'), [
    ('out.mp4', unchanged),
    ('out.webm', unchanged),
    ('out.webm', with_alpha),
    ('out.mov', with_alpha),
])
def test_times_colours_and_sound_are_kept(source, tmp_path, name, render):
    assert convert_video(source, tmp_path / name, render) == len(TIMES)
    with av.open(str(tmp_path / name)) as container:
        frames = list(container.decode(video=0))
    assert [round(1000 * float(f.time)) for f in frames] == TIMES
    # The target's is named, since PyAV before 17 ignores a colour space that is the frame's own.
    rgb = frames[2].reformat(format='rgb24', src_colorspace='ITU709', dst_colorspace='DEFAULT')
    pixels = rgb.to_ndarray()
    assert np.abs(pixels[24, 10].astype(int) - (200, 20, 20)).max() < 12
    assert np.abs(pixels[24, 50].astype(int) - (20, 200, 20)).max() < 12
    with av.open(str(tmp_path / name)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 35 * 1024
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(['in.mp4', name])


@pytest.mark.parametrize('colorspace', [1, 6], ids=['BT.709', 'BT.601'])
@pytest.mark.parametrize('color_range', [1, 2], ids=['limited', 'full'])
def test_colours_are_read_as_the_file_is_marked(tmp_path, colorspace, color_range):
    encoded(tmp_path / 'in.mp4', colorspace, color_range)
    convert_video(tmp_path / 'in.mp4', tmp_path / 'f-%d.png', unchanged)
    pixels = np.asarray(Image.open(tmp_path / 'f-1.png'))
    # A wrong space or range is off by 10 levels at least. Y and Cb, whose weights in blue are up to
    # 1.2 and 2.1, are rounded to 8 bits, which is off by up to (1.2 + 2.1) / 2; the encoder may
    # round them once more, and rounding the result adds .5.
    assert np.abs(pixels.astype(int) - (200, 20, 20)).max() <= 4


def test_transparency_is_in_the_file(source, tmp_path):
    convert_video(source, tmp_path / 'out.mov', with_alpha)
    with av.open(str(tmp_path / 'out.mov')) as container:
        alpha = next(container.decode(video=0)).to_ndarray(format='rgba')[..., 3]
    assert np.abs(alpha.astype(int) - 128).max() <= 2
    convert_video(source, tmp_path / 'out.webm', with_alpha)
    with av.open(str(tmp_path / 'out.webm')) as container:
        decoder = av.CodecContext.create('libvpx-vp9', 'r')
        frame = next(f for packet in container.demux(video=0) for f in decoder.decode(packet))
    assert frame.format.name == 'yuva420p'


def test_picture_sequence(source, tmp_path):
    assert convert_video(source, tmp_path / 'frames' / 'f-%02d.png', with_alpha) == len(TIMES)
    names = sorted(path.name for path in (tmp_path / 'frames').iterdir())
    assert names == [f'f-{number:02}.png' for number in range(1, 7)]


@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.png'])
def test_animated_pictures_keep_all_frames_their_times_and_transparency(tmp_path, suffix):
    durations = [100, 250, 60, 800]
    frames = []
    for number in range(len(durations)):
        alpha = 255 if number else 0
        frames.append(Image.new('RGBA', (WIDTH, HEIGHT), (60 * number, 200, 20, alpha)))
    source = tmp_path / f'in{suffix}'
    frames[0].save(source, save_all=True, append_images=frames[1:], duration=durations, disposal=2)
    seen = []

    def opaque(frames):
        for frame in frames:
            seen.append(frame[0, 0].tolist())
            yield frame[..., :3]

    assert convert_video(source, tmp_path / 'out.webm', opaque) == len(durations)
    assert seen[0][3] == 0
    assert abs(seen[2][0] - 120) <= 8
    with av.open(str(tmp_path / 'out.webm')) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
    assert [round(1000 * float(p.pts * p.time_base)) for p in packets] == [0, 100, 350, 410]
    assert round(1000 * float(packets[-1].duration * packets[-1].time_base)) == 800

    # MP4 states its own length, at which players stop.
    convert_video(source, tmp_path / 'out.mp4', opaque)
    with av.open(str(tmp_path / 'out.mp4')) as container:
        assert container.duration == 1000 * sum(durations)


def test_transparency_of_a_video_is_read(source, tmp_path):
    convert_video(source, tmp_path / 'alpha.mov', with_alpha)
    convert_video(tmp_path / 'alpha.mov', tmp_path / 'f-%d.png', unchanged)
    pixels = np.asarray(Image.open(tmp_path / 'f-1.png'))
    assert pixels.shape == (HEIGHT, WIDTH, 4)
    assert abs(int(pixels[0, 0, 3]) - 128) <= 2


def test_frames_are_upright(source, tmp_path):
    """A quarter turn clockwise, as a telephone writes it, puts what is left on top."""
    data = bytearray(source.read_bytes())
    matrix = data.index(b'tkhd') + 44  # of the first track, in fixed point
    one = 1 << 16
    data[matrix:matrix + 36] = struct.pack('>9i', 0, one, 0, -one, 0, 0, HEIGHT * one, 0, 1 << 30)
    (tmp_path / 'turned.mp4').write_bytes(data)
    shapes = []

    def look(frames):
        for frame in frames:
            shapes.append(frame.shape)
            assert np.abs(frame[5, 24].astype(int) - (200, 20, 20)).max() < 12
            assert np.abs(frame[-5, 24].astype(int) - (20, 200, 20)).max() < 12
            yield frame

    convert_video(tmp_path / 'turned.mp4', tmp_path / 'out.mp4', look)
    assert set(shapes) == {(WIDTH, HEIGHT, 3)}
    with av.open(str(tmp_path / 'out.mp4')) as container:
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height, frame.rotation) == (HEIGHT, WIDTH, 0)


@pytest.mark.parametrize(('matrix', 'mirror'), [
    ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    ((1, 0, 0, -1), lambda frame: frame[::-1]),
    ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
], ids=['left and right', 'up and down', 'transposed'])
def test_mirrored_frames(source, tmp_path, matrix, mirror):
    """As cameras on the front of telephones write them: by the matrix of the track."""
    data = bytearray(source.read_bytes())
    place = data.index(b'tkhd') + 44  # of the first track, in fixed point
    a, b, c, d = (number << 16 for number in matrix)
    data[place:place + 36] = struct.pack('>9i', a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / 'mirrored.mp4').write_bytes(data)
    for name in ('in', 'mirrored'):
        convert_video(tmp_path / f'{name}.mp4', tmp_path / f'{name}-%d.png', unchanged)
    plain, mirrored = (np.asarray(Image.open(tmp_path / f'{name}-1.png'))
                       for name in ('in', 'mirrored'))
    assert np.array_equal(mirrored, mirror(plain))


@pytest.mark.parametrize('name', ['out.webm', 'out.mp4'])
def test_a_clip_that_begins_hours_later_begins_at_once(source, tmp_path, name):
    """As recordings of broadcasts do; sound and frames keep their distance."""
    seconds = 36_000
    with av.open(str(source)) as old, av.open(str(tmp_path / 'in.ts'), 'w') as new:
        streams = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            packet.pts += int(seconds / packet.time_base)
            packet.dts += int(seconds / packet.time_base)
            packet.stream = streams[packet.stream]
            new.mux(packet)
    assert times_of(tmp_path / 'in.ts')[0] == pytest.approx(seconds, abs=1)
    convert_video(tmp_path / 'in.ts', tmp_path / name, unchanged)
    assert times_of(tmp_path / name) == pytest.approx(np.array(TIMES) / 1000, abs=.05)
    with av.open(str(tmp_path / name)) as container:
        assert container.duration / av.time_base < 2
        assert next(container.decode(audio=0)).time < .1


@pytest.mark.parametrize('suffix', ['.webp', '.png'])
def test_frames_of_animated_images_are_as_the_first_one_alone(tmp_path, suffix):
    """Upright, and in the colours that are meant."""
    path = tmp_path / f'in{suffix}'
    frames = [np.full((HEIGHT, WIDTH, 3), level, np.uint8) for level in (60, 90)]
    frames[0][:9] = 200
    first, second = map(Image.fromarray, frames)
    exif = first.getexif()
    exif[ExifTags.Base.Orientation] = 6
    first.save(path, save_all=True, append_images=[second], exif=exif, lossless=True)
    if suffix == '.png':
        linear = (b'gAMA', struct.pack('>I', 100_000))
        path.write_bytes(with_chunks(path.read_bytes(), (linear,)))
    convert_video(path, tmp_path / 'f-%d.png', unchanged)
    written = np.asarray(Image.open(tmp_path / 'f-1.png'))
    alone = decode_image(path)
    assert np.array_equal(written, to_srgb(alone.pixels, alone.color_profile))
    assert written.shape == (WIDTH, HEIGHT, 3)


def test_animated_images_of_16_bits(tmp_path):
    with av.open(str(tmp_path / 'in.apng'), 'w') as container:
        video = container.add_stream('apng', rate=5)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, 'gray16be'
        for level in (60, 90):
            pixels = np.full((HEIGHT, WIDTH), level * 257, np.uint16)
            pixels[0] = 65535
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, 'gray16be')))
        container.mux(video.encode(None))
    convert_video(tmp_path / 'in.apng', tmp_path / 'f-%d.png', unchanged)
    for number, level in ((1, 60), (2, 90)):
        assert (np.asarray(Image.open(tmp_path / f'f-{number}.png'))[1:] == level).all()


@pytest.mark.parametrize(('data', 'reason'), [
    (b'', 'the file is empty'),
    (b'<html>404', 'a web page'),
    (by_opencv(np.zeros((8, 8, 3), np.uint8), '.jpg'), 'a single image'),
])
def test_images_of_which_no_video_is_made(tmp_path, data, reason):
    (tmp_path / 'in.webp').write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        convert_video(tmp_path / 'in.webp', tmp_path / 'out.webm', unchanged)


@pytest.mark.parametrize('name', ['in.mp4', 'in.gif'])
def test_too_large_frames_are_refused(source, tmp_path, name):
    Image.new('L', (WIDTH, HEIGHT)).save(tmp_path / 'in.gif')
    with pytest.raises(ValueError, match=f'{WIDTH}x{HEIGHT}.*limit of 3000'):
        convert_video(tmp_path / name, tmp_path / 'out.webm', unchanged, max_pixels=3000)
    assert not (tmp_path / 'out.webm').exists()


def test_an_interrupted_run_leaves_nothing(source, tmp_path):
    def interrupted(frames):
        yield next(iter(frames))
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        convert_video(source, tmp_path / 'out.webm', interrupted)
    assert [p.name for p in tmp_path.iterdir()] == ['in.mp4']


def test_odd_sizes(source, tmp_path):
    convert_video(source, tmp_path / 'out.mp4', lambda frames: (f[:33, :41] for f in frames))
    with av.open(str(tmp_path / 'out.mp4')) as container:
        assert next(container.decode(video=0)).width == 42


def test_no_video_and_wrong_targets(tmp_path):
    (tmp_path / 'text.mp4').write_text('hello')
    with pytest.raises(ValueError, match=r'text\.mp4'):
        convert_video(tmp_path / 'text.mp4', tmp_path / 'out.webm', unchanged)
    with pytest.raises(ValueError, match='transparency'):
        check_video_target('out.mp4', True)
    with pytest.raises(ValueError, match='webm'):
        check_video_target('out.avi', False)


@pytest.mark.parametrize(('data', 'reason'), [
    (b'', 'the file is empty'),
    (b'<!doctype html><title>Sign in</title>', 'a web page, as sites send'),
    (b'\0\0\0\x20ftypisom' + bytes(99), 'damaged or cut off'),
    (bytes(range(256)), 'damaged or cut off'),
    (b'GIF89a\1\0\1\0\x80\0\0' + bytes(6) + b',' + bytes(99), r'an image \(GIF\)'),
])
def test_what_is_called_a_video_and_is_none(tmp_path, data, reason):
    (tmp_path / 'a.mp4').write_bytes(data)
    with pytest.raises(ValueError, match=rf'a\.mp4: unreadable video \({reason}'):
        convert_video(tmp_path / 'a.mp4', tmp_path / 'out.webm', unchanged)


def test_a_playlist_opens_no_other_file(source, tmp_path):
    playlist = tmp_path / 'list.mp4'
    playlist.write_text(f'ffconcat version 1.0\nfile {source.name}\n')
    with pytest.raises(ValueError, match=r'list\.mp4: unreadable video'):
        convert_video(playlist, tmp_path / 'out.mp4', unchanged)


# --- What people's clips are like -----------------------------------------------------------------


def write_clip(path, *, count=10, sound='', layout='stereo', prepare=None, options=None):
    """Writes a clip of 10 frames a second. `prepare` sets up the stream of frames."""
    with av.open(str(path), 'w') as container:
        video = container.add_stream('libx264', rate=10, options=options or {})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        if prepare:
            prepare(video)
        track = None
        if sound:
            track = container.add_stream(sound, rate=48_000)
            track.layout = layout
        rng = np.random.default_rng(0)
        for _ in range(count):
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, 'rgb24')))
        container.mux(video.encode(None))
        if track is None:
            return
        channels = av.AudioLayout(layout).nb_channels
        for start in range(0, 4800 * count, 1200):
            samples = np.zeros((channels, 1200), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, 'fltp', layout)
            frame.sample_rate = 48_000
            frame.pts = start
            frame.time_base = Fraction(1, 48_000)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


def convert(source, target, render=unchanged):
    """Converts a clip, and returns the number of frames and all warnings and losses."""
    lines = []
    count = convert_video(source, target, render, warn=lines.append, report_loss=lines.append)
    return count, lines


def sound_of(path):
    """The codec, the layout and the number of samples of a file's sound."""
    with av.open(str(path)) as container:
        context = container.streams.audio[0].codec_context
        name, layout = context.name, context.layout.name
        samples = sum(frame.samples for frame in container.decode(audio=0))
    return name, layout, samples


def times_of(path):
    with av.open(str(path)) as container:
        return [round(float(frame.time), 2) for frame in container.decode(video=0)]


@pytest.mark.parametrize(('codec', 'layout', 'suffix', 'expected'), [
    ('ac3', '5.1(side)', '.webm', ('opus', '5.1')),
    ('flac', 'quad(side)', '.webm', ('opus', 'quad')),
    ('libopus', 'stereo', '.webm', ('opus', 'stereo')),
    ('libopus', 'stereo', '.mov', ('aac', 'stereo')),
    ('libopus', 'stereo', '.mp4', ('opus', 'stereo')),
    ('pcm_s16le', 'stereo', '.mp4', ('aac', 'stereo')),
    ('pcm_s16le', '5.1', '.mp4', ('aac', '5.1')),
    ('ac3', '5.1(side)', '.mp4', ('ac3', '5.1(side)')),
])
def test_sound_is_copied_or_encoded_anew(tmp_path, codec, layout, suffix, expected):
    write_clip(tmp_path / 'in.mkv', sound=codec, layout=layout)
    assert convert(tmp_path / 'in.mkv', tmp_path / f'out{suffix}') == (10, [])
    name, channels, samples = sound_of(tmp_path / f'out{suffix}')
    assert (name, channels) == expected
    assert abs(samples - 48_000) <= 2048


def test_sound_that_loses_loudspeakers_is_announced(tmp_path):
    write_clip(tmp_path / 'in.mkv', sound='flac', layout='2.1')
    count, lines = convert(tmp_path / 'in.mkv', tmp_path / 'out.webm')
    assert count == 10
    assert len(lines) == 1
    assert 'the sound is mixed from 2.1 to stereo' in lines[0]
    assert sound_of(tmp_path / 'out.webm')[1] == 'stereo'


def test_sound_that_cannot_be_decoded_is_left_out_and_announced(tmp_path):
    write_clip(tmp_path / 'in.mkv', sound='flac')
    data = (tmp_path / 'in.mkv').read_bytes()
    (tmp_path / 'odd.mkv').write_bytes(data.replace(b'A_FLAC', b'A_ODDS'))
    for name in ('out.mp4', 'out.webm', 'out.mkv', 'out.mov'):
        count, lines = convert(tmp_path / 'odd.mkv', tmp_path / name)
        assert count == 10
        assert [line.partition(': ')[2] for line in lines] == [
            'the sound is left out: FFmpeg cannot decode it']


def test_images_hold_no_sound(source, tmp_path):
    for name in ('out.webp', 'f-%d.png'):
        assert convert(source, tmp_path / name)[1] == [
            f'{source}: the sound is left out: images hold none']


@pytest.mark.parametrize('name', ['out.webm', 'out.mkv'])
def test_clips_in_a_row_keep_all_their_sound(tmp_path, name):
    """Their times begin anew with each; the sound is encoded anew, or copied."""
    write_clip(tmp_path / 'one.ts', count=20, sound='mp2')
    clip = (tmp_path / 'one.ts').read_bytes()
    (tmp_path / 'in.ts').write_bytes(clip + clip)
    count, lines = convert(tmp_path / 'in.ts', tmp_path / name)
    assert count == 40
    assert lines == []
    assert abs(sound_of(tmp_path / name)[2] - 2 * 96_000) < 4800


def test_a_damaged_packet_costs_its_frames_alone(tmp_path):
    write_clip(tmp_path / 'in.mp4', count=30, options={'g': '10', 'bf': '0'})
    data = bytearray((tmp_path / 'in.mp4').read_bytes())
    middle = data.index(b'mdat') + (len(data) - data.index(b'mdat')) // 2
    data[middle:middle + 200] = bytes(range(200))
    (tmp_path / 'in.mp4').write_bytes(data)
    count, lines = convert(tmp_path / 'in.mp4', tmp_path / 'out.mp4')
    assert 19 <= count <= 30  # at most one group of ten is lost, and perhaps its neighbour's end
    assert len(times_of(tmp_path / 'out.mp4')) == count
    assert times_of(tmp_path / 'out.mp4')[-1] == 2.9
    assert lines == [] or 'damaged packets were left out' in lines[0]


def test_a_cut_off_clip_keeps_its_beginning_and_is_named(tmp_path):
    write_clip(tmp_path / 'in.mkv', count=40, options={'g': '10', 'crf': '1'})
    assert convert(tmp_path / 'in.mkv', tmp_path / 'f-%d.png') == (40, [])
    data = (tmp_path / 'in.mkv').read_bytes()
    (tmp_path / 'in.mkv').write_bytes(data[:len(data) // 2])
    count, [line] = convert(tmp_path / 'in.mkv', tmp_path / 'f-%d.png')
    assert 0 < count < 30
    assert f'cut off after {count / 10} of 4.0 seconds' in line


def test_a_cut_off_animation_keeps_its_whole_frames(tmp_path):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
              for _ in range(5)]
    frames[0].save(tmp_path / 'in.gif', save_all=True, append_images=frames[1:], duration=100)
    data = (tmp_path / 'in.gif').read_bytes()
    (tmp_path / 'in.gif').write_bytes(data[:len(data) * 2 // 3])
    count, _ = convert(tmp_path / 'in.gif', tmp_path / 'out.webp')
    assert 2 <= count <= 4


def test_frames_that_change_size_are_brought_to_the_first(tmp_path):
    small, large = tmp_path / 'small.ts', tmp_path / 'large.ts'
    write_clip(small)
    write_clip(large, prepare=lambda video: setattr(video, 'width', 2 * WIDTH))
    (tmp_path / 'in.ts').write_bytes(small.read_bytes() + large.read_bytes())
    shapes = []

    def look(frames):
        for frame in frames:
            shapes.append(frame.shape)
            yield frame

    count, _ = convert(tmp_path / 'in.ts', tmp_path / 'out.mp4', look)
    assert count == len(shapes) == 20
    assert set(shapes) == {(HEIGHT, WIDTH, 3)}
    times = times_of(tmp_path / 'out.mp4')
    assert len(times) == 20
    assert times == sorted(set(times))


@pytest.mark.parametrize(('name', 'width', 'aspect'), [
    ('out.mp4', WIDTH, 1.5),
    ('out.mov', WIDTH, 1.5),
    ('out.mkv', WIDTH, 1.5),
    ('out.webm', WIDTH * 3 // 2, 1),
    ('out.webp', WIDTH * 3 // 2, 1),
])
def test_pixels_that_are_not_square_are_kept_or_made_square(tmp_path, name, width, aspect):
    def prepare(video):
        video.codec_context.sample_aspect_ratio = Fraction(3, 2)

    write_clip(tmp_path / 'in.mp4', prepare=prepare)
    convert(tmp_path / 'in.mp4', tmp_path / name)
    if name == 'out.webp':
        assert Image.open(tmp_path / name).width == width
        return
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        next(container.decode(stream))
        assert (stream.width, float(stream.sample_aspect_ratio or 1)) == (width, aspect)


def test_colour_tags_are_kept(tmp_path):
    def prepare(video):
        context = video.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 6, 6, 6  # SMPTE 170M

    write_clip(tmp_path / 'in.mp4', prepare=prepare)
    convert(tmp_path / 'in.mp4', tmp_path / 'out.mp4')
    with av.open(str(tmp_path / 'out.mp4')) as container:
        frame = next(container.decode(video=0))
        tags = container.streams.video[0].codec_context
    assert (tags.color_primaries, tags.color_trc, frame.colorspace) == (6, 6, 1)


@pytest.mark.skipif(not hasattr(av.VideoFrame, 'color_trc'), reason='needs av 17')
def test_high_dynamic_range_becomes_bt709(tmp_path):
    """PQ of .58 is the reference white, 203 candelas (ITU-R BT.2408)."""
    white = round(64 + .58 * 876)
    with av.open(str(tmp_path / 'in.mkv'), 'w') as container:
        video = container.add_stream('ffv1', rate=10)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, 'yuv420p10le'
        context = video.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        context.color_range = 1
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 512, np.uint16)
        planes[:HEIGHT] = white
        container.mux(video.encode(av.VideoFrame.from_ndarray(planes, 'yuv420p10le')))
        container.mux(video.encode(None))

    def look(frames):
        for frame in frames:
            assert frame.min() >= 245
            yield frame

    convert(tmp_path / 'in.mkv', tmp_path / 'out.mp4', look)
    with av.open(str(tmp_path / 'out.mp4')) as container:
        frame = next(container.decode(video=0))
    assert (frame.color_primaries, frame.color_trc, frame.colorspace) == (1, 1, 1)


@pytest.mark.parametrize('codec', ['libvpx', 'libvpx-vp9'])
def test_transparency_of_webm_is_read(tmp_path, codec):
    with av.open(str(tmp_path / 'in.webm'), 'w') as container:
        video = container.add_stream(codec, rate=10, options={'auto-alt-ref': '0'})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, 'yuva420p'
        pixels = np.full((HEIGHT, WIDTH, 4), 120, np.uint8)
        pixels[..., 3] = np.where(np.arange(WIDTH) < WIDTH // 2, 0, 255)
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(pixels, 'rgba')
            container.mux(video.encode(frame.reformat(format='yuva420p')))
        container.mux(video.encode(None))
    alphas = []

    def look(frames):
        for frame in frames:
            alphas.append(frame[..., 3])
            yield frame

    assert convert(tmp_path / 'in.webm', tmp_path / 'out.mov', look) == (4, [])
    assert times_of(tmp_path / 'out.mov') == [0, .1, .2, .3]
    for alpha in alphas:
        assert alpha[:, :WIDTH // 2 - 2].max() <= 2
        assert alpha[:, WIDTH // 2 + 2:].min() >= 253


def atoms(data):
    """The parts of an MP4 file, by their names."""
    while data:
        size = int.from_bytes(data[:4])
        yield data[4:8], data[:size]
        data = data[size:]


def test_cover_art_is_no_video(tmp_path):
    """With the tags before the tracks, as some taggers write them, the cover comes first."""
    cover = io.BytesIO()
    Image.new('RGB', (300, 300), 'red').save(cover, 'JPEG')
    path = tmp_path / 'in.mp4'
    with av.open(str(path), 'w') as container:
        video = container.add_stream('libx264', rate=10)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        art = container.add_stream('mjpeg', rate=1)
        art.width, art.height, art.pix_fmt = 300, 300, 'yuvj420p'
        art.disposition = av.stream.Disposition.attached_pic.value
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 'rgb24')
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = art, 0, 0, True
        container.mux(packet)

    parts = dict(atoms(path.read_bytes()))
    order = {b'mvhd': 0, b'udta': 1}
    inner = sorted(atoms(parts[b'moov'][8:]), key=lambda atom: order.get(atom[0], 2))
    parts[b'moov'] = parts[b'moov'][:8] + b''.join(content for _, content in inner)
    path.write_bytes(b''.join(parts.values()))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == 'mjpeg'
    assert convert(path, tmp_path / 'out.mp4')[0] == 3


@pytest.mark.parametrize('name', ['out.gif', 'out.webp', 'out.png', 'out.apng'])
def test_a_video_becomes_an_animated_image(source, tmp_path, name):
    rng = np.random.default_rng(0)

    def noise(frames):
        for frame in frames:
            yield rng.integers(0, 256, frame.shape, dtype=np.uint8)

    assert convert(source, tmp_path / name, noise)[0] == len(TIMES)
    with Image.open(tmp_path / name) as image:
        starts = [0]
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            starts.append(starts[-1] + image.info['duration'])
        assert image.info.get('loop', 0) == 0
    assert starts[:-1] == TIMES


def test_gif_is_clear_or_opaque(source, tmp_path):
    def half(frames):
        for frame in frames:
            alpha = np.where(np.arange(WIDTH) < WIDTH // 2, 40, 200).astype(np.uint8)
            yield np.dstack((frame, np.tile(alpha, (HEIGHT, 1))))

    convert(source, tmp_path / 'out.gif', half)
    alpha = np.asarray(Image.open(tmp_path / 'out.gif').convert('RGBA'))[..., 3]
    assert set(alpha[:, :WIDTH // 2].flat) == {0}
    assert set(alpha[:, WIDTH // 2:].flat) == {255}


def test_a_gif_whose_frames_last_too_long_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setattr(video_writing._AnimationWriter, '_durations', lambda _: [660_000] * 6)
    with pytest.raises(ValueError, match=r'out\.gif: a frame of a GIF lasts 655 seconds'):
        convert_video(source, tmp_path / 'out.gif', unchanged)
    assert [path.name for path in tmp_path.iterdir()] == ['in.mp4']


def test_too_many_frames_for_an_animated_image(source, tmp_path, monkeypatch):
    monkeypatch.setattr(video_writing, 'MAX_ANIMATION_BYTES', 5 * HEIGHT * WIDTH * 3)
    with pytest.raises(ValueError, match=r'6 frames of 64x48 pixels are too many'):
        convert_video(source, tmp_path / 'out.webp', unchanged)
    assert [path.name for path in tmp_path.iterdir()] == ['in.mp4']


def test_a_clip_that_is_left_early_can_be_closed(source):
    """A decoder with busy threads that log used to wait for them for ever."""
    script = f'''
from inference.video_reading import open_source
for _ in range(50):
    with open_source({str(source)!r}, 10_000, print) as clip:
        next(clip.frames)
'''
    subprocess.run([sys.executable, '-c', script], cwd=ROOT, check=True, timeout=300)


def test_long_and_odd_names(source, tmp_path):
    for name in ('x' * 251 + '.mp4', 'a:b.mp4', 'concat:a.mp4', '100%.mp4', '-y.mp4'):
        (tmp_path / name).write_bytes(source.read_bytes())
        folder = tmp_path / 'out'
        assert convert(tmp_path / name, folder / name) == (len(TIMES), [])
        assert times_of(f'file:{folder / name}') == [time / 1000 for time in TIMES]
