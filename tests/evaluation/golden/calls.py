"""Calls of PySODMetrics with arguments, which are recorded from it and repeated with ours."""

from typing import Any, NamedTuple

import numpy as np


class Call(NamedTuple):
    """A class by its name, and the arguments that it is made with."""

    name: str
    arguments: dict[str, Any]

    def make(self, module: Any) -> Any:
        """Makes an object of the class that `module` has under this name."""
        return getattr(module, self.name)(**self.arguments)


CALLS = {
    'Smeasure(alpha=.3)': Call('Smeasure', {'alpha': 0.3}),
    'Fmeasure(beta=1)': Call('Fmeasure', {'beta': 1}),
    'WeightedFmeasure(beta=.3)': Call('WeightedFmeasure', {'beta': 0.3}),
    'MAE()': Call('MAE', {}),
    'Emeasure()': Call('Emeasure', {}),
    'SizeInvarianceMAE()': Call('SizeInvarianceMAE', {}),
    'HumanCorrectionEffortMeasure()': Call('HumanCorrectionEffortMeasure', {}),
    'HumanCorrectionEffortMeasure(relax=2)': Call('HumanCorrectionEffortMeasure', {'relax': 2}),
    'HumanCorrectionEffortMeasure(epsilon=1.5)':
        Call('HumanCorrectionEffortMeasure', {'epsilon': 1.5}),
    'MSIoU(num_levels=4)': Call('MSIoU', {
        'with_dynamic': True, 'with_adaptive': True, 'with_binary': True, 'num_levels': 4}),
    'MSIoU(num_levels=12)': Call('MSIoU', {
        'with_dynamic': True, 'with_adaptive': True, 'with_binary': True, 'num_levels': 12}),
    'ContextMeasure(beta2=.3)': Call('ContextMeasure', {'beta2': 0.3}),
    'ContextMeasure(alpha=3)': Call('ContextMeasure', {'alpha': 3}),
    'CamouflageContextMeasure(alpha=4, gamma=3)':
        Call('CamouflageContextMeasure', {'alpha': 4, 'gamma': 3}),
    'CamouflageContextMeasure(beta2=2, lambda_spatial=0)':
        Call('CamouflageContextMeasure', {'beta2': 2, 'lambda_spatial': 0}),
}
KINDS = ('uint8', 'float', 'float32')


def arguments(sample: Any, kind: str) -> dict[str, Any]:
    """Prediction and mask of a sample as one of `KINDS`, as a step of a metric takes them."""
    if kind == 'uint8':
        return {'pred': sample.pred, 'gt': sample.mask, 'normalize': True}
    soft = np.sqrt(sample.pred / 255)
    if kind == 'float32':
        soft = soft.astype(np.float32)
    return {'pred': soft, 'gt': sample.mask > 128, 'normalize': False}


def further_arguments(name: str, sample: Any) -> dict[str, Any]:
    """What else a step of a metric takes."""
    return {'img': sample.image} if name.startswith('Camouflage') else {}


def summary(result: Any) -> Any:
    """A result with the mean and the maximum in the place of each curve."""
    if isinstance(result, dict):
        return {key: summary(value) for key, value in result.items()}
    parts = result if isinstance(result, list) else [result]
    values = np.concatenate([np.ravel(part) for part in parts])
    if values.size == 1:
        return float(values[0])
    return [float(values.mean()), float(values.max())]
