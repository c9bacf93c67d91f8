"""What the tables and figures of a paper are made of: stored scores by set, category and pair."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from evaluation.categories import Grouping, Image
from evaluation.display import Shown
from evaluation.metrics import COLUMNS
from evaluation.results import Results, Sets
from evaluation.significance import PairTest, compare_pairs
from evaluation.stored import Rows, check_tabled, scores_of
from evaluation.summary import MethodScores

ALL_SETS = 'all-sets'
CURVE_METRICS = ('fm', 'em')

ScoresBySet = Mapping[str, Mapping[str, MethodScores]]


@dataclass(frozen=True)
class Scored:
    """What has been scored, and how it is shown.

    Attributes:
        sets: The JSON of each set.
        rows: The stored scores of single images, by set.
        shown: The methods, in order.
        runs: The runs, in order.
        columns: Scores of the comparison, in order.
        scores: Scores of the other tables and of the figures.
    """

    sets: Sets
    rows: Mapping[str, Rows]
    shown: Sequence[Shown]
    runs: Sequence[Shown]
    columns: Sequence[str]
    scores: Sequence[str]

    def methods_of(self, *datasets: str) -> list[Shown]:
        """The methods that have all of these sets, in order."""
        return [
            method for method in self.shown
            if all(method.folder in self.rows[dataset] for dataset in datasets)]

    @cached_property
    def images(self) -> list[Image]:
        """The images, set by set."""
        images: dict[Image, None] = {}
        for dataset, rows in self.rows.items():
            for found in rows.values():
                images.update({(dataset, name): None for name in found})
        return list(images)

    def by_set(self) -> dict[str, dict[str, MethodScores]]:
        """The scores of single images and the curves, by set and method.

        Raises ValueError as `check_tabled`.
        """
        names = (*self.columns, *self.scores, *CURVE_METRICS)
        found = {}
        for dataset, rows in self.rows.items():
            found[dataset] = scores_of(rows, names)
            check_tabled(self.sets[dataset], found[dataset])
        return found


class CategoryScores(NamedTuple):
    """Scores by category.

    Attributes:
        place: The test set, or ALL_SETS.
        heading: What the categories are.
        results: Scores by category and method.
        images: Number of images of each category.
        shown: The methods, in order.
    """

    place: str
    heading: str
    results: Results
    images: Mapping[str, int]
    shown: Sequence[Shown]

    def has(self, score: str) -> bool:
        """Whether any category has the score."""
        values = []
        for by_method in self.results.values():
            values += [scores.get(score, math.nan) for scores in by_method.values()]
        return not all(map(math.isnan, values))

    def stem(self, score: str) -> str:
        """The name of the files on a score."""
        return f'{self.place}_by_{self.heading}_{score}'

    def title(self, score: str) -> str:
        """The title of the table of a score."""
        return f'{COLUMNS[score]} by {self.heading}, {self.place}'


def score_categories(grouping: Grouping, scored: Scored) -> Iterator[CategoryScores]:
    """Scores the categories of each test set, and of all sets together if there are several."""
    places = {dataset: [dataset] for dataset in scored.rows}
    if len(places) > 1:
        places[ALL_SETS] = list(scored.rows)
    for place, datasets in places.items():
        shown = scored.methods_of(*datasets)
        results = {}
        images = {}
        for category, members in grouping.members.items():
            inside = [image for image in members if image[0] in datasets]
            if inside:
                results[category] = _score_images(inside, shown, scored)
                images[category] = len(inside)
        if results and shown:
            yield CategoryScores(place, grouping.name, results, images, shown)


def _score_images(
    images: Sequence[Image], shown: Sequence[Shown], scored: Scored,
) -> dict[str, dict[str, float]]:
    """Aggregates some images, by method."""
    rows = {}
    for method in shown:
        of_method = {}
        for dataset, name in images:
            found = scored.rows[dataset][method.folder]
            of_method[f'{dataset}/{name}'] = found[name]
        rows[method.folder] = of_method
    aggregated = scores_of(rows, scored.scores)
    return {method: found.scores for method, found in aggregated.items()}


def compare_all_pairs(
    scored: Scored, by_set: ScoresBySet, score: str,
) -> dict[str, list[PairTest]]:
    """Tests all pairs of methods by a score, on each set and over all sets together.

    There is no test of a score over pooled pixels, which single images do not have.
    """
    tests = {}
    places = {dataset: [dataset] for dataset in by_set}
    if len(places) > 1:
        places[ALL_SETS] = list(by_set)
    for place, datasets in places.items():
        of_place = {dataset: by_set[dataset] for dataset in datasets}
        methods = [method.folder for method in scored.methods_of(*datasets)]
        found = compare_sets(of_place, methods, score)
        if found:
            tests[place] = found
    return tests


def compare_sets(
    by_set: ScoresBySet, methods: Sequence[str], score: str, against: str | None = None,
) -> list[PairTest]:
    """Tests pairs of methods by a score over some sets.

    There are none of a score over pooled pixels, or of one that is not defined on a set.

    Args:
        by_set: Scores of single images, by set and method.
        methods: The methods, which have all sets.
        score: Name of the score.
        against: The method that is in every pair; None for all pairs.
    """
    values = {}
    for method in methods:
        of_sets = [found[method] for found in by_set.values()]
        is_of_images = all(
            found.has(score) and score not in found.pooled for found in of_sets)
        if is_of_images:
            values[method] = of_sets
    if len(values) < 2:
        return []
    return compare_pairs(values, score, against)
