#!/usr/bin/env python
"""Chooses the best checkpoint of those that eval_existingOnes.py has scored, over all test sets.

    python gen_best_ep.py task=COD                      by S-measure and by weighted F (DIS5K: HCE)
    python gen_best_ep.py --metrics maxFm+mae           by each of these
    python gen_best_ep.py --weights sm=1+wfm=2+hce=.5   by the weighted sum of standardised scores

Writes <save_dir>/eval-<task>_best_on_<metric>.txt (also .tex, .md and .csv), the tests of pairs of
methods to eval-<task>_pairs_on_<score>.txt (and so on), and <save_dir>/report.html with curves and
images. Reports ties, and whether the lead over the runner-up is more than chance.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('gen_best_ep')

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from config import Config, Task, task_record, test_sets
from evaluation import results, tables
from evaluation.categories import read_grouping
from evaluation.display import Shown, is_methods_file, show_methods
from evaluation.formats import Table, escape_markdown
from evaluation.metrics import COLUMNS, SCORES
from evaluation.paper_scores import ALL_SETS, ScoresBySet, compare_sets
from evaluation.paper_tables import pair_tests, write_p
from evaluation.report import DRAWN_IMAGES, Choice, Evaluation, write_report
from evaluation.selection import Ranking, rank
from evaluation.significance import PairTest
from evaluation.stored import image_scores, read_rows, scores_of
from evaluation.summary import MethodScores
from runtime.command import run_command

DRAWN_METHODS = 5
# With more methods only the best one is tested, against every other one. The number of all pairs
# would make the correction so strict that no lead were more than chance.
ALL_PAIRS = 10
SIGNIFICANT = .05


class Selection(NamedTuple):
    """What a criterion chooses.

    Attributes:
        name: The criterion's name in names of files.
        weights: Weights of its scores.
        ranking: The ranking by it.
        images: Scores of single images by set and method, of the methods that are ranked.
        tests: Tests of pairs of methods by each score that single images have.
        shown: How each method is shown.
    """

    name: str
    weights: Mapping[str, float]
    ranking: Ranking
    images: ScoresBySet
    tests: Mapping[str, Sequence[PairTest]]
    shown: Mapping[str, Shown]

    @property
    def best(self) -> str:
        """The best method."""
        return self.ranking.methods[0]

    @property
    def against(self) -> str | None:
        """The method that is tested against every other one; None for tests of all pairs."""
        return self.best if len(self.ranking.methods) > ALL_PAIRS else None

    @property
    def title(self) -> str:
        """The criterion's name in tables: `Smeasure`, or `1 Smeasure + 0.5 HCE, standardised`."""
        if len(self.weights) == 1:
            [score] = self.weights
            return COLUMNS[score]
        terms = [f'{weight:g} {COLUMNS[score]}' for score, weight in self.weights.items()]
        return ' + '.join(terms) + ', standardised'

    def show(self, *methods: str) -> str:
        """Names methods for people."""
        return ', '.join(self.shown[method].name for method in methods)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('overrides', nargs='*', metavar='key=value', help='fields of config.py, e.g. task=COD')
    add('--metrics', '--metric', metavar='sm+wfm', help='scores of docs/metrics.md')
    add('--weights', metavar='sm=1+mae=2', help='choose by several scores at once')
    add('--data_lst', metavar='A+B', help="test sets (default: the task's)")
    add('--save_dir', help='folder of the results (default: save_dir of the config, e_results)')
    add('--methods', metavar='A+B',
        help='whose curves the report draws (default: the best five); or a .toml file of those to '
             'choose from, with names, order and colours')
    add('--images', type=int, metavar='N', default=DRAWN_IMAGES,
        help='images that the report shows beside the worst, median and best (%(default)s)')
    add('--by', metavar='CSV',
        help='categories to filter the images by: a file name,category, or the group or class of '
             "DIS5K's names (default: class, where names have it)")
    add('--no-report', action='store_true', help='tables only, no report.html')
    options = parser.parse_intermixed_args(arguments)
    if options.images < 0:
        parser.error(f'--images {options.images}: a number from 0 on')
    return options


def read_config(options: argparse.Namespace) -> Config:
    """Reads the config. Without `task=` its task is that of all results."""
    save_dir = options.save_dir or Config.from_overrides(options.overrides).save_dir
    return Config.from_overrides(results.with_task(options.overrides, save_dir))


def parse_criteria(options: argparse.Namespace, task: Task) -> dict[str, dict[str, float]]:
    """Parses what to choose by: weights of scores, by the name of the criterion."""
    if options.weights:
        criteria = {'weighted': parse_weights(options.weights)}
    else:
        names = options.metrics.split('+') if options.metrics else task.selection_metrics
        criteria = {name: {name: 1.0} for name in names}

    # All unknown scores are named at once.
    scores = [score for weights in criteria.values() for score in weights]
    unknown = [score for score in scores if score not in SCORES]
    if unknown:
        raise ValueError(f'unknown scores {", ".join(unknown)}; known: {", ".join(SCORES)}')
    return criteria


def parse_weights(text: str) -> dict[str, float]:
    """Parses `sm=1+mae=2`; a score without a number has weight 1."""
    weights = {}
    for pair in text.split('+'):
        name, _, value = pair.partition('=')
        try:
            weight = float(value or 1)
        except ValueError:
            raise ValueError(f'--weights {text}: write sm=1+mae=2') from None
        # A negative one would choose the worst checkpoint, NaN any.
        if not 0 < weight < math.inf:
            raise ValueError(f'--weights {text}: {name}={value} is no finite number above 0')
        if name in weights:
            raise ValueError(f'--weights {text}: {name} is named twice')
        weights[name] = weight
    return weights


def select(
    name: str,
    weights: Mapping[str, float],
    scores: results.Results,
    save_dir: str,
    shown: Mapping[str, Shown],
) -> Selection:
    """Chooses the best method by a criterion, and tests its lead by each score of it."""
    ranking = rank(scores, weights)
    methods = ranking.methods
    images = {}
    for dataset in scores:
        images[dataset] = image_scores(save_dir, dataset, methods, list(weights))
    selection = Selection(name, weights, ranking, images, {}, shown)
    tests = {}
    for score in weights:
        found = compare_sets(images, methods, score, selection.against)
        if found:
            tests[score] = found
    return selection._replace(tests=tests)


def write_remarks(selection: Selection) -> list[str]:
    """Describes the best method: ties, standard deviations, and its lead over the runner-up."""
    ranking = selection.ranking
    best = selection.best
    behind = [method for method in ranking.methods if method not in ranking.ties]

    lines = []
    if len(ranking.ties) > 1:
        lines.append(f'tied with {selection.show(*ranking.ties[1:])}; the first is taken')
    for score in selection.weights:
        # The spread over the images of each set.
        for dataset, methods in selection.images.items():
            scored = methods[best]
            mean = tables.format_score(score, scored.scores[score])
            deviation = tables.format_score(score, scored.deviations[score])
            lines.append(
                f'{COLUMNS[score]} on {dataset}: {mean}, standard deviation over '
                f'{len(scored.names)} images {deviation}')

        # The lead over the first that is not tied with the best.
        tests = selection.tests.get(score, ())
        for test in tests:
            if behind and {test.better, test.worse} == {best, behind[0]}:
                lead = describe_lead(score, test, selection, len(tests))
                lines.append(f'{COLUMNS[score]}: {lead}')
    return lines


def describe_lead(score: str, test: PairTest, selection: Selection, number: int) -> str:
    """Describes the lead over the runner-up, or that it leads, and whether it may be chance.

    Args:
        score: The score. By one of several weighted ones the best may be behind.
        test: Of the best and the runner-up.
        selection: What is chosen.
        number: How many pairs were tested, for which the p-value is corrected.
    """
    found = f'ahead of {selection.show(test.worse)}'
    if test.better != selection.best:
        found = f'behind {selection.show(test.better)}'
    differences = (test.lead, test.low, test.high)
    amount, low, high = (tables.format_difference(score, value) for value in differences)
    if math.isnan(test.low):
        return f'{found} by {amount}; too few images for an interval'

    is_clear = test.low > 0 and test.corrected < SIGNIFICANT
    verdict = 'more than chance' if is_clear else 'may be chance'
    pairs = 'pair' if number == 1 else 'pairs'
    return (
        f'{found} by {amount}, 95% interval {low} to {high} (paired bootstrap over images), '
        f'p {write_p(test.corrected)} (Wilcoxon, Holm over {number} {pairs}): {verdict}')


def table_entries(
    selection: Selection,
    scores: results.Results,
    averaged_sets: Mapping[str, Sequence[str]],
) -> list[tables.Entry]:
    """Lists the best method's row of each set, and the task's rows of means over several sets.

    A row of means is left out where not all of its sets are scored.
    """
    best = selection.best
    label = selection.shown[best].label
    entries = [(dataset, label, methods[best]) for dataset, methods in scores.items()]
    for name, averaged in averaged_sets.items():
        if all(dataset in scores for dataset in averaged):
            of_sets = [scores[dataset][best] for dataset in averaged]
            means = results.mean_scores(of_sets)
            entries.append((name, label, means))
    return entries


def pair_tables(selection: Selection) -> dict[str, Table]:
    """Makes a table of the tests of pairs by each score, the best lead first."""
    place = ALL_SETS if len(selection.images) > 1 else next(iter(selection.images))
    shown = list(selection.shown.values())
    found = {}
    for score, tests in selection.tests.items():
        table = pair_tests(score, {place: tests}, shown)
        if selection.against:
            best = selection.show(selection.best)
            table = table._replace(title=f'{best} and every other method by {COLUMNS[score]}')
        found[score] = table
    return found


def write_choice(
    selection: Selection, cfg: Config, save_dir: str, scores: results.Results,
) -> Choice:
    """Writes and prints the best method's tables, the remarks on it, and the tests of pairs."""
    # The best method's scores, and below them why it is the best.
    task = task_record(cfg.task)
    entries = table_entries(selection, scores, task.averaged_sets)
    formats = tables.score_table(task.columns, entries)
    remarks = write_remarks(selection)
    lines = [f'best on {selection.title}: {selection.show(selection.best)}', *remarks]
    below = {
        'txt': '\n' + '\n'.join(lines) + '\n',
        'tex': '',
        'md': '\n' + '  \n'.join(map(escape_markdown, lines)) + '\n',
        'csv': '',
    }
    for suffix, text in formats.items():
        path = Path(save_dir, f'eval-{cfg.task}_best_on_{selection.name}.{suffix}')
        results.write_text(path, text + below[suffix])
    print(formats['txt'], *lines, sep='\n', end='\n\n')

    # The tests of pairs.
    found = pair_tables(selection)
    for score, table in found.items():
        formats = tables.in_text_formats(table)
        for suffix, text in formats.items():
            path = Path(save_dir, f'eval-{cfg.task}_pairs_on_{score}.{suffix}')
            results.write_text(path, text)
        print(table.title, formats['txt'], sep='\n')
    return Choice(
        selection.title, selection.best, remarks, list(selection.weights), list(found.values()))


def methods_to_draw(text: str | None, ranking: Ranking) -> list[str]:
    """Lists the methods that the report draws, the best first; ValueError for unknown ones."""
    if is_methods_file(text):
        return ranking.methods
    others = text.split('+') if text else ranking.methods[1:DRAWN_METHODS]
    unknown = [method for method in others if method not in ranking.methods]
    if unknown:
        raise ValueError(
            f'--methods: no scores in every set of {", ".join(unknown)}; there are '
            f'{", ".join(ranking.methods)}')
    best = ranking.methods[0]
    return list(dict.fromkeys([best, *others]))


def read_categories(
    text: str | None, details: Mapping[str, Mapping[str, MethodScores]],
) -> dict[str, dict[str, list[str]]]:
    """Reads the categories of each image that has any, by set and name, as `--by` says."""
    images = []
    for dataset, methods in details.items():
        scored = next(iter(methods.values()))
        images += [(dataset, name) for name in scored.names]
    try:
        grouping = read_grouping(text or 'class', images)
    except ValueError:
        if text:
            raise
        return {}  # the names are not DIS5K's

    categories: dict[str, dict[str, list[str]]] = {dataset: {} for dataset in details}
    for category, members in grouping.members.items():
        for dataset, name in members:
            categories[dataset].setdefault(name, []).append(category)
    return categories


def main(arguments: list[str]) -> None:
    """Chooses the best checkpoint by each criterion and writes tables and the report."""
    # What to choose by, and the scores to choose from.
    options = parse_arguments(arguments)
    cfg = read_config(options)
    task = task_record(cfg.task)
    save_dir = options.save_dir or cfg.save_dir
    criteria = parse_criteria(options, task)
    datasets = options.data_lst.split('+') if options.data_lst else test_sets(cfg)
    sets = results.read_sets(save_dir, datasets)

    # The methods to choose from, and how they are shown.
    file = options.methods if is_methods_file(options.methods) else None
    found = results.scores_by_method(sets)
    methods = dict.fromkeys(method for of_set in found.values() for method in of_set)
    first, *_ = criteria.values()
    runs = results.scores_by_run(sets, next(iter(first)))
    shown, shown_runs = show_methods(file, list(methods), list(runs))
    by_name = {method.folder: method for method in shown}
    scores = results.of_methods(found, list(by_name))

    # The best checkpoint by each criterion.
    choices = []
    rankings = []
    for name, weights in criteria.items():
        selection = select(name, weights, scores, save_dir, by_name)
        rankings.append(selection.ranking)
        choices.append(write_choice(selection, cfg, save_dir, scores))
    if options.no_report:
        return

    # The report, with the curves and images of a few methods.
    drawn = methods_to_draw(options.methods, rankings[0])
    names = [choices[0].scores[0], 'em', 'fm', *tables.shown_scores(task.columns, COLUMNS)]
    rows = {dataset: read_rows(save_dir, dataset, drawn) for dataset in sets}
    details = {dataset: scores_of(found, names) for dataset, found in rows.items()}
    categories = read_categories(options.by, details)
    evaluation = Evaluation(
        cfg.task, task.columns, sets, choices, details, shown, shown_runs, categories, rows)
    path = Path(save_dir, 'report.html')
    write_report(path, evaluation, options.images)
    print(f'report: {path}')


if __name__ == '__main__':
    sys.exit(run_command('gen_best_ep', lambda: main(sys.argv[1:])))
