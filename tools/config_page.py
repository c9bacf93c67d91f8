"""Writes docs/config.md from config.py: `python -m tools.config_page`."""

import html
import inspect
import re
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from config import TASKS, Config, task_defaults
from fields import AUTO, choices_of, plain_type, rule_of, type_hints
from tools.pages import run, table

PAGE = Path(__file__).parents[1] / 'docs' / 'config.md'
HEADER = """# Options

<!-- Written by `python -m tools.config_page` from config.py: change it there. -->

Append `key=value` to any command, in any order:

```bash
python train.py task=COD bb=pvt_v2_b2 size=512x768 \\
    preproc_methods=flip,rotate lambdas_pix_last.mae=100
```

`python config.py task=COD` prints the resulting values, `python config.py --print bb task=COD` a
single one. A wrong name or value is refused before anything is loaded, with the nearest legal ones.
[Names of the published code](published.md#fields) are understood, too. Each run saves its options
in `ckpts/<run>/config.json`. The default *auto* follows from the task
(see the last table) or from another field.
"""


def render() -> str:
    """The page's text."""
    parts = [HEADER]
    for title, members in _sections():
        rows = []
        for spec in members:
            anchor = f'`{spec.name}`{{ #{spec.name} }}'
            rows.append([f'{anchor}<br>{_kind(spec)}', _default(spec), _meaning(spec)])
        section = table(['Field and type', 'Default', 'Meaning'], rows)
        parts.append(f'\n## {title}\n\n{section}')
    parts.append(f'\n## What a task changes\n\n{_tasks()}')
    return ''.join(parts)


def _sections() -> Iterator[tuple[str, list[Field]]]:
    """Titles in the comments of Config's source, each with the fields that follow it."""
    specs = {spec.name: spec for spec in fields(Config)}
    source_of_config = inspect.getsource(Config)
    _, *sections = re.split(r'^    # --- ', source_of_config, flags=re.M)
    for section in sections:
        title, _, source = section.partition('\n')
        names = re.findall(r'^    (\w+): ', source, flags=re.M)
        members = [specs[name] for name in names if name in specs]
        yield title.rstrip(' -'), members


def _kind(spec: Field) -> str:
    """The type of a field, by its name where it is a plain class."""
    hint = plain_type(type_hints(Config)[spec.name])
    if isinstance(hint, type) and not hasattr(hint, '__args__'):
        return hint.__name__
    return str(hint)


def _code(value: Any) -> str:
    return f'`{value!r}`'


def _default(spec: Field) -> str:
    return '*auto*' if spec.default is AUTO else _code(spec.default)


def _meaning(spec: Field) -> str:
    """Meaning, and what is legal."""
    rule = rule_of(spec)
    choices = choices_of(type_hints(Config)[spec.name])
    meaning = html.escape(rule.meaning, quote=False).replace('*', '\\*')
    if choices:
        meaning += f'. One of {", ".join(map(_code, choices))}'
        if rule.pattern:
            meaning += f', or what matches `{rule.pattern}`'
    if rule.minimum is not None:
        meaning += f'. At least {rule.minimum}'
    return meaning


def _tasks() -> str:
    """A table with a row for each field; a column for each task would be wider than any screen."""
    rows = []
    for name, default in task_defaults('').items():
        # Tasks that share a value are listed together after it.
        tasks_by_value: dict[str, list[str]] = {}
        for task in TASKS:
            value = task_defaults(task)[name]
            if value != default:
                tasks_by_value.setdefault(_code(value), []).append(task)

        others = []
        for value, tasks in tasks_by_value.items():
            others.append(f'{value} ({", ".join(tasks)})')
        link = f'[`{name}`](#{name})'
        rows.append([link, _code(default), ', '.join(others) or 'none'])
    return table(['Field', 'Usually', 'Other values'], rows)


if __name__ == '__main__':
    run(__doc__, PAGE, render)
