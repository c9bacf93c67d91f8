"""The metrics written down as their definitions read, on whole float images and with loops: slow, and plainly right."""

import cv2
import numpy as np
from scipy.ndimage import binary_dilation, convolve, distance_transform_edt, label
from skimage.morphology import skeletonize

EPS = 2.0 ** -52
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


def normalise(pred):
    p = pred / 255
    return p if p.min() == p.max() else (p - p.min()) / (p.max() - p.min())


def s_measure(p, g):
    if not g.any():
        return 1 - p.mean()
    if g.all():
        return p.mean()
    u = g.mean()
    objects = u * _object(p[g]) + (1 - u) * _object(1 - p[~g])
    rows, columns = np.nonzero(g)
    y, x = round(rows.mean()) + 1, round(columns.mean()) + 1
    blocks = [(slice(y), slice(x)), (slice(y), slice(x, None)), (slice(y, None), slice(x)),
              (slice(y, None), slice(x, None))]
    weights = [g[block].size / g.size for block in blocks]
    regions = sum(w * _ssim(p[block], g[block]) for w, block in zip(weights, blocks, strict=True))
    return max(0, 0.5 * objects + 0.5 * regions)


def _object(x):
    deviation = x.std(ddof=1) if x.size > 1 else 0
    return 2 * x.mean() / (x.mean() ** 2 + 1 + deviation + EPS)


def _ssim(p, g):
    if p.size <= 1:
        return 0
    constant, flat = np.ptp(p) == 0, g.all() or not g.any()
    vp = 0 if constant else p.var(ddof=1)
    vg = 0 if flat else g.astype(float).var(ddof=1)
    covariance = 0 if constant or flat else ((p - p.mean()) * (g - g.mean())).sum() / (p.size - 1)
    a = 4 * p.mean() * g.mean() * covariance
    b = (p.mean() ** 2 + g.mean() ** 2) * (vp + vg)
    return a / (b + EPS) if a != 0 else float(b == 0)


def f_measure(b, g):
    hit = (b & g).sum()
    if hit == 0:
        return 0.0
    precision, recall = hit / b.sum(), hit / max(g.sum(), 1)
    return 1.3 * precision * recall / (0.3 * precision + recall)


def e_measure(b, g):
    if not g.any():
        enhanced = ~b
    elif g.all():
        enhanced = b
    else:
        x, y = b - b.mean(), g - g.mean()
        enhanced = (2 * x * y / (x * x + y * y + EPS) + 1) ** 2 / 4
    return enhanced.sum() / (g.size - 1 + EPS)


def weighted_f(p, g):
    if not g.any():
        return 0.0
    distance, (rows, columns) = distance_transform_edt(~g, return_indices=True)
    e = np.abs(p - g)
    kernel = np.exp(-np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2) / 50)
    a = convolve(e[rows, columns], kernel / kernel.sum(), mode='constant')
    m = np.where(g & (a < e), a, e)
    w = m * np.where(g, 1, 2 - np.exp(np.log(0.5) / 5 * distance))
    tp, fp = g.sum() - w[g].sum(), w[~g].sum()
    recall, precision = 1 - w[g].mean(), tp / (tp + fp + EPS)
    return 2 * recall * precision / (recall + precision + EPS)


def hce(pred, g):
    b = pred > 128
    tp, fp, fn = g & b, b & ~g, g & ~b
    core = ~binary_dilation(~(g | b), CROSS, 5)
    fp_kept, fn_kept = fp & core, fn & core
    for _ in range(5):
        fp_kept = binary_dilation(fp_kept, CROSS) & ~(tp | fn)
        fn_kept = binary_dilation(fn_kept, CROSS) & ~(tp | fp)
    fp_kept, fn_kept = fp_kept & fp, fn_kept & fn | skeletonize(g) & ~tp
    return _effort(fp_kept, tp | fn_kept) + _effort(fn_kept, ~(tp | fp_kept | fn_kept))


def _effort(region, condition):
    condition = binary_dilation(condition, CROSS)
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    seen, total = set(), 0
    for contour in contours:
        lines = [[]]
        for x, y in contour[:, 0].tolist():
            if condition[y, x] and (y, x) not in seen:
                seen.add((y, x))
                lines[-1].append((x, y))
            elif lines[-1]:
                lines.append([])
        lines = [line for line in lines if line]
        if len(lines) > 1 and max(abs(a - b) for a, b in zip(lines[0][0], lines[-1][-1], strict=True)) <= 1:
            lines[-1] += lines.pop(0)[::-1]
        total += sum(len(cv2.approxPolyDP(np.array(line, np.int32)[:, None], 2.0, False)) for line in lines)
    components, number = label(region, np.ones((3, 3)))
    touched = {components[pixel] for pixel in seen}
    return total + number - len(touched)


def mba(pred, g):
    b, mask = pred > 128, g.astype(np.uint8)
    found = []
    for k in range(5):
        radius = 1 + int((sum(g.shape) / 300 - 1) / 5 * k)
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        band = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, ellipse) > 0
        found.append((b == g)[band].mean() if band.any() else np.nan)
    return np.mean(found)


def _boundary(image):
    distance = max(1, round(0.02 * np.hypot(*image.shape)))
    padded = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return image - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]


def boundary_iou(q, g):
    edge, truth = _boundary(q), _boundary(g * np.uint8(255)) > 128
    levels = [edge >= 255 - i for i in range(256)]
    return np.array([(b & truth).sum() / (max(truth.sum(), 1) + (b & ~truth).sum()) for b in levels])


def score_pair(pred, gt):
    p, g = normalise(pred), gt > 128
    q = (255 * p).astype(np.uint8)
    binaries = [q >= 255 - i for i in range(256)]
    curves = {'Em': np.array([e_measure(b, g) for b in binaries]), 'Fm': np.array([f_measure(b, g) for b in binaries]),
              'BIoU': boundary_iou(q, g)}
    adaptive = p >= min(2 * p.mean(), 1)
    return {'sm': s_measure(p, g), 'mae': np.abs(p - g).mean(), 'mse': ((p - g) ** 2).mean(),
            'wfm': weighted_f(p, g), 'hce': hce(pred, g), 'mba': mba(pred, g),
            'adpEm': e_measure(adaptive, g), 'adpFm': f_measure(adaptive, g),
            **{f'max{name}': curve.max() for name, curve in curves.items()},
            **{f'mean{name}': curve.mean() for name, curve in curves.items()}}
