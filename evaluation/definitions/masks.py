"""The usual metrics of binary masks: S, E, weighted F, HCE, mBA, boundary IoU, MAE and MSE."""

import cv2
import numpy as np
from scipy.ndimage import binary_dilation, convolve, distance_transform_edt, label
from skimage.morphology import skeletonize

EPS = 2.0 ** -52
Pixel = tuple[int, int]
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


def foreground(gt: np.ndarray) -> np.ndarray:
    """The mask of uint8 (H, W), boolean: above 128, or where it is 1 if it has only 0 and 1."""
    return gt == 1 if gt.max() == 1 else gt > 128


def normalise(pred: np.ndarray) -> np.ndarray:
    """Min-max normalises a prediction to 0..1; a constant one is only divided by 255."""
    p = pred / 255
    low = p.min()
    high = p.max()
    if low == high:
        return p
    return (p - low) / (high - low)


def mae(p: np.ndarray, g: np.ndarray) -> float:
    """Mean absolute error."""
    return np.abs(p - g).mean()


def mse(p: np.ndarray, g: np.ndarray) -> float:
    """Mean squared error."""
    return ((p - g) ** 2).mean()


def s_measure(p: np.ndarray, g: np.ndarray, alpha: float = 0.5) -> float:
    """S-measure: Fan et al., "Structure-measure", ICCV 2017.

    A quadrant of one pixel has no SSIM and counts 0. An empty mask scores 1 - mean p, a full one
    mean p, as published.
    """
    if not g.any():
        return 1 - p.mean()
    if g.all():
        return p.mean()

    # How evenly mask and background are filled.
    share = g.mean()
    inside = _object_score(p[g])
    outside = _object_score(1 - p[~g])
    object_term = share * inside + (1 - share) * outside

    # How alike the structures are in the four quadrants about the mask's centre.
    rows, columns = np.nonzero(g)
    y = round(rows.mean()) + 1
    x = round(columns.mean()) + 1
    quadrants = (
        (slice(y), slice(x)),
        (slice(y), slice(x, None)),
        (slice(y, None), slice(x)),
        (slice(y, None), slice(x, None)),
    )
    region_term = 0.0
    for quadrant in quadrants:
        area = g[quadrant].size / g.size
        region_term += area * _ssim(p[quadrant], g[quadrant])
    weighted = alpha * object_term + (1 - alpha) * region_term
    return max(0, weighted)


def _object_score(x: np.ndarray) -> float:
    mean = x.mean()
    deviation = x.std(ddof=1) if x.size > 1 else 0
    denominator = mean ** 2 + 1 + deviation
    return 2 * mean / (denominator + EPS)


def _ssim(p: np.ndarray, g: np.ndarray) -> float:
    """SSIM without constants. What is constant has variance 0, whatever rounding gives."""
    if p.size <= 1:
        return 0
    # Variances and covariance, over N - 1.
    p_is_constant = np.ptp(p) == 0
    g_is_constant = g.all() or not g.any()
    p_variance = 0 if p_is_constant else p.var(ddof=1)
    g_variance = 0 if g_is_constant else g.astype(float).var(ddof=1)
    p_mean = p.mean()
    g_mean = g.mean()
    covariance = 0
    if not p_is_constant and not g_is_constant:
        products = (p - p_mean) * (g - g_mean)
        covariance = products.sum() / (p.size - 1)

    # The product of luminance, contrast and structure.
    numerator = 4 * p_mean * g_mean * covariance
    denominator = (p_mean ** 2 + g_mean ** 2) * (p_variance + g_variance)
    if numerator == 0:
        return float(denominator == 0)
    return numerator / (denominator + EPS)


def e_measure(b: np.ndarray, g: np.ndarray) -> float:
    """E-measure: Fan et al., "Enhanced-alignment measure", IJCAI 2018."""
    if not g.any():
        enhanced = ~b
    elif g.all():
        enhanced = b
    else:
        x = b - b.mean()
        y = g - g.mean()
        alignment = 2 * x * y / (x * x + y * y + EPS)
        enhanced = (alignment + 1) ** 2 / 4
    return enhanced.sum() / (g.size - 1 + EPS)


def weighted_f(p: np.ndarray, g: np.ndarray, beta: float = 1) -> float:
    """Weighted F-measure: Margolin et al., "How to evaluate foreground maps?", CVPR 2014."""
    if not g.any():
        return 0.0
    distance, (rows, columns) = distance_transform_edt(~g, return_indices=True)
    error = np.abs(p - g)

    # Dependency between pixels: errors inside the mask are smoothed where that makes them smaller.
    squares = np.arange(-3, 4) ** 2
    squared_distances = np.add.outer(squares, squares)
    kernel = np.exp(-squared_distances / 50)
    kernel /= kernel.sum()
    nearest_error = error[rows, columns]
    smoothed = convolve(nearest_error, kernel, mode='constant')
    is_smaller = g & (smoothed < error)
    smaller = np.where(is_smaller, smoothed, error)

    # Errors outside weigh more with their distance from the mask.
    decay = np.exp(np.log(0.5) / 5 * distance)
    weight = np.where(g, 1, 2 - decay)
    weighted = smaller * weight

    # The F-measure of the weighted errors.
    missed = weighted[g]
    true_positives = g.sum() - missed.sum()
    false_positives = weighted[~g].sum()
    recall = 1 - missed.mean()
    precision = true_positives / (true_positives + false_positives + EPS)
    numerator = (1 + beta) * recall * precision
    return numerator / (recall + beta * precision + EPS)


def hce(pred: np.ndarray, g: np.ndarray) -> int:
    """Human correction effort, relax 5, epsilon 2: Qin et al., "Highly accurate dichotomous image
    segmentation", ECCV 2022.
    """
    # Predictions are cut as masks are.
    b = pred > 128
    true_positives = g & b
    false_positives = b & ~g
    false_negatives = g & ~b

    # Small errors, which an erosion of the union removes, are forgiven.
    core = ~binary_dilation(~(g | b), CROSS, 5)
    excess = false_positives & core
    missing = false_negatives & core
    for _ in range(5):
        excess = binary_dilation(excess, CROSS) & ~g
        missing = binary_dilation(missing, CROSS) & ~b
    excess &= false_positives
    # Thin structures are not.
    thin = skeletonize(g) & ~true_positives
    missing = missing & false_negatives | thin

    # Borders count where they touch what has to stay on their other side.
    object_side = true_positives | missing
    background = ~(true_positives | excess | missing)
    return _effort(excess, object_side) + _effort(missing, background)


def _effort(region: np.ndarray, other_side: np.ndarray) -> int:
    """Counts polygon points along the border where the region touches the other side.

    A component that does not touch it takes one click.
    """
    # The vertices of each contour's polylines; the first and the last are one where they meet.
    touching = binary_dilation(other_side, CROSS)
    contours, _ = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    seen: set[Pixel] = set()
    total = 0
    for contour in contours:
        lines = _split(contour[:, 0].tolist(), touching, seen)
        if len(lines) > 1:
            start = lines[0][0]
            end = lines[-1][-1]
            if _are_neighbours(start, end):
                first = lines.pop(0)
                lines[-1] += first[::-1]
        for line in lines:
            points = np.array(line, np.int32)[:, None]
            vertices = cv2.approxPolyDP(points, 2.0, False)
            total += len(vertices)

    # One click for each component that no polyline belongs to.
    components, number = label(region, np.ones((3, 3)))
    touched = {components[pixel] for pixel in seen}
    return total + number - len(touched)


def _split(points: list[Pixel], touching: np.ndarray, seen: set[Pixel]) -> list[list[Pixel]]:
    """Splits a contour into polylines of touching pixels that no contour has had before."""
    lines: list[list[Pixel]] = [[]]
    for x, y in points:
        if touching[y, x] and (y, x) not in seen:
            seen.add((y, x))
            lines[-1].append((x, y))
        elif lines[-1]:
            lines.append([])
    return [line for line in lines if line]


def _are_neighbours(first: Pixel, second: Pixel) -> bool:
    x1, y1 = first
    x2, y2 = second
    across = abs(x1 - x2)
    down = abs(y1 - y2)
    return max(across, down) <= 1


def mba(pred: np.ndarray, g: np.ndarray) -> float:
    """Mean boundary accuracy: Cheng et al., "CascadePSP", CVPR 2020; NaN without a boundary."""
    is_right = (pred > 128) == g
    mask = g.astype(np.uint8)
    spacing = (sum(g.shape) / 300 - 1) / 5
    accuracies = []
    for k in range(5):
        # A band about the boundary, wider by each step.
        radius = 1 + int(spacing * k)
        size = 2 * radius + 1
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        band = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, ellipse) > 0
        accuracies.append(is_right[band].mean() if band.any() else np.nan)
    return np.mean(accuracies)


def boundary_iou(q: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Boundary IoU at the 256 thresholds, (256,): Cheng et al., "Boundary IoU", CVPR 2021."""
    edge = _boundary(q)
    true_edge = _boundary(g * np.uint8(255)) > 128
    curve = []
    for threshold in range(255, -1, -1):
        found = edge >= threshold
        hits = (found & true_edge).sum()
        excess = (found & ~true_edge).sum()
        union = max(true_edge.sum(), 1) + excess
        curve.append(hits / union)
    return np.array(curve)


def _boundary(image: np.ndarray) -> np.ndarray:
    """Subtracts the image eroded by .02 of its diagonal, one pixel at a time; outside it is 0."""
    diagonal = np.hypot(*image.shape)
    distance = max(1, round(0.02 * diagonal))
    square = np.ones((3, 3), np.uint8)
    padded = np.pad(image, 1)
    eroded = cv2.erode(padded, square, iterations=distance)
    inner = eroded[1:-1, 1:-1]
    return image - inner


def scores(pred: np.ndarray, p: np.ndarray, q: np.ndarray, g: np.ndarray) -> dict[str, float]:
    """Computes these scores of a prediction."""
    # Scores of the whole prediction, or of one binary prediction.
    adaptive = p >= min(2 * p.mean(), 1)
    found = {
        'sm': s_measure(p, g),
        'wfm': weighted_f(p, g),
        'mae': mae(p, g),
        'mse': mse(p, g),
        'hce': hce(pred, g),
        'mba': mba(pred, g),
        'adpEm': e_measure(adaptive, g),
    }

    # Maximum and mean over the thresholds.
    alignments = [e_measure(q >= threshold, g) for threshold in range(255, -1, -1)]
    curves = {
        'Em': np.array(alignments),
        'BIoU': boundary_iou(q, g),
    }
    for name, curve in curves.items():
        found[f'max{name}'] = curve.max()
        found[f'mean{name}'] = curve.mean()
    return found
