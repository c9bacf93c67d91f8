#!/usr/bin/env python
"""Scores masks that are on disk: <pred_root>/<method>/<set>/<name>.png against <gt_root>/<set>/gt/<name>.png.

    python eval_existingOnes.py task=COD                       all methods and test sets of a task
    python eval_existingOnes.py --gt_root datasets/DIS5K --data_lst DIS-VD+DIS-TE1 --metrics S+MAE

Masks of any method, type and suffix are paired by file name; 16 bits and floating point are scaled. What is missing,
too many, unreadable or of another size is listed before anything is computed. Writes, per test set,
<save_dir>/<set>_eval.txt (pastes into LaTeX), .md, .csv and .json (full precision), and means over the sets to
overall_eval.*. Scores of single images are kept in <save_dir>/scores: only new or changed masks are computed, also
after an interruption. gen_best_ep.py then tells the best checkpoint and draws the report.
"""

import argparse
import os
import sys
from pathlib import Path

from config import Config, test_sets
from evaluation import results
from evaluation.inputs import find_methods, plan
from evaluation.runner import available_cores, cache_folder, evaluate
from evaluation.summary import Method, collect, describe_method, parse_metrics, sort_methods
from evaluation.tables import comparison


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; `workers=N` among the overrides is `--workers N`."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s [key=value ...] [options]', description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=21))
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='fields of config.py (task=COD); workers=N')
    parser.add_argument('--gt_root', metavar='DIR', help='test sets (default: <data_root>/<task>)')
    parser.add_argument('--pred_root', metavar='DIR', help="methods (default: the config's, e_preds)")
    parser.add_argument('--data_lst', metavar='A+B', help="test sets (default: the task's)")
    parser.add_argument('--save_dir', metavar='DIR', help="results (default: the config's, e_results)")
    parser.add_argument('--metrics', default='all', metavar='S+MAE',
                        help='of S, MAE, MSE, E, F, wF, HCE, mBA, BIoU, or all (default)')
    parser.add_argument('--methods', metavar='A+B', help='folders of pred_root to score (default: all)')
    parser.add_argument('--ckpt_folder', metavar='DIR', help='a run whose masks alone are scored, with its config')
    parser.add_argument('--workers', type=int, metavar='N', default=available_cores(),
                        help='processes (default: one per core, %(default)s)')
    parser.add_argument('--resize', action='store_true', help='accept masks of another size than their ground truth')
    parser.add_argument('--all-methods', action='store_true',
                        help='also comparison.tex: methods by sets, three best marked')
    parser.add_argument('--cache', metavar='DIR', default=cache_folder(),
                        help='skeletons kept between runs (%(default)s)')
    return parser.parse_intermixed_args([f'--{text}' if text.startswith('workers=') else text for text in arguments])


def find(options: argparse.Namespace) -> tuple[Config, list[str], list[Method]]:
    """The config, the test sets and the methods in the order of tables.

    Without a `task=` the task is the run's (--ckpt_folder), or what the predictions' manifests agree upon.
    """
    base = {}
    if options.ckpt_folder:
        base = Config.load(Path(options.ckpt_folder, 'config.json')).as_dict()
    cfg = Config.from_overrides(options.overrides, base)
    root = Path(options.pred_root or cfg.pred_root)
    folders = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    tasks = {describe_method(root, name).task for name in folders} - {None}
    if not base and len(tasks) == 1 and not any(text.startswith('task=') for text in options.overrides):
        cfg = Config.from_overrides([*options.overrides, f'task={tasks.pop()}'])
    datasets = options.data_lst.split('+') if options.data_lst else test_sets(cfg)
    names = options.methods.split('+') if options.methods else find_methods(root, datasets)
    methods = [describe_method(root, name) for name in names]
    if options.ckpt_folder:
        run = Path(options.ckpt_folder).resolve().name
        methods = [method for method in methods if method.run == run]
        if not methods:
            raise ValueError(f'--ckpt_folder {options.ckpt_folder}: no masks of the run {run} in {root}; run test.py')
    return cfg, datasets, sort_methods(methods)


def main(arguments: list[str]) -> None:
    """Plans, scores and reports."""
    options = parse_arguments(arguments)
    groups = parse_metrics(options.metrics)
    cfg, datasets, methods = find(options)
    gt_root = options.gt_root or os.path.join(cfg.data_root, cfg.task)
    pred_root, save_dir = options.pred_root or cfg.pred_root, options.save_dir or cfg.save_dir
    found = {}
    for planned in plan(gt_root, pred_root, datasets, [method.name for method in methods], options.resize):
        for note in planned.notes:
            print(f'note: {note}', file=sys.stderr)
        store = results.store_path(save_dir, planned.dataset)
        rows = evaluate(planned, store, groups, options.workers, options.cache)
        scored = [(method, collect(rows[method.name], groups)) for method in methods if method.name in rows]
        print(results.write_set(save_dir, cfg.task, planned.dataset, (gt_root, pred_root), scored))
        found[planned.dataset] = {method.name: result.scores for method, result in scored}
    if len(found) > 1:
        print(results.write_overall(save_dir, cfg.task, found))
    if options.all_methods:
        results.write_text(Path(save_dir, 'comparison.tex'), comparison(cfg.task, found))


if __name__ == '__main__':
    try:
        main(sys.argv[1:])
    except (ValueError, RuntimeError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
