"""Records scores of PySODMetrics 1.6.2: `python -m tests.evaluation.golden.record`.

Runs in an environment of its own with pysodmetrics==1.6.2; prints golden/pysodmetrics.json.
"""

import json

import numpy as np
import py_sod_metrics as peer

from tests.evaluation.golden.calls import (
    CALLS,
    KINDS,
    arguments,
    further_arguments,
    summary,
)
from tests.evaluation.golden.pairs import samples

HANDLERS = {
    'Fm': peer.FmeasureHandler,
    'Precision': peer.PrecisionHandler,
    'Recall': peer.RecallHandler,
    'Specificity': peer.SpecificityHandler,
    'FPR': peer.FPRHandler,
    'Dice': peer.DICEHandler,
    'IoU': peer.IOUHandler,
    'BER': peer.BERHandler,
    'OA': peer.OverallAccuracyHandler,
    'Kappa': peer.KappaHandler,
}


def by_handlers(make, several, sample_based):
    """The results of all handlers over several pairs."""
    handlers = {}
    for name, handler in HANDLERS.items():
        handlers[name] = handler(
            with_dynamic=True, with_adaptive=sample_based, with_binary=True,
            sample_based=sample_based)
    metric = make(handlers)
    for sample in several:
        metric.step(sample.pred, sample.mask)
    return metric.get_results()


def threshold_scores(results, prefix=''):
    """Our names of a handler's results, where `dynamic` is a curve or curves by target."""
    scores = {}
    for name, result in results.items():
        curve = np.mean([np.mean(np.atleast_2d(c), axis=0) for c in result['dynamic']], axis=0) \
            if isinstance(result['dynamic'], list) else result['dynamic']
        scores[f'max{prefix}{name}'] = float(curve.max())
        scores[f'mean{prefix}{name}'] = float(curve.mean())
        scores[f'bin{prefix}{name}'] = float(result['binary'])
        if 'adaptive' in result:
            scores[f'adp{prefix}{name}'] = float(result['adaptive'])
    return scores


def pooled(scores):
    """Our names of scores over a whole set."""
    return {f'pooled{name[0].upper()}{name[1:]}': value for name, value in scores.items()}


def single_scores(sample):
    """The other scores of one pair."""
    scores = {}
    error = peer.SizeInvarianceMAE()
    error.step(sample.pred, sample.mask)
    scores['simae'] = float(error.get_results()['si_mae'])
    scales = peer.MSIoU(with_dynamic=True, with_adaptive=True, with_binary=True)
    scales.step(sample.pred, sample.mask)
    found = scales.get_results()
    scores['maxMSIoU'] = float(found['dynamic'].max())
    scores['meanMSIoU'] = float(found['dynamic'].mean())
    scores['adpMSIoU'] = float(found['adaptive'])
    scores['binMSIoU'] = float(found['binary'])
    context = peer.ContextMeasure()
    context.step(sample.pred, sample.mask)
    scores['cm'] = float(context.get_results()['cm'])
    camouflage = peer.CamouflageContextMeasure()
    camouflage.step(sample.pred, sample.mask, img=sample.image)
    scores['ccm'] = float(camouflage.get_results()['ccm'])
    return scores


def calls(sample):
    """Results of their calls with arguments, for 8 bits and for floating point."""
    found = {}
    for name, call in CALLS.items():
        for kind in KINDS:
            metric = call.make(peer)
            metric.step(**arguments(sample, kind), **further_arguments(name, sample))
            found[f'{name} {kind}'] = summary(metric.get_results())
    for name, make in {
        'FmeasureV2': peer.FmeasureV2, 'SizeInvarianceFmeasureV2': peer.SizeInvarianceFmeasureV2,
    }.items():
        # Handlers keep results, so each metric needs its own.
        handlers = {
            'f1': peer.FmeasureHandler(True, True, with_binary=True, beta=1),
            'iou': peer.IOUHandler(with_dynamic=True, with_adaptive=True, with_binary=True)}
        metric = make(metric_handlers=handlers)
        metric.step(**arguments(sample, 'float'))
        found[f'{name} float'] = summary(metric.get_results())
    return found


def main():
    """Prints all scores as JSON."""
    several = samples()
    recorded = {}
    for name, sample in several.items():
        plain = by_handlers(peer.FmeasureV2, [sample], True)
        targets = by_handlers(peer.SizeInvarianceFmeasureV2, [sample], True)
        recorded[name] = {
            **threshold_scores(plain), **threshold_scores(targets, 'Si'), **single_scores(sample)}
    every = list(several.values())
    # Without targets the curve is a mean over images here too; only `binary` is over all pixels.
    plain = threshold_scores(by_handlers(peer.FmeasureV2, every, False))
    plain = {name: value for name, value in plain.items() if name.startswith('bin')}
    targets = threshold_scores(by_handlers(peer.SizeInvarianceFmeasureV2, every, False), 'Si')
    recorded['pooled'] = {**pooled(plain), **pooled(targets)}
    recorded['calls'] = calls(several['blobs'])
    print(json.dumps(recorded, indent=1))


if __name__ == '__main__':
    main()
