#!/usr/bin/env python
"""Tells the best checkpoint of those that eval_existingOnes.py has scored, over all test sets of the task.

    python gen_best_ep.py task=COD                          by S-measure and by weighted F (DIS5K: by HCE too)
    python gen_best_ep.py --metrics maxFm+mae               by each of these
    python gen_best_ep.py --weights sm=1+wfm=2+hce=.5       by all of these together, each standardised

Writes <save_dir>/eval-<task>_best_on_<metric>.txt (also .md and .csv) and <save_dir>/report.html with curves and
pictures. Ties are told, and whether the lead over the runner-up is more than chance (paired bootstrap over images).
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config import Config, Task, task_record, test_sets
from evaluation import results, tables
from evaluation.ground_truth import SCORES, groups_of
from evaluation.report import Choice, write_page
from evaluation.selection import Comparison, Ranking, compare, rank
from evaluation.store import ScoreStore
from evaluation.summary import MethodScores, collect

DRAWN = 5


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='fields of config.py, e.g. task=COD')
    parser.add_argument('--metrics', '--metric', metavar='sm+wfm', help=f'of {", ".join(SCORES)}')
    parser.add_argument('--weights', metavar='sm=1+mae=2', help='choose by several scores at once')
    parser.add_argument('--data_lst', metavar='A+B', help="test sets (default: the task's)")
    parser.add_argument('--save_dir', help='folder of the results (default: save_dir of the config, e_results)')
    parser.add_argument('--methods', metavar='A+B', help='whose curves the report draws (default: the best five)')
    parser.add_argument('--no-report', action='store_true', help='tables only, no report.html')
    return parser.parse_intermixed_args(arguments)


def parse_criteria(options: argparse.Namespace, task: Task) -> dict[str, dict[str, float]]:
    """What to choose by: weights of scores, by the name of the criterion."""
    if options.weights:
        pairs = [pair.partition('=') for pair in options.weights.split('+')]
        try:
            criteria = {'weighted': {name: float(value or 1) for name, _, value in pairs}}
        except ValueError:
            raise ValueError(f'--weights {options.weights}: write sm=1+mae=2') from None
    else:
        names = options.metrics.split('+') if options.metrics else task.selection_metrics
        criteria = {name: {name: 1.0} for name in names}
    unknown = [name for weights in criteria.values() for name in weights if name not in SCORES]
    if unknown:
        raise ValueError(f'unknown scores {", ".join(unknown)}; known: {", ".join(SCORES)}')
    return criteria


def title(weights: Mapping[str, float]) -> str:
    """A criterion in the words of the tables: `Smeasure`, or `1 Smeasure + 0.5 HCE, standardised`."""
    if len(weights) == 1:
        return tables.NAMES[next(iter(weights))]
    return ' + '.join(f'{weight:g} {tables.NAMES[score]}' for score, weight in weights.items()) + ', standardised'


def remarks(ranking: Ranking, weights: Mapping[str, float], save_dir: str, datasets: Sequence[str]) -> list[str]:
    """What is to be said of the best: ties, standard deviations, and the lead over the runner-up with its interval."""
    best = ranking.methods[0]
    lines = []
    if len(ranking.ties) > 1:
        lines.append(f'tied with it: {", ".join(ranking.ties[1:])}; the first is taken')
    runner_up = next((method for method in ranking.methods if method not in ranking.ties), None)
    shown = [best, runner_up] if runner_up else [best]
    scored = {dataset: image_scores(save_dir, dataset, shown, list(weights)) for dataset in datasets}
    for score in weights:
        for dataset, methods in scored.items():
            mean, deviation = (tables.format_score(score, found[score])
                               for found in (methods[best].scores, methods[best].deviations))
            lines.append(f'{tables.NAMES[score]} on {dataset}: {mean}, standard deviation over '
                         f'{len(methods[best].names)} images {deviation}')
        if runner_up:
            lead = compare(*([methods[method] for methods in scored.values()] for method in shown), score)
            lines.append(f'{tables.NAMES[score]}: {_lead(score, runner_up, lead)}')
    return lines


def _lead(score: str, runner_up: str, lead: Comparison) -> str:
    amount, low, high = (tables.format_difference(score, value) for value in lead)
    if math.isnan(lead.low):
        return f'ahead of {runner_up} by {amount}; too few images for an interval'
    clear = 'more than chance' if lead.low > 0 else 'may be chance'
    return f'ahead of {runner_up} by {amount}, 95% interval {low} to {high} (paired bootstrap over images): {clear}'


def image_scores(save_dir: str, dataset: str, methods: Sequence[str],
                 scores: Sequence[str]) -> dict[str, MethodScores]:
    """The scores of single images of some methods. Raises ValueError where they are gone."""
    path = results.store_path(save_dir, dataset)
    rows = ScoreStore(path).rows
    found = {method: {name: row for (owner, name), row in rows.items() if owner == method} for method in methods}
    gone = [method for method, of_method in found.items() if not of_method]
    if gone:
        raise ValueError(f'{path}: no scores of {", ".join(gone)}; run eval_existingOnes.py again')
    stored = set.intersection(*(set(row['groups']) for of_method in found.values() for row in of_method.values()))
    groups = [group for group in groups_of(scores) if group in stored]
    return {method: collect(of_method, groups) for method, of_method in found.items()}


def table_entries(best: str, scores: Mapping[str, Mapping[str, Mapping[str, float]]],
                  averaged_sets: Mapping[str, Sequence[str]]) -> list[tuple[str, str, Any]]:
    """The best method's row of each set, and the task's rows of means where all their sets are scored."""
    entries = [(dataset, best, methods[best]) for dataset, methods in scores.items()]
    for name, averaged in averaged_sets.items():
        if all(dataset in scores for dataset in averaged):
            means = results.mean_scores([scores[dataset][best] for dataset in averaged])
            entries.append((name, best, means))
    return entries


def drawn_methods(save_dir: str, datasets: Sequence[str], best: str, others: Sequence[str],
                  score: str) -> dict[str, dict[str, MethodScores]]:
    """Curves and scores of single images, by set, of the methods that the report draws."""
    return {dataset: image_scores(save_dir, dataset, list(dict.fromkeys([best, *others])), [score, 'em', 'fm'])
            for dataset in datasets}


def main(arguments: list[str]) -> None:
    """Chooses, tells and reports."""
    options = parse_arguments(arguments)
    cfg = Config.from_overrides(options.overrides)
    save_dir = options.save_dir or cfg.save_dir
    if not any(text.startswith('task=') for text in options.overrides):
        cfg = Config.from_overrides([*options.overrides, *(f'task={task}' for task in results.only_task(save_dir))])
    task = task_record(cfg.task)
    criteria = parse_criteria(options, task)
    sets = results.read_sets(save_dir, options.data_lst.split('+') if options.data_lst else test_sets(cfg))
    choices = []
    scores = {dataset: {method['method']: method['scores'] for method in found['methods']}
              for dataset, found in sets.items()}
    for name, weights in criteria.items():
        ranking = rank(scores, weights)
        formats = tables.score_table(cfg.task, table_entries(ranking.methods[0], scores, task.averaged_sets))
        said = remarks(ranking, weights, save_dir, list(scores))
        told = [f'best on {title(weights)}: {ranking.methods[0]}', *said]
        below = {'txt': '\n' + '\n'.join(told) + '\n', 'md': '\n' + '  \n'.join(told) + '\n', 'csv': ''}
        for suffix, text in formats.items():
            results.write_text(Path(save_dir, f'eval-{cfg.task}_best_on_{name}.{suffix}'), text + below[suffix])
        print(formats['txt'], *told, sep='\n', end='\n\n')
        choices.append((Choice(title(weights), ranking.methods[0], said, list(weights)), ranking))
    if not options.no_report:
        choice, ranking = choices[0]
        others = options.methods.split('+') if options.methods else ranking.methods[1:DRAWN]
        unknown = [method for method in others if method not in ranking.methods]
        if unknown:
            raise ValueError(f'--methods: no scores in every set of {", ".join(unknown)}; there are '
                             f'{", ".join(ranking.methods)}')
        details = drawn_methods(save_dir, list(sets), choice.best, others, choice.scores[0])
        path = Path(save_dir, 'report.html')
        results.write_text(path, write_page(cfg.task, sets, [choice for choice, _ in choices], details))
        print(f'report: {path}')


if __name__ == '__main__':
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f'error: {error}')
