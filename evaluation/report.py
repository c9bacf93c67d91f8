"""A self-contained HTML page of an evaluation: the choice, tables, curves, images and errors."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation import figures, tables
from evaluation.inputs import mask_folder
from evaluation.metrics import COLUMNS, higher_is_better
from evaluation.results import (
    Results,
    Sets,
    mean_over_sets,
    run_label,
    scores_by_method,
    scores_by_run,
)
from evaluation.summary import MethodScores
from utils import find_images

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
       color: #1b1f24; background: #fff;
       max-width: 1320px; margin: 0 auto; padding: 24px 24px 60px; }}
h1 {{ font-size: 26px; margin: 0 0 4px; }}
h2 {{ font-size: 19px; margin: 40px 0 10px; padding-bottom: 4px;
     border-bottom: 1px solid #d5dae0; }}
h3 {{ font-size: 15px; margin: 22px 0 6px; }}
p.note, figcaption {{ color: #57606a; font-size: 13px; margin: 4px 0 10px; }}
.choice {{ border-left: 4px solid #0072b2; background: #f3f7fb;
          padding: 10px 16px; margin: 12px 0; }}
.choice b {{ font-size: 16px; }}
.choice div {{ font-size: .9em; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%;
        font-size: 12px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 3px 5px; text-align: right; white-space: nowrap;
         border-bottom: 1px solid #e8ebee; }}
th {{ border-bottom: 1.5px solid #8c959f; font-weight: 600; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0;
                                  background: #fff; }}
td.first {{ font-weight: 700; color: #0a5c91; }}
tr.best td {{ background: #f3f7fb; }}
figure {{ margin: 10px 0 18px; break-inside: avoid; }}
figure.plot img {{ width: 100%; max-width: 1080px; height: auto; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 10px; }}
.strip {{ display: grid; grid-template-columns: repeat(var(--n), minmax(0, 1fr)); gap: 6px; }}
.strip div {{ font-size: 12px; text-align: center; color: #57606a; overflow-wrap: anywhere; }}
.strip img {{ width: 100%; display: block; border: 1px solid #d5dae0; }}
@page {{ size: A4 landscape; margin: 12mm; }}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 11px; }} table {{ font-size: 9px; }}
  th, td {{ padding: 2px 4px; }} tr {{ break-inside: avoid; }}
  h2, h3, p.note {{ break-after: avoid; }}
  .wide {{ overflow: visible; }} figure {{ margin: 4px 0 8px; }}
  figure.plot img, .strip img {{ width: auto; max-width: 100%; max-height: 66mm; }}
  .strip img {{ max-height: 38mm; margin: 0 auto; }} .strip div {{ font-size: 9px; }}
  .choice, td {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


class Choice(NamedTuple):
    """The best method by one criterion, remarks on it, and the scores that the criterion weighs."""

    criterion: str
    best: str
    remarks: list[str]
    scores: list[str]


def write_page(
    task: str,
    columns: Sequence[str],
    sets: Sets,
    choices: Sequence[Choice],
    details: Mapping[str, Mapping[str, MethodScores]],
) -> str:
    """Writes the page.

    Args:
        task: Name of the task.
        columns: Columns of the task's tables.
        sets: The JSON of each set.
        choices: The best method by each criterion.
        details: Per-image scores and curves of the methods to draw, by set, the best method first.

    Returns:
        HTML.
    """
    scores = scores_by_method(sets)
    best = choices[0].best

    # How much was scored, and how much of it is drawn.
    first_set = next(iter(sets.values()))
    images = first_set['methods'][0]['images']
    extent = f'{images} images' if len(sets) == 1 else f'{len(sets)} test sets'
    methods = {method for found in scores.values() for method in found}
    drawn = next(iter(details.values()))

    parts = [
        f'<h1>Evaluation: {escape(task)}</h1>',
        f'<p class="note">{extent}, {len(drawn)} of {len(methods)} methods drawn below.</p>',
        *(_choice(choice) for choice in choices),
        _epochs(sets, choices),
        '<h2>Scores</h2>',
        '<p class="note">The best of each column is blue; the chosen method is shaded.</p>',
        *_tables(columns, scores, best),
        *_curves(details),
        *_strips(sets, details, choices[0].scores[0]),
    ]
    return PAGE.format(title=f'Evaluation: {escape(task)}', body='\n'.join(parts))


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


def _strips(
    sets: Sets, details: Mapping[str, Mapping[str, MethodScores]], score: str,
) -> Iterable[str]:
    """Draws the best method's worst, median and best image of each set, beside the second's."""
    yield '<h2>Images</h2>'
    yield (
        f'<p class="note">The worst, the median and the best image by {COLUMNS[score]}. '
        'Errors: false positives are red, false negatives blue.</p>')
    for dataset, methods in details.items():
        yield f'<h3>{escape(dataset)}</h3>'
        shown = list(methods)[:2]
        scored = methods[shown[0]]
        picks = picked(scored.values[score], higher_is_better(score))
        for index, kind in picks.items():
            values = {method: methods[method].values[score][index] for method in shown}
            yield _strip(sets[dataset], dataset, scored.names[index], kind, score, values)


def picked(values: np.ndarray, higher: bool) -> dict[int, str]:
    """Picks the worst, the median and the best image.

    Args:
        values: Scores (images,); NaN is left out.
        higher: Whether higher is better.

    Returns:
        What each picked image is ('worst', 'median', 'best', or several), by index.
    """
    # From the worst to the best. NaN is sorted to the end.
    present = np.count_nonzero(~np.isnan(values))
    ascending = values.argsort(kind='stable')
    order = ascending[:present].tolist()
    if not higher:
        order.reverse()

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


def _strip(
    found: Mapping[str, Any],
    dataset: str,
    name: str,
    kind: str,
    score: str,
    values: Mapping[str, float],
) -> str:
    """Draws one image with the predictions of the methods in `values`."""
    # The files, which may have been moved since.
    masks = mask_folder(found['gt_root'], dataset)
    image = _find_image(masks.with_name('im'), name)
    mask = _find_image(masks, name)
    pred_root = Path(found['pred_root'])
    predictions = []
    for method in values:
        prediction = _find_image(pred_root / method / dataset, name)
        if prediction is not None:
            predictions.append(prediction)
    caption = f'<b>{kind}</b>: {escape(name)}'
    if mask is None or len(predictions) < len(values):
        caption += ' (its files are no longer where they were scored)'
        return f'<figure><figcaption>{caption}</figcaption></figure>'

    # The image, its mask, and each prediction with its errors.
    titles = ['image'] if image else []
    titles.append('ground truth')
    for method, value in values.items():
        titles.append(f'{method}: {tables.format_score(score, value)}')
        titles.append('errors')
    panels = figures.image_strip(image, mask, predictions)

    cells = []
    for title, panel in zip(titles, panels, strict=True):
        source = _data_url('jpeg', panel)
        cells.append(f'<div><img alt="{escape(title)}" src="{source}">{escape(title)}</div>')
    return (
        f'<figure><figcaption>{caption}</figcaption>'
        f'<div class="strip" style="--n:{len(panels)}">{"".join(cells)}</div></figure>')


def _find_image(folder: Path, stem: str) -> Path | None:
    """Returns the image with that stem; None if there is none."""
    if not folder.is_dir():
        return None
    for path in find_images(folder):
        if path.stem == stem:
            return path
    return None


def _plot(svg: bytes, title: str) -> str:
    source = _data_url('svg+xml', svg)
    return f'<figure class="plot"><img alt="{escape(title)}" src="{source}"></figure>'


def _data_url(kind: str, content: bytes) -> str:
    encoded = base64.b64encode(content).decode()
    return f'data:image/{kind};base64,{encoded}'
