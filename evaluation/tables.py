"""Tables of scores as text that pastes into LaTeX, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence

from evaluation.metrics import higher_is_better

COLUMNS = {
    'maxFm': 'maxFm', 'wFmeasure': 'wfm', 'MAE': 'mae', 'MSE': 'mse', 'Smeasure': 'sm', 'meanEm': 'meanEm',
    'HCE': 'hce', 'maxEm': 'maxEm', 'meanFm': 'meanFm', 'adpEm': 'adpEm', 'adpFm': 'adpFm', 'mBA': 'mba',
    'maxBIoU': 'maxBIoU', 'meanBIoU': 'meanBIoU',
}
NAMES = {score: column for column, score in COLUMNS.items()}
DIS = 'maxFm wFmeasure MAE Smeasure meanEm HCE maxEm meanFm adpEm adpFm mBA maxBIoU meanBIoU'
HRSOD = 'Smeasure maxFm meanEm MAE maxEm meanFm wFmeasure adpEm adpFm HCE mBA maxBIoU meanBIoU'
LAYOUTS = {
    'DIS5K': DIS, 'General': DIS, 'General-2K': DIS, 'HRSOD': HRSOD, 'Matting': HRSOD.replace('MAE', 'MSE'),
    'COD': 'Smeasure wFmeasure meanFm meanEm maxEm MAE maxFm adpEm adpFm HCE mBA maxBIoU meanBIoU',
}
OTHER = 'Smeasure MAE maxEm meanEm maxFm meanFm wFmeasure adpEm adpFm HCE mBA maxBIoU meanBIoU'
ARROWS = {True: r'$\uparrow$', False: r'$\downarrow$'}
RANK_MARKS = (r'\textbf{{{}}}', r'\underline{{{}}}', r'\textit{{{}}}')


def columns(task: str, available: Collection[str]) -> list[str]:
    """The scores that a task's table shows, in its order, of those `available`.

    A task's table leaves out MSE, Matting's MAE: where these alone were asked for, they stand at the end.
    """
    order = [COLUMNS[name] for name in LAYOUTS.get(task, OTHER).split()]
    shown = [score for score in order if score in available]
    return shown or [score for score in NAMES if score in available]


def format_score(score: str, value: float) -> str:
    """HCE as an integer, others with three digits and without the 0 before the point; `-` where there is none."""
    if math.isnan(value):
        return '-'
    if score == 'hce':
        return f'{value:.0f}'
    text = f'{value:.3f}'
    return text[1:] if text.startswith('0.') else '1.000' if value >= 0.9995 else text


def format_difference(score: str, value: float) -> str:
    """A difference of scores, with a digit more than the scores have."""
    return f'{value:.1f}' if score == 'hce' else f'{value:.4f}'.replace('0.', '.', 1)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns joined by ' & ', with a rule below the header."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [' & '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in (header, *rows)]
    return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]]) + '\n'


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table; scores to the right."""
    lines = [header, ['---'] * 2 + ['---:'] * (len(header) - 2), *rows]
    return ''.join('| ' + ' | '.join(cell.replace('|', r'\|') for cell in line) + ' |\n' for line in lines)


def to_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Comma-separated, numbers in full precision."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([header, *rows])
    return text.getvalue()


def score_table(task: str, entries: Sequence[tuple[str, str, Mapping[str, float]]]) -> dict[str, str]:
    """The table of (dataset, method, scores) in all formats, by file suffix: txt, md, csv."""
    shown = columns(task, set().union(*(scores for _, _, scores in entries)))
    header = ['Dataset', 'Method', *(NAMES[score] for score in shown)]
    cells = [[dataset, method, *(format_score(score, scores.get(score, math.nan)) for score in shown)]
             for dataset, method, scores in entries]
    exact = [[dataset, method, *(scores.get(score, math.nan) for score in shown)]
             for dataset, method, scores in entries]
    return {'txt': latex(header, cells), 'md': markdown(header, cells), 'csv': to_csv(header, exact)}


def comparison(task: str, results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """LaTeX table of all methods (rows) by all sets and scores (columns), from scores by set and method.

    The three best of each column are bold, underlined and italic, equals (as printed) alike.
    """
    shown = columns(task, set().union(*(scores for methods in results.values() for scores in methods.values())))
    methods = list(dict.fromkeys(method for rows in results.values() for method in rows))
    body = [[_escape(method)] for method in methods]
    for scores_of in results.values():
        for score in shown:
            texts = [format_score(score, scores_of.get(method, {}).get(score, math.nan)) for method in methods]
            for row, text in zip(body, _mark(texts, higher_is_better(score)), strict=True):
                row.append(text)
    heads = ' & '.join(rf'\multicolumn{{{len(shown)}}}{{c}}{{{_escape(dataset)}}}' for dataset in results)
    names = ' & '.join(f'{NAMES[score]} {ARROWS[higher_is_better(score)]}' for score in shown)
    lines = [r'% \usepackage{booktabs}', rf'\begin{{tabular}}{{l{"c" * len(shown) * len(results)}}}', r'\toprule',
             rf' & {heads} \\', rf'Method & {" & ".join([names] * len(results))} \\', r'\midrule',
             *(rf'{" & ".join(row)} \\' for row in body), r'\bottomrule', r'\end{tabular}']
    return '\n'.join(lines) + '\n'


def _mark(texts: list[str], higher: bool) -> list[str]:
    ranks = sorted({text for text in texts if text != '-'}, key=float, reverse=higher)[:len(RANK_MARKS)]
    return [RANK_MARKS[ranks.index(text)].format(text) if text in ranks else text for text in texts]


def _escape(text: str) -> str:
    for character in '&%$#_{}':
        text = text.replace(character, f'\\{character}')
    return text
