"""What drawings are made of: strokes and areas, and the points that they run through.

Drawings lie in a plane of about -1..1 in both directions, y downwards. Parts are listed in the
order in which they are drawn.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Point = np.ndarray | Sequence[float]  # x, y
Points = np.ndarray | Sequence[Point]
Point3 = tuple[float, float, float]  # x to the right, y upwards, z to the back

SIDES = (-1, 1)  # left and right


@dataclass(frozen=True)
class Part:
    """One brush stroke or one filled area.

    Attributes:
        rings: Arrays (N, 2) of x, y: the lines of a stroke, or the outlines of an area, whose inner
            ones are holes (even-odd rule).
        width: Of the stroke; 0 for an area.
        closed: Whether a stroke returns to its start.
        layer: 0 or 1 for one of the two materials; None cuts a hole into all parts before it.
    """

    rings: tuple[np.ndarray, ...]
    width: float = 0
    closed: bool = True
    layer: int | None = 0


# --- Strokes ------------------------------------------------------------------------------------


def stroke(points: Points, width: float, layer: int | None = 0, closed: bool = False) -> Part:
    """A brush stroke along `points` (N, 2)."""
    line = np.asarray(points, float)
    return Part((line,), width, closed, layer)


def loop(points: Points, width: float, layer: int | None = 0) -> Part:
    """A brush stroke along `points` (N, 2) that returns to its start."""
    return stroke(points, width, layer, closed=True)


def level_bar(y: float, half: float, width: float, layer: int | None = 0) -> Part:
    """A level stroke at height `y`, from x = -`half` to x = `half`."""
    ends = [(-half, y), (half, y)]
    return stroke(ends, width, layer)


def on_both_sides(points: Points, width: float, layer: int | None = 0) -> list[Part]:
    """A brush stroke along `points` (N, 2), and its mirror image at x = 0."""
    line = np.asarray(points, float)
    mirrored = line * (-1, 1)
    return [
        stroke(line, width, layer),
        stroke(mirrored, width, layer),
    ]


def spokes(
    x: float,
    y: float,
    inner: float,
    outer: float,
    count: int,
    width: float,
    twist: float = 0,
) -> list[Part]:
    """`count` straight strokes between two circles, whose outer ends are `twist` radians ahead."""
    parts = []
    for angle in even_angles(count):
        start = polar(angle, inner, x, y)
        end = polar(angle + twist, outer, x, y)
        parts.append(stroke([start, end], width))
    return parts


def cross_braces(
    half_widths: Iterable[float],
    heights: Iterable[float],
    width: float,
) -> list[Part]:
    """Crossed braces between the legs of a tower, from each height to the next."""
    levels = list(zip(half_widths, heights, strict=True))
    parts = []
    for (half, y), (next_half, next_y) in pairwise(levels):
        brace = [(half, y), (-next_half, next_y)]
        parts += on_both_sides(brace, width)
    return parts


# --- Areas --------------------------------------------------------------------------------------


def area(*rings: Points, layer: int | None = 0) -> Part:
    """A filled area between outlines (N, 2)."""
    outlines = tuple(np.asarray(ring, float) for ring in rings)
    return Part(outlines, layer=layer)


def disc(x: float, y: float, radius: float, layer: int | None = 0) -> Part:
    """A filled circle."""
    outline = ellipse(x, y, radius)
    return area(outline, layer=layer)


def hole(x: float, y: float, radius: float) -> Part:
    """A circle cut out of all parts before it."""
    return disc(x, y, radius, layer=None)


def taper(start: Point, end: Point, wide: float, narrow: float) -> Part:
    """A limb that narrows from `wide` to `narrow`, with a round end."""
    root = np.asarray(start, float)
    head = np.asarray(end, float)
    way = head - root
    length = max(np.linalg.norm(way), 1e-9)
    along = way / length
    across = quarter_turn(along)

    # The outline runs from the left of the root around the half circle of the tip to the right.
    half_circle = ellipse(0, 0, narrow / 2, start=0, stop=180)
    x, y = np.split(half_circle, 2, axis=1)
    tip = head + x * across + y * along
    half = across * wide / 2
    left = root - half
    right = root + half
    return area([left, *tip[::-1], right])


def leaflet(root: Point, length: float, width: float, angle: float) -> Part:
    """A pointed leaf from `root` towards `angle`, in degrees clockwise from the right."""
    # A leaf that points to the right.
    t = np.linspace(0, 1, 24)
    along = t * length
    phase = np.pi * t ** .8
    half = width / 2 * np.sin(phase)
    one_edge = curve(along, half)
    other_edge = curve(along, -half)
    outline = np.concatenate([one_edge, other_edge[::-1]])

    radians = math.radians(angle)
    turned = outline @ rotation(radians).T
    return area(turned + np.asarray(root))


# --- Points -------------------------------------------------------------------------------------


def curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points (N, 2) of coordinates (N,)."""
    return np.stack([x, y], axis=1)


def polar(angle: float, radius: float = 1., x: float = 0., y: float = 0.) -> tuple[float, float]:
    """The point at `angle`, in radians, on a circle about x, y."""
    right = radius * math.cos(angle)
    down = radius * math.sin(angle)
    return x + right, y + down


def polar_curve(angles: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Points (N, 2) at angles (N,), in radians, and distances (N,) from the origin."""
    x = radii * np.cos(angles)
    y = radii * np.sin(angles)
    return curve(x, y)


def even_angles(count: int, offset: float | np.ndarray = 0.) -> np.ndarray:
    """`count` angles around the circle in radians, moved by `offset` of their distance."""
    steps = np.arange(count) + offset
    return 2 * np.pi * steps / count


def inner_steps(low: float, high: float, count: int) -> np.ndarray:
    """`count` evenly spaced values between `low` and `high`, both ends excluded."""
    steps = np.linspace(low, high, count + 2)
    return steps[1:-1]


def rotation(angle: float) -> np.ndarray:
    """The matrix (2, 2) that turns columns x, y by `angle` radians, clockwise as y is downwards."""
    cosine = math.cos(angle)
    sine = math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def quarter_turn(direction: np.ndarray) -> np.ndarray:
    """The direction x, y turned by 90 degrees, clockwise as y is downwards."""
    x, y = direction
    return np.array([-y, x])


def ellipse(
    x: float,
    y: float,
    rx: float,
    ry: float | None = None,
    start: float = 0,
    stop: float = 360,
    turn: float = 0,
) -> np.ndarray:
    """Points (96, 2) of an elliptic arc.

    Args:
        x: Horizontal centre.
        y: Vertical centre.
        rx: Horizontal radius.
        ry: Vertical radius; None for a circle.
        start: First angle of the arc, in degrees.
        stop: Last angle of the arc, in degrees.
        turn: Rotation of the whole ellipse, in degrees.
    """
    if ry is None:
        ry = rx
    degrees = np.linspace(start, stop, 96)
    angles = np.radians(degrees)
    across = rx * np.cos(angles)
    along = ry * np.sin(angles)

    # The arc, turned as a whole and moved to its centre.
    radians = math.radians(turn)
    cosine = math.cos(radians)
    sine = math.sin(radians)
    turned_x = x + cosine * across - sine * along
    turned_y = y + sine * across + cosine * along
    return curve(turned_x, turned_y)


def bezier(start: np.ndarray, control: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points (12, 2) of a quadratic Bézier curve, which `control` pulls towards itself."""
    t = np.linspace(0, 1, 12)[:, None]
    start_weight = (1 - t) ** 2
    control_weight = 2 * t * (1 - t)
    end_weight = t ** 2
    return start_weight * start + control_weight * control + end_weight * end


def oblique(points: Sequence[Point3], depth: float) -> np.ndarray:
    """Projects x (right), y (up), z (back) onto the plane; z runs `depth` to the right."""
    coordinates = np.asarray(points, float)
    x, y, z = coordinates.T
    across = x + depth * z
    down = -y - .45 * z
    return curve(across, down)


def smooth(outline: np.ndarray, reach: int = 4) -> np.ndarray:
    """Removes the steps of pixels from a traced outline (N, 2) by a moving average."""
    shifted = []
    for shift in range(-reach, reach + 1):
        shifted.append(np.roll(outline, shift, axis=0))
    return np.mean(shifted, axis=0)
