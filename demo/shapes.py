"""Vector drawings of thin and holed objects, each a function `rng -> list[Part]` in SHAPES.

Drawings lie in a plane of about -1..1 in both directions, y downwards. `demo.render` scales and
turns them to fit a frame. Parts are listed in the order in which they are drawn.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Point = np.ndarray | Sequence[float]  # x, y
Points = np.ndarray | Sequence[Point]
Point3 = tuple[float, float, float]

SIDES = (-1, 1)  # left and right
WORDS = (
    'BiRef', 'Net', 'mask', 'edge', 'R&D', '&', 'Ag', 'fine', 'Q8', 'see', 'thin\nline', 'HD',
    'open\nair', '2026', 'hello', '?!', '#1', 'pi\nxel', 'Zoom', '@', 'yes')


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


# --- Strokes and areas --------------------------------------------------------------------------


def stroke(points: Points, width: float, layer: int | None = 0, closed: bool = False) -> Part:
    """A brush stroke along `points` (N, 2)."""
    return Part((np.asarray(points, float),), width, closed, layer)


def loop(points: Points, width: float, layer: int | None = 0) -> Part:
    """A brush stroke along `points` (N, 2) that returns to its start."""
    return stroke(points, width, layer, closed=True)


def area(*rings: Points, layer: int | None = 0) -> Part:
    """A filled area between outlines (N, 2)."""
    outlines = tuple(np.asarray(ring, float) for ring in rings)
    return Part(outlines, layer=layer)


def disc(x: float, y: float, radius: float, layer: int | None = 0) -> Part:
    """A filled circle."""
    return area(ellipse(x, y, radius), layer=layer)


def hole(x: float, y: float, radius: float) -> Part:
    """A circle cut out of all parts before it."""
    return disc(x, y, radius, layer=None)


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


def taper(start: Point, end: Point, wide: float, narrow: float) -> Part:
    """A limb that narrows from `wide` to `narrow`, with a round end."""
    root = np.asarray(start, float)
    head = np.asarray(end, float)
    length = max(np.linalg.norm(head - root), 1e-9)
    along = (head - root) / length
    across = np.array([-along[1], along[0]])

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
    t = np.linspace(0, 1, 24)
    bulge = np.sin(np.pi * t ** .8)
    along = t * length
    half = width / 2 * bulge
    one_edge = curve(along, half)
    other_edge = curve(along, -half)
    outline = np.concatenate([one_edge, other_edge[::-1]])

    radians = math.radians(angle)
    cosine, sine = math.cos(radians), math.sin(radians)
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    turned = outline @ rotation
    return area(turned + np.asarray(root))


# --- Points -------------------------------------------------------------------------------------


def curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points (N, 2) of coordinates (N,)."""
    return np.stack([x, y], axis=1)


def polar(angle: float, radius: float = 1., x: float = 0., y: float = 0.) -> tuple[float, float]:
    """The point at `angle`, in radians, on a circle about x, y."""
    return x + radius * math.cos(angle), y + radius * math.sin(angle)


def even_angles(count: int, offset: float | np.ndarray = 0.) -> np.ndarray:
    """`count` angles around the circle in radians, moved by `offset` of their distance."""
    steps = np.arange(count) + offset
    return 2 * np.pi * steps / count


def inner_steps(low: float, high: float, count: int) -> np.ndarray:
    """`count` evenly spaced values between `low` and `high`, both ends excluded."""
    return np.linspace(low, high, count + 2)[1:-1]


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
    angles = np.radians(np.linspace(start, stop, 96))
    across = rx * np.cos(angles)
    along = ry * np.sin(angles)

    # The arc, turned as a whole and moved to its centre.
    radians = math.radians(turn)
    cosine, sine = math.cos(radians), math.sin(radians)
    turned_x = x + cosine * across - sine * along
    turned_y = y + sine * across + cosine * along
    return curve(turned_x, turned_y)


def oblique(points: Sequence[Point3], depth: float) -> np.ndarray:
    """Projects x (right), y (up), z (back) onto the plane; z runs `depth` to the right."""
    x, y, z = np.asarray(points, float).T
    across = x + depth * z
    down = -y - .45 * z
    return curve(across, down)


def smooth(outline: np.ndarray, reach: int = 4) -> np.ndarray:
    """Removes the steps of pixels from a traced outline (N, 2) by a moving average."""
    shifted = []
    for shift in range(-reach, reach + 1):
        shifted.append(np.roll(outline, shift, axis=0))
    return np.mean(shifted, axis=0)


def crossed(half_widths: Iterable[float], heights: Iterable[float], width: float) -> list[Part]:
    """Crossed braces between the legs of a tower, from each height to the next."""
    levels = list(zip(half_widths, heights, strict=True))
    parts = []
    for (half, y), (next_half, next_y) in pairwise(levels):
        for side in SIDES:
            start = (side * half, y)
            end = (-side * next_half, next_y)
            parts.append(stroke([start, end], width))
    return parts


# --- Round things -------------------------------------------------------------------------------


def wheel(rng: np.random.Generator) -> list[Part]:
    """A wheel with straight or twisted spokes."""
    count = int(rng.integers(6, 13))
    tyre = rng.uniform(.14, .22)
    width = rng.uniform(.07, .11) if count < 9 else .065
    twist = rng.choice([0, 0, .35])
    hub = rng.uniform(.14, .24)

    # The tyre with the rim inside it, the spokes, and the hub with its axle.
    return [
        loop(ellipse(0, 0, 1), tyre, 1),
        loop(ellipse(0, 0, .97 - tyre / 2), .07),
        *spokes(0, 0, .1, .88, count, width, twist),
        disc(0, 0, hub, 1),
        disc(0, 0, .06),
    ]


def gear(rng: np.random.Generator) -> list[Part]:
    """A gear with a ring of holes around its hub."""
    teeth = int(rng.integers(9, 17))
    hole_count = int(rng.integers(4, 8))
    depth = rng.uniform(.14, .22)

    # A tooth has four corners: up at its base and tip, down again at tip and base.
    corners = np.array([-.3, -.18, .18, .3])
    positions = np.arange(teeth)[:, None] + corners
    angles = 2 * np.pi * positions / teeth
    angles = angles.ravel()
    radii = np.tile([1 - depth, 1, 1, 1 - depth], teeth)
    outline = curve(radii * np.cos(angles), radii * np.sin(angles))

    # A ring of holes, the smaller the more there are, around the hub.
    size = min(.2, 1.35 / hole_count)
    holes = []
    for angle in even_angles(hole_count):
        x, y = polar(angle, .52)
        holes.append(hole(x, y, size))
    return [area(outline), *holes, disc(0, 0, .26, 1), hole(0, 0, .13)]


def bicycle(rng: np.random.Generator) -> list[Part]:
    """A bicycle, seen from the side."""
    radius = rng.uniform(.42, .48)
    spoke_count = int(rng.integers(6, 10))
    width = rng.uniform(.075, .095)
    rear, front = (-.62, .3), (.66, .3)
    crank = (-.08, .34)
    head = (.42, -.38)
    seat = (-.26, -.36)

    # Each wheel: a tyre, its spokes and the hub over them.
    wheels = []
    for hub in (rear, front):
        wheels.append(loop(ellipse(*hub, radius), .085, 1))
        wheels += spokes(*hub, 0, radius, spoke_count, .042)
        wheels.append(disc(*hub, .07, 1))

    # The tubes between the named points, and what hangs on them.
    frame = [
        (rear, crank), (rear, seat), (seat, crank), (seat, head), (crank, head), (head, front)]
    tubes = [stroke(tube, width) for tube in frame]
    handlebar = [head, (.36, -.56), (.52, -.62), (.6, -.52)]
    return [
        *wheels,
        *tubes,
        stroke(handlebar, .07, 1),
        stroke([seat, (-.3, -.5)], .07),
        stroke([(-.48, -.55), (-.16, -.52)], .11, 1),  # saddle
        loop(ellipse(*crank, .12), .05, 1),
        stroke([crank, (.05, .53)], .06, 1),  # pedal
    ]


def glasses(rng: np.random.Generator) -> list[Part]:
    """Glasses with open temples."""
    rx = rng.uniform(.36, .42)
    ry = rng.uniform(.28, .42)
    width = rng.uniform(.1, .15)
    temples, lenses = [], []
    for side in SIDES:
        hinge = (side * .6, -ry + .05)
        bend = (side * .85, -ry - .35)
        end = (side * .95, -ry - .3)
        temple = [hinge, bend, end]
        temples.append(stroke(temple, width, 1))
        lenses.append(loop(ellipse(side * .52, .15, rx, ry), width))
    bridge_of_nose = ellipse(0, .13, .17, .14, 180, 360)
    return [*temples, *lenses, stroke(bridge_of_nose, width)]


def racket(rng: np.random.Generator) -> list[Part]:
    """A racket with its strings."""
    count = int(rng.integers(4, 7))
    width = rng.uniform(.045, .06)
    rx = rng.uniform(.42, .5)
    ry = rng.uniform(.5, .6)
    centre = -.4

    # Strings are chords of the head: at the share t of its width upright, of its height level.
    strings = []
    for t in inner_steps(-1, 1, count):
        chord = math.sqrt(1 - t ** 2)
        half_width = chord * rx
        half_height = chord * ry
        x = rx * t
        y = centre + ry * t
        upright = [(x, centre - half_height), (x, centre + half_height)]
        level = [(-half_width, y), (half_width, y)]
        strings.append(stroke(upright, width))
        strings.append(stroke(level, width))

    # Two arms lead from the head to the handle.
    throat = []
    for side in SIDES:
        shoulder = (side * rx * .7, centre + ry * .75)
        throat.append(stroke([shoulder, (0, .45)], .08, 1))
    return [
        *strings,
        *throat,
        loop(ellipse(0, centre, rx, ry), .12, 1),
        stroke([(0, .4), (0, 1)], .17, 1),  # handle
        stroke([(0, .6), (0, .98)], .1),
    ]


def key(rng: np.random.Generator) -> list[Part]:
    """A key whose bow is a ring or a clover."""
    leaves = int(rng.integers(1, 5))
    bit = rng.uniform(.25, .35)

    # The bow is one ring or a clover of several.
    bow = []
    if leaves == 1:
        bow.append(loop(ellipse(-.68, 0, .36), .17, 1))
    else:
        for angle in even_angles(leaves, .5):
            x, y = polar(angle, .24, -.68, 0)
            bow.append(loop(ellipse(x, y, .21), .13, 1))

    # The bit has three teeth, the middle one longer.
    shaft = stroke([(-.32, 0), (1.08, 0)], .17)
    notches = []
    teeth = ((.6, bit), (.82, bit * 1.3), (1.02, bit))
    for x, length in teeth:
        notches.append(stroke([(x, 0), (x, length)], .13))
    collar = stroke([(-.2, -.12), (-.2, .12)], .1, 1)
    return [shaft, *notches, *bow, collar]


# --- Bars and lattices --------------------------------------------------------------------------


def lattice(rng: np.random.Generator) -> list[Part]:
    """A framed lattice of level and upright bars, or of diamonds."""
    width = rng.uniform(.075, .11)
    count = int(rng.integers(3, 6))
    tall = rng.uniform(.75, 1.25)

    # Upright and level bars, or diamonds.
    lines = []
    if rng.random() < .5:
        for t in inner_steps(-1, 1, count):
            y = t * tall
            lines.append([(t, -tall), (t, tall)])
            lines.append([(-1, y), (1, y)])
    else:
        for t in inner_steps(-2, 2, 2 * count - 1):
            lines += _diagonals(t, tall)

    # The frame covers the ends of the bars.
    bars = [stroke(line, width) for line in lines]
    corners = [(-1, -tall), (1, -tall), (1, tall), (-1, tall)]
    frame = loop(corners, width * 1.7, 1)
    return [*bars, frame]


def _diagonals(t: float, tall: float) -> list[list[tuple[float, float]]]:
    """The line x - y = t within the unit square and its mirror image, both stretched to `tall`."""
    left = max(-1., t - 1)
    right = min(1., t + 1)
    start = (left, (left - t) * tall)
    end = (right, (right - t) * tall)
    line = [start, end]
    mirrored = [(-x, y) for x, y in line]
    return [line, mirrored]


def chair(rng: np.random.Generator) -> list[Part]:
    """A chair, seen obliquely, with slats or bars in its back."""
    depth = rng.uniform(.25, .5)
    leg = rng.uniform(.8, 1.1)
    back = rng.uniform(.9, 1.2)
    width = rng.uniform(.1, .14)
    splay = 1 + rng.uniform(0, .12)

    def line(start: Point3, end: Point3, scale: float = 1, layer: int = 0) -> Part:
        projected = oblique([start, end], depth)
        return stroke(projected, width * scale, layer)

    def legs_and_rung(z: float) -> list[Part]:
        parts = []
        for x in (-.6, .6):
            foot = (x * splay, -leg, z * splay)
            parts.append(line((x, 0, z), foot))
        y = -leg * .55
        parts.append(line((-.6, y, z), (.6, y, z), scale=.7))
        return parts

    # The back has level slats, or bars below a rail.
    posts = [line((x, 0, .9), (x * 1.05, back, 1.)) for x in (-.6, .6)]
    slats = []
    if rng.random() < .5:
        for height in (.4, .68, .97):
            y = height * back
            slats.append(line((-.6, y, .95), (.6, y, .95), scale=1.1, layer=1))
    else:
        for x in inner_steps(-.6, .6, 4):
            slats.append(line((x, 0, .9), (x, back, 1.), scale=.7))
        slats.append(line((-.63, back, 1.), (.63, back, 1.), scale=1.5, layer=1))

    # What is in front hides what is behind: the rear legs come first, the seat's front edge last.
    seat = [(-.68, 0, -.1), (.68, 0, -.1), (.62, 0, .95), (-.62, 0, .95)]
    return [
        *legs_and_rung(.9),
        *posts,
        *slats,
        *legs_and_rung(0),
        area(oblique(seat, depth), layer=1),
        line(seat[0], seat[1], scale=.9, layer=1),
    ]


def ladder(rng: np.random.Generator) -> list[Part]:
    """A ladder, or a stepladder."""
    count = int(rng.integers(5, 8))
    width = rng.uniform(.1, .14)
    foot = rng.uniform(.42, .62)
    top = rng.uniform(.28, .42)
    has_prop = rng.random() < .5

    # Rungs reach from leg to leg, whose distance shrinks from the foot to the top.
    rungs = []
    for y in np.linspace(.8, -.8, count):
        half = foot + (top - foot) * (1 - y) / 2
        rungs.append(stroke([(-half, y), (half, y)], width * .8, 1))

    # A stepladder stands on a second pair of legs, which is behind the first.
    legs, prop = [], []
    for side in SIDES:
        leg_line = [(side * foot, 1), (side * top, -1)]
        legs.append(stroke(leg_line, width))
        prop_line = [(side * .9 * top + .1, -.9), (side * foot + .65, .85)]
        prop.append(stroke(prop_line, width * .8))
    if has_prop:
        return [*prop, *rungs, *legs]
    return [*rungs, *legs]


def fence(rng: np.random.Generator) -> list[Part]:
    """A fence of pointed pickets."""
    count = int(rng.integers(5, 8))
    gap = rng.uniform(.42, .55)
    tip = rng.uniform(.1, .25)
    step = 2 / count
    half = step * (1 - gap) / 2

    # Two rails behind pointed pickets.
    rails = [stroke([(-1, y), (1, y)], .13, 1) for y in (-.3, .42)]
    pickets = []
    middles = (np.arange(count) + .5) * step - 1
    for x in middles:
        left, right = x - half, x + half
        outline = [(left, .8), (left, -.6), (x, -.6 - tip), (right, -.6), (right, .8)]
        pickets.append(area(outline))
    return [*rails, *pickets]


def bridge(rng: np.random.Generator) -> list[Part]:
    """A truss bridge on two piers."""
    bays = int(rng.integers(4, 7))
    tall = rng.uniform(.45, .65)
    width = rng.uniform(.07, .1)
    rise = rng.choice([0, .3])

    # The two chords of the truss; the upper one may be an arch.
    x = np.linspace(-1, 1, bays + 1)
    top = curve(x, -tall + rise * x ** 2)
    bottom = curve(x, np.full_like(x, .25))

    # Upright posts, and a diagonal tie in each bay, which falls and rises in turn.
    posts = [stroke(ends, width * .8) for ends in zip(top, bottom, strict=True)]
    ties = []
    for bay in range(bays):
        ends = (bottom[bay], top[bay + 1])
        if bay % 2:
            ends = (top[bay], bottom[bay + 1])
        ties.append(stroke(ends, width * .8))

    # Piers widen downwards.
    piers = []
    for side in SIDES:
        centre = side * .86
        outline = [
            (centre - .09, .25),
            (centre + .09, .25),
            (centre + .12, .75),
            (centre - .12, .75),
        ]
        piers.append(area(outline, layer=1))
    return [*piers, *posts, *ties, stroke(top, width * 1.2), stroke(bottom, width * 2, 1)]


def birdcage(rng: np.random.Generator) -> list[Part]:
    """A birdcage on a tray."""
    bars = int(rng.integers(5, 8))
    wide = rng.uniform(.6, .8)
    width = rng.uniform(.065, .09)

    # Ribs rise from the base and bend inwards to the top in a quarter of an ellipse.
    angles = np.linspace(0, 1, 30) * np.pi / 2
    quarter = curve(np.cos(angles), -.05 - .75 * np.sin(angles))
    ribs = []
    for foot in np.linspace(-wide, wide, bars):
        dome = quarter * (foot, 1)
        ribs.append(stroke([(foot, .85), *dome], width))
    rings = [loop(ellipse(0, y, wide, .1), width) for y in (-.05, .4)]

    # The base is a tray: its rim is round in front and behind.
    rim = wide * 1.08
    front = ellipse(0, .85, rim, .14, 0, 180)
    rear = ellipse(0, .76, rim, .14, 180, 360)
    return [
        *rings,
        *ribs,
        area(np.concatenate([front, rear]), layer=1),  # base
        stroke([(-rim / 2, .2), (rim / 2, .2)], .07, 1),  # perch
        loop(ellipse(0, -.95, .13), .07, 1),
    ]


def windmill(rng: np.random.Generator) -> list[Part]:
    """A windmill with four sails on a braced tower."""
    hub = (0., -.3)
    start = rng.uniform(0, np.pi / 2)
    width = rng.uniform(.055, .075)

    # The legs, and braces between them that follow their slope.
    tower = [stroke([(side * .12, -.3), (side * .38, 1)], .09) for side in SIDES]
    heights = np.linspace(-.05, 1, 5)
    half_widths = .12 + .26 * (heights + .3) / 1.3
    braces = crossed(half_widths, heights, .06)

    # Four sails at right angles.
    sails = []
    for angle in start + np.arange(4) * np.pi / 2:
        along = np.array(polar(angle))
        across = np.array([-along[1], along[0]])
        sails += _sail(hub, along, across * .26, width)
    return [*tower, *braces, *sails, disc(*hub, .13)]


def _sail(hub: Point, along: np.ndarray, across: np.ndarray, width: float) -> list[Part]:
    """One sail: its arm, its frame and two bars; `across` is as long as the sail is wide."""
    tip = hub + along * .95
    base = hub + along * .25
    parts = [
        stroke([hub, tip], .08, 1),
        stroke([base, base + across, tip + across, tip], width, 1),
    ]
    for t in (.48, .72):
        bar = hub + along * t
        parts.append(stroke([bar, bar + across], width, 1))
    return parts


def pylon(rng: np.random.Generator) -> list[Part]:
    """A pylon with two or three arms."""
    width = rng.uniform(.07, .095)
    foot = rng.uniform(.38, .52)
    arm_count = int(rng.integers(2, 4))

    # The legs narrow upwards and meet in a point; braces cross between them.
    heights = np.linspace(1, -.75, 6)
    half_widths = foot * np.linspace(1, .22, 6)
    legs = []
    for side in SIDES:
        shoulder = (side * half_widths[-1], -.75)
        leg = [(side * foot, 1), shoulder, (0, -1.05)]
        legs.append(stroke(leg, width * 1.1))
    braces = crossed(half_widths, heights, width * .75)

    # Triangular arms, from the top downwards.
    arms = []
    places = ((-.72, .5), (-.38, .72), (-.04, .6))
    for y, reach in places[:arm_count]:
        triangle = [(-reach, y), (0, y - .13), (reach, y)]
        arms.append(loop(triangle, width, 1))
    return [*legs, *braces, *arms]


# --- Living things ------------------------------------------------------------------------------


def tree(rng: np.random.Generator) -> list[Part]:
    """A forking tree, bare or with leaves."""
    parts, tips = [], []

    def grow(x: float, y: float, angle: float, length: float, width: float, level: int) -> None:
        """Adds a branch of `level` further forks, and all that grows on it."""
        end = (x + length * math.cos(angle), y - length * math.sin(angle))
        narrow = max(width * .72, .05)
        parts.append(taper((x, y), end, width, narrow))
        if level == 0:
            tips.append(end)
            return

        # It forks into two, or into three with one straight ahead.
        first = rng.choice([-1, 1])
        forks_in_two = level % 2 or rng.random() < .6
        directions = (first, -first) if forks_in_two else (first, 0, -first)
        for direction in directions:
            turned = angle + direction * rng.uniform(.3, .62)
            shorter = length * rng.uniform(.68, .84)
            grow(*end, turned, shorter, width * .7, level - 1)

    upwards = math.pi / 2 + rng.uniform(-.1, .1)
    grow(0, 1, upwards, .5, rng.uniform(.2, .28), 4)

    # Half of the trees are bare.
    leaf = rng.uniform(.06, .11) * rng.choice([0, 1])
    if not leaf:
        return parts
    for tip in tips:
        radius = leaf * rng.uniform(.7, 1.3)
        parts.append(disc(*tip, radius, 1))
    return parts


def fern(rng: np.random.Generator) -> list[Part]:
    """A frond of fern."""
    bend = rng.uniform(-.5, .5)
    count = int(rng.integers(7, 11))
    slim = rng.uniform(.2, .32)

    # The stem is a parabola.
    along = np.linspace(0, 1, 40)
    stem = curve(bend * along ** 2, 1 - 2 * along)

    # Leaves in pairs, the longest below the middle.
    leaves = []
    for t in np.linspace(.14, .97, count):
        root = (bend * t ** 2, 1 - 2 * t)
        up = math.degrees(math.atan2(bend * t, 1)) - 90
        phase = math.pi * min(.98, .25 + .72 * t)
        length = .75 * math.sin(phase) ** .8
        for side in SIDES:
            leaves.append(leaflet(root, length, length * slim, up + side * 55))

    # One more leaf continues the stem.
    up = math.degrees(math.atan2(bend, 1)) - 90
    tip = leaflet(stem[-1], .3, .1, up)
    return [*leaves, stroke(stem, .06, 1), tip]


def butterfly(rng: np.random.Generator) -> list[Part]:
    """A butterfly with open wings."""
    upper = rng.uniform(.5, .6)
    lower = rng.uniform(.34, .42)
    rim = rng.uniform(.09, .13)
    upper_radii = (upper, upper * .72)
    lower_radii = (lower, lower * .8)

    # On each side two wings and a feeler; the body lies over them.
    wings, feelers = [], []
    for side in SIDES:
        upper_centre = (side * .55, -.35)
        lower_centre = (side * .45, .42)
        wings += _wing(rng, side, upper_centre, upper_radii, side * -35, rim)
        wings += _wing(rng, side, lower_centre, lower_radii, side * 40, rim)

        feeler = [(0, -.5), (side * .12, -.8), (side * .26, -.98)]
        feelers.append(stroke(feeler, .055, 1))
    body = area(ellipse(0, .02, .11, .6), layer=1)
    return [*wings, *feelers, body]


def _wing(
    rng: np.random.Generator,
    side: int,
    centre: tuple[float, float],
    radii: tuple[float, float],
    turn: float,
    rim: float,
) -> list[Part]:
    """The rim of a wing, and five veins from the body to points on it."""
    rx, ry = radii
    outer = ellipse(*centre, rx, ry, turn=turn)
    inner = ellipse(*centre, rx - rim, ry - rim, turn=turn)
    parts = [area(outer), area(inner, layer=None)]

    # Veins start at the body and end within the rim.
    root = np.array([side * .04, 0])
    rim_points = ellipse(*centre, rx * .95, ry * .95, turn=turn)
    ends = rng.permutation(rim_points)[:5]
    for end in ends:
        parts.append(stroke([root, end], .06))
    return parts


def snowflake(rng: np.random.Generator) -> list[Part]:
    """A snowflake of six branched arms."""
    width = rng.uniform(.085, .12)
    lengths = rng.uniform(.25, .4, 3) * (1.1, .9, .6)
    has_ring = rng.random() < .6

    # Six arms, each with three pairs of twigs.
    parts = []
    for angle in np.arange(6) * np.pi / 3:
        arm = np.array(polar(angle))
        parts.append(stroke([(0, 0), arm], width))
        for radius, length in zip((.35, .6, .82), lengths, strict=True):
            root = arm * radius
            for turn in (-1., 1.):
                direction = np.array(polar(angle + turn))
                tip = root + length * direction
                parts.append(stroke([root, tip], width * .85))

    if has_ring:
        parts.append(loop(ellipse(0, 0, .28), .09, 1))
    return [*parts, disc(0, 0, .14, 1)]


def web(rng: np.random.Generator) -> list[Part]:
    """A spider web with sagging threads."""
    arms = int(rng.integers(6, 10))
    rings = int(rng.integers(3, 5))
    width = rng.uniform(.06, .085)

    # Arms of unequal length at uneven angles.
    unevenness = rng.uniform(-.18, .18, arms)
    angles = even_angles(arms, unevenness)
    reach = rng.uniform(.85, 1.1, arms)
    tips = curve(reach * np.cos(angles), reach * np.sin(angles))

    # Threads sag between the arms: quadratic Bézier curves whose middle is pulled inwards.
    parts = [stroke([(0, 0), tip], width * 1.15, 1) for tip in tips]
    t = np.linspace(0, 1, 12)[:, None]
    start_weight = (1 - t) ** 2
    middle_weight = 2 * t * (1 - t)
    end_weight = t ** 2
    for scale in np.linspace(.3, .9, rings):
        for start, end in pairwise([*tips, tips[0]]):
            middle = (start + end) / 2 * .86
            sag = start_weight * start + middle_weight * middle + end_weight * end
            parts.append(stroke(sag * scale, width))
    return [*parts, disc(0, 0, .1, 1)]


# --- Other things -------------------------------------------------------------------------------


def text(rng: np.random.Generator) -> list[Part]:
    """A short word or two in bold outlines, traced from Pillow's own font; some underlined."""
    word = rng.choice(WORDS)
    bold = int(rng.integers(5, 10))
    is_underlined = rng.random() < .4

    # The outlines of the letters on a large page, inner ones included.
    page = _write(word, bold)
    ink = (np.asarray(page) > 127).astype(np.uint8)
    outlines, _ = cv2.findContours(ink, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)

    # The longer side of the page becomes -1..1; specks are left out.
    half = max(page.size) / 2
    centre = np.array(page.size) / 2
    rings = []
    for outline in outlines:
        if len(outline) > 12:
            points = smooth(outline[:, 0])
            rings.append((points - centre) / half)
    letters = area(*rings)
    if not is_underlined:
        return [letters]

    base = page.size[1] / 2 / half + .06
    underline = stroke([(-.9, base), (.9, base)], .1, 1)
    return [letters, underline]


def _write(word: str, bold: int) -> Image.Image:
    """Writes a word in white on a black page that fits it, mode 'L'."""
    font = ImageFont.load_default(160)
    style: dict[str, Any] = {'font': font, 'stroke_width': bold, 'spacing': 0, 'align': 'center'}
    scratch = Image.new('L', (1, 1))
    ruler = ImageDraw.Draw(scratch)
    left, top, right, bottom = ruler.multiline_textbbox((0, 0), word, **style)

    # A margin of four pixels keeps outlines off the border.
    width = int(right - left) + 8
    height = int(bottom - top) + 8
    page = Image.new('L', (width, height))
    pen = ImageDraw.Draw(page)
    pen.multiline_text((4 - left, 4 - top), word, 255, **style)
    return page


def wire(rng: np.random.Generator) -> list[Part]:
    """One bent wire: a Lissajous figure, a rose, a spiral or a coil spring."""
    t = np.linspace(0, 2 * np.pi, 400)
    width = rng.uniform(.1, .15)
    kind = ('Lissajous', 'rose', 'spiral', 'spring')[rng.integers(4)]

    # Two of the four return to their start.
    if kind == 'Lissajous':
        frequencies = ((1, 2), (2, 3), (3, 2), (3, 4))
        a, b = frequencies[rng.integers(4)]
        closed = curve(np.sin(a * t + .6), np.sin(b * t))
        return [loop(closed, width)]
    if kind == 'rose':
        petals = int(rng.integers(3, 7))
        radius = .62 + .38 * np.cos(petals * t)
        closed = curve(radius * np.cos(t), radius * np.sin(t))
        return [loop(closed, width)]

    # The open ones end in a knob.
    if kind == 'spiral':
        angle = t * rng.uniform(2.5, 3.5)
        radius = t / 6.3
        line = curve(radius * np.cos(angle), radius * np.sin(angle))
    else:
        angle = t * rng.integers(5, 8)
        along = t / np.pi - 1 + .2 * np.sin(angle)
        line = curve(along, .55 * np.cos(angle))
    x, y = line[-1]
    return [stroke(line, width), disc(x, y, .13, 1)]


def scissors(rng: np.random.Generator) -> list[Part]:
    """Open scissors."""
    half_angle = rng.uniform(.22, .42)
    ring = rng.uniform(.2, .26)

    # Two halves that cross at the screw, each a blade and a ring for the fingers.
    parts = []
    for side in SIDES:
        along = np.array([side * math.sin(half_angle), -math.cos(half_angle)])
        across = np.array([along[1], -along[0]]) * side
        blade = [
            along * -.35 - across * .09,
            along * -.35 + across * .09,
            along * .2 + across * .12,
            along * 1.1,
            along * .2 - across * .09,
        ]
        x, y = along * -.62 - across * .1
        turn = math.degrees(side * half_angle)
        parts.append(area(blade))
        parts.append(loop(ellipse(x, y, ring, ring * 1.25, turn=turn), .13, 1))
    return [*parts, disc(0, 0, .07, 1)]


# In the order in which the kinds take turns in a data set.
DRAWINGS = (
    wheel, gear, lattice, chair, tree, fern, bicycle, ladder, fence, text, wire, bridge, birdcage,
    web, windmill, glasses, scissors, key, snowflake, racket, butterfly, pylon)

SHAPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    draw.__name__: draw for draw in DRAWINGS}
