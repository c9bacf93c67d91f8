"""Jobs without a page: names, limits, colours, what is refused."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from inference.compose import Style
from inference.network import Predictor
from webapp.jobs import PREVIEW, Deadline, Limits, Weights, pack, parse_color, refusal, render, result_names, segment


class Half(nn.Module):
    """A network that takes everything for an object by half."""

    def forward(self, images):
        return [images[:, :1] * 0]


@pytest.fixture
def weights():
    return Weights(Half(), Predictor(Half()), 'half')


def silent(done, total):
    assert done <= total


def write(path: Path, width: int = 40, height: int = 30) -> Path:
    Image.fromarray(np.full((height, width, 3), (10, 200, 30), np.uint8)).save(path)
    return path


def test_pictures_become_results(weights, tmp_path):
    files = [write(tmp_path / 'big.png', 2 * PREVIEW, 20), write(tmp_path / 'a.jpg'), write(tmp_path / 'a.png')]
    cuts, refused = segment(files, weights, '64', Limits(), tmp_path / 'masks', silent)
    assert [cut.source for cut in cuts] == files
    assert not refused
    results = render(cuts, Style(output='cutout'), Limits(), tmp_path / 'results', silent)
    assert [result.file.name for result in results] == ['big.png', 'a.png', 'a (2).png']
    assert np.asarray(Image.open(results[1].file))[0, 0, 3] == 127
    assert Image.open(results[0].file).size == (2 * PREVIEW, 20)
    assert [Image.open(path).size for path in (results[0].before, results[0].after)] == [(PREVIEW, 10)] * 2
    assert (np.asarray(Image.open(results[2].mask)) == 127).all()
    archive = pack(results, tmp_path / 'all.zip')
    assert archive.stat().st_size > sum(result.file.stat().st_size for result in results)


def test_limits(weights, tmp_path):
    file = write(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='2 pictures are too many'):
        segment([file, file], weights, '64', Limits(files=1), tmp_path, silent)
    for limits, resolution, words in ((Limits(pixels=100), '64', '40x30 pixels'),
                                      (Limits(network_pixels=64 * 64), '128x128', 'take 64x64 or less')):
        cuts, refused = segment([file], weights, resolution, limits, tmp_path, silent)
        assert not cuts
        assert words in refused[0]
    with pytest.raises(TimeoutError, match='longer than 0 seconds'):
        segment([file], weights, '64', Limits(seconds=0), tmp_path, silent)


def test_a_deadline_is_checked_before_each_call():
    network = Deadline(.05).before(len)
    assert network([1, 2]) == 2
    time.sleep(.06)
    with pytest.raises(TimeoutError):
        network([1])


@pytest.mark.parametrize(('text', 'expected'), [
    ('#ff8000', (255, 128, 0, 255)), ('#FF800080', (255, 128, 0, 128)), ('rgb(1, 2, 3)', (1, 2, 3, 255)),
    ('rgba(1.4, 300, 3, 0)', (1, 255, 3, 0)), ('rgba(0, 0, 0, 0.5)', (0, 0, 0, 128))])
def test_colors(text, expected):
    assert parse_color(text) == expected


@pytest.mark.parametrize('text', ['', 'red', '#fff', '#12345678ab', 'rgb(1, 2)', 'rgb(1.2.3, 2, 3)'])
def test_no_colors(text):
    with pytest.raises(ValueError, match='give #rrggbb'):
        parse_color(text)


def test_names_are_told_apart():
    files = [Path('x/a.jpg'), Path('y/a.png'), Path('a (2).png'), Path('z/a.gif'), Path('b.tar.gz')]
    assert result_names(files) == ['a', 'a (2)', 'a (2) (2)', 'a (3)', 'b.tar']


def test_refusals_name_no_folder():
    file = Path('/srv/secret/cat.mp4')
    for error in (FileNotFoundError(2, 'No such file', str(file)), ValueError(f'{file}: unreadable video (x)'),
                  ValueError('image data: unreadable image (cannot identify <BytesIO>)'), ValueError('too big')):
        words = refusal(file, error)
        assert words.startswith('cat.mp4: ')
        assert 'srv' not in words
        assert 'BytesIO' not in words
