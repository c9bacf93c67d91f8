"""Human correction effort (Qin et al., ECCV 2022).

The number of points a person sets to correct a mask: the vertices of the simplified borders of
wrong regions, and one for each region without such a border. Masks are packed (kernels/bits.py),
which makes the many dilations cheap.
"""

import multiprocessing
import re
import warnings
from functools import cache

import cv2
import numpy as np

from evaluation.kernels import bits

RELAX = 5
EPSILON = 2.0
# Douglas and Peucker reduce an 8-connected path of up to this many distinct points to its two ends,
# because none of its points is EPSILON away from the line between them.
SHORT = 4
# The oldest OpenCV that simplifies borders as the one behind the published counts.
PUBLISHED_OPENCV = (4, 13)


def counts_as_published() -> bool:
    """Returns whether this OpenCV gives the published counts."""
    major, minor = re.findall(r'\d+', cv2.__version__)[:2]
    return (int(major), int(minor)) >= PUBLISHED_OPENCV


@cache
def warn_of_old_opencv() -> None:
    """Warns where counts will differ from the published ones; once, and not in worker processes."""
    if counts_as_published() or multiprocessing.parent_process() is not None:
        return
    warnings.warn(
        f'HCE will differ slightly from published counts: OpenCV {cv2.__version__} simplifies '
        'borders otherwise than 4.13 and newer')


def correction_effort(
    prediction: np.ndarray,
    packed_mask: np.ndarray,
    skeleton: np.ndarray,
    shape: tuple[int, int],
    relax: int = RELAX,
    epsilon: float = EPSILON,
) -> int:
    """Computes HCE.

    Args:
        prediction: Binary prediction, packed.
        packed_mask: Mask, packed.
        skeleton: The mask's skeleton, packed.
        shape: (H, W) of the unpacked masks.
        relax: How many pixels deep errors are forgiven.
        epsilon: How far in pixels a border may be from its polygon.
    """
    warn_of_old_opencv()

    # What is right, too much and too little, before small errors are forgiven.
    inside = bits.valid(shape)
    correct = packed_mask & prediction
    excess = prediction & ~packed_mask
    missing = packed_mask & ~prediction

    # Wrong regions survive an erosion of the union by crosses, and grow back within
    # themselves. Pixels outside the image do not erode it.
    neither = ~(packed_mask | prediction) & inside
    core = ~bits.dilate_cross(neither, inside, relax)
    grown_excess = bits.dilate_cross(excess & core, ~packed_mask & inside, relax)
    grown_missing = bits.dilate_cross(missing & core, ~prediction & inside, relax)
    false_positives = grown_excess & excess
    # A missed part of the skeleton is never forgiven.
    missed_skeleton = skeleton & ~correct
    false_negatives = grown_missing & missing | missed_skeleton

    # Vertices count where the border touches what has to stay on its other side.
    foreground = correct | false_negatives
    background = ~(correct | false_positives | false_negatives) & inside
    near_foreground = bits.dilate_cross(foreground, inside)
    near_background = bits.dilate_cross(background, inside)
    columns = shape[1]
    excess_points = _count_points(false_positives, near_foreground, columns, epsilon)
    missing_points = _count_points(false_negatives, near_background, columns, epsilon)
    return excess_points + missing_points


def _count_points(
    region: np.ndarray, condition: np.ndarray, columns: int, epsilon: float,
) -> int:
    """Counts the points to correct a packed region: vertices of its border within `condition`."""
    contours, hierarchy = cv2.findContours(
        bits.unpack(region, columns), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return 0

    # The points of all contours one after another, and the contour of each.
    points = np.concatenate(contours)[:, 0]
    lengths = [len(contour) for contour in contours]
    owner = np.repeat(np.arange(len(contours)), lengths)
    counted = _first_within(points, condition, columns)

    # Vertices of the border, and one point for each component without one.
    touched = np.zeros(len(contours), bool)
    touched[owner[counted]] = True
    parents = hierarchy[0, :, 3]
    vertices = _count_vertices(points, owner, counted, epsilon)
    untouched = _count_untouched(touched, parents)
    return vertices + untouched


def _first_within(points: np.ndarray, condition: np.ndarray, columns: int) -> np.ndarray:
    """Selects the contour points (K, 2), as (x, y), within `condition`, once for each pixel."""
    x = points[:, 0]
    y = points[:, 1]
    row_starts = y.astype(np.int64) * columns
    pixels = row_starts + x
    order = np.arange(len(points), dtype=np.int32)

    # The system provides memory only for the pages that are written. Of assignments to one pixel
    # the last stays, so they are made in reverse.
    first = np.empty(len(condition) * columns, np.int32)
    first[pixels[::-1]] = order[::-1]
    is_first = first[pixels] == order
    is_within = bits.lookup(condition, y, x)
    return is_first & is_within


def _count_vertices(
    points: np.ndarray, owner: np.ndarray, counted: np.ndarray, epsilon: float,
) -> int:
    """Counts the vertices of the polylines of consecutive counted points after simplification.

    Args:
        points: Points of all contours one after another, (K, 2).
        owner: The contour of each point.
        counted: Which points count.
        epsilon: How far in pixels a polyline may be from its points.
    """
    # Runs of counted points of one contour: starts, and ends one past the last point.
    labels = np.where(counted, owner, -1)
    padded = np.concatenate([[-1], labels, [-1]])
    changes = np.flatnonzero(np.diff(padded))
    after = padded[changes + 1]
    before = padded[changes]
    starts = changes[after >= 0]
    ends = changes[before >= 0]

    # Contours are closed: their first and last runs may be one.
    joined, total = _join(points, owner[starts], starts, ends, epsilon)
    starts = starts[~joined]
    ends = ends[~joined]

    # Short runs are counted at once, long ones simplified one by one.
    lengths = ends - starts
    is_short = lengths <= (SHORT if epsilon >= EPSILON else 2)
    short_vertices = np.minimum(lengths[is_short], 2)
    total += int(short_vertices.sum())
    long_starts = starts[~is_short]
    long_ends = ends[~is_short]
    for start, end in zip(long_starts, long_ends, strict=True):
        total += _vertices(points[start:end], epsilon)
    return total


def _vertices(polyline: np.ndarray, epsilon: float) -> int:
    """Counts the vertices of a simplified polyline (K, 2)."""
    return len(cv2.approxPolyDP(polyline, epsilon, False))


def _join(
    points: np.ndarray,
    owner: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    epsilon: float,
) -> tuple[np.ndarray, int]:
    """Joins the first and last polyline of a contour where they touch.

    The first one is appended to the last one in reverse, as published.

    Returns:
        Which polylines were joined, and the number of vertices of the joined ones.
    """
    joined = np.zeros(len(starts), bool)
    if not len(starts):
        return joined, 0

    # The first and the last polyline of each contour.
    changes = np.diff(owner, prepend=-1)
    firsts = np.flatnonzero(changes)
    lasts = np.append(firsts[1:], len(owner)) - 1

    # They touch where the first begins beside the end of the last.
    first_points = points[starts[firsts]]
    last_points = points[ends[lasts] - 1]
    gaps = np.abs(first_points - last_points).max(axis=1)
    touching = (gaps <= 1) & (firsts != lasts)

    total = 0
    for first, last in zip(firsts[touching], lasts[touching], strict=True):
        front = points[starts[last]:ends[last]]
        back = points[starts[first]:ends[first]]
        polyline = np.concatenate([front, back[::-1]])
        total += _vertices(polyline, epsilon)
        joined[[first, last]] = True
    return joined, total


def _count_untouched(touched: np.ndarray, parents: np.ndarray) -> int:
    """Counts the components of the region none of whose contours has a counted point.

    In the tree of contours those at even depth are the outer ones of components; those below them,
    at odd depth, are their holes.
    """
    # The depth of each contour: the number of its ancestors.
    depth = np.zeros(len(parents), int)
    ancestors = parents
    while (ancestors >= 0).any():
        has_ancestor = ancestors >= 0
        depth += has_ancestor
        ancestors = np.where(has_ancestor, parents[ancestors], -1)

    # A component is touched at its outer contour or at one of its holes.
    is_hole = depth % 2 == 1
    component_touched = touched.copy()
    touched_holes = is_hole & touched
    component_touched[parents[touched_holes]] = True
    untouched = ~component_touched & ~is_hole
    return int(np.count_nonzero(untouched))
