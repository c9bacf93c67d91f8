"""A self-contained HTML page of an evaluation: the choice, tables, curves, images and errors."""

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from evaluation import figures, gallery, tables
from evaluation.controls import controls
from evaluation.gallery import (
    ImageSet,
    data_url,
    order_of,
    overview,
    thinned,
    worst_links,
)
from evaluation.metrics import COLUMNS, higher_is_better, metric_of
from evaluation.results import (
    Results,
    Sets,
    mean_over_sets,
    run_label,
    scores_by_method,
    scores_by_run,
)
from evaluation.summary import MethodScores
from utils import atomic_write

FOLDER = Path(__file__).parent
# Mail and forges take 30 MB. What is not pictures is measured, but for the cards' own text.
PAGE_BYTES = 29_000_000
CARD_TEXT_BYTES = 5_000
PICK_BYTES = 150_000
DRAWN_IMAGES = 500
DRAWN_MASKS = 2

PAGE_START = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
"""
PAGE_END = """
{script}
</body>
</html>
"""


class Choice(NamedTuple):
    """The best method by one criterion, remarks on it, and the scores that the criterion weighs."""

    criterion: str
    best: str
    remarks: list[str]
    scores: list[str]


class Evaluation(NamedTuple):
    """What the report shows.

    Attributes:
        task: Name of the task.
        columns: Columns of the task's tables.
        sets: The JSON of each set.
        choices: The best method by each criterion.
        details: Per-image scores and curves of the methods to draw, by set, the best method first.
        categories: Categories by name of an image, by set; may lack sets and images.
    """

    task: str
    columns: Sequence[str]
    sets: Sets
    choices: Sequence[Choice]
    details: Mapping[str, Mapping[str, MethodScores]]
    categories: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({})


def write_report(path: str | Path, evaluation: Evaluation, most: int = DRAWN_IMAGES) -> None:
    """Writes the page, which needs no other file and no network.

    Args:
        path: File to write.
        evaluation: What it shows.
        most: Images that get a card, of all sets together.
    """
    with atomic_write(path) as file:
        for part in _page(evaluation, most):
            # Names of files that are no text have no UTF-8; browsers show a mark in place of it.
            file.write(part.encode('utf-8', 'xmlcharrefreplace'))


def _page(evaluation: Evaluation, most: int) -> Iterator[str]:
    """Yields the page in parts, the pictures one by one, so that memory does not grow with them."""
    script = _asset('report.js')
    title = escape(f'Evaluation: {evaluation.task}')
    policy = _content_policy(script)
    yield PAGE_START.format(policy=policy, title=title, style=_asset('report.css'))
    text = '\n'.join(_text(evaluation))
    yield text
    yield from _images(evaluation, most, PAGE_BYTES - len(text.encode('utf-8', 'replace')))
    yield PAGE_END.format(script=f'<script>{script}</script>')


def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding='utf-8')


def _content_policy(script: str) -> str:
    """Lets the browser load nothing, and run no other script than the page's own."""
    digest = hashlib.sha256(script.encode()).digest()
    hashed = base64.b64encode(digest).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{hashed}'")


def _text(evaluation: Evaluation) -> Iterator[str]:
    """Yields all but the images: the choice, scores over epochs, tables, curves."""
    task, columns, sets, choices, details, _ = evaluation
    scores = scores_by_method(sets)

    # How much was scored, and how much of it is drawn.
    first_set = next(iter(sets.values()))
    images = first_set['methods'][0]['images']
    extent = f'{images} images' if len(sets) == 1 else f'{len(sets)} test sets'
    methods = {method for found in scores.values() for method in found}
    drawn = next(iter(details.values()))

    yield f'<h1>Evaluation: {escape(task)}</h1>'
    yield f'<p class="note">{extent}, {len(drawn)} of {len(methods)} methods drawn below.</p>'
    yield from map(_choice, choices)
    yield _epochs(sets, choices)
    yield '<h2>Scores</h2>'
    yield '<p class="note">The best of each column is blue; the chosen method is shaded.</p>'
    yield from _tables(columns, scores, choices[0].best)
    yield from _curves(details)


def _choice(choice: Choice) -> str:
    remarks = ''.join(f'<div>{escape(remark)}</div>' for remark in choice.remarks)
    heading = f'Best by {escape(choice.criterion)}: <b>{escape(choice.best)}</b>'
    return f'<div class="choice">{heading}{remarks}</div>'


def _epochs(sets: Sets, choices: Sequence[Choice]) -> str:
    """Plots each chosen score over the epochs of the runs that have several."""
    methods = {}
    for found in sets.values():
        for method in found['methods']:
            methods[method['method']] = method

    # One plot for each score, with the best epoch of the first criterion that has it.
    plots: dict[str, str] = {}
    for choice in choices:
        best = methods[choice.best]
        label = run_label(best)
        for score in choice.scores:
            runs = scores_by_run(sets, score)
            if score in plots or not runs:
                continue
            mark = (label, best['epoch']) if label in runs else None
            svg = figures.scores_over_epochs(score, runs, mark)
            plots[score] = _plot(svg, f'{COLUMNS[score]} over epochs')
    if not plots:
        return ''
    drawn = ''.join(plots.values())
    return f'<h2>Scores over epochs</h2><div class="pair">{drawn}</div>'


def _tables(columns: Sequence[str], scores: Results, best: str) -> Iterable[str]:
    if len(scores) > 1:
        means = mean_over_sets(scores)
        yield f'<h3>Mean of the {len(scores)} sets</h3>' + _table(columns, means, best)
    for dataset, methods in scores.items():
        yield f'<h3>{escape(dataset)}</h3>' + _table(columns, methods, best)


def _table(columns: Sequence[str], methods: Mapping[str, Mapping[str, float]], best: str) -> str:
    """Writes a table of methods (rows) by scores (columns), the best of each column marked."""
    # Column by column, because the best is that of a column.
    available = tables.all_scores(methods.values())
    shown = tables.shown_scores(columns, available)
    head = ['<th>Method</th>']
    cells = {method: [f'<td>{escape(method)}</td>'] for method in methods}
    for score in shown:
        higher = higher_is_better(score)
        arrow = '↑' if higher else '↓'
        head.append(f'<th>{COLUMNS[score]} {arrow}</th>')
        texts = {}
        for method, scores in methods.items():
            texts[method] = tables.format_score(score, scores.get(score, math.nan))
        winner = _best_text(texts.values(), higher)
        for method, text in texts.items():
            mark = ' class=first' if text == winner else ''
            cells[method].append(f'<td{mark}>{text}</td>')

    # Then row by row.
    rows = []
    for method, row in cells.items():
        mark = ' class=best' if method == best else ''
        rows.append(f'<tr{mark}>{"".join(row)}</tr>')
    return (
        f'<div class="wide"><table><thead><tr>{"".join(head)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>')


def _best_text(texts: Iterable[str], higher: bool) -> str | None:
    """Returns the best of formatted scores; None if all are missing."""
    present = [text for text in texts if text != tables.MISSING]
    ranked = sorted(present, key=float, reverse=higher)
    return ranked[0] if ranked else None


def _curves(details: Mapping[str, Mapping[str, MethodScores]]) -> Iterable[str]:
    heading = '<h2>Curves</h2>'
    for dataset, methods in details.items():
        curves = {}
        for name, scored in methods.items():
            if 'fm' in scored.curves:
                curves[name] = scored.curves
        if not curves:
            continue
        plot = _plot(figures.curve_panels(curves), f'curves of {dataset}')
        yield f'{heading}<h3>{escape(dataset)}</h3>{plot}'
        heading = ''


def _images(evaluation: Evaluation, most: int, size: int) -> Iterator[str]:
    """Yields the images of all sets.

    Args:
        evaluation: What the report shows.
        most: Images that get a card.
        size: Bytes that they may take on the page.
    """
    images = _image_sets(evaluation)
    drawn = _drawn_images(images, most)

    # What the pictures of one image may take. Of three bytes base64 makes four.
    cards = sum(len(indices) for indices in drawn)
    pictures = max(0, size - cards * CARD_TEXT_BYTES) * 3 // 4
    per_pick = min(PICK_BYTES, pictures // (12 * len(images)))
    per_card = (pictures - 3 * len(images) * per_pick) // max(1, cards)

    score = COLUMNS[images[0].score]
    yield '<h2>Images</h2>'
    yield (
        f'<p class="note">The worst, the median and the best image by {score}. '
        'Errors: false positives are red, false negatives blue.</p>')
    for found in images:
        yield f'<h3>{escape(found.dataset)}</h3>'
        yield from overview(found, per_pick)
    if not cards:
        return

    yield f'<h2>All images</h2>{controls(images)}'
    progress = tqdm(total=cards, desc='drawing', unit='image', leave=False, disable=None)
    with progress:
        for found, indices in zip(images, drawn, strict=True):
            yield f'<section data-set="{escape(found.dataset)}"><h3>{escape(found.dataset)}</h3>'
            if len(indices) < len(found.names):
                yield (
                    f'<p class="note">{len(indices)} of {len(found.names)} images: the worst, and '
                    f'others evenly over the order by {score}.</p>')
            yield worst_links(found, indices)
            yield '<div class="gallery">'
            for card in gallery.cards(found, indices, per_card):
                yield card
                progress.update()
            yield '</div></section>'


def _image_sets(evaluation: Evaluation) -> list[ImageSet]:
    """Gathers the images of each set, with the scores that all of them have."""
    score = _score_of_images(evaluation.choices[0].scores[0])
    available = set(COLUMNS)
    for methods in evaluation.details.values():
        for scored in methods.values():
            available &= set(scored.values)
    others = tables.shown_scores(evaluation.columns, available)
    shown = list(dict.fromkeys((score, *others)))

    images = []
    for number, (dataset, methods) in enumerate(evaluation.details.items()):
        drawn = dict(list(methods.items())[:DRAWN_MASKS])
        categories = evaluation.categories.get(dataset, {})
        found = evaluation.sets[dataset]
        images.append(ImageSet(dataset, number, found, drawn, score, shown, categories))
    return images


def _score_of_images(name: str) -> str:
    """The score of single images that stands for a score, which may be of pooled pixels."""
    for score in metric_of(name).scores:
        if score.name == name:
            return score.pooled_from or name
    raise ValueError(f'unknown score {name}')


def _drawn_images(images: Sequence[ImageSet], most: int) -> list[list[int]]:
    """Selects the images that get a card, of each set in proportion to its size."""
    total = sum(len(found.names) for found in images)
    drawn = []
    for found in images:
        without_score = np.flatnonzero(np.isnan(found.values)).tolist()
        order = order_of(found.values, higher_is_better(found.score)) + without_score
        share = math.ceil(most * len(found.names) / total)
        drawn.append(thinned(order, share))
    return drawn


def _plot(svg: bytes, title: str) -> str:
    source = data_url('svg+xml', svg)
    return f'<figure class="plot"><img alt="{escape(title)}" src="{source}"></figure>'
