#!/usr/bin/env python
"""Scores masks on disk against their ground truth.

Reads <pred_root>/<method>/<set>/<name>.png and <gt_root>/<set>/gt/<name>.png.

    python eval_existingOnes.py task=COD                       all methods and test sets of a task
    python eval_existingOnes.py --gt_root datasets/DIS5K --data_lst DIS-VD+DIS-TE1 --metrics S+MAE

Pairs masks of any method, type and suffix by file name, and scales 16 bits and floating point to 8.
Lists what is missing, extra, unreadable or of another size before it computes anything. Writes
<save_dir>/<set>_eval.txt, .tex (LaTeX), .md, .csv and .json (full precision) for each test set, and
means over the sets to overall_eval.*. Keeps the scores of single images in <save_dir>/scores, so
that only new or changed masks are computed, also after an interruption.
gen_best_ep.py then chooses the best checkpoint and draws the report; paper.py makes the tables and
figures of a paper.
"""

import argparse
import os
import sys
from pathlib import Path

from config import Config, task_record, test_sets
from evaluation import results
from evaluation.formats import to_latex
from evaluation.inputs import find_methods, plan
from evaluation.metrics import GROUPS, parse_metrics, table_columns
from evaluation.runner import available_cores, cache_folder, evaluate
from evaluation.summary import Method, collect, describe_method, sort_methods
from evaluation.tables import all_scores, shown_scores
from runtime.command import explain_interrupt, run_command


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line; `workers=N` among the overrides means `--workers N`."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s [key=value ...] [options]',
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=21))
    groups = ', '.join(GROUPS)
    add = parser.add_argument
    add('overrides', nargs='*', metavar='key=value',
        help='fields of config.py (task=COD); workers=N')
    add('--gt_root', metavar='DIR', help='test sets (default: <data_root>/<task>)')
    add('--pred_root', metavar='DIR', help="methods (default: the config's, e_preds)")
    add('--data_lst', metavar='A+B', help="test sets (default: the task's)")
    add('--save_dir', metavar='DIR', help="results (default: the config's, e_results)")
    add('--metrics', metavar='S+MAE',
        help=f'metrics or scores of docs/metrics.md, or {groups}, usual, all (default: usual '
             "and the task's)")
    add('--methods', metavar='A+B', help='folders of pred_root to score (default: all)')
    add('--ckpt_folder', metavar='DIR',
        help='a run: scores only its masks, with its config')
    add('--workers', type=int, metavar='N', default=available_cores(),
        help='processes (default: one per core, %(default)s)')
    add('--resize', action='store_true',
        help='accept masks of another size than their ground truth')
    add('--all-methods', action='store_true',
        help='also comparison.tex: methods by sets, three best marked')
    add('--cache', metavar='DIR', default=cache_folder(),
        help='skeletons kept between runs (%(default)s)')
    options = [f'--{text}' if text.startswith('workers=') else text for text in arguments]
    return parser.parse_intermixed_args(options)


def read_config(options: argparse.Namespace) -> Config:
    """Reads the config. Without `task=` its task is that of the run, or of all manifests."""
    if options.ckpt_folder:
        base = Config.load(Path(options.ckpt_folder, 'config.json')).as_dict()
        return Config.from_overrides(options.overrides, base)
    cfg = Config.from_overrides(options.overrides)
    root = Path(options.pred_root or cfg.pred_root)
    if any(text.startswith('task=') for text in options.overrides) or not root.is_dir():
        return cfg
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    tasks = {describe_method(root, name).task for name in folders} - {None}
    if len(tasks) != 1:
        return cfg
    return Config.from_overrides([*options.overrides, f'task={tasks.pop()}'])


def select_methods(
    options: argparse.Namespace, pred_root: str, datasets: list[str],
) -> list[Method]:
    """Lists the methods to score in the order of tables. Raises ValueError if there is none."""
    if options.methods:
        names = options.methods.split('+')
    else:
        names = find_methods(pred_root, datasets)
    methods = [describe_method(pred_root, name) for name in names]
    if options.ckpt_folder:
        run = Path(options.ckpt_folder).resolve().name
        methods = [method for method in methods if method.run == run]
        if not methods:
            raise ValueError(
                f'--ckpt_folder {options.ckpt_folder}: no masks of the run {run} in {pred_root}; '
                'run test.py')
    return sort_methods(methods)


def main(arguments: list[str]) -> None:
    """Scores all test sets and writes their tables."""
    options = parse_arguments(arguments)
    cfg = read_config(options)
    task_columns = task_record(cfg.task).columns
    metrics = parse_metrics(options.metrics or '+'.join(('usual', *task_columns)))
    columns = table_columns(options.metrics or 'usual', task_columns)
    gt_root = options.gt_root or os.path.join(cfg.data_root, cfg.task)
    pred_root = options.pred_root or cfg.pred_root
    save_dir = options.save_dir or cfg.save_dir
    datasets = options.data_lst.split('+') if options.data_lst else test_sets(cfg)
    methods = select_methods(options, pred_root, datasets)
    names = [method.name for method in methods]

    scores = {}
    for planned in plan(gt_root, pred_root, datasets, names, options.resize):
        dataset = planned.dataset
        for note in planned.notes:
            print(f'note: {note}', file=sys.stderr)
        store = results.store_path(save_dir, dataset)
        rows = evaluate(planned, store, metrics, options.workers, options.cache)
        scored = []
        for method in methods:
            if method.name in rows:
                scored.append((method, collect(rows[method.name], metrics)))
        roots = (gt_root, pred_root)
        print(results.write_set(save_dir, cfg.task, columns, dataset, roots, scored))
        scores[dataset] = {method.name: found.scores for method, found in scored}

    if len(scores) > 1:
        print(results.write_overall(save_dir, cfg.task, columns, scores))
    if options.all_methods:
        write_comparison(save_dir, columns, scores)


def write_comparison(save_dir: str, columns: list[str], scores: results.Results) -> None:
    """Writes comparison.tex; the command `paper` has further formats, names and tables."""
    # They take a second to import: matplotlib and scipy are behind them.
    from evaluation.display import show_all
    from evaluation.paper_tables import comparison

    available = all_scores([found for methods in scores.values() for found in methods.values()])
    names = dict.fromkeys(name for methods in scores.values() for name in methods)
    table = comparison(scores, show_all(list(names)), shown_scores(columns, available))
    results.write_text(Path(save_dir, 'comparison.tex'), to_latex(table))


def run() -> None:
    """Runs the command, and says after Ctrl-C what it kept."""
    with explain_interrupt('the scores so far are kept, and the same command computes the rest'):
        main(sys.argv[1:])


if __name__ == '__main__':
    sys.exit(run_command('eval_existingOnes', run, (RuntimeError,)))
