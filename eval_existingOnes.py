#!/usr/bin/env python
"""Scores masks on disk against their ground truth.

    python eval_existingOnes.py task=COD                       all methods and test sets of a task
    python eval_existingOnes.py --gt_root datasets/DIS5K --data_lst DIS-VD+DIS-TE1 --metrics S+MAE
    python eval_existingOnes.py --gt_root TestDataset --pred_root downloads    any folders, zip, tar

Reads <pred_root>/<method>/<set>/<name>.png and <gt_root>/<set>/gt/<name>.png, or finds out which
folder or archive holds what, and which prefix or suffix names have. Resizes masks to their ground
truth, says what it assumes, and lists what is missing, extra or unreadable before it computes.
Writes <save_dir>/<set>_eval.txt, .tex (LaTeX), .md, .csv and .json (full precision) for each test
set, and means over the sets to overall_eval.*. Keeps the scores of single images in
<save_dir>/scores, so that only new or changed masks are computed, also after an interruption.
gen_best_ep.py then chooses the best checkpoint and draws the report; paper.py makes the tables and
figures of a paper.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('eval_existingOnes')

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from config import TASKS, Config, task_record, test_sets
from evaluation import results
from evaluation.display import (
    Shown,
    is_methods_file,
    read_methods_file,
    show_all,
    show_listed,
)
from evaluation.formats import Cell, to_latex
from evaluation.inputs import plan
from evaluation.mask_folders import Masks, find_masks, find_sets, known_sets
from evaluation.metrics import GROUPS, parse_metrics, table_columns
from evaluation.places import describe_places
from evaluation.prediction_folders import Predictions, find_predictions
from evaluation.runner import Shard, available_cores, cache_folder, evaluate_sets
from evaluation.summary import Method, collect, describe_method, sort_methods
from evaluation.tables import all_scores, shown_scores
from runtime.command import explain_interrupt, run_command
from utils import print_error, read_json

# Fields of a run's config, which those of other projects have not together.
RUN_FIELDS = {'task', 'bb', 'mul_scl_ipt'}


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
    add('--methods', metavar='A+B',
        help='folders of pred_root, or a .toml file with names (default: all)')
    add('--ckpt_folder', metavar='DIR',
        help='a run: scores only its masks, with its config')
    add('--workers', type=int, metavar='N', default=available_cores(),
        help='processes (default: one per core, %(default)s)')
    add('--strict', action='store_true',
        help='refuse masks of another size than their ground truth')
    add('--resize', action='store_true', help=argparse.SUPPRESS)  # was needed for that once
    add('--model_lst', dest='methods', help=argparse.SUPPRESS)  # the published name
    add('--check_integrity', help=argparse.SUPPRESS)  # of the published code: is always checked
    add('--shard', metavar='1/2', type=parse_shard,
        help='score a part of the images; then run without it')
    add('--all-methods', action='store_true',
        help='also comparison.tex: methods by sets, three best marked')
    cache = cache_folder()
    add('--cache', metavar='DIR', default=cache,
        help=f'skeletons kept between runs ({"%(default)s" if cache else "none without a home"})')
    options = [f'--{text}' if text.startswith('workers=') else text for text in arguments]
    return parser.parse_intermixed_args(options)


def parse_shard(text: str) -> Shard:
    """Parses `1/2`, the first of two parts."""
    number, _, count = text.partition('/')
    is_number = number.isdecimal() and count.isdecimal()
    if not is_number or not 1 <= int(number) <= int(count):
        raise argparse.ArgumentTypeError(f'{text}: write 1/2 for the first of two parts')
    return Shard(int(number), int(count))


def read_config(options: argparse.Namespace) -> Config:
    """Reads the config. Without `task=` its task is that of the run, or of all manifests."""
    saved = Path(options.ckpt_folder or '', 'config.json')
    # A folder of downloaded weights has none, or that of another project.
    if options.ckpt_folder and saved.exists() and read_json(saved).keys() >= RUN_FIELDS:
        return Config.load(saved, options.overrides)
    cfg = Config.from_overrides(options.overrides)
    root = Path(options.pred_root or cfg.pred_root)
    if any(text.startswith('task=') for text in options.overrides) or not root.is_dir():
        return cfg
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    tasks = {describe_method(root, name).task for name in folders} - {None}
    if len(tasks) != 1:
        return cfg
    return Config.from_overrides([*options.overrides, f'task={tasks.pop()}'])


def select_sets(options: argparse.Namespace, cfg: Config, gt_root: str) -> list[Masks]:
    """Finds the masks of the sets to score: those that are named, the task's, or all there are."""
    if options.data_lst:
        return find_masks(gt_root, options.data_lst.split('+'))
    is_stated = any(text.startswith(('task=', 'testsets=')) for text in options.overrides)
    if is_stated or not options.gt_root:
        return find_masks(gt_root, test_sets(cfg))

    # A folder of masks is named, but no task: its sets may be those of the usual one.
    names = test_sets(cfg) if cfg.testsets else []
    found = [masks for masks in find_masks(gt_root, names) if masks.listing.files]
    return found or find_masks(gt_root, find_sets(gt_root))


def other_sets(masks: Sequence[Masks], gt_root: str) -> set[str]:
    """Names of known sets beside these, whose predictions may lie in the same folders."""
    known = set(known_sets(gt_root))
    for task in TASKS.values():
        known.update(task.testsets.split('+'))
    return known - {found.dataset for found in masks} - {''}


def select_methods(
    options: argparse.Namespace, predictions: Predictions,
) -> tuple[list[Method], dict[str, Shown]]:
    """Lists the methods to score in the order of tables, and how each is shown, by its name.

    Raises:
        ValueError: If there is none, or the file of `--methods` does not fit what there is.
    """
    root = predictions.root
    found = list(predictions.methods)
    if is_methods_file(options.methods):
        shown = show_listed(read_methods_file(options.methods), found)
        methods = [describe_method(root, method.folder) for method in shown]
    else:
        names = options.methods.split('+') if options.methods else found
        methods = sort_methods([describe_method(root, name) for name in names])
        shown = show_all([method.name for method in methods])

    if options.ckpt_folder:
        run = Path(options.ckpt_folder).resolve().name
        methods = [method for method in methods if method.run == run]
        if not methods:
            raise ValueError(
                f'--ckpt_folder {options.ckpt_folder}: no masks of the run {run} in {root}; '
                'run test.py')
    return methods, {method.folder: method for method in shown}


def main(arguments: list[str]) -> None:
    """Scores all test sets and writes their tables."""
    # What there is to score, checked before anything is computed.
    options = parse_arguments(arguments)
    cfg = read_config(options)
    task_columns = task_record(cfg.task).columns
    metrics = parse_metrics(options.metrics or '+'.join(('usual', *task_columns)))
    gt_root = options.gt_root or os.path.join(cfg.data_root, cfg.task)
    pred_root = options.pred_root or cfg.pred_root
    save_dir = options.save_dir or cfg.save_dir
    masks = select_sets(options, cfg, gt_root)
    predictions = find_predictions(pred_root, masks, other_sets(masks, gt_root))
    methods, shown = select_methods(options, predictions)
    is_chosen = options.methods or options.ckpt_folder
    names = [method.name for method in methods] if is_chosen else None
    plans = plan(masks, predictions, names, options.strict)
    for planned in plans:
        for note in planned.notes:
            print_error(f'note: {note}')

    # The scores of the images.
    stores = {one.dataset: results.store_path(save_dir, one.dataset) for one in plans}
    rows = evaluate_sets(
        plans, stores, metrics, options.workers, options.cache, options.shard)
    if options.shard:
        number, count = options.shard
        print(f'part {number} of {count} is scored; when all are, run without --shard for tables')
        return

    # The tables.
    columns = table_columns(options.metrics or 'usual', task_columns)
    scores = {}

    def show(method: str) -> Cell:
        return shown[method].label

    for planned in plans:
        dataset = planned.dataset
        found_rows = rows[dataset]
        scored = []
        for method in methods:
            if method.name in found_rows:
                scored.append((method, collect(found_rows[method.name], metrics)))
        roots = (gt_root, pred_root)
        places = describe_places(planned)
        print(results.write_set(
            save_dir, cfg.task, columns, dataset, roots, scored, places, show))
        scores[dataset] = {method.name: found.scores for method, found in scored}

    if len(scores) > 1:
        print(results.write_overall(save_dir, cfg.task, columns, scores, show))
    if options.all_methods:
        write_comparison(save_dir, columns, scores, shown)


def write_comparison(
    save_dir: str,
    columns: list[str],
    scores: results.Results,
    shown: Mapping[str, Shown],
) -> None:
    """Writes comparison.tex; the command `paper` has further formats and tables."""
    from evaluation.paper_tables import comparison  # a second to import: scipy is behind it

    available = all_scores([found for methods in scores.values() for found in methods.values()])
    names = dict.fromkeys(name for methods in scores.values() for name in methods)
    rows = [shown[name] for name in names]
    table = comparison(scores, rows, shown_scores(columns, available))
    results.write_text(Path(save_dir, 'comparison.tex'), to_latex(table))


def run() -> None:
    """Runs the command, and says after Ctrl-C what it kept."""
    with explain_interrupt('the scores so far are kept, and the same command computes the rest'):
        main(sys.argv[1:])


if __name__ == '__main__':
    sys.exit(run_command('eval_existingOnes', run, (RuntimeError,)))
