"""The controls of a report's images: to find, filter and sort cards, and to compare panels."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from evaluation.gallery import ImageSet, panel_titles
from evaluation.metrics import COLUMNS, higher_is_better

FIND = '<label class="find">Find <input type="search" name="find" placeholder="name"></label>'
RANGE = (
    '<label>from <input type="number" name="low" step="any"></label>'
    '<label>to <input type="number" name="high" step="any"></label>')
END = (
    '<label class="check"><input type="checkbox" name="all"> all panels</label>'
    '<button type="reset">Reset</button><output></output>')


def controls(images: Sequence[ImageSet]) -> str:
    """Writes the form that report.js shows and reads.

    Args:
        images: The sets, all with the same methods and scores.

    Returns:
        HTML, hidden where there is no JavaScript.
    """
    first = images[0]
    methods = [first.titles[method] for method in first.methods]
    panels = panel_titles(methods)
    categories = _categories(images)

    fields = [FIND]
    if len(images) > 1:
        fields.append(_choice('Set', 'set', _with_all(found.dataset for found in images)))
    if categories:
        fields.append(_choice('Category', 'category', _with_all(categories)))
    fields += [
        _choice('Score', 'score', _scores(first.shown), first.score),
        RANGE,
        _choice('Order', 'order', _orders(methods, bool(categories))),
        _choice('Left', 'left', panels, 'image'),
        _choice('Right', 'right', panels, 'mask-0'),
        END,
    ]
    lower = ' '.join(score for score in first.shown if not higher_is_better(score))
    return f'<form class="tools" data-lower="{lower}" hidden>{"".join(fields)}</form>'


def _categories(images: Sequence[ImageSet]) -> list[str]:
    """All categories of the images, in the order of the alphabet."""
    categories: set[str] = set()
    for found in images:
        categories.update(*found.categories.values())
    return sorted(categories)


def _with_all(names: Iterable[str]) -> dict[str, str]:
    options = {'': 'all'}
    for name in names:
        options[name] = name
    return options


def _scores(shown: Sequence[str]) -> dict[str, str]:
    return {score: COLUMNS[score] for score in shown}


def _orders(methods: Sequence[str], has_categories: bool) -> dict[str, str]:
    orders = {'worst': 'worst first', 'best': 'best first', 'name': 'by name'}
    if has_categories:
        orders['category'] = 'by category'
    if len(methods) > 1:
        orders['lead'] = f'furthest behind {methods[1]}'
    return orders


def _choice(label: str, name: str, options: Mapping[str, str], chosen: str = '') -> str:
    items = []
    for value, text in options.items():
        mark = ' selected' if value == chosen else ''
        items.append(f'<option value="{escape(value)}"{mark}>{escape(text)}</option>')
    return f'<label>{label} <select name="{name}">{"".join(items)}</select></label>'
