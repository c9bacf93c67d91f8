#!/usr/bin/env python
"""Chooses the best checkpoint of those that eval_existingOnes.py has scored, over all test sets.

    python gen_best_ep.py task=COD                      by S-measure and by weighted F (DIS5K: HCE)
    python gen_best_ep.py --metrics maxFm+mae           by each of these
    python gen_best_ep.py --weights sm=1+wfm=2+hce=.5   by the weighted sum of standardised scores

Writes <save_dir>/eval-<task>_best_on_<metric>.txt (also .tex, .md and .csv), and
<save_dir>/report.html with curves and images. Reports ties, and whether the lead over the runner-up
is more than chance (paired bootstrap over images); paper.py tests all pairs.
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
from evaluation.metrics import COLUMNS, SCORES
from evaluation.report import DRAWN_IMAGES, Choice, Evaluation, write_report
from evaluation.selection import Comparison, Ranking, compare, rank
from evaluation.stored import image_scores
from evaluation.summary import MethodScores
from runtime.command import run_command

DRAWN_METHODS = 5


class Selection(NamedTuple):
    """A criterion's name in file names, the weights of its scores, and the ranking by it."""

    name: str
    weights: Mapping[str, float]
    ranking: Ranking

    @property
    def best(self) -> str:
        """The best method."""
        return self.ranking.methods[0]


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
        help='whose curves the report draws (default: the best five)')
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


def criterion_title(weights: Mapping[str, float]) -> str:
    """Names a criterion as tables do: `Smeasure`, or `1 Smeasure + 0.5 HCE, standardised`."""
    if len(weights) == 1:
        [score] = weights
        return COLUMNS[score]
    terms = [f'{weight:g} {COLUMNS[score]}' for score, weight in weights.items()]
    return ' + '.join(terms) + ', standardised'


def write_remarks(selection: Selection, save_dir: str, datasets: Sequence[str]) -> list[str]:
    """Describes the best method: ties, standard deviations, and its lead over the runner-up."""
    ranking = selection.ranking
    best = selection.best

    # The runner-up is the first that is not tied with the best.
    behind = [method for method in ranking.methods if method not in ranking.ties]
    runner_up = behind[0] if behind else None
    shown = [best, runner_up] if runner_up else [best]
    names = list(selection.weights)
    by_set = {}
    for dataset in datasets:
        by_set[dataset] = image_scores(save_dir, dataset, shown, names)

    lines = []
    if len(ranking.ties) > 1:
        lines.append(f'tied with {", ".join(ranking.ties[1:])}; the first is taken')
    for score in selection.weights:
        # The spread over the images of each set.
        for dataset, methods in by_set.items():
            scored = methods[best]
            mean = tables.format_score(score, scored.scores[score])
            deviation = tables.format_score(score, scored.deviations[score])
            lines.append(
                f'{COLUMNS[score]} on {dataset}: {mean}, standard deviation over '
                f'{len(scored.names)} images {deviation}')

        # The lead. A score over pooled pixels has no values of images to draw from.
        is_pooled = score in by_set[datasets[0]][best].pooled
        if runner_up and not is_pooled:
            ours = [methods[best] for methods in by_set.values()]
            theirs = [methods[runner_up] for methods in by_set.values()]
            lead = compare(ours, theirs, score)
            lines.append(f'{COLUMNS[score]}: {describe_lead(score, runner_up, lead)}')
    return lines


def describe_lead(score: str, runner_up: str, lead: Comparison) -> str:
    """Describes the lead over the runner-up and whether it may be chance."""
    amount, low, high = (tables.format_difference(score, value) for value in lead)
    if math.isnan(lead.low):
        return f'ahead of {runner_up} by {amount}; too few images for an interval'
    verdict = 'more than chance' if lead.low > 0 else 'may be chance'
    interval = f'95% interval {low} to {high} (paired bootstrap over images)'
    return f'ahead of {runner_up} by {amount}, {interval}: {verdict}'


def table_entries(
    best: str, scores: results.Results, averaged_sets: Mapping[str, Sequence[str]],
) -> list[tables.Entry]:
    """Lists the best method's row of each set, and the task's rows of means over several sets.

    A row of means is left out where not all of its sets are scored.
    """
    entries = [(dataset, best, methods[best]) for dataset, methods in scores.items()]
    for name, averaged in averaged_sets.items():
        if all(dataset in scores for dataset in averaged):
            of_sets = [scores[dataset][best] for dataset in averaged]
            means = results.mean_scores(of_sets)
            entries.append((name, best, means))
    return entries


def write_choice(
    selection: Selection, cfg: Config, save_dir: str, scores: results.Results,
) -> Choice:
    """Writes and prints the best method's tables and the remarks on it."""
    # The best method's scores, and below them why it is the best.
    task = task_record(cfg.task)
    entries = table_entries(selection.best, scores, task.averaged_sets)
    formats = tables.score_table(task.columns, entries)
    title = criterion_title(selection.weights)
    remarks = write_remarks(selection, save_dir, list(scores))
    lines = [f'best on {title}: {selection.best}', *remarks]
    below = {
        'txt': '\n' + '\n'.join(lines) + '\n',
        'tex': '',
        'md': '\n' + '  \n'.join(lines) + '\n',
        'csv': '',
    }

    for suffix, text in formats.items():
        path = Path(save_dir, f'eval-{cfg.task}_best_on_{selection.name}.{suffix}')
        results.write_text(path, text + below[suffix])
    print(formats['txt'], *lines, sep='\n', end='\n\n')
    return Choice(title, selection.best, remarks, list(selection.weights))


def methods_to_draw(text: str | None, ranking: Ranking) -> list[str]:
    """Lists the methods that the report draws, the best first; ValueError for unknown ones."""
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
    scores = results.scores_by_method(sets)

    # The best checkpoint by each criterion.
    choices = []
    selections = []
    for name, weights in criteria.items():
        selection = Selection(name, weights, rank(scores, weights))
        selections.append(selection)
        choices.append(write_choice(selection, cfg, save_dir, scores))
    if options.no_report:
        return

    # The report, with the curves and images of a few methods.
    drawn = methods_to_draw(options.methods, selections[0].ranking)
    names = [choices[0].scores[0], 'em', 'fm', *tables.shown_scores(task.columns, COLUMNS)]
    details = {dataset: image_scores(save_dir, dataset, drawn, names) for dataset in sets}
    categories = read_categories(options.by, details)
    shown = Evaluation(cfg.task, task.columns, sets, choices, details, categories)
    path = Path(save_dir, 'report.html')
    write_report(path, shown, options.images)
    print(f'report: {path}')


if __name__ == '__main__':
    sys.exit(run_command('gen_best_ep', lambda: main(sys.argv[1:])))
