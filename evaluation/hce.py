"""Human correction effort (Qin et al., "Highly accurate dichotomous image segmentation", ECCV 2022).

The points a person would set to correct a mask: the corners of the simplified borders of wrong regions, and one for
each region of its own. Masks are packed (evaluation/bits.py), so that the many dilations cost next to nothing.
"""

import multiprocessing
import re
import warnings
from functools import cache

import cv2
import numpy as np

from evaluation import bits

PUBLISHED_OPENCV = (4, 13)

RELAX = 5
EPSILON = 2.0
# An 8-connected path of up to this many different points is simplified to its ends: none is EPSILON from between them.
SHORT = 4


def counts_as_published() -> bool:
    """Whether this OpenCV simplifies borders as the one did that published counts are equal to."""
    return tuple(map(int, re.findall(r'\d+', cv2.__version__)[:2])) >= PUBLISHED_OPENCV


@cache
def warn_of_old_opencv() -> None:
    """Warns, once and not from worker processes, where counts will not be those published."""
    if counts_as_published() or multiprocessing.parent_process() is not None:
        return
    warnings.warn(f'HCE will differ slightly from published counts: OpenCV {cv2.__version__} simplifies borders '
                  'otherwise than 4.13 and newer')


def correction_effort(prediction: np.ndarray, foreground: np.ndarray, skeleton: np.ndarray,
                      shape: tuple[int, int]) -> int:
    """HCE of a packed prediction against a packed mask and its packed skeleton; `shape` is (H, W)."""
    warn_of_old_opencv()
    inside = bits.valid(shape)
    right = foreground & prediction
    excess = prediction & ~foreground
    missing = foreground & ~prediction
    # Erosion by RELAX crosses; outside the image never erodes.
    core = ~bits.dilate_cross(~(foreground | prediction) & inside, inside, RELAX)
    false_positives = bits.dilate_cross(excess & core, ~foreground & inside, RELAX) & excess
    false_negatives = bits.dilate_cross(missing & core, ~prediction & inside, RELAX) & missing | (skeleton & ~right)
    rest = ~(right | false_positives | false_negatives) & inside
    return (_clicks(false_positives, bits.dilate_cross(right | false_negatives, inside), shape[1])
            + _clicks(false_negatives, bits.dilate_cross(rest, inside), shape[1]))


def _clicks(region: np.ndarray, condition: np.ndarray, columns: int) -> int:
    """Points needed to correct a packed region: corners along its border where the condition holds."""
    contours, hierarchy = cv2.findContours(bits.unpack(region, columns), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return 0
    points = np.concatenate(contours)[:, 0]
    owner = np.repeat(np.arange(len(contours)), [len(contour) for contour in contours])
    counted = _counted(points, condition, columns)
    touched = np.zeros(len(contours), bool)
    touched[owner[counted]] = True
    return _corners(points, owner, counted) + _untouched_components(touched, hierarchy[0, :, 3])


def _counted(points: np.ndarray, condition: np.ndarray, columns: int) -> np.ndarray:
    """Which contour points (K, 2), as (x, y), meet the condition and are the first at their pixel."""
    flat = points[:, 1].astype(np.int64) * columns + points[:, 0]
    order = np.arange(len(points), dtype=np.int32)
    first = np.empty(len(condition) * columns, np.int32)  # memory is only taken for the pages written
    first[flat[::-1]] = order[::-1]  # the last assignment to a pixel stays
    return (first[flat] == order) & bits.lookup(condition, points[:, 1], points[:, 0])


def _corners(points: np.ndarray, owner: np.ndarray, counted: np.ndarray) -> int:
    """Vertices of the open polylines of consecutive counted points, simplified by Douglas and Peucker."""
    padded = np.concatenate([[-1], np.where(counted, owner, -1), [-1]])
    changes = np.flatnonzero(np.diff(padded))
    starts = changes[padded[changes + 1] >= 0]
    ends = changes[padded[changes] >= 0]  # one past the last point
    joined, total = _join(points, owner[starts], starts, ends)
    lengths = (ends - starts)[~joined]
    total += int(np.minimum(lengths, 2)[lengths <= SHORT].sum())
    for start, end in zip(starts[~joined][lengths > SHORT], ends[~joined][lengths > SHORT], strict=True):
        total += len(cv2.approxPolyDP(points[start:end], EPSILON, False))
    return total


def _join(points: np.ndarray, owner: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, int]:
    """Polylines that are joined, and the vertices of the joints.

    Where a contour has several polylines and the start of its first touches the end of its last, the first is moved,
    reversed, behind the last.
    """
    joined = np.zeros(len(starts), bool)
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    lasts = np.append(firsts[1:], len(owner)) - 1 if len(firsts) else firsts
    near = np.abs(points[starts[firsts]] - points[ends[lasts] - 1]).max(axis=1, initial=0) <= 1
    several = near & (firsts != lasts)
    total = 0
    for first, last in zip(firsts[several], lasts[several], strict=True):
        line = np.concatenate([points[starts[last]:ends[last]], points[starts[first]:ends[first]][::-1]])
        total += len(cv2.approxPolyDP(line, EPSILON, False))
        joined[[first, last]] = True
    return joined, total


def _untouched_components(touched: np.ndarray, parents: np.ndarray) -> int:
    """Components of the region none of whose contours has a counted point.

    In the tree of contours the outer ones, at even depth, are the components; those below at odd depth are their holes.
    """
    depth = np.zeros(len(parents), int)
    ancestors = parents
    while (ancestors >= 0).any():
        depth += ancestors >= 0
        ancestors = np.where(ancestors >= 0, parents[ancestors], -1)
    holes = depth % 2 == 1
    alive = touched.copy()
    alive[parents[holes & touched]] = True
    return int(np.count_nonzero(~alive & ~holes))
