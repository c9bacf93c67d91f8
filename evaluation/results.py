"""What an evaluation leaves in its folder: tables and JSON per test set, over all sets, and their reading."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import tables
from evaluation.summary import Method, MethodScores
from utils import atomic_write, write_json

SUFFIX = '_eval.json'


def store_path(save_dir: str | Path, dataset: str) -> Path:
    """Where the scores of a set's single images are kept."""
    return Path(save_dir, 'scores', f'{dataset}.jsonl')


def write_set(save_dir: str | Path, task: str, dataset: str, roots: tuple[str, str],
              results: Sequence[tuple[Method, MethodScores]]) -> str:
    """Writes `<dataset>_eval.{txt,md,csv,json}`; returns the text. `roots`: folders of masks and of predictions."""
    text = _write_tables(Path(save_dir, f'{dataset}_eval'), task,
                         [(dataset, method.name, scored.scores) for method, scored in results])
    methods = [{'method': method.name, 'run': method.run, 'epoch': method.epoch, 'resolution': method.resolution,
                'images': len(scored.names), 'scores': _plain(scored.scores),
                'deviations': _plain(scored.deviations)} for method, scored in results]
    write_json(Path(save_dir, dataset + SUFFIX),
               {'dataset': dataset, 'task': task, 'gt_root': roots[0], 'pred_root': roots[1], 'methods': methods})
    return text


def write_overall(save_dir: str | Path, task: str, results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Writes `overall_eval.{txt,md,csv,json}`: means over the sets, of the methods that have all; returns the text.

    `results` are scores by set and method.
    """
    common = [method for method in next(iter(results.values()))
              if all(method in methods for methods in results.values())]
    means = {method: mean_scores([methods[method] for methods in results.values()]) for method in common}
    name = f'mean of {len(results)} sets'
    write_json(Path(save_dir, 'overall' + SUFFIX),
               {'task': task, 'datasets': list(results), 'methods': {m: _plain(means[m]) for m in common}})
    return _write_tables(Path(save_dir, 'overall_eval'), task, [(name, m, means[m]) for m in common]) if common else ''


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over several sets; sets without it (NaN) are left out."""
    means = {}
    for score in scores[0]:
        present = [one[score] for one in scores if not math.isnan(one.get(score, math.nan))]
        means[score] = float(np.mean(present)) if present else math.nan
    return means


def read_sets(save_dir: str | Path, datasets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The JSON of the sets that have been scored, in the order given; scores without a value are NaN.

    Raises ValueError if none has been scored.
    """
    found = {}
    for dataset in datasets:
        path = Path(save_dir, dataset + SUFFIX)
        if path.is_file():
            found[dataset] = json.loads(path.read_text(encoding='utf-8'))
            for method in found[dataset]['methods']:
                method['scores'] = {s: math.nan if v is None else v for s, v in method['scores'].items()}
    if not found:
        raise ValueError(f'{save_dir}: no scores of {", ".join(datasets)}; run eval_existingOnes.py first')
    return found


def only_task(save_dir: str | Path) -> list[str]:
    """The task of all results in a folder, if it is one."""
    tasks = {json.loads(path.read_text(encoding='utf-8'))['task'] for path in Path(save_dir).glob('*' + SUFFIX)}
    return list(tasks) if len(tasks) == 1 else []


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, atomically."""
    with atomic_write(path, 'w') as file:
        file.write(text)


def _write_tables(stem: Path, task: str, entries: Sequence[tuple[str, str, Mapping[str, float]]]) -> str:
    formats = tables.score_table(task, entries)
    for suffix, text in formats.items():
        write_text(stem.with_name(f'{stem.name}.{suffix}'), text)
    return formats['txt']


def _plain(scores: Mapping[str, float]) -> dict[str, float | None]:
    """NaN is no JSON."""
    return {score: None if math.isnan(value) else value for score, value in scores.items()}
