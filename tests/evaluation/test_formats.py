"""Tables in each format, with names that would be commands there."""

import csv
import io
import json
import math
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import formats
from evaluation.display import show_all
from evaluation.formats import Cell, Column, Table, label
from evaluation.paper_tables import comparison

ODD_NAMES = [
    'run--epoch_3', '_a_', '$x$', 'a%b', 'x&y', 'n#1', '{q}', '~t', '^u', 'b\\s', '<l>', '|p|',
    '"q"', "it's", '`g`', '[opt]', '*star', '---', '-x', ',,low', '?`', '<<g>>', 'é', '\\\\[2pt]',
    '\\end{tabular}', '%comment',
]
CHINESE = '对比方法_1'


def table_of(names, sets=('TE-A', 'x_y%')):
    scores = {}
    for dataset in sets:
        scores[dataset] = {name: {'sm': .5 + .01 * i} for i, name in enumerate(names)}
    return comparison(scores, show_all(names), ['sm'])


@pytest.mark.parametrize(('text', 'escaped'), [
    ('run--epoch_3', r'run-{}-epoch\_3'),
    ('---', '-{}-{}-'),
    ('a-b, c', 'a-b, c'),
    ('50%', r'50\%'),
    ('x&y', r'x\&y'),
    ('#1', r'\#1'),
    ('$x$', r'\$x\$'),
    ('{q}', r'\{q\}'),
    ('~', r'\textasciitilde{}'),
    ('^', r'\textasciicircum{}'),
    ('\\', r'\textbackslash{}'),
    ('\\{', r'\textbackslash{}\{'),
    ('<|>', r'\textless{}\textbar{}\textgreater{}'),
    ('"', r'\char34{}'),
    ('[2pt]', '{[}2pt{]}'),
    ('*', '{*}'),
    ('a\nb', 'a b'),
    (CHINESE, r'对比方法\_1'),
])
def test_latex_escapes(text, escaped):
    assert formats.escape_latex(text) == escaped


@given(st.text(st.characters(codec='utf-8', exclude_categories=('Cc',))))
def test_latex_leaves_no_command(text):
    """But those that stand for a character."""
    escaped = formats.escape_latex(text)
    plain = re.sub(r'\\(text[a-z]+|char34)\{\}|\\[&%$#_{}]|\{[\[\]*]\}|(?<=[-,])\{\}', '', escaped)
    assert not set(plain) & set('\\&%$#_{}~^<>|"\'`[]*')
    assert '--' not in escaped
    assert ',,' not in escaped


def test_latex_has_no_option_behind_a_row():
    """After `\\\\` LaTeX takes `[` and `*` for its own, also in the next line."""
    lines = formats.to_latex(table_of(ODD_NAMES)).splitlines()
    assert not [line for line in lines if re.match(r'\s*[\[*]', line)]
    rows = lines[lines.index(r'\midrule') + 1:lines.index(r'\bottomrule')]
    assert len(rows) == len(ODD_NAMES)
    for row in rows:
        assert row.endswith(r' \\')
        assert len(re.findall(r'(?<!\\)&', row)) == 2


@pytest.mark.parametrize(('engine', 'names', 'packages'), [
    ('pdflatex', ODD_NAMES, ''),
    ('pdflatex', [f'm_{i}' for i in range(formats.LONG_TABLE + 1)], ''),
    ('xelatex', [*ODD_NAMES, CHINESE], r'\usepackage{xeCJK}\setCJKmainfont{Noto Sans CJK SC}'),
])
def test_latex_compiles(tmp_path, engine, names, packages):
    """With TeX Live, and for Chinese its package xeCJK and Noto's font."""
    if shutil.which(engine) is None:
        pytest.skip(f'no {engine}')
    table = formats.to_latex(table_of(names))
    document = '\n'.join([
        r'\documentclass{article}', r'\usepackage{booktabs,longtable}', packages,
        r'\begin{document}', table, r'\end{document}'])
    (tmp_path / 'table.tex').write_text(document, encoding='utf-8')
    done = subprocess.run(
        [engine, '-interaction=nonstopmode', '-halt-on-error', 'table.tex'],
        cwd=tmp_path, capture_output=True, check=False, timeout=120)
    log = (tmp_path / 'table.log').read_text(errors='replace')
    if packages and re.search(r'xeCJK.sty. not found|font .* cannot be found', log):
        pytest.skip('no xeCJK or no font')
    assert done.returncode == 0, log[-2000:]
    assert 'Missing character' not in log


def test_latex_names_the_engine():
    assert 'XeLaTeX' in formats.to_latex(table_of([CHINESE]))
    assert 'XeLaTeX' not in formats.to_latex(table_of(ODD_NAMES))


def test_latex_marks():
    columns = [Column('Method', is_label=True), Column('S', 'A', True, ours=True)]
    rows = [[label('x', ours=True), Cell('.9', .9, 0)], [label('y'), Cell('-.8', -.8, 1)],
            [label('-z'), Cell('.7', .7, 2)], [label('w'), Cell('-', math.nan)]]
    lines = formats.to_latex(Table('T', columns, rows)).splitlines()
    assert lines[3] == r' & \multicolumn{1}{c}{A} \\'
    assert lines[5] == r'Method & \textbf{S $\uparrow$} \\'
    assert lines[7:11] == [
        r'\textbf{x} & \textbf{.9} \\',
        r'y & \underline{$-$.8} \\',
        r'-z & \textit{.7} \\',
        r'w & - \\',
    ]


def test_markdown_shows_names_as_they_are():
    text = formats.to_markdown(table_of(['__init__', 'a|b', '<b>', '$x$', '[a](b)', '`c`']))
    assert r'| \_\_init\_\_ | .500 |' in text
    assert r'| a\|b |' in text
    assert r'| \<b\> |' in text
    assert r'| \$x\$ | <u>.530</u>' not in text
    assert r'| \[a\](b) | <u>.540</u> |' in text
    assert r'| \`c\` | **.550** |' in text


def test_csv_and_json_are_exact():
    table = table_of(['a,"b"', 'c'], sets=('A',))
    rows = list(csv.reader(io.StringIO(formats.to_csv(table))))
    assert rows == [['Method', 'A Smeasure'], ['a,"b"', '0.5'], ['c', '0.51']]
    content = json.loads(formats.to_json(table))
    assert content['columns'][1] == {
        'head': 'Smeasure', 'group': 'A', 'higher_is_better': True, 'ours': False}
    assert content['rows'][1] == {'values': ['c', .51], 'places': [None, 1], 'ours': False}


def test_json_has_no_nan():
    scores = {'A': {'x': {'mae': .1}, 'y': {'mae': .2}}, 'B': {'y': {'mae': math.nan}}}
    table = comparison(scores, show_all(['x', 'y']), ['mae'])
    assert json.loads(formats.to_json(table))['rows'][0]['values'] == ['x', .1, None]


def test_xlsx():
    openpyxl = pytest.importorskip('openpyxl')
    names = ['=1+1', 'x\x01y', *ODD_NAMES, CHINESE]
    table = table_of(names, sets=('A',))
    table.rows[0][0] = label(names[0], ours=True)
    table.rows[1][1] = Cell('-', math.nan)
    long = table._replace(title='A title of [many] characters: more than a sheet takes')
    data = formats.to_xlsx([table, table, long])
    book = openpyxl.load_workbook(io.BytesIO(data))
    assert book.sheetnames == [
        'Methods by test sets', 'Methods by test sets 2', 'A title of  many  characters  m']
    sheet = book.worksheets[0]
    assert [cell.value for cell in sheet[1]] == ['Method', 'A Smeasure ↑']
    assert sheet['A2'].value == '=1+1'
    assert sheet['A2'].data_type == 's'
    assert sheet['A2'].font.bold
    assert sheet['B2'].value == .5
    assert sheet['B2'].number_format == '.000'
    assert sheet['B3'].value == '-'
    assert [sheet.cell(row, 1).value for row in range(4, len(names) + 2)] == names[2:]
    last = sheet.cell(len(names) + 1, 2)
    assert last.font.bold
    assert sheet.cell(len(names), 2).font.underline == 'single'
    assert sheet.cell(len(names) - 1, 2).font.italic


def test_xlsx_without_its_library(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'openpyxl', None)
    assert not formats.can_write_xlsx()
    with pytest.raises(ValueError, match='pip install openpyxl'):
        formats.to_xlsx([])


@pytest.mark.parametrize(('texts', 'higher', 'expected'), [
    (['.9', '.8', '.9', '.7', '.6', '-'], True, [0, 1, 0, 2, None, None]),
    (['1.000', '.9'], True, [0, 1]),
    (['120', '99', '7'], False, [2, 1, 0]),
    (['-'], True, [None]),
])
def test_places(texts, higher, expected):
    assert formats.places(texts, higher) == expected
