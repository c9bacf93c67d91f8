"""The metrics as their papers define them: on whole float images, with loops; slow and plain.

Tests hold the kernels equal to these definitions. The symbols, all (H, W): `pred` is the
prediction, uint8 0..255; `p` the same min-max normalised to 0..1; `q` that in 0..255 again; `b` a
binary prediction; `g` the mask, boolean.

This package needs scipy and scikit-image.
"""

import numpy as np

from evaluation.definitions import confusion, context, masks, mattes, multiscale, targets


def score_pair(pred: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """Computes all scores of a prediction against a mask, both uint8 (H, W)."""
    g = masks.foreground(gt)
    p = masks.normalise(pred)
    q = (255 * p).astype(np.uint8)
    # A mask of 0 and 1 is a boolean one.
    alpha = gt * np.uint8(255) if gt.max() == 1 else gt
    errors = mattes.scores(pred, alpha)
    return {
        **masks.scores(pred, p, q, g),
        **confusion.threshold_scores(p, q, g),
        'cm': context.context_measure(p, g),
        **multiscale.scores(p, q, g),
        **targets.scores(p, q, g),
        **{name: errors[name] for name in mattes.METRICS},
    }
