"""One HTML file, complete in itself, that shows an evaluation: the choice, tables, curves, images and their errors."""

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation import figures, tables
from evaluation.inputs import mask_folder
from evaluation.metrics import higher_is_better
from evaluation.results import mean_scores
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
body {{ font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: #1b1f24; background: #fff;
       max-width: 1320px; margin: 0 auto; padding: 24px 24px 60px; }}
h1 {{ font-size: 26px; margin: 0 0 4px; }}
h2 {{ font-size: 19px; margin: 40px 0 10px; padding-bottom: 4px; border-bottom: 1px solid #d5dae0; }}
h3 {{ font-size: 15px; margin: 22px 0 6px; }}
p.note, figcaption {{ color: #57606a; font-size: 13px; margin: 4px 0 10px; }}
.choice {{ border-left: 4px solid #0072b2; background: #f3f7fb; padding: 10px 16px; margin: 12px 0; }}
.choice b {{ font-size: 16px; }}
.choice div {{ font-size: .9em; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; width: 100%; }}
th, td {{ padding: 3px 5px; text-align: right; white-space: nowrap; border-bottom: 1px solid #e8ebee; }}
th {{ border-bottom: 1.5px solid #8c959f; font-weight: 600; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0; background: #fff; }}
td.first {{ font-weight: 700; color: #0a5c91; }}
tr.best td {{ background: #f3f7fb; }}
figure {{ margin: 10px 0 18px; break-inside: avoid; }}
figure.plot img {{ width: 100%; max-width: 1080px; height: auto; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 10px; }}
.strip {{ display: grid; grid-template-columns: repeat(var(--n), minmax(0, 1fr)); gap: 6px; }}
.strip div {{ font-size: 12px; text-align: center; color: #57606a; overflow-wrap: anywhere; }}
.strip img {{ width: 100%; display: block; border: 1px solid #d5dae0; }}
@page {{ size: A4 landscape; margin: 12mm; }}
@media print {{ body {{ max-width: none; padding: 0; font-size: 11px; }} table {{ font-size: 9px; }}
  th, td {{ padding: 2px 4px; }} h2, h3, p.note {{ break-after: avoid; }} tr {{ break-inside: avoid; }}
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
    """The best method by one criterion, what is to be said of it, and the scores that the criterion weighs."""

    criterion: str
    best: str
    remarks: list[str]
    scores: list[str]


def write_page(task: str, sets: Mapping[str, Mapping[str, Any]], choices: Sequence[Choice],
               details: Mapping[str, Mapping[str, MethodScores]]) -> str:
    """The page, HTML.

    `sets`: each set's JSON as eval_existingOnes.py writes it; `details`: by set and method, the best first, the scores
    of single images and the curves of the methods to draw.
    """
    best = choices[0].best
    images = next(iter(sets.values()))['methods'][0]['images']
    sizes = f'{images} images' if len(sets) == 1 else f'{len(sets)} test sets'
    parts = [f'<h1>Evaluation: {html.escape(task)}</h1>',
             f'<p class="note">{sizes}, {len(next(iter(details.values())))} of '
             f'{len({m["method"] for found in sets.values() for m in found["methods"]})} methods drawn below.</p>',
             *(_choice(choice) for choice in choices),
             _epochs(sets, choices),
             '<h2>Scores</h2><p class="note">The best of each column is blue; the chosen method is shaded.</p>',
             *_tables(task, sets, best),
             *_curves(details), *_strips(sets, details, choices[0].scores[0])]
    return PAGE.format(title=f'Evaluation: {html.escape(task)}', body='\n'.join(parts))


def _choice(choice: Choice) -> str:
    remarks = ''.join(f'<div>{html.escape(remark)}</div>' for remark in choice.remarks)
    return (f'<div class="choice">Best by {html.escape(choice.criterion)}: <b>{html.escape(choice.best)}</b>'
            f'{remarks}</div>')


def _epochs(sets: Mapping[str, Mapping[str, Any]], choices: Sequence[Choice]) -> str:
    """A plot per chosen score, of the runs with several epochs."""
    methods = {method['method']: method for found in sets.values() for method in found['methods']}
    drawn: dict[str, str] = {}
    for choice in choices:
        for score in (score for score in choice.scores if score not in drawn):
            runs = _by_run(sets, score)
            chosen = methods[choice.best]
            label = _run_label(chosen)
            if runs:
                mark = (label, chosen['epoch']) if label in runs else None
                drawn[score] = _plot(figures.scores_over_epochs(score, runs, mark),
                                     f'{tables.NAMES[score]} over epochs')
    return f'<h2>Scores over epochs</h2><div class="pair">{"".join(drawn.values())}</div>' if drawn else ''


def _run_label(method: Mapping[str, Any]) -> str:
    return f'{method["run"]} at {method["resolution"]}' if method['resolution'] else method['run']


def _by_run(sets: Mapping[str, Mapping[str, Any]], score: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """(epoch, score) by set, by run, of the runs that have several epochs in every set."""
    runs: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for dataset, found in sets.items():
        for method in found['methods']:
            value = method['scores'].get(score, math.nan)
            if method['epoch'] is not None and not math.isnan(value):
                runs.setdefault(_run_label(method), {}).setdefault(dataset, []).append((method['epoch'], value))
    return {run: by_set for run, by_set in runs.items()
            if set(by_set) == set(sets) and all(len(points) > 1 for points in by_set.values())}


def _tables(task: str, sets: Mapping[str, Mapping[str, Any]], best: str) -> Iterable[str]:
    scores = {dataset: {method['method']: method['scores'] for method in found['methods']}
              for dataset, found in sets.items()}
    common = [method for method in next(iter(scores.values())) if all(method in found for found in scores.values())]
    if len(sets) > 1:
        means = {method: mean_scores([found[method] for found in scores.values()]) for method in common}
        yield f'<h3>Mean of the {len(sets)} sets</h3>' + _table(task, means, best)
    for dataset, methods in scores.items():
        yield f'<h3>{html.escape(dataset)}</h3>' + _table(task, methods, best)


def _table(task: str, methods: Mapping[str, Mapping[str, float]], best: str) -> str:
    shown = tables.columns(task, set().union(*methods.values()))
    heads = ''.join(f'<th>{tables.NAMES[score]} {"↑" if higher_is_better(score) else "↓"}</th>' for score in shown)
    texts = {score: {method: tables.format_score(score, scores.get(score, math.nan))
                     for method, scores in methods.items()} for score in shown}
    winners = {score: max((text for text in column.values() if text != '-'), default=None,
                          key=lambda text, s=score: float(text) if higher_is_better(s) else -float(text))
               for score, column in texts.items()}
    lines = []
    for method in methods:
        cells = ''.join(f'<td{" class=first" if texts[score][method] == winners[score] else ""}>{texts[score][method]}'
                        '</td>' for score in shown)
        lines.append(f'<tr{" class=best" if method == best else ""}><td>{html.escape(method)}</td>{cells}</tr>')
    return (f'<div class="wide"><table><thead><tr><th>Method</th>{heads}</tr></thead>'
            f'<tbody>{"".join(lines)}</tbody></table></div>')


def _curves(details: Mapping[str, Mapping[str, MethodScores]]) -> Iterable[str]:
    drawable = {dataset: {method: scored.curves for method, scored in methods.items() if 'fm' in scored.curves}
                for dataset, methods in details.items()}
    if any(drawable.values()):
        yield '<h2>Curves</h2>'
    for dataset, curves in drawable.items():
        if curves:
            yield f'<h3>{html.escape(dataset)}</h3>' + _plot(figures.curve_panels(curves), f'curves of {dataset}')


def _strips(sets: Mapping[str, Mapping[str, Any]], details: Mapping[str, Mapping[str, MethodScores]],
            score: str) -> Iterable[str]:
    """Worst, median and best image of the chosen method in each set, beside the second method of the details."""
    yield (f'<h2>Images</h2><p class="note">The worst, the median and the best image by {tables.NAMES[score]}. '
           'Errors: red is found wrongly, blue is missed.</p>')
    for dataset, methods in details.items():
        shown = list(methods)[:2]
        scored = methods[shown[0]]
        yield f'<h3>{html.escape(dataset)}</h3>'
        for index, kind in picked(scored.values[score], higher_is_better(score)).items():
            values = {method: methods[method].values[score][index] for method in shown}
            yield _strip(sets[dataset], dataset, scored.names[index], kind, score, values)


def picked(values: np.ndarray, higher: bool) -> dict[int, str]:
    """Indices of the worst, the median and the best of (images,) values, without NaN, and what they are."""
    order = values.argsort(kind='stable')[:np.count_nonzero(~np.isnan(values))].tolist()  # NaN is last
    order = order if higher else order[::-1]
    picks: dict[int, str] = {}
    for kind, index in (('worst', order[0]), ('median', order[len(order) // 2]), ('best', order[-1])):
        picks[index] = f'{picks[index]} and {kind}' if index in picks else kind
    return picks


def _strip(found: Mapping[str, Any], dataset: str, name: str, kind: str, score: str,
           values: Mapping[str, float]) -> str:
    masks = mask_folder(found['gt_root'], dataset)
    image, mask = _file(masks.with_name('im'), name), _file(masks, name)
    predictions = [_file(Path(found['pred_root'], method, dataset), name) for method in values]
    caption = f'<figcaption><b>{kind}</b>: {html.escape(name)}'
    if mask is None or None in predictions:
        return f'<figure>{caption} (its files are no longer where they were scored)</figcaption></figure>'
    titles = ['image'] * bool(image) + ['ground truth']
    for method, value in values.items():
        titles += [f'{method}: {tables.format_score(score, value)}', 'errors']
    panels = figures.strip(image, mask, predictions)
    cells = ''.join(f'<div><img alt="{html.escape(title)}" src="{_data("jpeg", panel)}">{html.escape(title)}</div>'
                    for title, panel in zip(titles, panels, strict=True))
    return f'<figure>{caption}</figcaption><div class="strip" style="--n:{len(panels)}">{cells}</div></figure>'


def _file(folder: Path, stem: str) -> Path | None:
    """The image of that stem, if there is one."""
    return next((path for path in find_images(folder) if path.stem == stem), None) if folder.is_dir() else None


def _plot(svg: bytes, title: str) -> str:
    return f'<figure class="plot"><img alt="{html.escape(title)}" src="{_data("svg+xml", svg)}"></figure>'


def _data(kind: str, content: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
