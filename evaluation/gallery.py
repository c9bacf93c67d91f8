"""The images of a report: worst, median and best at a glance, and a card for each of many.

A card has the panels of one image, and its scores by one or two methods. report.js sorts and
filters the cards and lays panels over each other; without it they are a list to read.
"""

import base64
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from html import escape
from typing import Any, NamedTuple, TypeVar

import numpy as np

from evaluation import tables
from evaluation.metrics import COLUMNS, higher_is_better
from evaluation.places import NO_ROWS, ScoredFiles
from evaluation.runner import available_cores
from evaluation.stored import Rows
from evaluation.summary import MethodScores
from evaluation.thumbnails import Thumbnail, draw

WORST = 50
# More threads than this wait for memory.
MOST_THREADS = 8

Item = TypeVar('Item')
Result = TypeVar('Result')


class ImageSet(NamedTuple):
    """The images of one test set, and the one or two methods that they are drawn with.

    Attributes:
        dataset: Name of the set.
        number: The set's place in the report, for names that contain nothing foreign.
        found: The set's JSON, as eval_existingOnes.py writes it.
        methods: Scores of single images by method, the best method first.
        titles: The methods' names for people.
        score: The score that ranks the images.
        shown: All scores that the cards list.
        categories: Categories by name of an image, where it has any.
        rows: Stored scores of the methods, by which files are known again.
    """

    dataset: str
    number: int
    found: Mapping[str, Any]
    methods: Mapping[str, MethodScores]
    titles: Mapping[str, str]
    score: str
    shown: Sequence[str]
    categories: Mapping[str, Sequence[str]]
    rows: Rows = NO_ROWS

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return self._best.names

    @property
    def values(self) -> np.ndarray:
        """The best method's values (images,) of the score that ranks."""
        return self._best.values[self.score]

    @property
    def _best(self) -> MethodScores:
        return next(iter(self.methods.values()))

    def anchor(self, index: int) -> str:
        """The name of an image's card in links."""
        return f'image-{self.number}-{index}'


# --- Which images ---------------------------------------------------------------------------------


def order_of(values: np.ndarray, higher: bool) -> list[int]:
    """Orders images from the worst to the best.

    Args:
        values: Scores (images,); NaN is left out.
        higher: Whether higher is better.
    """
    # NaN is sorted to the end.
    present = np.count_nonzero(~np.isnan(values))
    ascending = values.argsort(kind='stable')
    order = ascending[:present].tolist()
    return order if higher else order[::-1]


def picked(values: np.ndarray, higher: bool) -> dict[int, str]:
    """Picks the worst, the median and the best image; none if no image has the score.

    Args:
        values: Scores (images,); NaN is left out.
        higher: Whether higher is better.

    Returns:
        What each picked image is ('worst', 'median', 'best', or several), by index.
    """
    order = order_of(values, higher)
    if not order:
        return {}

    # In a small set one image may be several of them.
    kinds = {
        'worst': order[0],
        'median': order[len(order) // 2],
        'best': order[-1],
    }
    picks: dict[int, str] = {}
    for kind, index in kinds.items():
        picks[index] = f'{picks[index]} and {kind}' if index in picks else kind
    return picks


def thinned(order: Sequence[int], most: int) -> list[int]:
    """Selects at most `most` images: the worst fifty, and others evenly over the order."""
    if len(order) <= most:
        return list(order)
    worst = min(WORST, most)
    last = len(order) - 1
    evenly = np.linspace(worst, last, most - worst)
    places = evenly.round().astype(int).tolist()
    others = [order[place] for place in places]
    return [*order[:worst], *others]


# --- Panels ---------------------------------------------------------------------------------------


class Panels:
    """Draws the images of a set with the masks of its methods, from their files."""

    def __init__(self, images: ImageSet) -> None:
        self.methods = list(images.methods)
        names = [images.titles[method] for method in self.methods]
        self._titles = panel_titles(names)
        self._files = ScoredFiles(images.found, images.dataset, images.rows)

    def strip(self, name: str, budget: int) -> str:
        """Draws an image's panels side by side, or says that its files are gone.

        Args:
            name: Name of the image.
            budget: Bytes that the pictures may take.
        """
        try:
            thumbnails = self._draw(name, budget)
        except (OSError, ValueError):
            return '<p class="note">Its files are no longer as they were scored.</p>'

        # The image itself may never have been there.
        titles = dict(self._titles)
        if len(thumbnails) < len(titles):
            del titles['image']
        figures = map(_figure, titles, titles.values(), thumbnails)
        return f'<div class="strip" style="--n:{len(titles)}">{"".join(figures)}</div>'

    def _draw(self, name: str, budget: int) -> list[Thumbnail]:
        files = self._files
        mask = files.mask(name)
        predictions = []
        for method in self.methods:
            prediction = files.prediction(method, name)
            if prediction is not None:
                predictions.append((prediction, files.is_zero_one(method)))
        if mask is None or len(predictions) < len(self.methods):
            raise FileNotFoundError(name)
        return draw(files.image(name), mask, predictions, budget)


def panel_titles(methods: Sequence[str]) -> dict[str, str]:
    """Titles of an image's panels by their kind, in order, from the methods' names."""
    titles = {'image': 'image', 'truth': 'ground truth'}
    for number, method in enumerate(methods):
        titles[f'mask-{number}'] = method
        titles[f'errors-{number}'] = f'errors of {method}'
    return titles


def _figure(kind: str, title: str, picture: Thumbnail) -> str:
    source = data_url('jpeg', picture.data)
    size = f'width="{picture.width}" height="{picture.height}"'
    caption = escape(title)
    return (
        f'<figure data-panel="{kind}"><img alt="{caption}" {size} loading="lazy" '
        f'src="{source}"><figcaption>{caption}</figcaption></figure>')


def data_url(kind: str, content: bytes) -> str:
    """Returns a picture as a URL that contains it; `kind` is 'jpeg' or 'svg+xml'."""
    encoded = base64.b64encode(content).decode()
    return f'data:image/{kind};base64,{encoded}'


# --- What the page shows --------------------------------------------------------------------------


def overview(images: ImageSet, budget: int) -> Iterator[str]:
    """Draws the worst, the median and the best image.

    Args:
        images: The set.
        budget: Bytes for the pictures of each.
    """
    panels = Panels(images)
    picks = picked(images.values, higher_is_better(images.score))
    for index, kind in picks.items():
        name = images.names[index]
        scores = []
        for method, scored in images.methods.items():
            value = scored.values[images.score][index]
            text = tables.format_score(images.score, value)
            title = escape(images.titles[method])
            scores.append(f'{title} {text}')
        listed = ', '.join(scores)
        caption = f'<p class="note"><b>{kind}</b>: {escape(name)} ({listed})</p>'
        strip = panels.strip(name, budget)
        yield f'<div class="pick">{caption}{strip}</div>'


def worst_links(images: ImageSet, drawn: Sequence[int]) -> str:
    """Links to the cards of the worst fifty of the drawn images, which are in that order."""
    ranked = [index for index in drawn if not math.isnan(images.values[index])]
    items = []
    for index in ranked[:WORST]:
        name = escape(images.names[index])
        value = tables.format_score(images.score, images.values[index])
        items.append(
            f'<li><a href="#{images.anchor(index)}" title="{name}">{name}</a> '
            f'<span>{value}</span></li>')
    title = f'The worst {len(items)} by {COLUMNS[images.score]}'
    return (
        f'<details open><summary>{title}</summary>'
        f'<ol class="worst">{"".join(items)}</ol></details>')


def cards(images: ImageSet, drawn: Sequence[int], budget: int) -> Iterator[str]:
    """Draws a card for each image, a few at a time.

    Args:
        images: The set.
        drawn: The images to draw, in this order.
        budget: Bytes for the pictures of each.
    """
    panels = Panels(images)

    def draw_card(place: int) -> str:
        index = drawn[place]
        strip = panels.strip(images.names[index], budget)
        return _card(images, index, strip)

    yield from _ahead(draw_card, range(len(drawn)))


def _card(images: ImageSet, index: int, strip: str) -> str:
    """Writes a card: the image's name and categories, its panels, and a table of its scores."""
    name = images.names[index]
    tags = []
    for category in images.categories.get(name, ()):
        tags.append(f'<span class="tag">{escape(category)}</span>')

    # The table of scores.
    heads = []
    for score in images.shown:
        heads.append(f'<th data-score="{score}">{COLUMNS[score]}</th>')
    rows = []
    for method, scored in images.methods.items():
        cells = [_cell(score, scored.values[score][index]) for score in images.shown]
        title = escape(images.titles[method])
        rows.append(f'<tr><td>{title}</td>{"".join(cells)}</tr>')
    return (
        f'<article class="card" id="{images.anchor(index)}" tabindex="-1">'
        f'<h4>{escape(name)}</h4>{" ".join(tags)}{strip}'
        f'<div class="wide"><table><thead><tr><th>Method</th>{"".join(heads)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div></article>\n')


def _cell(score: str, value: float) -> str:
    # The exact value is for sorting.
    exact = '' if math.isnan(value) else repr(float(value))
    text = tables.format_score(score, value)
    return f'<td data-value="{exact}">{text}</td>'


def _ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Maps in threads, in order, and never holds more than two results for each of them."""
    threads = min(available_cores(), MOST_THREADS)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
