#!/usr/bin/env python
"""Makes the tables and figures of a paper from the scores that eval_existingOnes.py has stored.

    python paper.py task=COD                                 all methods and test sets
    python paper.py task=COD --methods methods.toml          names, order, colours, "ours"
    python paper.py task=DIS5K --by group class.csv          also by category
    python paper.py task=COD --panels TE-CAMO/camo_1 TE-CAMO/camo_7:40,60,90,90

Computes no score again. Writes to <save_dir>/paper: comparison.* (methods by test sets),
<set>_images.* (each image), <set>_by_<grouping>_<score>.* and pairs_<score>.* (tests of all pairs),
each in every format; and as PDF and PNG curves_*, epochs_*, <set>_by_* and panels.
docs/evaluation.md describes the methods file.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('paper')

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from config import Config, task_record, test_sets
from evaluation import paper_figures, paper_tables, results
from evaluation.categories import Grouping, read_grouping
from evaluation.display import show_methods
from evaluation.formats import FORMATS, WRITERS, Table, can_write_xlsx, to_xlsx
from evaluation.metrics import COLUMNS, parse_metrics, table_columns
from evaluation.panels import panel_figure, parse_requests, read_strip
from evaluation.paper_figures import Size
from evaluation.paper_scores import (
    CategoryScores,
    Scored,
    ScoresBySet,
    compare_all_pairs,
    score_categories,
)
from evaluation.stored import read_rows
from evaluation.tables import all_scores, shown_scores
from runtime.command import run_command
from utils import atomic_write


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('overrides', nargs='*', metavar='key=value', help='fields of config.py, e.g. task=COD')
    add('--data_lst', metavar='A+B', help="test sets (default: the task's)")
    add('--save_dir', metavar='DIR', help='results (default: save_dir of the config, e_results)')
    add('--out', metavar='DIR', help='where to write (default: <save_dir>/paper)')
    add('--methods', metavar='A+B',
        help='folders, or a .toml file with names, order and colours (default: all)')
    add('--metrics', metavar='sm+mae', help="columns of the comparison (default: the task's)")
    add('--scores', metavar='sm+wfm',
        help='of categories, tests and scores over epochs (default: those that choose the best '
             'checkpoint)')
    add('--by', nargs='+', default=[], metavar='CSV',
        help="group or class (of DIS5K's names), or CSV files with the columns name,category, or "
             'name and an attribute each of 0 and 1')
    add('--panels', nargs='+', default=[], metavar='SET/NAME',
        help='images to draw by all methods; :x,y,width,height behind a name enlarges that part')
    add('--no-zoom', action='store_true', help='enlarge only what --panels names')
    add('--formats', metavar='A+B', help=f'of {"+".join(FORMATS)} (default: all)')
    add('--no-figures', action='store_true', help='tables only')
    look = parser.add_argument_group('figures')
    look.add_argument('--chart', choices=('auto', 'radar', 'bar'), default='auto',
                      help='of scores by category (auto: a radar for 3 to 12)')
    size = Size()
    for option, value, meaning in (
            ('--column', size.column, 'width of a column in mm'),
            ('--page', size.page, 'width of the text in mm'),
            ('--height', size.height, 'height of curves in mm'),
            ('--font', size.font, 'size of the texts in points')):
        look.add_argument(option, type=float, default=value, metavar='N',
                          help=f'{meaning} (%(default)g)')

    # `--by` and `--panels` would take the fields behind them for theirs.
    names = {spec.name for spec in fields(Config)}
    overrides = [text for text in arguments if text.partition('=')[0] in names and '=' in text]
    others = [text for text in arguments if text not in overrides]
    return parser.parse_intermixed_args([*overrides, *others])


def read_config(options: argparse.Namespace) -> Config:
    """Reads the config. Without `task=` its task is that of all results."""
    save_dir = options.save_dir or Config.from_overrides(options.overrides).save_dir
    return Config.from_overrides(results.with_task(options.overrides, save_dir))


def parse_formats(text: str | None) -> list[str]:
    """Parses `--formats`; all by default, but XLSX only where openpyxl is installed."""
    if text is None:
        if can_write_xlsx():
            return list(FORMATS)
        print('note: no tables.xlsx, which needs openpyxl: pip install openpyxl', file=sys.stderr)
        return list(WRITERS)
    formats = text.lower().split('+')
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f'--formats: unknown {", ".join(unknown)}; known: {", ".join(FORMATS)}')
    if 'xlsx' in formats and not can_write_xlsx():
        raise ValueError('--formats xlsx needs openpyxl: pip install openpyxl')
    return formats


def parse_size(options: argparse.Namespace) -> Size:
    """Checks the sizes of figures."""
    size = Size(options.column, options.page, options.height, options.font)
    wrong = []
    for name, value in size._asdict().items():
        if not 4 <= value <= 2000:  # also of NaN
            wrong.append(f'--{name} {value:g}')
    if wrong:
        raise ValueError(f'{", ".join(wrong)}: not between 4 and 2000')
    return size


def parse_scores(option: str, text: str | None, default: Sequence[str]) -> list[str]:
    """Parses names of scores, metrics or groups, in this order."""
    if text is None:
        return list(default)
    try:
        parse_metrics(text)
    except ValueError as error:
        raise ValueError(str(error).replace('--metrics', option, 1)) from None
    by_column = {column: score for score, column in COLUMNS.items()}
    return [by_column[column] for column in table_columns(text, ())]


def read_scored(options: argparse.Namespace, cfg: Config) -> Scored:
    """Reads what has been scored."""
    task = task_record(cfg.task)
    save_dir = options.save_dir or cfg.save_dir
    datasets = options.data_lst.split('+') if options.data_lst else test_sets(cfg)
    sets = results.read_sets(save_dir, datasets)
    scores = parse_scores('--scores', options.scores, task.selection_metrics)

    # Methods, and runs of several epochs.
    by_set = results.scores_by_method(sets)
    every = [found for methods in by_set.values() for found in methods]
    runs = results.scores_by_run(sets, scores[0])
    shown, shown_runs = show_methods(options.methods, list(dict.fromkeys(every)), list(runs))

    # What is wanted must have been computed.
    available = all_scores([found for methods in by_set.values() for found in methods.values()])
    columns = parse_scores('--metrics', options.metrics, shown_scores(task.columns, available))
    missing = [score for score in (*columns, *scores) if score not in available]
    if missing:
        raise ValueError(
            f'{save_dir}: no {", ".join(dict.fromkeys(missing))}; run eval_existingOnes.py with '
            '--metrics all, or name others by --scores and --metrics')
    rows = {}
    for dataset, methods in by_set.items():
        present = [method.folder for method in shown if method.folder in methods]
        if present:
            rows[dataset] = read_rows(save_dir, dataset, present)
    scored_sets = {dataset: sets[dataset] for dataset in rows}
    return Scored(scored_sets, rows, shown, shown_runs, columns, scores)


def read_groupings(texts: Sequence[str], scored: Scored) -> list[Grouping]:
    """Reads what `--by` names."""
    groupings = [read_grouping(text, scored.images) for text in texts]
    names = [grouping.name for grouping in groupings]
    if len(set(names)) < len(names):
        raise ValueError(f'--by: two of {", ".join(texts)} would have the same files; rename one')
    return groupings


def make_tables(
    scored: Scored, by_set: ScoresBySet, categories: Sequence[CategoryScores],
) -> dict[str, Table]:
    """Makes all tables, by the stems of their files."""
    overall = results.scores_by_method(scored.sets)
    tables = {'comparison': paper_tables.comparison(overall, scored.shown, scored.columns)}
    for found in categories:
        for score in scored.scores:
            tables[found.stem(score)] = paper_tables.by_category(
                found.title(score), found.heading, score, found.results, found.images, found.shown)
    for score in scored.scores:
        tests = compare_all_pairs(scored, by_set, score)
        if tests:
            tables[f'pairs_{score}'] = paper_tables.pair_tests(score, tests, scored.shown)
    for dataset, methods in by_set.items():
        tables[f'{dataset}_images'] = paper_tables.by_image(
            dataset, methods, scored.methods_of(dataset), scored.columns)
    return tables


def undefined_scores(scored: Scored, by_set: ScoresBySet) -> Iterator[str]:
    """Says which scores have no tests on a set, as no image there has them."""
    for score in scored.scores:
        for dataset, methods in by_set.items():
            is_of_images = all(score in found.values for found in methods.values())
            if is_of_images and not any(found.has(score) for found in methods.values()):
                yield f'{score} is not defined on {dataset}: no tests of it there and over all sets'


def draw_figures(
    scored: Scored,
    by_set: ScoresBySet,
    categories: Sequence[CategoryScores],
    size: Size,
    chart: str,
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Draws all figures but the panels: the stem of the files, and their contents by suffix."""
    for dataset, methods in by_set.items():
        shown = scored.methods_of(dataset)
        found = {method.folder: methods[method.folder].curves for method in shown}
        if not all({'fm', 'em'} <= set(curves) for curves in found.values()):
            continue
        for kind in paper_figures.CURVES:
            yield f'curves_{kind}_{dataset}', paper_figures.curves(kind, found, shown, size)
    for score in scored.scores:
        runs = results.scores_by_run(scored.sets, score)
        shown = [run for run in scored.runs if run.folder in runs]
        if shown:
            yield f'epochs_{score}', paper_figures.epochs(score, runs, shown, size)
    for group in categories:
        for score in filter(group.has, scored.scores):
            yield group.stem(score), paper_figures.categories(
                score, group.results, group.shown, size, chart)


def write_tables(out: Path, formats: Sequence[str], tables: Mapping[str, Table]) -> None:
    """Writes each table in each format, and all of them as one workbook."""
    for stem, table in tables.items():
        for suffix, writer in WRITERS.items():
            if suffix in formats:
                results.write_text(out / 'tables' / f'{stem}.{suffix}', writer(table))
    if 'xlsx' in formats:
        with atomic_write(out / 'tables' / 'tables.xlsx') as file:
            file.write(to_xlsx(list(tables.values())))


def write_figure(out: Path, stem: str, files: Mapping[str, bytes]) -> None:
    """Writes a figure in its formats."""
    for suffix, data in files.items():
        with atomic_write(out / 'figures' / f'{stem}.{suffix}') as file:
            file.write(data)


def main(arguments: list[str]) -> None:
    """Makes tables and figures."""
    # What is asked for, and what there is. All that is wrong shows before anything is written.
    options = parse_arguments(arguments)
    cfg = read_config(options)
    formats = parse_formats(options.formats)
    size = parse_size(options)
    scored = read_scored(options, cfg)
    groupings = read_groupings(options.by, scored)
    strips = []
    for request in parse_requests(options.panels, scored.images):
        methods = [method.folder for method in scored.shown]
        strips.append(
            read_strip(request, scored.sets, methods, not options.no_zoom, scored.rows))

    # The scores of single images, and by category.
    by_set = scored.by_set()
    categories = [
        found for grouping in groupings for found in score_categories(grouping, scored)]

    # The files.
    out = Path(options.out or Path(options.save_dir or cfg.save_dir, 'paper'))
    for note in undefined_scores(scored, by_set):
        print(f'note: {note}', file=sys.stderr)
    tables = make_tables(scored, by_set, categories)
    write_tables(out, formats, tables)
    figures = 0
    if not options.no_figures:
        for stem, files in draw_figures(scored, by_set, categories, size, options.chart):
            write_figure(out, stem, files)
            figures += 1
    if strips:
        write_figure(out, 'panels', panel_figure(strips, scored.shown, size))
        figures += 1
    print(f'{out}: {len(tables)} tables, {figures} figures')


if __name__ == '__main__':
    sys.exit(run_command('paper', lambda: main(sys.argv[1:])))
