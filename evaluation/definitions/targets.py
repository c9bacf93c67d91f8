"""Size-invariant scores: Li et al., ICML 2024, as PySODMetrics has them."""

from collections import defaultdict

import numpy as np
from scipy.ndimage import find_objects, label

from evaluation.definitions import confusion


def boxes(g: np.ndarray) -> list[tuple[slice, slice]]:
    """Bounding boxes of the components of at least 50 pixels; of the largest if there is none."""
    components, number = label(g)
    areas = np.bincount(components.ravel())[1:]
    if number == 0:
        return [(slice(None), slice(None))]
    smallest = min(50, areas.max())
    found = []
    for box, area in zip(find_objects(components), areas, strict=True):
        if area >= smallest:
            found.append(box)
    return found


def absolute_error(p: np.ndarray, g: np.ndarray) -> float:
    """SI-MAE: the boxes' mean errors, and that between them weighted by its share of area."""
    error = np.abs(p - g)
    targets = boxes(g)
    between = np.ones(g.shape, bool)
    total = 0.0
    for box in targets:
        total += error[box].mean()
        between[box] = False
    weight = between.sum() / (~between).sum()
    if weight:
        total += weight * error[between].mean()
    return total / (len(targets) + weight)


def scores(p: np.ndarray, q: np.ndarray, g: np.ndarray) -> dict[str, float]:
    """Computes all size-invariant scores."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    curves: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for box in boxes(g):
        # The image of one target: all outside its box is background and 0.
        in_box = np.zeros(g.shape, bool)
        in_box[box] = True
        target = g & in_box
        soft = np.where(in_box, p, 0)
        grey = np.where(in_box, q, 0)

        # The metrics of its binary predictions.
        threshold = min(2 * soft.mean(), 1)
        adaptive = soft >= threshold
        above_half = soft > 0.5
        binaries = [grey >= threshold for threshold in range(255, -1, -1)]
        for name, metric in confusion.METRICS.items():
            curve = [metric(b, target) for b in binaries]
            at_adaptive = metric(adaptive, target)
            at_half = metric(above_half, target)
            curves[name].append(np.array(curve))
            found[f'adpSi{name}'].append(at_adaptive)
            found[f'binSi{name}'].append(at_half)

        # Areas are those within the box.
        precision_area = confusion.average_precision(q[box], g[box])
        roc_area = confusion.roc_auc(q[box], g[box])
        found['siAucPR'].append(precision_area)
        found['siAucROC'].append(roc_area)

    # Means over the targets.
    result = {'simae': absolute_error(p, g)}
    for name, values in found.items():
        present = [value for value in values if not np.isnan(value)]
        result[name] = float(np.mean(present)) if present else np.nan

    # The curves' extremes and means follow from the mean curve.
    for name, several in curves.items():
        curve = np.mean(several, axis=0)
        result[f'maxSi{name}'] = curve.max()
        result[f'meanSi{name}'] = curve.mean()
        if name in confusion.LOWER_IS_BETTER:
            result[f'minSi{name}'] = curve.min()
    return result
