"""The page that compares networks: what it shows, what fails, what stays in memory."""

import base64
import gc
import io
import mmap
import re
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from inference.comparison import LONGEST_SIDE, Entry, Picture, compare, render_page, show_images
from inference.compose import Style
from inference.images import DecodedImage
from runtime.memory import PeakWatch

CPU = torch.device('cpu')
RED = DecodedImage(np.full((40, 60, 3), (200, 0, 0), np.uint8))


class HalfNetwork:
    """Finds the left half of each image."""

    device = CPU

    def __call__(self, images):
        probability = np.zeros((len(images), *images[0].shape[:2]), np.float32)
        probability[:, :, :images[0].shape[1] // 2] = 1
        return probability


def load_half(name):
    return HalfNetwork(), lambda size: (64, 32)


def run(names, images, load_network=load_half, style=Style()):  # noqa: B008
    return list(compare(names, images, load_network, style, CPU))


def pictures_of(page: str) -> list[Image.Image]:
    encoded = re.findall(r'data:image/webp;base64,([\w+/=]+)', page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in encoded]


def test_the_page_shows_image_and_cutouts():
    entries = run(['a', 'b'], [lambda: RED])
    page = render_page(['photo.jpg'], show_images([lambda: RED]), entries)
    original, *cutouts = pictures_of(page)
    assert (original.mode, original.size) == ('RGB', (60, 40))
    assert len(cutouts) == 2
    alpha = np.asarray(cutouts[0])[..., 3]
    assert (alpha[:, :28] > 250).all()
    assert (alpha[:, 32:] < 5).all()
    assert '64x32' in page
    assert entries[0].seconds > 0


def test_it_is_one_file_without_scripts_in_which_all_is_escaped():
    name = '<script>x</script>&"\''
    broken = Entry(name, [Picture(problem=name)])
    page = render_page([name], [Picture(problem=name)], [broken])
    assert '<script' not in page
    assert page.count('&lt;script&gt;x&lt;/script&gt;&amp;&quot;&#x27;') >= 5
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "default-src 'none'" in page


def test_what_fails_is_shown_and_the_rest_goes_on():
    def broken():
        raise ValueError('no image')

    def load(name):
        if name == 'bad':
            raise ValueError('no such weights')
        return load_half(name)

    images = [broken, lambda: RED]
    bad, good = run(['bad', 'good'], images, load)
    assert [picture.problem for picture in bad.pictures] == ['no such weights'] * 2
    assert (bad.seconds, bad.sizes) == (None, '')
    assert [picture.problem for picture in good.pictures] == ['no image', '']
    page = render_page(['1', '2'], show_images(images), [bad, good])
    assert len(pictures_of(page)) == 2


@pytest.mark.slow
def test_one_network_at_a_time_is_in_memory():
    alive = []

    def load(name):
        gc.collect()
        assert [network for network in alive if network() is not None] == [], name
        network, rule = load_half(name)
        alive.append(weakref.ref(network))
        return network, rule

    assert len(run(['a', 'b', 'c'], [lambda: RED], load)) == 3


def test_large_cutouts_are_shrunk_without_a_dark_seam():
    """A red object whose clear surroundings are black: no pixel in between may be dark."""
    side = 2 * LONGEST_SIDE
    large = DecodedImage(np.full((side, side // 2, 3), (200, 0, 0), np.uint8))
    entry, = run(['a'], [lambda: large])
    cutout = Image.open(io.BytesIO(entry.pictures[0].file))
    assert cutout.size == (LONGEST_SIDE // 2, LONGEST_SIDE)
    pixels = np.asarray(cutout)
    seen = pixels[..., 3] > 30
    assert pixels[..., 0][seen].min() > 180


def test_peak_memory_is_that_since_the_start():
    before = PeakWatch(CPU)
    if before.read() is None:
        pytest.skip('the system does not say')
    with mmap.mmap(-1, 60_000_000) as held:  # NumPy might reuse what the process holds already
        held.write(bytes(len(held)))
    assert before.read() > PeakWatch(CPU).read() + 40_000_000
