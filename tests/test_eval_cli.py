"""The commands eval_existingOnes.py and gen_best_ep.py, from folders to tables and the report."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eval_existingOnes
import gen_best_ep
import paper
from readers import read_mask
from tests.evaluation.folders import make_folders
from utils import write_png

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def scored(tmp_path_factory):
    """The results of two sets by two epochs."""
    root = make_folders(tmp_path_factory.mktemp('scored'), images=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        cache = str(root / 'cache')
        eval_existingOnes.main(['task=Toy', '--cache', cache, 'workers=1', '--all-methods'])
        gen_best_ep.main(['task=Toy'])
    return root / 'e_results'


def test_tables(scored):
    lines = (scored / 'TE-A_eval.txt').read_text().splitlines()
    assert lines[0].split(' & ')[2].strip() == 'Smeasure'
    assert [line.split(' & ')[1].strip() for line in lines[2:]] == ['run--epoch_5', 'run--epoch_10']
    exact = json.loads((scored / 'TE-A_eval.json').read_text())
    assert exact['task'] == 'Toy'
    assert [method['epoch'] for method in exact['methods']] == [5, 10]
    assert f"{exact['methods'][0]['scores']['sm']:.3f}"[1:] == lines[2].split(' & ')[2].strip()
    suffixes = {path.suffix for path in scored.glob('overall_eval.*')}
    assert suffixes == {'.txt', '.tex', '.md', '.csv', '.json'}
    assert r'\textbf' in (scored / 'comparison.tex').read_text()


def test_best(scored):
    text = (scored / 'eval-Toy_best_on_sm.txt').read_text()
    rows = [line.split(' & ') for line in text.splitlines() if ' & ' in line]
    assert [[cell.strip() for cell in row[:2]] for row in rows[1:]] == [['TE-A', 'run--epoch_10'],
                                                                       ['TE-B', 'run--epoch_10']]
    assert re.search(r'Smeasure on TE-B: \.\d{3}, standard deviation over 5 images \.\d{3}\n'
                     r'Smeasure: ahead of run--epoch_5 by \.\d{4}, 95% interval ', text)
    assert (scored / 'eval-Toy_best_on_wfm.txt').exists()


def test_report_is_complete_in_itself(scored):
    page = (scored / 'report.html').read_text(encoding='utf-8')
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count('image/svg+xml') == 4  # two scores over epochs, curves of two sets
    assert page.count('image/jpeg') == 2 * (3 + 5) * 6  # of 2 sets 3 at a glance, and 5 cards
    assert page.count('<table>') == page.count('<thead>') == 3 + 2 + 2 * 5
    assert 'Best by Smeasure: <b>run--epoch_10</b>' in page
    assert 'Smeasure: ahead of run--epoch_5 by' in page


def test_categories_of_the_report(scored, monkeypatch):
    monkeypatch.chdir(scored.parent)
    names = [f'im {index}.é' for index in range(5)]
    lines = ['name,category', f'TE-A/{names[0]},Bird', f'TE-B/{names[0]},', f'{names[1]},A & B']
    lines += [f'{name},Bird' for name in names[2:]]
    Path('classes.csv').write_text('\n'.join(lines), encoding='utf-8')
    gen_best_ep.main(['task=Toy', '--by', 'classes.csv', '--save_dir', 'e_results'])
    page = Path('e_results/report.html').read_text(encoding='utf-8')
    assert page.count('<span class="tag">Bird</span>') == 1 + 2 * 3
    assert page.count('<span class="tag">A &amp; B</span>') == 2
    assert '<option value="A &amp; B">' in page
    with pytest.raises(ValueError, match='--by nowhere'):
        gen_best_ep.main(['task=Toy', '--by', 'nowhere.csv'])
    with pytest.raises(SystemExit):
        gen_best_ep.main(['task=Toy', '--images', '-1'])


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(make_folders(tmp_path, images=2))
    monkeypatch.setenv('BIREFNET_CACHE', str(tmp_path / 'cache'))
    return tmp_path


def test_published_flags(root):
    eval_existingOnes.main([
        '--gt_root', 'datasets/Toy',
        '--pred_root', 'e_preds',
        '--data_lst', 'TE-B',
        '--save_dir', 'out',
        '--metrics', 'S+MAE',
        '--workers', '1',
    ])
    header = (root / 'out/TE-B_eval.txt').read_text().splitlines()[0]
    columns = [cell.strip() for cell in header.split(' & ')]
    assert columns == ['Dataset', 'Method', 'Smeasure', 'MAE']
    assert not (root / 'out/overall_eval.txt').exists()
    gen_best_ep.main(['task=Toy', '--save_dir', 'out', '--metric', 'mae'])
    assert 'run--epoch_10' in (root / 'out/eval-Toy_best_on_mae.txt').read_text()


def test_other_files_than_were_scored_are_not_drawn(root):
    eval_existingOnes.main(['testsets=TE-A', '--metrics', 'S', '--workers', '1'])
    changed, touched, *_ = sorted((root / 'e_preds/run--epoch_10/TE-A').iterdir())
    write_png(changed, 255 - read_mask(changed))
    os.utime(touched, (0, 0))
    gen_best_ep.main(['testsets=TE-A', '--metrics', 'sm'])
    _, *cards = (root / 'e_results/report.html').read_text().split('<article')
    gone = [card for card in cards if 'no longer as they were scored' in card]
    assert len(gone) == 1
    assert f'<h4>{changed.stem}</h4>' in gone[0]
    with pytest.raises(ValueError, match=r'not as it was scored: run--epoch_10$'):
        paper.main(['testsets=TE-A', '--panels', f'TE-A/{changed.stem}', '--scores', 'sm'])


METHODS_FILE = """
[[method]]
folder = "run--epoch_10"
name = "Ours & <us>"
color = "#123456"
ours = true
[[method]]
folder = "run--epoch_5"
name = "Old|er"
[[run]]
run = "run"
name = "A run"
"""


def test_methods_file(root, capsys):
    """Names and order of one small file, in tables, remarks, tests of pairs and the report."""
    (root / 'methods.toml').write_text(METHODS_FILE)
    options = ['task=Toy', '--methods', 'methods.toml']
    eval_existingOnes.main([*options, '--metrics', 'S+F+E', '--workers', '1', '--all-methods'])
    gen_best_ep.main([*options, '--metrics', 'sm'])
    results = root / 'e_results'
    lines = (results / 'TE-A_eval.txt').read_text().splitlines()
    assert [line.split(' & ')[1].strip() for line in lines[2:]] == [r'Ours \& <us>', 'Old|er']
    exact = json.loads((results / 'TE-A_eval.json').read_text())
    assert [method['method'] for method in exact['methods']] == ['run--epoch_10', 'run--epoch_5']
    assert r'\textbf{Ours \& \textless{}us\textgreater{}} &' in (
        results / 'comparison.tex').read_text()
    assert r'| **Ours \& \<us\>** | Old\|er |' in (results / 'eval-Toy_pairs_on_sm.md').read_text()
    assert 'Smeasure: ahead of Old|er by' in capsys.readouterr().out

    page = (results / 'report.html').read_text()
    assert 'run--epoch' not in page
    assert page.count('<b>Ours &amp; &lt;us&gt;</b>') == 1 + 3 + 1  # choice, tables, tests
    assert page.count('<option value="mask-1">Old|er') == 2
    plots = re.findall('svg.xml;base64,([^"]+)', page)
    assert b'#123456' in base64.b64decode(plots[-1])

    # What is not there, or not listed, is named.
    for text, words in (
            (METHODS_FILE + '[[method]]\nfolder = "x"\n', 'no method x; there are run--epoch_10'),
            ('[[method]]\nfolder = "run--epoch_5"\n', 'not listed: run--epoch_10')):
        (root / 'methods.toml').write_text(text)
        for main in (eval_existingOnes.main, gen_best_ep.main):
            with pytest.raises(ValueError, match=words):
                main(options)


def test_many_checkpoints_are_tested_against_the_best(root, monkeypatch):
    monkeypatch.setattr(gen_best_ep, 'ALL_PAIRS', 1)
    eval_existingOnes.main(['task=Toy', '--metrics', 'S', '--workers', '1'])
    gen_best_ep.main(['--metrics', 'sm'])
    rows = (root / 'e_results/eval-Toy_pairs_on_sm.csv').read_text().splitlines()
    assert rows[1].startswith('all-sets,run--epoch_10,run--epoch_5,')
    assert len(rows) == 2
    page = (root / 'e_results/report.html').read_text()
    assert '<h3>run--epoch_10 and every other method by Smeasure</h3>' in page


def test_task_of_the_manifests(root):
    eval_existingOnes.main(['--metrics', 'S', '--workers', '1'])
    assert json.loads((root / 'e_results/TE-A_eval.json').read_text())['task'] == 'Toy'
    gen_best_ep.main(['--metrics', 'sm', '--no-report'])
    assert (root / 'e_results/eval-Toy_best_on_sm.txt').exists()
    assert not (root / 'e_results/report.html').exists()


def test_run_of_a_checkpoint_folder(root):
    from config import Config
    from utils import write_json
    write_json(root / 'ckpts/run/config.json', Config(task='Toy').as_dict())
    write_json(root / 'ckpts/other/config.json', Config(task='Toy').as_dict())
    eval_existingOnes.main(['--ckpt_folder', 'ckpts/run', '--metrics', 'S', '--workers', '1'])
    with pytest.raises(ValueError, match='no masks of the run other'):
        eval_existingOnes.main(['--ckpt_folder', 'ckpts/other', '--metrics', 'S', '--workers', '1'])


@pytest.mark.parametrize('content', [
    None, '{"architectures": ["BiRefNet"]}', '{"task": "segmentation", "learning_rate": 3}'])
def test_a_folder_of_downloaded_weights_has_no_config_of_ours(root, content):
    folder = root / 'ckpts/downloaded'
    folder.mkdir(parents=True, exist_ok=True)
    if content:
        (folder / 'config.json').write_text(content)
    options = eval_existingOnes.parse_arguments(['--ckpt_folder', str(folder), 'task=Toy'])
    assert eval_existingOnes.read_config(options).task == 'Toy'


def test_dis5k_means(tmp_path, monkeypatch):
    sets = ['DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4']
    monkeypatch.chdir(make_folders(tmp_path, sets, images=1, task='DIS5K'))
    eval_existingOnes.main(['--workers', '1', '--metrics', 'S+wF+HCE', '--cache', 'cache'])
    gen_best_ep.main(['--no-report'])
    for criterion in ('sm', 'wfm', 'hce'):
        text = Path(f'e_results/eval-DIS5K_best_on_{criterion}.txt').read_text()
        rows = [line.split(' & ') for line in text.splitlines() if ' & ' in line]
        assert [row[0].strip() for row in rows] == ['Dataset', *sets, 'DIS-TE1..4']
    means = []
    for dataset in sets[1:]:
        results = json.loads(Path(f'e_results/{dataset}_eval.json').read_text())
        means.append(results['methods'][1]['scores']['sm'])
    assert rows[0][3].strip() == 'Smeasure'
    assert float(rows[-1][3]) == pytest.approx(sum(means) / 4, abs=6e-4)


@pytest.mark.parametrize(('command', 'arguments', 'words'), [
    ('eval_existingOnes.py', ['--pred_root', 'nowhere'], 'nowhere'),
    ('gen_best_ep.py', ['--save_dir', 'nowhere'], 'run eval_existingOnes.py first')])
def test_errors_are_one_line_and_an_exit_code(tmp_path, command, arguments, words):
    program = [sys.executable, str(REPOSITORY / command)]
    done = subprocess.run([*program, *arguments], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f'{Path(command).stem}: ')
    assert words in done.stderr
    assert 'Traceback' not in done.stderr


def test_bad_options(root):
    with pytest.raises(ValueError, match='task'):
        eval_existingOnes.main(['tusk=COD'])
    with pytest.raises(ValueError, match='unknown scores psnr'):
        gen_best_ep.main(['--metrics', 'psnr'])
    with pytest.raises(ValueError, match='--weights sm=much'):
        gen_best_ep.main(['--weights', 'sm=much'])


def test_several_weighted_scores(root, capsys):
    eval_existingOnes.main(['task=Toy', '--metrics', 'S+HCE', '--workers', '1'])
    gen_best_ep.main(['--weights', 'sm=1+hce=.5', '--no-report'])
    out = capsys.readouterr().out
    assert 'best on 1 Smeasure + 0.5 HCE, standardised: run--epoch_10' in out
    lead = r'HCE: ahead of run--epoch_5 by -?\d+\.\d; too few images for an interval'
    assert re.search(lead, out)


def test_methods_and_scores_that_are_not_there(root):
    eval_existingOnes.main(['task=Toy', '--metrics', 'S', '--workers', '1'])
    expected = '--methods: no scores in every set of other; there are run--epoch_10'
    with pytest.raises(ValueError, match=expected):
        gen_best_ep.main(['--metrics', 'sm', '--methods', 'run--epoch_5+other'])
    (root / 'e_results/scores/TE-B.jsonl').unlink()
    expected = r'TE-B\.jsonl: no scores of run--epoch_10, .*run eval_existingOnes\.py again'
    with pytest.raises(ValueError, match=expected):
        gen_best_ep.main(['--metrics', 'sm'])


def test_published_names_of_options():
    options = eval_existingOnes.parse_arguments(['--model_lst', 'a+b', '--check_integrity', 'True'])
    assert options.methods == 'a+b'


@pytest.mark.parametrize('module', [eval_existingOnes, gen_best_ep])
def test_help_fits_a_screen(module, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    with pytest.raises(SystemExit):
        module.parse_arguments(['--help'])
    assert len(capsys.readouterr().out.splitlines()) <= 38
