"""Size-invariant scores: Li et al., ICML 2024, as PySODMetrics has them."""

import numpy as np
from scipy.ndimage import find_objects, label

from evaluation.definitions import confusion


def boxes(g: np.ndarray) -> list[tuple[slice, slice]]:
    """Bounding boxes of the components of at least 50 pixels; of the largest if there is none."""
    components, number = label(g)
    areas = np.bincount(components.ravel())[1:]
    if number == 0:
        return [(slice(None), slice(None))]
    kept = areas >= min(50, areas.max())
    return [box for box, is_kept in zip(find_objects(components), kept, strict=True) if is_kept]


def absolute_error(p: np.ndarray, g: np.ndarray) -> float:
    """SI-MAE: the boxes' mean errors, and that between them weighted by its share of area."""
    error = np.abs(p - g)
    between = np.ones(g.shape, bool)
    total = 0.0
    for box in boxes(g):
        total += error[box].mean()
        between[box] = False
    weight = between.sum() / (~between).sum()
    if weight:
        total += weight * error[between].mean()
    return total / (len(boxes(g)) + weight)


def scores(p: np.ndarray, q: np.ndarray, g: np.ndarray) -> dict[str, float]:
    """Computes all size-invariant scores."""
    found: dict[str, list[float]] = {}
    curves: dict[str, list[np.ndarray]] = {}
    for box in boxes(g):
        in_box = np.zeros(g.shape, bool)
        in_box[box] = True
        target = g & in_box
        soft = np.where(in_box, p, 0)
        grey = np.where(in_box, q, 0)
        adaptive = soft >= min(2 * soft.mean(), 1)
        binaries = [grey >= threshold for threshold in range(255, -1, -1)]
        for name, metric in confusion.METRICS.items():
            curves.setdefault(name, []).append(np.array([metric(b, target) for b in binaries]))
            found.setdefault(f'adpSi{name}', []).append(metric(adaptive, target))
            found.setdefault(f'binSi{name}', []).append(metric(soft > 0.5, target))
        # Areas are those within the box.
        area = confusion.average_precision(q[box], g[box])
        found.setdefault('siAucPR', []).append(area)
        found.setdefault('siAucROC', []).append(confusion.roc_auc(q[box], g[box]))

    result = {'simae': absolute_error(p, g)}
    for name, values in found.items():
        present = [value for value in values if not np.isnan(value)]
        result[name] = float(np.mean(present)) if present else np.nan
    for name, several in curves.items():
        curve = np.mean(several, axis=0)
        result[f'maxSi{name}'] = curve.max()
        result[f'meanSi{name}'] = curve.mean()
        if name in confusion.LOWER_IS_BETTER:
            result[f'minSi{name}'] = curve.min()
    return result
