"""Reads the scores of single images that an evaluation has stored; computes nothing again."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import select_metrics
from evaluation.results import read_sets, store_path
from evaluation.store import MethodRows, ScoreStore, stored_metrics
from evaluation.summary import MethodScores, collect

SAME = 1e-6  # the difference of a mean on another machine, and far below a digit of the tables
# The store's rows of one set, by method and image.
Rows = Mapping[str, Mapping[str, dict]]


def read_rows(save_dir: str | Path, dataset: str, methods: Sequence[str]) -> Rows:
    """Reads the rows of some methods on one test set.

    Raises:
        ValueError: Naming the methods that have none, or not of the images of the others.
    """
    path = store_path(save_dir, dataset)
    store = ScoreStore(path)
    images: dict[str, list[str]] = {method: [] for method in methods}
    for method, image in sorted(store.rows):
        if method in images:
            images[method].append(image)
    gone = [method for method, found in images.items() if not found]
    if gone:
        raise ValueError(
            f'{path}: no scores of {", ".join(gone)}; run eval_existingOnes.py again')
    first, *others = methods
    differing = [method for method in others if images[method] != images[first]]
    if differing:
        raise ValueError(
            f'{path}: {", ".join(differing)} have not the images of {first}; '
            'run eval_existingOnes.py again')
    # Rows are read when they are asked for.
    return {method: MethodRows(store.rows, method, found) for method, found in images.items()}


def common_metrics(rows: Rows, names: Collection[str]) -> list[str]:
    """Returns those of some metrics, or of these scores, that all of the rows have."""
    selected = select_metrics(names)
    common = set(selected)
    for found in rows.values():
        for row in found.values():
            common &= stored_metrics(row)
    return [metric for metric in selected if metric in common]


def scores_of(rows: Rows, names: Collection[str]) -> dict[str, MethodScores]:
    """Aggregates rows by method; scores or metrics that not all of them have are left out."""
    metrics = common_metrics(rows, names)
    return {method: collect(found, metrics) for method, found in rows.items()}


def image_scores(
    save_dir: str | Path, dataset: str, methods: Sequence[str], names: Sequence[str],
) -> dict[str, MethodScores]:
    """Reads the scores of single images of some methods.

    Args:
        save_dir: Folder of the results.
        dataset: Name of the test set.
        methods: Names of the methods.
        names: Scores or metrics to read; those that were not computed are left out.

    Raises:
        ValueError: If a method has no scores, or as `check_tabled`.
    """
    found = scores_of(read_rows(save_dir, dataset, methods), names)
    check_tabled(read_sets(save_dir, [dataset])[dataset], found)
    return found


def check_tabled(content: Mapping[str, Any], found: Mapping[str, MethodScores]) -> None:
    """Raises ValueError if scores of single images are not those that a set's tables are of.

    Folders of results are copied and deleted in parts, and an evaluation may have been interrupted.

    Args:
        content: The set's JSON.
        found: Scores of single images by method.
    """
    tabled = {method['method']: method['scores'] for method in content['methods']}
    for method, of_images in found.items():
        for score, value in of_images.scores.items():
            expected = tabled.get(method, {}).get(score, value)
            if not np.isclose(value, expected, rtol=SAME, atol=SAME, equal_nan=True):
                raise ValueError(
                    f'{content["dataset"]}: the scores of single images of {method} are not those '
                    'of the tables; run eval_existingOnes.py again')
