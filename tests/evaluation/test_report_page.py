"""What a reader can do with the report of an evaluation, in headless Chromium."""

import numpy as np
import pytest

pytest.importorskip('playwright')

from playwright.sync_api import expect

from tests.browser import chromium
from tests.evaluation.reports import FOREIGN, make_evaluation, write


@pytest.fixture(scope='module')
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp('report')
    evaluation = make_evaluation(root, ('TE-A', 'TE-B'), images=5)
    write(root, evaluation)
    return root / 'report.html'


@pytest.fixture
def visit(browser, written):
    """Opens a report. It asks for nothing else, and its script makes no error."""
    contexts, asked, errors = [], [], []

    def open_page(path=written, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on('request', lambda request: asked.append(request.url))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('console', lambda message: errors.append(message.text))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(('data:', 'file:'))] == []
    assert errors == []


def shown(page, dataset='TE-A'):
    """Names on the cards of a set that can be seen, in order."""
    cards = page.locator(f'section[data-set={dataset}] .card:visible h4')
    return [name.removeprefix('im ') for name in cards.all_text_contents()]


def test_sorting(visit):
    page = visit()
    assert shown(page) == ['0', '1', '2', '3', '4']
    page.select_option('[name=order]', 'best')
    assert shown(page) == ['4', '3', '2', '1', '0']
    page.select_option('[name=score]', 'mae')  # lower is better
    values = (np.linspace(.5, .9, 5) * 7) % .3
    assert shown(page) == [str(index) for index in values.argsort()]
    page.select_option('[name=order]', 'category')
    assert sorted(shown(page)[:3]) == ['0', '2', '4']
    page.click('text=Reset')
    expect(page.locator('.card h4').first).to_have_text('im 0')
    assert shown(page, 'TE-B') == ['0', '1', '2', '3', '4']


def test_filters(visit):
    page = visit()
    count = page.locator('output')
    assert count.text_content() == '10 of 10 images'
    page.select_option('[name=category]', 'Chair')
    assert shown(page) == ['1', '3']
    page.fill('[name=low]', '.7')
    assert shown(page) == ['3']
    page.select_option('[name=category]', '')
    page.fill('[name=high]', '.85')
    assert shown(page) == ['2', '3']
    page.fill('[name=find]', 'IM 3')
    assert shown(page) == ['3']
    page.select_option('[name=set]', 'TE-B')
    assert shown(page) == []
    assert count.text_content() == '1 of 10 images'


def test_slider_by_keyboard(visit):
    page = visit()
    page.select_option('[name=right]', 'errors-1')
    card = page.locator('.card').first
    slider = card.get_by_role('slider', name='Slider between two panels of im 0')
    slider.focus()
    page.keyboard.press('End')
    right = card.locator('[data-panel=errors-1]')
    assert right.is_visible()
    assert right.evaluate('it => getComputedStyle(it).clipPath') == 'inset(0px 0px 0px 100%)'
    assert card.locator('figure:visible').count() == 2


def test_a_card_opens(visit):
    page = visit()
    card = page.locator('.card').first
    button = card.get_by_role('button', name='More of im 0')
    button.focus()
    page.keyboard.press('Enter')
    assert card.locator('figure:visible').count() == 6
    assert card.locator('table').is_visible()
    page.check('[name=all]')
    assert page.locator('.card figure:visible').count() == 10 * 6


def test_links_lead_to_hidden_cards(visit):
    page = visit()
    page.fill('[name=find]', 'im 4')
    page.locator('section[data-set=TE-B] .worst a').nth(1).click()
    expect(page.locator('.card:focus h4')).to_have_text('im 1')
    assert shown(page) == ['0', '1', '2', '3', '4']


def test_on_paper_all_panels_of_what_is_found(visit):
    page = visit()
    page.select_option('[name=category]', 'Chair')
    page.emulate_media(media='print')
    assert page.locator('.card:visible').count() == 4
    assert page.locator('.card figure:visible').count() == 4 * 6
    assert not page.locator('.tools').is_visible()
    assert not page.locator('.cut').first.is_visible()


def test_without_javascript(visit):
    page = visit(java_script_enabled=False)
    assert page.locator('.card figure:visible').count() == 10 * 6
    assert page.locator('.card table:visible').count() == 10
    assert not page.locator('.tools').is_visible()


def test_a_small_screen(visit):
    page = visit(viewport={'width': 360, 'height': 640})
    assert page.evaluate('document.documentElement.scrollWidth') <= 360
    page.check('[name=all]')
    assert page.evaluate('document.documentElement.scrollWidth') <= 360


def test_foreign_names_in_the_browser(visit, tmp_path):
    evaluation = make_evaluation(tmp_path, names=FOREIGN, methods=('a<b', 'c"d'))
    write(tmp_path, evaluation)
    page = visit(tmp_path / 'report.html')
    names = page.locator('.card h4').all_text_contents()
    assert names == [*FOREIGN[:3], 'not \ufffd text']
    page.fill('[name=find]', '</SCRIPT>')
    assert page.locator('.card:visible').count() == 1
