"""The demo's outcome in words and a picture: `python -m demo.report`, after ./sub.sh and gen_best_ep.py.

Prints the table of scores and draws the masks of the first and of the best checkpoint.
"""

import argparse
import sys
from pathlib import Path

from demo.gallery import compare, save
from evaluation.results import read_sets
from evaluation.selection import rank


def main() -> None:
    """Reads the scores that eval_existingOnes.py wrote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data_root', type=Path, default=Path('datasets'))
    parser.add_argument('--save_dir', type=Path, default=Path('e_results'))
    parser.add_argument('--set', default='TE-Demo')
    parser.add_argument('--run', default='demo')
    parser.add_argument('--rows', type=int, default=6)
    parser.add_argument('-o', '--output', type=Path, default=Path('demo.png'))
    options = parser.parse_args()
    found = read_sets(options.save_dir, [options.set])[options.set]
    methods = {m['method']: m for m in found['methods'] if m['run'] == options.run}
    if not methods:
        raise ValueError(f'{options.save_dir}: no scores of run {options.run}; run ./sub.sh {options.run} first')
    ranking = rank({options.set: {name: m['scores'] for name, m in methods.items()}}, {'sm': 1.})
    first, best = min(methods.values(), key=lambda m: m['epoch']), methods[ranking.methods[0]]
    pred_root = Path(found['pred_root'])
    titles = [f'After epoch {first["epoch"]}', f'Best: epoch {best["epoch"]}']
    page = compare(options.data_root / found['task'] / options.set, pred_root / first['method'] / options.set,
                   pred_root / best['method'] / options.set, titles, options.rows)
    save(page, options.output)
    print((options.save_dir / f'{options.set}_eval.md').read_text(encoding='utf-8'))
    print(f'Best checkpoint: {options.run}, epoch {best["epoch"]}, S-measure {best["scores"]["sm"]:.3f}')
    print(f'Picture of the masks: {options.output.resolve()}')


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'demo: {error}')
