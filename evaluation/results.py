"""The files of an evaluation: tables and JSON for each test set and over all sets."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import tables
from evaluation.formats import Cell, label
from evaluation.summary import Method, MethodScores
from utils import atomic_write, printable, read_json, write_json

SUFFIX = '_eval.json'

# Scores by set and method.
Results = Mapping[str, Mapping[str, Mapping[str, float]]]
# The JSON of each set as eval_existingOnes.py writes it.
Sets = Mapping[str, Mapping[str, Any]]
# Makes the cell of a table that shows a method, from its name on disk.
Show = Callable[[str], Cell]


def store_path(save_dir: str | Path, dataset: str) -> Path:
    """Returns the file that keeps the scores of a set's single images."""
    return Path(save_dir, 'scores', f'{dataset}.jsonl')


def write_set(
    save_dir: str | Path,
    task: str,
    columns: Sequence[str],
    dataset: str,
    roots: tuple[str, str],
    results: Sequence[tuple[Method, MethodScores]],
    places: Mapping[str, Any] | None = None,
    show: Show = label,
) -> str:
    """Writes `<dataset>_eval.{txt,tex,md,csv,json}`.

    Args:
        save_dir: Folder of the results.
        task: Name of the task.
        columns: Columns of the task's tables.
        dataset: Name of the test set.
        roots: Folders of the masks and of the predictions.
        results: Methods with their scores, in order.
        places: Where the files are, as of `evaluation.places`.
        show: How tables show a method. The JSON has the names on disk.

    Returns:
        The table as text.
    """
    # A row of the table and a record of the JSON for each method.
    entries = []
    methods = []
    for method, scored in results:
        entries.append((dataset, show(method.name), scored.scores))
        methods.append({
            'method': method.name,
            'run': method.run,
            'epoch': method.epoch,
            'resolution': method.resolution,
            'images': len(scored.names),
            'scores': _nan_to_none(scored.scores),
            'deviations': _nan_to_none(scored.deviations),
        })
    text = _write_tables(Path(save_dir, f'{dataset}_eval'), columns, entries)

    gt_root, pred_root = roots
    content = {
        'dataset': dataset,
        'task': task,
        'gt_root': gt_root,
        'pred_root': pred_root,
        'places': places,
        'methods': methods,
    }
    write_json(Path(save_dir, dataset + SUFFIX), content)
    return text


def write_overall(
    save_dir: str | Path,
    task: str,
    columns: Sequence[str],
    results: Results,
    show: Show = label,
) -> str:
    """Writes `overall_eval.{txt,tex,md,csv,json}`: means over the sets, of methods that have all.

    Args:
        save_dir: Folder of the results.
        task: Name of the task.
        columns: Columns of the task's tables.
        results: Scores by set and method.
        show: How tables show a method. The JSON has the names on disk.

    Returns:
        The table as text; empty if no method has all sets.
    """
    means = mean_over_sets(results)
    content = {
        'task': task,
        'datasets': list(results),
        'methods': {method: _nan_to_none(scores) for method, scores in means.items()},
    }
    write_json(Path(save_dir, 'overall' + SUFFIX), content)
    if not means:
        return ''
    title = f'mean of {len(results)} sets'
    entries = [(title, show(method), scores) for method, scores in means.items()]
    return _write_tables(Path(save_dir, 'overall_eval'), columns, entries)


def mean_over_sets(results: Results) -> dict[str, dict[str, float]]:
    """Averages the scores of each method that has all sets."""
    sets = list(results.values())
    means = {}
    for method in sets[0]:
        if all(method in methods for methods in sets):
            means[method] = mean_scores([methods[method] for methods in sets])
    return means


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Averages each score over several sets; sets without it (NaN) are left out."""
    means = {}
    for score in scores[0]:
        values = [found.get(score, math.nan) for found in scores]
        present = [value for value in values if not math.isnan(value)]
        means[score] = float(np.mean(present)) if present else math.nan
    return means


def read_sets(save_dir: str | Path, datasets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads the JSON of the sets that have been scored, in the order given.

    Scores without a value are NaN.

    Raises:
        ValueError: If none has been scored.
    """
    sets = {}
    for dataset in datasets:
        path = Path(save_dir, dataset + SUFFIX)
        if not path.is_file():
            continue
        content = read_results(path)
        # JSON has no NaN.
        for method in content['methods']:
            for score, value in method['scores'].items():
                if value is None:
                    method['scores'][score] = math.nan
        sets[dataset] = content
    if not sets:
        there = '+'.join(scored_sets(save_dir))
        advice = f'--data_lst {there} has some' if there else 'run eval_existingOnes.py first'
        raise ValueError(f'{save_dir}: no scores of {", ".join(datasets)}; {advice}')
    return sets


def scored_sets(save_dir: str | Path) -> dict[str, dict[str, Any]]:
    """Reads the JSON of all sets that have scores, by name; other files are left out."""
    sets = {}
    for path in sorted(Path(save_dir).glob('*' + SUFFIX)):
        with suppress(ValueError, IsADirectoryError):
            sets[path.name.removesuffix(SUFFIX)] = read_results(path)
    return sets


def read_results(path: Path) -> dict[str, Any]:
    """Reads the results of a set. Raises ValueError that names a file of another kind."""
    content = read_json(path)
    task, methods = content.get('task'), content.get('methods')
    is_of_set = isinstance(task, str) and isinstance(methods, list)
    if not is_of_set or not all(map(_is_method, methods or [])):
        raise ValueError(f'{path}: not the scores of a set; run eval_existingOnes.py again')
    return content


def _is_method(method: Any) -> bool:
    """Whether a record is that of a method, as `write_set` writes it."""
    if not isinstance(method, dict) or not isinstance(method.get('scores'), dict):
        return False
    return {'method', 'run', 'epoch', 'resolution'} <= set(method)


def scores_by_method(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict]]:
    """Returns the scores by set and method from the sets' JSON."""
    scores = {}
    for dataset, content in sets.items():
        scores[dataset] = {method['method']: method['scores'] for method in content['methods']}
    return scores


def of_methods(results: Results, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Leaves some methods, in this order, of scores by set and method."""
    left = {}
    for dataset, found in results.items():
        left[dataset] = {method: found[method] for method in methods if method in found}
    return left


def run_label(method: Mapping[str, Any]) -> str:
    """Names the run of a method, with its resolution if known."""
    if method['resolution']:
        return f'{method["run"]} at {method["resolution"]}'
    return method['run']


def scores_by_run(sets: Sets, score: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Collects (epoch, score) by set, by run, of the runs that have several epochs in every set."""
    runs: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for dataset, found in sets.items():
        for method in found['methods']:
            value = method['scores'].get(score, math.nan)
            if method['epoch'] is None or math.isnan(value):
                continue
            point = (method['epoch'], value)
            by_set = runs.setdefault(run_label(method), {})
            by_set.setdefault(dataset, []).append(point)

    # Only complete runs have a mean over the sets.
    complete = {}
    for run, by_set in runs.items():
        has_all_sets = set(by_set) == set(sets)
        has_lines = all(len(points) > 1 for points in by_set.values())
        if has_all_sets and has_lines:
            complete[run] = by_set
    return complete


def only_task(save_dir: str | Path) -> str | None:
    """Returns the task of all results in a folder; None if there are several or none."""
    tasks = {content['task'] for content in scored_sets(save_dir).values()}
    return tasks.pop() if len(tasks) == 1 else None


def with_task(overrides: Sequence[str], save_dir: str | Path) -> list[str]:
    """Adds the task of all results to `key=value` overrides that name none."""
    is_named = any(text.startswith('task=') for text in overrides)
    task = None if is_named else only_task(save_dir)
    if task is None:
        return list(overrides)
    return [*overrides, f'task={task}']


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, atomically."""
    with atomic_write(path, 'w') as file:
        file.write(printable(text))  # names of methods may be no UTF-8


def _write_tables(
    stem: Path, columns: Sequence[str], entries: Sequence[tables.Entry],
) -> str:
    formats = tables.score_table(columns, entries)
    for suffix, text in formats.items():
        write_text(stem.with_name(f'{stem.name}.{suffix}'), text)
    return formats['txt']


def _nan_to_none(scores: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {score: None if math.isnan(value) else value for score, value in scores.items()}
