"""The demo's outcome in words and a picture: `python -m demo.report`, after a run of sub.sh.

Prints the table of scores that eval_existingOnes.py wrote, and draws the masks of the first and of
the best checkpoint.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from demo.gallery import compare, save
from evaluation.results import read_sets
from evaluation.selection import rank


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data_root', type=Path, default=Path('datasets'))
    parser.add_argument('--save_dir', type=Path, default=Path('e_results'))
    parser.add_argument('--set', default='TE-Demo')
    parser.add_argument('--run', default='demo')
    parser.add_argument('--rows', type=int, default=6)
    parser.add_argument('-o', '--output', type=Path, default=Path('demo.png'))
    return parser.parse_args()


def first_and_best(methods: list[dict[str, Any]], set_name: str) -> list[dict[str, Any]]:
    """The checkpoint of the earliest epoch, and the one of the best S-measure."""
    by_name, scores = {}, {}
    for method in methods:
        name = method['method']
        by_name[name] = method
        scores[name] = method['scores']
    ranking = rank({set_name: scores}, {'sm': 1.})
    first = min(methods, key=lambda method: method['epoch'])
    best = by_name[ranking.methods[0]]
    return [first, best]


def main() -> None:
    """Prints and draws the outcome of a run."""
    # The scores of this run's checkpoints.
    options = parse_arguments()
    sets = read_sets(options.save_dir, [options.set])
    found = sets[options.set]
    methods = [method for method in found['methods'] if method['run'] == options.run]
    if not methods:
        raise ValueError(
            f'{options.save_dir}: no scores of run {options.run}; run ./sub.sh {options.run} first')
    first, best = first_and_best(methods, options.set)

    # The picture of two of them.
    set_folder = options.data_root / found['task'] / options.set
    pred_root = Path(found['pred_root'])
    page = compare(
        set_folder,
        pred_root / first['method'] / options.set,
        pred_root / best['method'] / options.set,
        [f'After epoch {first["epoch"]}', f'Best: epoch {best["epoch"]}'],
        options.rows,
    )
    save(page, options.output)

    # The table as the evaluation wrote it, and one line on the outcome.
    table = options.save_dir / f'{options.set}_eval.md'
    s_measure = best['scores']['sm']
    print(table.read_text(encoding='utf-8'))
    print(f'Best checkpoint: {options.run}, epoch {best["epoch"]}, S-measure {s_measure:.3f}')
    print(f'Picture of the masks: {options.output.resolve()}')


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'demo: {error}')
