"""Tables as data, and what writes them: LaTeX, Markdown, CSV, JSON and XLSX."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from utils import printable

ARROWS = {True: '↑', False: '↓'}
LATEX_ARROWS = {True: r'$\uparrow$', False: r'$\downarrow$'}
MISSING = '-'
LONG_TABLE = 50  # rows that no longer fit on a page
OURS_COLOR = 'EAF2F8'

# The best, the second and the third of a column, in this order.
LATEX_MARKS = (r'\textbf{{{}}}', r'\underline{{{}}}', r'\textit{{{}}}')
MARKDOWN_MARKS = ('**{}**', '<u>{}</u>', '*{}*')
XLSX_MARKS = ({'bold': True}, {'underline': 'single'}, {'italic': True})

# Characters that LaTeX reads as commands, that some of its fonts print as others, or that it takes
# for an option of the \\ in front of a row.
LATEX_CHARACTERS = {
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    '"': r'\char34{}',
    "'": r'\textquotesingle{}',
    '`': r'\textasciigrave{}',
    '[': r'{[}',
    ']': r'{]}',
    '*': r'{*}',
    **{character: f'\\{character}' for character in '&%$#_{}'},
}
LAST_OF_PDFLATEX = '\u017f'  # the last of the letters that pdfLaTeX has without further packages
LATEX_FONTS = (
    '% has characters that pdfLaTeX lacks: compile with XeLaTeX and \\usepackage{xeCJK}, or with\n'
    '% LuaLaTeX and \\usepackage{luatexja-fontspec}')


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        head: Its heading.
        group: A heading over several neighbouring columns; '' for none.
        higher: Whether the best is the highest; None where nothing is best.
        is_label: Whether it has texts, which come first, and no numbers.
        ours: Whether the heading names the authors' own method.
    """

    head: str
    group: str = ''
    higher: bool | None = None
    is_label: bool = False
    ours: bool = False


class Cell(NamedTuple):
    """A cell.

    Attributes:
        text: For people.
        value: For programs.
        place: 0, 1 or 2 for the best three.
        ours: Whether it names the authors' own method.
    """

    text: str
    value: str | float | int
    place: int | None = None
    ours: bool = False


class Table(NamedTuple):
    """A table with a title."""

    title: str
    columns: list[Column]
    rows: list[list[Cell]]


def clean_name(text: str) -> str:
    """Makes one line that every file takes of a name on disk."""
    return re.sub(r'[\x00-\x1f\x7f-\x9f\s]+', ' ', printable(text)).strip()


def label(text: str, ours: bool = False) -> Cell:
    """A cell of text, in one line whatever is in it."""
    name = clean_name(text)
    return Cell(name, name, ours=ours)


def places(texts: Sequence[str], higher: bool) -> list[int | None]:
    """Returns the place of each number (0, 1 and 2 are the best) among those of its column.

    Numbers that print alike have the same place. Those behind the third, and missing ones, have
    none.
    """
    present = set(texts) - {MISSING}
    ranked = sorted(present, key=float, reverse=higher)
    best = {}
    for place, text in enumerate(ranked[:3]):
        best[text] = place
    return [best.get(text) for text in texts]


def _mark(cell: Cell, text: str, marks: Sequence[str]) -> str:
    """Marks a cell's escaped text. The authors' own method is bold, as the best is."""
    place = 0 if cell.ours else cell.place
    return text if place is None else marks[place].format(text)


# --- LaTeX ----------------------------------------------------------------------------------------


def escape_latex(text: str) -> str:
    """Makes LaTeX print a text as it is, in any place of a table."""
    characters = [LATEX_CHARACTERS.get(character, character) for character in clean_name(text)]
    escaped = ''.join(characters)
    # Two of these in a row would become a dash or a quotation mark.
    return re.sub(r'([-,])(?=\1)', r'\1{}', escaped)


def to_latex(table: Table) -> str:
    """Writes a `tabular` with booktabs; a `longtable` if it does not fit on a page."""
    is_long = len(table.rows) > LONG_TABLE
    environment = 'longtable' if is_long else 'tabular'
    packages = 'booktabs,longtable' if is_long else 'booktabs'
    alignment = ''.join('l' if column.is_label else 'c' for column in table.columns)

    body = [
        rf'\begin{{{environment}}}{{{alignment}}}',
        r'\toprule',
        *_latex_heads(table.columns),
        r'\midrule',
        *([r'\endhead'] if is_long else []),
    ]
    for row in table.rows:
        cells = [_latex_cell(cell) for cell in row]
        body.append(' & '.join(cells) + r' \\')
    body += [r'\bottomrule', rf'\end{{{environment}}}']

    text = '\n'.join(body) + '\n'
    comments = [rf'% \usepackage{{{packages}}}']
    if max(text) > LAST_OF_PDFLATEX:
        comments.append(LATEX_FONTS)
    return '\n'.join(comments) + '\n' + text


def _latex_heads(columns: Sequence[Column]) -> Iterator[str]:
    """The headings, below those of groups if there are any."""
    if any(column.group for column in columns):
        cells = []
        rules = []
        first = 1
        for group, found in groupby(columns, key=lambda column: column.group):
            number = len(list(found))
            if group:
                cells.append(rf'\multicolumn{{{number}}}{{c}}{{{escape_latex(group)}}}')
                rules.append(rf'\cmidrule(lr){{{first}-{first + number - 1}}}')
            else:
                cells += [''] * number
            first += number
        yield ' & '.join(cells) + r' \\'
        yield ''.join(rules)
    heads = []
    for column in columns:
        arrow = '' if column.higher is None else f' {LATEX_ARROWS[column.higher]}'
        head = escape_latex(column.head) + arrow
        heads.append(rf'\textbf{{{head}}}' if column.ours else head)
    yield ' & '.join(heads) + r' \\'


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    if not isinstance(cell.value, str) and text.startswith('-') and text != MISSING:
        text = '$-$' + text.removeprefix('-')
    return _mark(cell, text, LATEX_MARKS)


# --- Markdown, CSV, JSON --------------------------------------------------------------------------


def escape_markdown(text: str) -> str:
    """Makes Markdown show a text as it is: no emphasis, link, formula, tag, or end of a cell."""
    return re.sub(r'([\\`*_\[\]<>|$~&#])', r'\\\1', clean_name(text))


def to_markdown(table: Table) -> str:
    """Writes a GitHub table, below its title if it has one."""
    heads = []
    alignment = []
    for column in table.columns:
        head = flat_head(column, with_arrow=True)
        heads.append(escape_markdown(head))
        alignment.append('---' if column.is_label else '---:')
    lines = [_markdown_row(heads), _markdown_row(alignment)]
    for row in table.rows:
        cells = [_mark(cell, escape_markdown(cell.text), MARKDOWN_MARKS) for cell in row]
        lines.append(_markdown_row(cells))
    title = f'{escape_markdown(table.title)}\n\n' if table.title else ''
    return title + ''.join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    joined = ' | '.join(cells)
    return f'| {joined} |\n'


def to_csv(table: Table) -> str:
    """Writes comma-separated values, numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([flat_head(column) for column in table.columns])
    for row in table.rows:
        writer.writerow([cell.value for cell in row])
    return text.getvalue()


def to_json(table: Table) -> str:
    """Writes the columns, and of each row its values in full precision and its places."""
    columns = []
    for column in table.columns:
        columns.append({
            'head': column.head,
            'group': column.group or None,
            'higher_is_better': column.higher,
            'ours': column.ours,
        })
    rows = []
    for row in table.rows:
        rows.append({
            'values': [_json_value(cell.value) for cell in row],
            'places': [None if cell.place is None else cell.place + 1 for cell in row],
            'ours': any(cell.ours for cell in row),
        })
    content = {'title': table.title, 'columns': columns, 'rows': rows}
    # JSON reads the escapes of what is not UTF-8.
    return printable(json.dumps(content, indent=1, ensure_ascii=False)) + '\n'


def _json_value(value: str | float | int) -> str | float | int | None:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def flat_head(column: Column, with_arrow: bool = False) -> str:
    """The heading of a column where there is one row of headings only."""
    words = [column.group, column.head]
    if with_arrow and column.higher is not None:
        words.append(ARROWS[column.higher])
    return clean_name(' '.join(words))


# --- XLSX -----------------------------------------------------------------------------------------


def can_write_xlsx() -> bool:
    """Whether openpyxl is installed."""
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        return False
    return True


def to_xlsx(tables: Sequence[Table]) -> bytes:
    """Writes a workbook with a sheet for each table.

    Raises:
        ValueError: If openpyxl is not installed.
    """
    try:
        from openpyxl import Workbook
    except ImportError:
        raise ValueError(
            'XLSX needs openpyxl: pip install openpyxl, or birefnet[tables]') from None
    workbook = Workbook()
    workbook.remove(workbook.active)
    taken: set[str] = set()
    for table in tables:
        sheet = workbook.create_sheet(_sheet_title(table.title, taken))
        _fill_sheet(sheet, table)
    data = io.BytesIO()
    workbook.save(data)
    return data.getvalue()


def _sheet_title(title: str, taken: set[str]) -> str:
    """Makes a title that spreadsheets take: 31 characters, some not, each but once in any case."""
    clean = re.sub(r"[\[\]:*?/\\']", ' ', _sheet_text(title)).strip() or 'table'
    short = clean[:31]
    number = 2
    while short.lower() in taken:
        ending = f' {number}'
        short = clean[:31 - len(ending)] + ending
        number += 1
    taken.add(short.lower())
    return short


def _sheet_text(text: str) -> str:
    """Spreadsheets take no control characters."""
    return re.sub(r'[\x00-\x1f\ufffe\uffff]', ' ', text)


def _fill_sheet(sheet: Any, table: Table) -> None:
    """Fills a sheet: headings that stay in view, numbers shown as in the other formats."""
    from openpyxl.styles import Font, PatternFill
    from openpyxl.utils import get_column_letter

    fill = PatternFill('solid', start_color=OURS_COLOR)
    for number, column in enumerate(table.columns, 1):
        head = flat_head(column, with_arrow=True)
        _write_text(sheet.cell(1, number), head).font = Font(bold=True)
        texts = [row[number - 1].text for row in table.rows]
        widest = max(len(text) for text in (head, *texts))
        sheet.column_dimensions[get_column_letter(number)].width = min(widest + 2, 60)
    for index, row in enumerate(table.rows, 2):
        is_ours = any(cell.ours for cell in row)
        for number, cell in enumerate(row, 1):
            written = _write_cell(sheet.cell(index, number), cell)
            place = 0 if cell.ours else cell.place
            if place is not None:
                written.font = Font(**XLSX_MARKS[place])
            if is_ours:
                written.fill = fill
    # Headings and labels stay in view.
    labels = sum(column.is_label for column in table.columns)
    sheet.freeze_panes = sheet.cell(2, labels + 1)


def _write_cell(written: Any, cell: Cell) -> Any:
    if isinstance(cell.value, str) or math.isnan(cell.value):
        return _write_text(written, cell.text)
    written.value = cell.value
    written.number_format = _number_format(cell.text)
    return written


def _write_text(cell: Any, text: str) -> Any:
    """Writes a text, which is no formula even if it begins with `=`."""
    cell.value = _sheet_text(text)
    cell.data_type = 's'
    return cell


def _number_format(text: str) -> str:
    """The format of spreadsheets that shows a number with as many digits as its text."""
    found = re.fullmatch(r'-?(\d*)(\.?)(\d*)', text)
    if found is None:
        return 'General'
    whole, point, digits = found.groups()
    return ('0' if whole else '') + point + '0' * len(digits)


# Of each format that is a text; `xlsx` has all tables in one file.
WRITERS: dict[str, Callable[[Table], str]] = {
    'tex': to_latex,
    'md': to_markdown,
    'csv': to_csv,
    'json': to_json,
}
FORMATS = (*WRITERS, 'xlsx')
