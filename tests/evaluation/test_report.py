"""What the report of an evaluation draws, and the bytes that it takes."""

import math
import re

import cv2
import numpy as np
import pytest

from evaluation import report
from evaluation.gallery import _ahead, order_of, thinned
from evaluation.thumbnails import BLUE, INSIDE, OUTSIDE, RED, draw, error_map
from tests.evaluation.folders import blob, spoil
from tests.evaluation.reports import FOREIGN, make_evaluation, write
from utils import write_png


def test_error_maps_are_the_mean_of_the_errors():
    """A pixel of the small picture has the mean colour of the pixels that it stands for."""
    truth = blob(1, (40, 60))
    found = spoil(truth, 5, 1)
    share = found[..., None] / 255
    inside = truth[..., None] > 128
    colours = np.where(
        inside, INSIDE * share + BLUE * (1 - share), OUTSIDE * (1 - share) + RED * share)
    expected = colours.reshape(10, 4, 15, 4, 3).mean((1, 3))
    assert np.abs(error_map(found, truth, (15, 10)) - expected).max() <= 2  # of 255


@pytest.mark.parametrize('budget', [200_000, 20_000, 5_000])
def test_pictures_keep_to_their_budget(tmp_path, budget):
    """Also noise, which compresses worst."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    write_png(tmp_path / 'im.png', noise)
    write_png(tmp_path / 'gt.png', noise[..., 0] // 128 * 255)
    write_png(tmp_path / 'pred.png', noise[..., 1])
    pictures = draw(
        tmp_path / 'im.png', tmp_path / 'gt.png', [(tmp_path / 'pred.png', False)] * 2, budget)
    assert len(pictures) == 6
    assert budget / 3 < sum(len(picture.data) for picture in pictures) <= budget
    for picture in pictures:
        decoded = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (picture.height, picture.width, 3)
        assert picture.width / picture.height == pytest.approx(4 / 3, rel=.05)


def test_the_page_keeps_to_its_size(tmp_path, monkeypatch):
    evaluation = make_evaluation(tmp_path, images=20)
    monkeypatch.setattr(report, 'PAGE_BYTES', 400_000)
    write(tmp_path, evaluation)
    assert 200_000 < (tmp_path / 'report.html').stat().st_size <= 400_000


def test_few_of_many_images():
    order = list(range(400, 0, -1))
    drawn = thinned(order, 100)
    assert drawn[:50] == order[:50]
    assert drawn[-1] == order[-1]
    assert len(set(drawn)) == 100
    assert np.diff(drawn[50:]).tolist() == pytest.approx([-7] * 49, abs=1)
    assert thinned(order, 20) == order[:20]
    assert thinned(order, 0) == []
    assert thinned(order[:3], 20) == order[:3]


def test_order_from_the_worst():
    values = np.array([.3, math.nan, .1, .2])
    assert order_of(values, higher=True) == [2, 3, 0]
    assert order_of(values, higher=False) == [0, 3, 2]


def test_pictures_are_drawn_a_few_at_a_time():
    begun = []
    results = _ahead(lambda item: begun.append(item) or item, range(1000))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(begun) < 100
    assert list(results) == list(range(3, 1000))


def test_a_limited_number_of_cards(tmp_path):
    page = write(tmp_path, make_evaluation(tmp_path, ('TE-A', 'TE-B'), images=4), most=4)
    assert page.count('<article') == 4
    assert page.count('2 of 4 images: the worst, and others evenly') == 2
    page = write(tmp_path, make_evaluation(tmp_path), most=0)
    assert '<article' not in page
    assert page.count('<img') == 3 * 6


def test_files_that_are_gone_leave_a_note(tmp_path):
    evaluation = make_evaluation(tmp_path)
    (tmp_path / 'preds/ours/TE-A/im 1.png').unlink()
    (tmp_path / 'gt/TE-A/gt/im 2.png').write_bytes(b'no image')
    (tmp_path / 'gt/TE-A/im/im 3.png').unlink()
    page = write(tmp_path, evaluation)
    cards = re.findall('<article.*?</article>', page, re.S)
    assert [card.count('<img') for card in cards] == [6, 0, 0, 5]
    assert ['no longer as they were scored' in card for card in cards] == [False, True, True, False]


def test_images_without_the_score_come_last(tmp_path):
    evaluation = make_evaluation(tmp_path)
    values = evaluation.details['TE-A']['ours'].values['sm']
    values[0] = math.nan
    page = write(tmp_path, evaluation)
    assert re.findall('<h4>(.*?)</h4>', page) == ['im 1', 'im 2', 'im 3', 'im 0']
    assert 'The worst 3 by' in page
    values[:] = math.nan
    page = write(tmp_path, evaluation)
    assert page.count('<article') == 4


def test_a_score_over_pooled_pixels_ranks_by_that_of_images(tmp_path):
    evaluation = make_evaluation(tmp_path, score='pooledBinIoU')
    for scored in evaluation.details['TE-A'].values():
        scored.values['binIoU'] = scored.values['mae']
    assert 'The worst, the median and the best image by binIoU' in write(tmp_path, evaluation)


def test_names_are_text(tmp_path):
    """Names of files, methods and sets come from anywhere."""
    methods = ('<b>ours</b>', 'x" onload="alert(1)')
    evaluation = make_evaluation(tmp_path, names=FOREIGN, methods=methods)
    evaluation.categories['TE-A'][FOREIGN[1]] = ['"><img src=x>', 'Bird']
    page = write(tmp_path, evaluation)
    assert page.count('<script') == 1
    assert '<b>ours' not in page
    assert '<img src=x' not in page
    assert not re.search(r'<[^>]* on\w+="', page)
    assert 'not &#56553; text' in page
    assert not re.search(r'(src|href)="(?!data:|#image-\d+-\d+")', page)
