"""The command paper.py, from stored scores to tables and figures."""

import csv
import json
import os
import re
import shutil

import pytest

import eval_existingOnes
import gen_best_ep
import paper
from tests.evaluation.folders import make_folders

METHODS_FILE = """
only_listed = true
[[method]]
folder = "run--epoch_10"
name = "Ours_1"
ours = true
[[method]]
folder = "run--epoch_5"
name = "$x$"
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """The scores of two sets by three epochs."""
    folder = make_folders(tmp_path_factory.mktemp('paper'), images=6, epochs=(5, 8, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        eval_existingOnes.main(['task=Toy', '--metrics', 'S+wF+F+E+MAE', '--workers', '1'])
    lines = [f'im {index}.é.png,{"odd" if index % 2 else "even"}\n' for index in range(6)]
    (folder / 'parity.csv').write_text('name,category\n' + ''.join(lines), encoding='utf-8')
    (folder / 'methods.toml').write_text(METHODS_FILE, encoding='utf-8')
    return folder


@pytest.fixture(autouse=True)
def in_root(root, monkeypatch):
    monkeypatch.chdir(root)


def rows_of(path):
    with open(path, encoding='utf-8', newline='') as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(('change', 'words'), [
    (lambda rows: rows.__delitem__(slice(None, None, 6)),  # an image of all methods
     'TE-B: .*not those of the tables'),
    (lambda rows: rows[0]['values'].update(sm=.1), 'TE-B: .*run--epoch_10 are not those'),
    (lambda rows: rows[0].update(counts='AAAA'), 'run--epoch_10 for im 0.é are damaged'),
    (lambda rows: rows[0].pop('values'), 'run--epoch_10 for im 0.é are damaged'),
])
def test_scores_that_are_not_those_of_the_tables(root, tmp_path, change, words):
    results = shutil.copytree(root / 'e_results', tmp_path / 'results')
    store = results / 'scores/TE-B.jsonl'
    rows = [json.loads(line) for line in store.read_text(encoding='utf-8').splitlines()]
    change(rows)
    store.write_text('\n'.join(map(json.dumps, rows)))
    for main, options in ((paper.main, ['--no-figures']), (gen_best_ep.main, ['--no-report'])):
        with pytest.raises(ValueError, match=words):
            main(['--save_dir', str(results), *options])


def test_tables_and_figures(root, capsys):
    stored = (root / 'e_results/scores/TE-A.jsonl').read_bytes()
    paper.main([
        '--methods', 'methods.toml', '--metrics', 'sm+mae', '--scores', 'sm', '--by', 'parity.csv',
        '--panels', 'TE-A/im 1.é', '--formats', 'csv+tex'])
    assert 'e_results/paper: 7 tables, 11 figures' in capsys.readouterr().out
    assert {path.name for path in (root / 'e_results/paper/figures').iterdir()} == {
        f'{stem}.{suffix}' for suffix in ('pdf', 'png') for stem in (
            'curves_pr_TE-A', 'curves_f_TE-A', 'curves_e_TE-A', 'curves_pr_TE-B', 'curves_f_TE-B',
            'curves_e_TE-B', 'epochs_sm', 'TE-A_by_parity_sm', 'TE-B_by_parity_sm',
            'all-sets_by_parity_sm', 'panels')}

    # The values are those of the evaluation, which is not done again.
    tables = root / 'e_results/paper/tables'
    exact = json.loads((root / 'e_results/TE-A_eval.json').read_text())
    by_method = {method['method']: method['scores'] for method in exact['methods']}
    head, *rows = rows_of(tables / 'comparison.csv')
    assert head == ['Method', 'TE-A Smeasure', 'TE-A MAE', 'TE-B Smeasure', 'TE-B MAE']
    assert [row[0] for row in rows] == ['Ours_1', '$x$']
    assert float(rows[0][2]) == by_method['run--epoch_10']['mae']
    assert (root / 'e_results/scores/TE-A.jsonl').read_bytes() == stored
    assert r'\textbf{Ours\_1} & \textbf{' in (tables / 'comparison.tex').read_text()

    # The means of categories of one size are those of the set.
    _, *rows = rows_of(tables / 'TE-A_by_parity_sm.csv')
    assert [row[:2] for row in rows] == [['even', '3'], ['odd', '3']]
    mean = sum(float(row[2]) for row in rows) / 2
    assert mean == pytest.approx(by_method['run--epoch_10']['sm'])
    _, *rows = rows_of(tables / 'all-sets_by_parity_sm.csv')
    assert [row[1] for row in rows] == ['6', '6']

    # Single images, and the tests of all pairs.
    assert len(rows_of(tables / 'TE-B_images.csv')) == 1 + 6 * 2
    _, *rows = rows_of(tables / 'pairs_sm.csv')
    assert [row[:3] for row in rows] == [
        [place, 'Ours_1', '$x$'] for place in ('TE-A', 'TE-B', 'all-sets')]
    assert float(rows[0][6]) == pytest.approx(2 / 2 ** 6)  # better on each of six images


def test_all_pairs(root):
    paper.main(['--scores', 'wfm', '--no-figures', '--out', 'out', '--formats', 'json'])
    content = json.loads((root / 'out/tables/pairs_wfm.json').read_text())
    assert len(content['rows']) == 3 * 3
    assert not (root / 'out/figures').exists()


def test_errors(root):
    for arguments, words in (
            (['--methods', 'x+y'], '--methods: no scores of x, y; there are run--epoch_5'),
            (['--formats', 'tex+doc'], '--formats: unknown doc; known: tex, md, csv, json, xlsx'),
            (['--scores', 'psnr'], '--scores psnr: unknown metrics'),
            (['--metrics', 'psnr'], '--metrics psnr: unknown metrics'),
            (['--metrics', 'hce'], 'no hce; run eval_existingOnes.py with --metrics all'),
            (['--by', 'class'], '--by class: these names carry none'),
            (['--panels', 'im 1.é'], 'im 1.é is in TE-A, TE-B: write SET/im 1.é'),
            (['--column', '0', '--font', 'nan'], '--column 0, --font nan: not between'),
            (['--save_dir', 'nowhere'], 'run eval_existingOnes.py first')):
        with pytest.raises(ValueError, match=re.escape(words)):
            paper.main([*arguments, 'task=Toy', '--out', 'nothing'])
    assert not (root / 'nothing').exists()


def test_fields_stand_anywhere():
    options = paper.parse_arguments(['--by', 'a.csv', 'task=COD', '--panels', 'A/x=1', 'size=8,8'])
    assert options.overrides == ['task=COD', 'size=8,8']
    assert (options.by, options.panels) == (['a.csv'], ['A/x=1'])


def test_xlsx_is_left_out_with_a_note(root, monkeypatch, capsys):
    monkeypatch.setattr(paper, 'can_write_xlsx', lambda: False)
    assert paper.parse_formats(None) == ['tex', 'md', 'csv', 'json']
    assert 'note: no tables.xlsx' in capsys.readouterr().err
    with pytest.raises(ValueError, match='pip install openpyxl'):
        paper.parse_formats('tex+xlsx')


def test_a_workbook_of_all_tables(root):
    openpyxl = pytest.importorskip('openpyxl')
    paper.main(['--no-figures', '--out', 'book', '--formats', 'xlsx', '--scores', 'sm'])
    assert os.listdir(root / 'book/tables') == ['tables.xlsx']
    book = openpyxl.load_workbook(root / 'book/tables/tables.xlsx')
    assert book.sheetnames == [
        'Methods by test sets', 'Pairs of methods by Smeasure', 'Images of TE-A', 'Images of TE-B']


def test_odd_names_in_tables_and_report(tmp_path, monkeypatch):
    """Names that LaTeX, matplotlib, Markdown and HTML would read as commands."""
    monkeypatch.chdir(make_folders(tmp_path, sets=('TE-A',), images=1, epochs=(5,)))
    names = ['_a_', '$x$ $y$', 'n%1&2#', 'b\\s^t~u{v', '对比方法', '<b>', 'a\nb\tc & d|e,f', '=1']
    for name in names:
        os.symlink(tmp_path / 'e_preds/run--epoch_5/TE-A', tmp_path / 'TE-A')
        (tmp_path / 'e_preds' / name).mkdir()
        os.rename(tmp_path / 'TE-A', tmp_path / 'e_preds' / name / 'TE-A')
    eval_existingOnes.main(['task=Toy', '--metrics', 'S+F+E', '--workers', '1', '--all-methods'])
    text = (tmp_path / 'e_results/comparison.tex').read_text(encoding='utf-8')
    for escaped in (r'\_a\_ &', r'\$x\$ \$y\$ &', r'n\%1\&2\# &', '对比方法 &',
                    r'b\textbackslash{}s\textasciicircum{}t\textasciitilde{}u\{v &'):
        assert escaped in text
    gen_best_ep.main(['task=Toy', '--metrics', 'sm', '--methods', '+'.join(names)])
    paper.main(['task=Toy', '--scores', 'sm', '--no-figures'])

    # A row for each method, with as many cells.
    number = len(names) + 1
    for suffix, cells in (('txt', r'(?<!\\) & '), ('tex', r'(?<!\\) & '), ('md', r'(?<!\\)\|')):
        text = (tmp_path / f'e_results/TE-A_eval.{suffix}').read_text(encoding='utf-8')
        rows = [line for line in text.splitlines() if 'TE-A' in line]
        assert len(rows) == number
        assert len({len(re.split(cells, row)) for row in rows}) == 1
    for path in ('TE-A_eval.csv', 'paper/tables/comparison.csv'):
        lines = (tmp_path / 'e_results' / path).read_text(encoding='utf-8').splitlines()
        assert len(lines) == 1 + number
        assert len({len(row) for row in csv.reader(lines)}) == 1
    page = (tmp_path / 'e_results/report.html').read_text(encoding='utf-8')
    assert '>&lt;b&gt;</td>' in page
    assert '>$x$ $y$</td>' in page
