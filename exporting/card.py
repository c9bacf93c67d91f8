"""The model card: what a network is, what it was trained on, and what it scored, from what its run has left."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from evaluation.metrics import HEADLINES, higher_is_better
from evaluation.results import SUFFIX
from exporting.huggingface import MODEL_CLASS
from inference.images import Size

PAPER = 'https://arxiv.org/abs/2401.03407'
TEXT = '''---
{header}---

# {title}

{introduction}

{scores}

## Use

```python
from transformers import AutoModelForImageSegmentation
model = AutoModelForImageSegmentation.from_pretrained('{title}', trust_remote_code=True).eval()
mask = model(image)[-1].sigmoid()    # image: (1, 3, {height}, {width}), RGB, ImageNet's mean and deviation
```

Squash a picture to {width}x{height}, whatever its shape; bring the mask back to the picture's size. Sides must be
multiples of 32. Without code from this folder, the project that wrote it loads it by
`models.load_model('{title}')`.

The method: [Bilateral Reference for High-Resolution Dichotomous Image Segmentation]({paper}), Zheng et al., 2024.
'''


def scores_of(results: str | os.PathLike, run: str, epoch: int | None, size: Size) -> dict[str, dict[str, float]]:
    """Scores by test set of one checkpoint at its own `size`, from the `<set>_eval.json` of an evaluation's folder."""
    found = {}
    for path in sorted(Path(results).glob(f'*{SUFFIX}')):
        content = json.loads(path.read_text(encoding='utf-8'))
        if 'dataset' not in content:  # the means over all sets
            continue
        for method in content['methods']:
            own_size = method.get('resolution') in (None, '', f'{size[0]}x{size[1]}')
            if (method['run'], method['epoch']) == (run, epoch) and own_size:
                found[content['dataset']] = {name: value for name, value in method['scores'].items()
                                             if value is not None}
    return found


def validation_of(run: str | os.PathLike, epoch: int | None, metric: str) -> dict[str, float]:
    """Scores of the validation after `epoch` from a run's log.jsonl; by None, of the best by `metric`; or nothing."""
    log = Path(run, 'log.jsonl')
    if not log.is_file():
        return {}
    lines = [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()]
    found = [line for line in lines if 'validation' in line and epoch in (None, line['epoch'])]
    if not found:
        return {}
    sign = 1 if metric != 'loss' and higher_is_better(metric) else -1
    best = max(found, key=lambda line: sign * line['validation'].get(metric, 0))
    return best['validation']


def write_card(title: str, fields: Mapping[str, Any], training: Mapping[str, Any], scores: Mapping[str, Any],
               validation: Mapping[str, float], licence: str = '') -> str:
    """The card's Markdown.

    `fields` and `training` are fields of Config: of the network, and of its run where that is
    known; `scores` are by test set; `licence` is an identifier of the hub's, e.g. 'mit'.
    """
    names = [name for name in HEADLINES if any(name in row for row in scores.values())]
    parts = []
    if scores:
        rows = [[dataset, *(row.get(name, '') for name in names)] for dataset, row in scores.items()]
        parts.append('## Scores\n\n' + tabulate(rows, ['test set', *names], 'github', floatfmt='.4g'))
    if validation:
        parts.append('## Validation\n\n' + tabulate(list(validation.items()), ['score', 'value'], 'github',
                                                   floatfmt='.4g'))
    width, height = fields['size']
    return TEXT.format(
        header=_header(title, scores, licence), title=title, introduction=_introduction(fields, training, licence),
        scores='\n\n'.join(parts) or 'This network has not been scored.', width=width, height=height, paper=PAPER)


def _introduction(fields: Mapping[str, Any], training: Mapping[str, Any], licence: str) -> str:
    width, height = fields['size']
    lines = [f'BiRefNet with backbone `{fields["bb"]}` for the task {fields["task"]}, trained at {width}x{height}'
             ' (width x height).']
    if training:
        sets = training.get('training_set') or f'all training sets of its task, {fields["task"]}'
        lines.append(f'Training set: {sets}; {training["epochs"]} epochs, {training["batch_size"]} images a step.')
    else:
        lines.append('Its training set is not known to the program that wrote this card.')
    lines.append(f'Licence: {licence}.' if licence else 'Its licence has not been stated: ask who trained it.')
    return '\n'.join(lines)


def _header(title: str, scores: Mapping[str, Any], licence: str) -> str:
    """YAML, of which every JSON value is one."""
    fields: dict[str, Any] = {'license': licence} if licence else {}
    fields |= {'library_name': 'birefnet', 'pipeline_tag': 'image-segmentation',
               'tags': ['BiRefNet', 'background-removal', 'mask-generation', 'dichotomous-image-segmentation',
                        MODEL_CLASS]}
    if scores:
        fields['model-index'] = [{'name': title, 'results': [
            {'task': {'type': 'image-segmentation'}, 'dataset': {'name': dataset, 'type': dataset},
             'metrics': [{'type': name, 'value': row[name]} for name in HEADLINES if name in row]}
            for dataset, row in scores.items()]}]
    return ''.join(f'{name}: {json.dumps(value, ensure_ascii=False)}\n' for name, value in fields.items())
