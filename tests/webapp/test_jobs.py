"""Jobs without a page: names, limits, colours, what is refused."""

import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from inference.compose import Style
from inference.network import Predictor
from webapp import jobs
from webapp.jobs import (
    PREVIEW_SIDE,
    Deadline,
    Limits,
    LoadedModel,
    convert,
    pack,
    parse_color,
    refusal,
    render,
    result_names,
    segment,
)


class Half(nn.Module):
    """A network that gives every pixel a probability of one half."""

    def forward(self, images):
        return [images[:, :1] * 0]


@pytest.fixture
def model():
    network = Half()
    return LoadedModel(network, Predictor(network), 'half')


def silent(done, total):
    assert done <= total


def write(path: Path, width: int = 40, height: int = 30) -> Path:
    Image.fromarray(np.full((height, width, 3), (10, 200, 30), np.uint8)).save(path)
    return path


def test_images_become_results(model, tmp_path):
    big = write(tmp_path / 'big.png', 2 * PREVIEW_SIDE, 20)
    files = [big, write(tmp_path / 'a.jpg'), write(tmp_path / 'a.png')]
    segmentations, refused = segment(files, model, '64', Limits(), tmp_path / 'masks', silent)
    assert [segmentation.source for segmentation in segmentations] == files
    assert not refused

    style = Style(output='cutout')
    results = render(segmentations, style, Limits(), tmp_path / 'results', silent)
    assert [result.file.name for result in results] == ['big.png', 'a.png', 'a (2).png']
    assert Image.open(results[0].file).size == (2 * PREVIEW_SIDE, 20)
    for preview in (results[0].before, results[0].after):
        assert Image.open(preview).size == (PREVIEW_SIDE, 10)
    assert np.asarray(Image.open(results[1].file))[0, 0, 3] == 127
    assert (np.asarray(Image.open(results[2].mask)) == 127).all()

    with zipfile.ZipFile(pack(results, tmp_path / 'all.zip')) as archive:
        assert archive.namelist() == ['big.png', 'a.png', 'a (2).png']
        assert archive.read('a.png') == results[1].file.read_bytes()


def test_what_a_video_lacks_is_said_without_a_path(model, tmp_path, monkeypatch):
    def convert_video(source, target, render, max_pixels, *, warn, report_loss):
        warn(f'{source}: the sound is left out')
        report_loss(f'{source}: 2 damaged packets')

    monkeypatch.setattr(jobs, 'convert_video', convert_video)
    film, notes = convert(
        tmp_path / 'a.mp4', model, '64', Style(), Limits(), tmp_path / 'out', silent)
    assert film.name == 'a.webm'
    assert notes == ['a.mp4: the sound is left out', 'a.mp4: 2 damaged packets']


def test_too_many_files(model, tmp_path):
    file = write(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='2 pictures are too many'):
        segment([file, file], model, '64', Limits(files=1), tmp_path, silent)


@pytest.mark.parametrize(('limits', 'resolution', 'words'), [
    (Limits(pixels=100), '64', '40x30 pixels'),
    (Limits(network_pixels=64 * 64), '128x128', 'take 64x64 or less'),
])
def test_too_many_pixels(model, tmp_path, limits, resolution, words):
    file = write(tmp_path / 'a.png')
    segmentations, refused = segment([file], model, resolution, limits, tmp_path, silent)
    assert not segmentations
    assert words in refused[0]


def test_too_much_time(model, tmp_path):
    file = write(tmp_path / 'a.png')
    with pytest.raises(TimeoutError, match='longer than 0 seconds'):
        segment([file], model, '64', Limits(seconds=0), tmp_path, silent)


def test_a_deadline_is_checked_before_each_call():
    network = Deadline(.05).guard(len)
    assert network([1, 2]) == 2
    time.sleep(.06)
    with pytest.raises(TimeoutError):
        network([1])


@pytest.mark.parametrize(('text', 'expected'), [
    ('#ff8000', (255, 128, 0, 255)),
    ('#FF800080', (255, 128, 0, 128)),
    ('rgb(1, 2, 3)', (1, 2, 3, 255)),
    ('rgba(1.4, 300, 3, 0)', (1, 255, 3, 0)),
    ('rgba(0, 0, 0, 0.5)', (0, 0, 0, 128)),
])
def test_colors(text, expected):
    assert parse_color(text) == expected


@pytest.mark.parametrize('text', [
    '', 'red', '#fff', '#12345678ab', 'rgb(1, 2)', 'rgb(1.2.3, 2, 3)',
])
def test_no_colors(text):
    with pytest.raises(ValueError, match='give #rrggbb'):
        parse_color(text)


def test_equal_names_are_numbered():
    files = [Path('x/a.jpg'), Path('y/a.png'), Path('a (2).png'), Path('z/a.gif'), Path('b.tar.gz')]
    assert result_names(files) == ['a', 'a (2)', 'a (2) (2)', 'a (3)', 'b.tar']


FILE = Path('/srv/secret/cat.mp4')


@pytest.mark.parametrize(('error', 'reason'), [
    (FileNotFoundError(2, 'No such file', str(FILE)), 'no longer here'),
    (ValueError(f'{FILE}: unreadable video (a text)'), 'read (a text). MP4'),
    (ValueError(f'{FILE}: holds no video stream'), 'read (holds no video stream). MP4'),
    (ValueError('image data: unreadable image (GIF: the file is cut off)'), 'cut off). JPEG'),
    (ValueError('too big'), 'too big'),
])
def test_refusals_say_why_and_name_no_folder(error, reason):
    words = refusal(FILE, error)
    assert words.startswith('cat.mp4: ')
    assert reason in words
    assert 'srv' not in words


def test_the_first_of_several_frames_is_announced(model, tmp_path):
    frames = [Image.new('RGB', (40, 30), (60 * number, 0, 0)) for number in range(3)]
    path = tmp_path / 'a.gif'
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    segmentations, lines = segment([path], model, '64', Limits(), tmp_path / 'masks', silent)
    assert len(segmentations) == 1
    assert lines == ['a.gif: all frames but the first']
