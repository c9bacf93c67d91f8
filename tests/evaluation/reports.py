"""Reports of made-up scores over small images."""

from pathlib import Path

import numpy as np

from evaluation.display import show_all
from evaluation.report import Choice, Evaluation, write_report
from evaluation.summary import MethodScores
from tests.evaluation.folders import blob, spoil
from utils import write_png

COLUMNS = ('Smeasure', 'MAE')
FOREIGN = ('<script>alert(1)</script>', 'a "quoted"\' & name', 'two\nlines', 'not \udce9 text')


def make_evaluation(
    root: Path, sets=('TE-A',), images=4, methods=('ours', 'theirs'), names=None, score='sm',
) -> Evaluation:
    """Writes images, and makes up scores: image 0 is the worst, and MAE has another order."""
    details, results, categories = {}, {}, {}
    for dataset in sets:
        stems = names or [f'im {index}' for index in range(images)]
        for index, stem in enumerate(stems):
            mask = blob(index)
            image = np.dstack([mask // 2, 255 - mask, mask])
            file = f'{stem.replace("/", "_")}.png'
            write_png(root / 'gt' / dataset / 'gt' / file, mask)
            write_png(root / 'gt' / dataset / 'im' / file, image)
            for method in methods:
                write_png(root / 'preds' / method / dataset / file, spoil(mask, 3, index))
        details[dataset] = {}
        records = []
        for lead, method in enumerate(methods):
            sm = np.linspace(.5, .9, len(stems)) - lead / 100
            values = {'sm': sm, 'mae': (sm * 7) % .3}
            details[dataset][method] = MethodScores(stems, values, {})
            scores = {name: float(found.mean()) for name, found in values.items()}
            records.append({
                'method': method, 'run': method, 'epoch': None, 'resolution': None,
                'images': len(stems), 'scores': scores})
        results[dataset] = {
            'gt_root': str(root / 'gt'), 'pred_root': str(root / 'preds'), 'methods': records}
        categories[dataset] = {
            stem: [('Bird', 'Chair')[index % 2]] for index, stem in enumerate(stems)}
    choice = Choice('Smeasure', methods[0], [], [score])
    return Evaluation(
        'Toy', COLUMNS, results, [choice], details, show_all(methods), [], categories)


def write(root: Path, evaluation: Evaluation, **options) -> str:
    write_report(root / 'report.html', evaluation, **options)
    return (root / 'report.html').read_text(encoding='utf-8')
