"""The files around the code: what they name exists, and they have the form that is asked for."""

import re
import shlex
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted((ROOT / '.github/ISSUE_TEMPLATE').glob('*.yml'))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding='utf-8')


def project() -> dict[str, Any]:
    return tomllib.loads(read('pyproject.toml'))['project']


def ignored(path: str) -> bool:
    lines = [line.strip('/') for line in read('.dockerignore').split('\n') if line]
    return any(path == line or path.startswith(f'{line}/') for line in lines)


def test_the_dockerfile_copies_what_is_there():
    instructions = re.sub(r'\\\n', ' ', read('Dockerfile'))
    sources = []
    for line in re.findall(r'^COPY (.*)$', instructions, re.M):
        sources += shlex.split(line)[:-1]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    for lists in re.findall(r'-r (\S+\.txt)', instructions):
        assert lists in sources or lists.startswith('/tmp/'), lists
    entry, = re.findall(r'^ENTRYPOINT \["([^"]+)"', instructions, re.M)
    assert entry in project()['scripts']
    extras = set(re.findall(r"'\.\[(\w+)\]'", instructions))
    assert extras <= project()['optional-dependencies'].keys()


def test_the_dockerfile_takes_torch_from_its_own_index():
    pattern = re.search(r"grep -E '(.*?)' requirements.txt", read('Dockerfile'))[1]
    taken = [line for line in read('requirements.txt').split('\n') if re.match(pattern, line)]
    assert [line.split('>')[0] for line in taken] == ['torch', 'torchvision']


def test_each_requirement_stands_in_one_place():
    lists = [read('requirements.txt').split('\n'), *project()['optional-dependencies'].values()]
    names = []
    for line in chain(*lists):
        name = re.match(r'[\w-]+(?!\w*\[)', line)
        if name and not line.startswith('birefnet['):
            names.append(name[0])
    assert {'torch', 'gradio', 'pytest'} <= set(names)
    assert len(names) == len(set(names))


def test_extras_that_are_named_exist():
    extras = project()['optional-dependencies']
    named = [name for lines in extras.values() for name in lines if name.startswith('birefnet[')]
    documents = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]
    for path in [*ROOT.glob('*.py'), *documents, ROOT / 'Makefile']:
        named += re.findall(r'''["'](\.\[[a-z,]+\])["']''', path.read_text(encoding='utf-8'))
    assert len(named) > 5
    for text in named:
        names = re.search(r'\[([\w,]+)\]', text)[1].split(',')
        assert set(names) <= extras.keys(), text


def test_the_workflow_runs_both_commands():
    jobs = yaml.safe_load(read('.github/workflows/ci.yml'))['jobs']
    commands = [step['run'] for job in jobs.values() for step in job['steps'] if 'run' in step]
    assert {'.ci/run', 'make demo', 'make docs'} <= set(commands)
    assert 'make lint test test-all' in read('.ci/run').split('\n')
    targets = set(re.findall(r'^([a-z-]+):', read('Makefile'), re.M))
    assert {'lint', 'test', 'test-all'} <= targets
    made = {command for command in commands if command.startswith('make ')}
    assert {command.removeprefix('make ') for command in made} <= targets


def test_the_citation_is_the_papers():
    citation = yaml.safe_load(read('CITATION.cff'))
    paper = citation['preferred-citation']
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys()
    title = 'Bilateral Reference for High-Resolution Dichotomous Image Segmentation'
    assert paper['title'] == title
    assert [author['family-names'] for author in paper['authors']] == \
        ['Zheng', 'Gao', 'Fan', 'Liu', 'Laaksonen', 'Ouyang', 'Sebe']


@pytest.mark.parametrize('path', TEMPLATES, ids=[path.stem for path in TEMPLATES])
def test_issue_forms_are_whole(path):
    """What GitHub asks of a form; `config.yml` is the chooser's."""
    form = yaml.safe_load(path.read_text(encoding='utf-8'))
    if path.stem == 'config':
        assert form.keys() <= {'blank_issues_enabled', 'contact_links'}
        return
    assert {'name', 'description', 'body'} <= form.keys()
    questions = [field for field in form['body'] if field['type'] != 'markdown']
    ids = [field['id'] for field in questions]
    assert len(set(ids)) == len(ids)
    assert all(field['attributes']['label'] for field in questions)
