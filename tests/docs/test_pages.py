"""The documents: links lead somewhere, examples run, they build, and say what the code says."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from markdown.extensions.toc import slugify

import config
import evaluation
import inference
import loss
import models
import published
from data import transforms
from evaluation.metrics import METRICS, SCORES
from models import save_checkpoint
from models.backbones import registry
from tests.models.small import build
from utils import write_json

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / 'docs').glob('*.md'))
DOCUMENTS = [ROOT / 'README.md', *sorted(ROOT.glob('C*.md')), *PAGES]
LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')
CODE = re.compile(r'^```.*?^```|`[^`\n]+`', re.M | re.S)
EXECUTED = [ROOT / 'README.md', *(ROOT / 'docs' / name for name in (
    'index.md', 'predict.md', 'evaluation.md', 'extending.md'))]
# Names that the examples register. A reader may have added them for good.
EXAMPLES = {'strided_s', 'strided_b', 'dice', 'blur', 'Polyps'}
OPTION = re.compile(r'(?<![\w-])--?[a-z][\w-]*')


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def anchors(page: Path) -> set[str]:
    """What `page#...` may name: slugs of headings (numbered if repeated), ids, objects of `:::`."""
    text = page.read_text(encoding='utf-8')
    plain = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    found = set(re.findall(r'\{ #([\w-]+) \}', text)) | set(re.findall(r'^::: (\S+)$', plain, re.M))
    for heading in re.findall(r'^#+ +(.+)$', plain, re.M):
        slug = slugify(re.sub(r'[`*]', '', heading), '-')
        number = 1
        while slug in found:
            slug, number = f'{slug.removesuffix(f"_{number - 1}")}_{number}', number + 1
        found.add(slug)
    return found


@pytest.mark.parametrize('document', DOCUMENTS, ids=names(DOCUMENTS))
def test_links_lead_somewhere(document):
    problems = []
    for target in LINK.findall(CODE.sub('', document.read_text(encoding='utf-8'))):
        if re.match(r'[a-z]+:', target):
            continue
        path, _, anchor = target.partition('#')
        file = (document.parent / path) if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            problems.append(target)
    assert not problems


def test_every_page_is_in_the_navigation():
    def leaves(node):
        if isinstance(node, str):
            return [node]
        children = node.values() if isinstance(node, dict) else node
        found = []
        for child in children:
            found += leaves(child)
        return found

    navigation = yaml.safe_load((ROOT / 'mkdocs.yml').read_text(encoding='utf-8'))['nav']
    assert sorted(leaves(navigation)) == [page.name for page in PAGES]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder with the files that the examples name; what they add to our tables is taken back."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'photo.jpg'), rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
    disc = cv2.circle(np.zeros((64, 96), np.uint8), (40, 30), 20, 255, -1)
    cv2.imwrite(str(tmp_path / 'mask.png'), disc)
    network = build(size=(64, 64))
    save_checkpoint(network, tmp_path / 'weights.safetensors')
    write_json(tmp_path / 'config.json', network.config.as_dict())
    monkeypatch.chdir(tmp_path)
    for module, table in (
        (registry, 'BACKBONES'),
        (loss, 'PIXEL_LOSSES'),
        (config, 'TASKS'),
        (transforms, 'AUGMENTATIONS'),
    ):
        registered = getattr(module, table)
        others = {name: entry for name, entry in registered.items() if name not in EXAMPLES}
        monkeypatch.setattr(module, table, others)


@pytest.mark.parametrize('page', EXECUTED, ids=names(EXECUTED))
def test_examples_run(page, workshop, capsys):
    """Blocks share names, as in an interpreter. A comment behind a print is what it prints."""
    blocks = re.findall(r'^```python\n(.*?)^```', page.read_text(encoding='utf-8'), re.M | re.S)
    assert blocks
    scope = {}
    for block in blocks:
        exec(compile(block, page.name, 'exec'), scope)
        promised = re.findall(r'^print\(.*\) +# (.+)$', block, re.M)
        printed = capsys.readouterr().out
        assert all(text in printed for text in promised), printed


def test_extending_has_an_example_of_each_addition():
    """A section without an example that runs is one that nobody can follow."""
    text = (ROOT / 'docs/extending.md').read_text(encoding='utf-8')
    sections = dict(re.findall(r'^## (.+?)\n(.*?)(?=^## |\Z)', text, re.M | re.S))
    additions = ('A backbone', 'A loss', 'A metric', 'A task', 'An augmentation', 'An optimizer')
    assert set(additions) <= set(sections)
    assert [title for title in additions if '```python' not in sections[title]] == []


def test_the_api_page_has_every_public_name():
    page = (ROOT / 'docs/api.md').read_text(encoding='utf-8')
    listed = set(re.findall(r'^::: (\S+)$', page, re.M))
    for package in (models, inference, evaluation):
        assert {f'{package.__name__}.{name}' for name in package.__all__} <= listed


@pytest.mark.parametrize('document', DOCUMENTS, ids=names(DOCUMENTS))
def test_fields_that_documents_set_exist(document):
    """`key=value` behind a command, and in running text where the name is written as code."""
    text = document.read_text(encoding='utf-8')
    shell = re.sub(r'\\\n', ' ', '\n'.join(re.findall(r'^```bash\n(.*?)^```', text, re.M | re.S)))
    commands = '\n'.join(re.findall(r'^.*(?:\w\.py|\w\.sh) .*$', shell, re.M))
    used = set(re.findall(r'(?<![\w.-])([a-z]\w*)(?:\.\w+)?=', commands))
    used |= set(re.findall(r"`([a-z]\w*)=[\w'(]", text))
    known = {spec.name for spec in fields(config.Config)}
    known |= {'workers', 'key', 'weights_only', *published.FIELDS}
    assert used <= known | set(SCORES)


@pytest.mark.parametrize('script', [
    'predict.py',
    'eval_existingOnes.py',
    'gen_best_ep.py',
    'paper.py',
    'test.py',
])
def test_options_that_documents_give_exist(script):
    """Every `-x` and `--xyz` behind the script's name stands in its source."""
    source = (ROOT / script).read_text(encoding='utf-8')
    known = set(re.findall(r"'(--?[a-z][\w-]*)'", source)) | {'-h', '--help', '-'}
    commands = []
    for document in DOCUMENTS:
        text = re.sub(r'\\\n', ' ', document.read_text(encoding='utf-8'))
        pattern = rf'(?:^|[`| ])(?:python )?{re.escape(script)} [^`#\n|>]*'
        commands += re.findall(pattern, text, re.M)
    assert any(OPTION.search(command) for command in commands)
    assert [command for command in commands if not known.issuperset(OPTION.findall(command))] == []


def test_the_metrics_page_has_a_row_for_each_metric():
    """Scores, columns and direction as the registry has them."""
    text = (ROOT / 'docs' / 'metrics.md').read_text(encoding='utf-8')
    row = re.compile(r'^\| \[(.+?)\]\(#.+?\) \| (.+?) \| (.+?) \|', re.M)
    rows = {}
    for scores, columns, better in row.findall(text):
        names_of_scores = re.findall(r'`(\w+)`', scores)
        for score, column in zip(names_of_scores, columns.split(', '), strict=True):
            rows[score] = (column, better)
    expected = {}
    for metric in METRICS.values():
        better = 'higher' if metric.higher_is_better else 'lower'
        for score in metric.scores:
            expected[score.name] = (score.column, better)
    assert rows == expected


def test_figures_in_tables_were_measured():
    """Each number in a table of the performance page stands in the log of measurements."""
    log = (ROOT / 'benchmarks/LOG.md').read_text(encoding='utf-8')
    page = (ROOT / 'docs/performance.md').read_text(encoding='utf-8')
    cells = []
    for row in re.findall(r'^\|(.*)\|$', page, re.M):
        cells += [cell.strip() for cell in row.split('|')[1:]]
    numbers = {cell for cell in cells if re.fullmatch(r'[\d.,]+', cell)}
    assert numbers
    for number in numbers:
        assert re.search(rf'(?<![\d.]){re.escape(number)}(?![\d.]*\d)', log), number


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    """In strict mode, where a broken link is an error. No page loads anything from elsewhere."""
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-q', '-d', str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob('*.html'):
        html = page.read_text(encoding='utf-8')
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="?(http[^">\s]*)', html)
        loaded += [tag for tag in re.findall(r'<link[^>]*>', html)
                   if re.search(r'rel="?(stylesheet|preconnect|preload)', tag) and 'http' in tag]
        assert not loaded, page
