"""Videos: times, sound, transparency, rotation, and no half-written files."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip('av')

from inference.video import check_video_target, convert_video  # noqa: E402

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


def test_a_playlist_opens_no_other_file(source, tmp_path):
    playlist = tmp_path / 'list.mp4'
    playlist.write_text(f'ffconcat version 1.0\nfile {source.name}\n')
    with pytest.raises(ValueError, match=r'list\.mp4: unreadable video'):
        convert_video(playlist, tmp_path / 'out.mp4', unchanged)
