"""The model card: what a network is, what it was trained on, and what it scored."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from evaluation.metrics import HEADLINES, higher_is_better
from evaluation.results import scored_sets
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
# image: (1, 3, {height}, {width}), RGB, normalised with ImageNet's mean and standard deviation
mask = model(image)[-1].sigmoid()
```

Resize an image to {width}x{height} without keeping its aspect ratio, and the mask back to the
image's size. Sides must be multiples of 32. Without code from this folder, the project that wrote
it loads it by `models.load_model('{title}')`.

The method: Zheng et al., 2024,
[Bilateral Reference for High-Resolution Dichotomous Image Segmentation]({paper}).
'''


def scores_of(
    results: str | os.PathLike, run: str, epoch: int | None, size: Size,
) -> dict[str, dict[str, float]]:
    """Reads the scores of one checkpoint from the `<set>_eval.json` of an evaluation's folder.

    Args:
        results: the folder.
        run: name of the checkpoint's run.
        epoch: of the checkpoint.
        size: (width, height) of the network; scores at other sizes are left out.

    Returns:
        Scores by name, by test set.

    Raises:
        OSError: a file cannot be read.
    """
    found = {}
    own_sizes = (None, '', f'{size[0]}x{size[1]}')
    for dataset, content in scored_sets(Path(results)).items():
        for method in content['methods']:
            is_ours = method['run'] == run and method['epoch'] == epoch
            if is_ours and method.get('resolution') in own_sizes:
                scores = method['scores'].items()
                known = {name: value for name, value in scores if value is not None}
                found[dataset] = known
    return found


def validation_of(run: str | os.PathLike, epoch: int | None, metric: str) -> dict[str, float]:
    """Reads the scores of a validation from a run's log.jsonl.

    Args:
        run: folder of the run.
        epoch: after which the validation was; None: the best validation by `metric`.
        metric: a score, or 'loss'.

    Returns:
        Scores by name, none where there is no such validation.
    """
    log = Path(run, 'log.jsonl')
    if not log.is_file():
        return {}
    found = []
    for text in log.read_text(encoding='utf-8', errors='replace').splitlines():
        line = _fields_in(text)
        scores = line.get('validation')
        if isinstance(scores, dict) and epoch in (None, line.get('epoch')):
            found.append(scores)
    if not found:
        return {}
    sign = 1 if metric != 'loss' and higher_is_better(metric) else -1
    return max(found, key=lambda scores: sign * scores.get(metric, 0))


def _fields_in(text: str) -> dict[str, Any]:
    """The fields of a line; {} of one that was cut off, or is of another project."""
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def write_card(
    title: str,
    fields: Mapping[str, Any],
    training: Mapping[str, Any],
    scores: Mapping[str, Any],
    validation: Mapping[str, float],
    licence: str = '',
) -> str:
    """Writes a model card.

    Args:
        title: of the card.
        fields: fields of the network's Config.
        training: fields of its run's Config, where that is known.
        scores: scores by name, by test set.
        validation: scores of the validation by name.
        licence: an identifier of the hub's, e.g. 'mit'.

    Returns:
        Markdown.
    """
    parts = []
    if scores:
        known: set[str] = set().union(*scores.values())
        names = [name for name in HEADLINES if name in known]
        rows = []
        for dataset, row in scores.items():
            rows.append([dataset, *(row.get(name, '') for name in names)])
        parts.append('## Scores\n\n' + _table(rows, ['test set', *names]))
    if validation:
        rows = [list(item) for item in validation.items()]
        parts.append('## Validation\n\n' + _table(rows, ['score', 'value']))
    width, height = fields['size']
    return TEXT.format(
        header=_header(title, scores, licence),
        title=title,
        introduction=_introduction(fields, training, licence),
        scores='\n\n'.join(parts) or 'This network has not been scored.',
        width=width,
        height=height,
        paper=PAPER,
    )


def _table(rows: list[list], header: list[str]) -> str:
    return tabulate(rows, header, 'github', floatfmt='.4g')


def _introduction(fields: Mapping[str, Any], training: Mapping[str, Any], licence: str) -> str:
    width, height = fields['size']
    task = fields['task']
    lines = [f'BiRefNet with backbone `{fields["bb"]}` for the task {task}, '
             f'trained at {width}x{height} (width x height).']
    if training:
        sets = training.get('training_set') or f'all training sets of its task, {task}'
        lines.append(f'Training set: {sets}; {training["epochs"]} epochs, '
                     f'{training["batch_size"]} images a step.')
    else:
        lines.append('Its training set is not known to the program that wrote this card.')
    if licence:
        lines.append(f'Licence: {licence}.')
    else:
        lines.append('Its licence has not been stated: ask who trained it.')
    return '\n'.join(lines)


def _header(title: str, scores: Mapping[str, Any], licence: str) -> str:
    """The front matter in YAML, of which JSON is a part."""
    fields: dict[str, Any] = {}
    if licence:
        fields['license'] = licence
    fields['library_name'] = 'birefnet'
    fields['pipeline_tag'] = 'image-segmentation'
    fields['tags'] = [
        'BiRefNet',
        'background-removal',
        'mask-generation',
        'dichotomous-image-segmentation',
        MODEL_CLASS,
    ]
    if scores:
        results = [_result(dataset, row) for dataset, row in scores.items()]
        fields['model-index'] = [{'name': title, 'results': results}]
    lines = []
    for name, value in fields.items():
        lines.append(f'{name}: {json.dumps(value, ensure_ascii=False)}\n')
    return ''.join(lines)


def _result(dataset: str, row: Mapping[str, float]) -> dict[str, Any]:
    """One entry of the hub's model-index."""
    return {
        'task': {'type': 'image-segmentation'},
        'dataset': {'name': dataset, 'type': dataset},
        'metrics': [{'type': name, 'value': row[name]} for name in HEADLINES if name in row],
    }
