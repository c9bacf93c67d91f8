"""A self-contained HTML page of an evaluation: the choice, tables, curves, images and errors."""

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from evaluation import figures, gallery, tables
from evaluation.controls import controls
from evaluation.display import Shown
from evaluation.formats import Cell, Table, flat_head
from evaluation.gallery import (
    ImageSet,
    data_url,
    order_of,
    overview,
    thinned,
    worst_links,
)
from evaluation.metrics import COLUMNS, higher_is_better, metric_of
from evaluation.paper_tables import comparison
from evaluation.places import NO_ROWS
from evaluation.results import (
    Sets,
    mean_over_sets,
    of_methods,
    run_label,
    scores_by_method,
    scores_by_run,
)
from evaluation.stored import Rows
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
    """The best method by one criterion.

    Attributes:
        criterion: Its name.
        best: The method, by its name on disk.
        remarks: On its lead.
        scores: The scores that the criterion weighs.
        tests: Tables of the tests of pairs of methods by these scores.
    """

    criterion: str
    best: str
    remarks: list[str]
    scores: list[str]
    tests: Sequence[Table] = ()


class Evaluation(NamedTuple):
    """What the report shows.

    Attributes:
        task: Name of the task.
        columns: Columns of the task's tables.
        sets: The JSON of each set.
        choices: The best method by each criterion.
        details: Per-image scores and curves of the methods to draw, by set, the best method first.
        shown: The methods, in the order of tables.
        runs: The runs of several epochs, in the order of legends.
        categories: Categories by name of an image, by set; may lack sets and images.
        rows: Stored scores by set, by which the files that were scored are known.
    """

    task: str
    columns: Sequence[str]
    sets: Sets
    choices: Sequence[Choice]
    details: Mapping[str, Mapping[str, MethodScores]]
    shown: Sequence[Shown]
    runs: Sequence[Shown]
    categories: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({})
    rows: Mapping[str, Rows] = MappingProxyType({})


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
    """Yields all but the images: the choice, scores over epochs, tables, tests, curves."""
    choices = evaluation.choices
    sets = evaluation.sets

    # How much was scored, and how much of it is drawn.
    first_set = next(iter(sets.values()))
    images = first_set['methods'][0]['images']
    extent = f'{images} images' if len(sets) == 1 else f'{len(sets)} test sets'
    drawn = next(iter(evaluation.details.values()))
    methods = len(evaluation.shown)

    yield f'<h1>Evaluation: {escape(evaluation.task)}</h1>'
    yield f'<p class="note">{extent}, {len(drawn)} of {methods} methods drawn below.</p>'
    names = {method.folder: method.name for method in evaluation.shown}
    for choice in choices:
        yield _choice(choice, names[choice.best])
    yield _epochs(sets, choices, evaluation.runs)
    yield '<h2>Scores</h2>'
    yield '<p class="note">The best of each column is blue; the chosen method is shaded.</p>'
    yield from _scores(evaluation)
    yield from _tests(choices)
    yield from _curves(evaluation.details, evaluation.shown)


def _choice(choice: Choice, best: str) -> str:
    """Writes what is best, and the remarks on it."""
    lines = []
    for remark in choice.remarks:
        lines.append(f'<div>{escape(remark)}</div>')
    remarks = ''.join(lines)
    heading = f'Best by {escape(choice.criterion)}: <b>{escape(best)}</b>'
    return f'<div class="choice">{heading}{remarks}</div>'


def _epochs(sets: Sets, choices: Sequence[Choice], shown: Sequence[Shown]) -> str:
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
            drawn = [run for run in shown if run.folder in runs]
            if score in plots or not drawn:
                continue
            mark = (label, best['epoch']) if label in runs else None
            svg = figures.scores_over_epochs(score, runs, drawn, mark)
            plots[score] = _plot(svg, f'{COLUMNS[score]} over epochs')
    if not plots:
        return ''
    drawn_plots = ''.join(plots.values())
    return f'<h2>Scores over epochs</h2><div class="pair">{drawn_plots}</div>'


def _scores(evaluation: Evaluation) -> Iterator[str]:
    """Yields the table of each set, below that of their means if there are several."""
    methods = [method.folder for method in evaluation.shown]
    scores = of_methods(scores_by_method(evaluation.sets), methods)
    found = dict(scores)
    if len(scores) > 1:
        title = f'Mean of the {len(scores)} sets'
        found = {title: mean_over_sets(scores), **scores}
    for title, by_method in found.items():
        yield f'<h3>{escape(title)}</h3>'
        yield _score_table(evaluation, by_method)


def _score_table(evaluation: Evaluation, scores: Mapping[str, Mapping[str, float]]) -> str:
    """Writes a table of methods by scores; the row of the chosen method is shaded."""
    available = tables.all_scores(scores.values())
    columns = tables.shown_scores(evaluation.columns, available)
    methods = [method for method in evaluation.shown if method.folder in scores]
    table = comparison({'': scores}, methods, columns)
    best = evaluation.choices[0].best
    shaded = [method.folder == best for method in methods]
    return _html(table, shaded)


def _html(table: Table, shaded: Sequence[bool]) -> str:
    """Writes a table, some rows of it shaded."""
    heads = []
    for column in table.columns:
        mark = ' class=text' if column.is_label else ''
        head = escape(flat_head(column, with_arrow=True))
        heads.append(f'<th{mark}>{head}</th>')
    rows = []
    for row, is_shaded in zip(table.rows, shaded, strict=True):
        mark = ' class=best' if is_shaded else ''
        cells = ''.join(map(_cell, row))
        rows.append(f'<tr{mark}>{cells}</tr>')
    return (
        f'<div class="wide"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>')


def _cell(cell: Cell) -> str:
    """Writes a cell. The best of a column is marked, and so is the authors' own method."""
    text = escape(cell.text)
    if cell.ours:
        text = f'<b>{text}</b>'
    if isinstance(cell.value, str):
        return f'<td class=text>{text}</td>'
    mark = ' class=first' if cell.place == 0 else ''
    return f'<td{mark}>{text}</td>'


def _tests(choices: Sequence[Choice]) -> Iterator[str]:
    """Yields the tests of pairs of methods, a table for each score."""
    found = {table.title: table for choice in choices for table in choice.tests}
    if not found:
        return
    yield '<h2>Pairs of methods</h2>'
    for title, table in found.items():
        nothing = [False] * len(table.rows)
        yield f'<h3>{escape(title)}</h3>{_html(table, nothing)}'


def _curves(
    details: Mapping[str, Mapping[str, MethodScores]], shown: Sequence[Shown],
) -> Iterator[str]:
    """Yields the curves of each set by the methods that have them."""
    heading = '<h2>Curves</h2>'
    for dataset, methods in details.items():
        curves = {}
        for name, scored in methods.items():
            if 'fm' in scored.curves:
                curves[name] = scored.curves
        if not curves:
            continue
        drawn = [method for method in shown if method.folder in curves]
        plot = _plot(figures.curve_panels(curves, drawn), f'curves of {dataset}')
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

    titles = {method.folder: method.name for method in evaluation.shown}
    images = []
    for number, (dataset, methods) in enumerate(evaluation.details.items()):
        drawn = dict(list(methods.items())[:DRAWN_MASKS])
        categories = evaluation.categories.get(dataset, {})
        rows = evaluation.rows.get(dataset, NO_ROWS)
        found = evaluation.sets[dataset]
        images.append(ImageSet(
            dataset, number, found, drawn, titles, score, shown, categories, rows))
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
