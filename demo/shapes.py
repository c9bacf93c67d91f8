"""Vector drawings of thin and holed objects, each a function `rng -> list[Part]` in SHAPES.

The plane and the parts are those of `demo.drawing`. `demo.render` scales and turns a drawing to fit
a frame.
"""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.drawing import (
    SIDES,
    Part,
    Point,
    Point3,
    area,
    bezier,
    cross_braces,
    curve,
    disc,
    ellipse,
    even_angles,
    hole,
    inner_steps,
    leaflet,
    level_bar,
    loop,
    oblique,
    on_both_sides,
    polar,
    polar_curve,
    quarter_turn,
    smooth,
    spokes,
    stroke,
    taper,
)

WORDS = (
    'BiRef', 'Net', 'mask', 'edge', 'R&D', '&', 'Ag', 'fine', 'Q8', 'see', 'thin\nline', 'HD',
    'open\nair', '2026', 'hello', '?!', '#1', 'pi\nxel', 'Zoom', '@', 'yes')


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
    valley = 1 - depth
    corners = np.array([-.3, -.18, .18, .3])
    positions = np.arange(teeth)[:, None] + corners
    angles = 2 * np.pi * positions / teeth
    radii = np.tile([valley, 1, 1, valley], teeth)
    outline = polar_curve(angles.ravel(), radii)

    # A ring of holes, the smaller the more there are, around the hub.
    size = min(.2, 1.35 / hole_count)
    holes = []
    for angle in even_angles(hole_count):
        x, y = polar(angle, .52)
        holes.append(hole(x, y, size))
    return [
        area(outline),
        *holes,
        disc(0, 0, .26, 1),
        hole(0, 0, .13),
    ]


def bicycle(rng: np.random.Generator) -> list[Part]:
    """A bicycle, seen from the side."""
    radius = rng.uniform(.42, .48)
    spoke_count = int(rng.integers(6, 10))
    width = rng.uniform(.075, .095)
    rear = (-.62, .3)
    front = (.66, .3)
    crank = (-.08, .34)
    head = (.42, -.38)
    seat = (-.26, -.36)

    # Each wheel: a tyre, its spokes and the hub over them.
    wheels = []
    for hub in (rear, front):
        tyre = ellipse(*hub, radius)
        wheels.append(loop(tyre, .085, 1))
        wheels += spokes(*hub, 0, radius, spoke_count, .042)
        wheels.append(disc(*hub, .07, 1))

    tubes = [
        (rear, crank),  # chain stay
        (rear, seat),  # seat stay
        (seat, crank),  # seat tube
        (seat, head),  # top tube
        (crank, head),  # down tube
        (head, front),  # fork
    ]
    frame = [stroke(tube, width) for tube in tubes]

    # What is mounted on the frame.
    handlebar = [head, (.36, -.56), (.52, -.62), (.6, -.52)]
    seat_post = [seat, (-.3, -.5)]
    saddle = [(-.48, -.55), (-.16, -.52)]
    chainring = ellipse(*crank, .12)
    pedal = [crank, (.05, .53)]
    return [
        *wheels,
        *frame,
        stroke(handlebar, .07, 1),
        stroke(seat_post, .07),
        stroke(saddle, .11, 1),
        loop(chainring, .05, 1),
        stroke(pedal, .06, 1),
    ]


def glasses(rng: np.random.Generator) -> list[Part]:
    """Glasses with open temples."""
    rx = rng.uniform(.36, .42)
    ry = rng.uniform(.28, .42)
    width = rng.uniform(.1, .15)

    # The temples are behind the lenses.
    hinge = (.6, -ry + .05)
    bend = (.85, -ry - .35)
    end = (.95, -ry - .3)
    temples = on_both_sides([hinge, bend, end], width, 1)

    lens = ellipse(.52, .15, rx, ry)
    other_lens = ellipse(-.52, .15, rx, ry)
    nose_bridge = ellipse(0, .13, .17, .14, 180, 360)
    return [
        *temples,
        loop(lens, width),
        loop(other_lens, width),
        stroke(nose_bridge, width),
    ]


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
        half_height = chord * ry
        x = rx * t
        upright = [(x, centre - half_height), (x, centre + half_height)]
        strings.append(stroke(upright, width))

        y = centre + ry * t
        strings.append(level_bar(y, chord * rx, width))

    # Two arms lead from the head to the handle.
    shoulder = (rx * .7, centre + ry * .75)
    throat = on_both_sides([shoulder, (0, .45)], .08, 1)
    head = ellipse(0, centre, rx, ry)
    handle = [(0, .4), (0, 1)]
    grip = [(0, .6), (0, .98)]
    return [
        *strings,
        *throat,
        loop(head, .12, 1),
        stroke(handle, .17, 1),
        stroke(grip, .1),
    ]


def key(rng: np.random.Generator) -> list[Part]:
    """A key whose bow is a ring or a clover."""
    leaves = int(rng.integers(1, 5))
    bit = rng.uniform(.25, .35)

    # The bow is one ring or a clover of several.
    bow = []
    if leaves == 1:
        ring = ellipse(-.68, 0, .36)
        bow.append(loop(ring, .17, 1))
    else:
        for angle in even_angles(leaves, .5):
            x, y = polar(angle, .24, -.68, 0)
            ring = ellipse(x, y, .21)
            bow.append(loop(ring, .13, 1))

    # The bit has three teeth, the middle one longer.
    teeth = []
    for x, length in ((.6, bit), (.82, bit * 1.3), (1.02, bit)):
        tooth = [(x, 0), (x, length)]
        teeth.append(stroke(tooth, .13))

    shaft = [(-.32, 0), (1.08, 0)]
    collar = [(-.2, -.12), (-.2, .12)]
    return [
        stroke(shaft, .17),
        *teeth,
        *bow,
        stroke(collar, .1, 1),
    ]


# --- Bars and lattices --------------------------------------------------------------------------


def lattice(rng: np.random.Generator) -> list[Part]:
    """A framed lattice of level and upright bars, or of diamonds."""
    width = rng.uniform(.075, .11)
    count = int(rng.integers(3, 6))
    tall = rng.uniform(.75, 1.25)

    # Upright and level bars, or diamonds.
    bars = []
    if rng.random() < .5:
        for t in inner_steps(-1, 1, count):
            upright = [(t, -tall), (t, tall)]
            bars.append(stroke(upright, width))
            bars.append(level_bar(t * tall, 1, width))
    else:
        for t in inner_steps(-2, 2, 2 * count - 1):
            line = _diagonal(t, tall)
            bars += on_both_sides(line, width)

    # The frame covers the ends of the bars.
    corners = [
        (-1, -tall),
        (1, -tall),
        (1, tall),
        (-1, tall),
    ]
    frame = loop(corners, width * 1.7, 1)
    return [*bars, frame]


def _diagonal(t: float, tall: float) -> list[Point]:
    """The line x - y = t within the square of -1..1, which is then stretched to `tall`."""
    left = max(-1., t - 1)
    right = min(1., t + 1)
    start = (left, (left - t) * tall)
    end = (right, (right - t) * tall)
    return [start, end]


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
            hip = (x, 0, z)
            foot = (x * splay, -leg, z * splay)
            parts.append(line(hip, foot))
        y = -leg * .55
        rung = line((-.6, y, z), (.6, y, z), scale=.7)
        return [*parts, rung]

    posts = []
    for x in (-.6, .6):
        top = (x * 1.05, back, 1.)
        posts.append(line((x, 0, .9), top))

    # The back has level slats, or bars below a rail.
    slats = []
    if rng.random() < .5:
        for height in (.4, .68, .97):
            y = height * back
            slat = line((-.6, y, .95), (.6, y, .95), scale=1.1, layer=1)
            slats.append(slat)
    else:
        for x in inner_steps(-.6, .6, 4):
            bar = line((x, 0, .9), (x, back, 1.), scale=.7)
            slats.append(bar)
        rail = line((-.63, back, 1.), (.63, back, 1.), scale=1.5, layer=1)
        slats.append(rail)

    # What is in front hides what is behind: the rear legs come first, the seat's front edge last.
    front_left = (-.68, 0, -.1)
    front_right = (.68, 0, -.1)
    seat = [front_left, front_right, (.62, 0, .95), (-.62, 0, .95)]
    return [
        *legs_and_rung(.9),
        *posts,
        *slats,
        *legs_and_rung(0),
        area(oblique(seat, depth), layer=1),
        line(front_left, front_right, scale=.9, layer=1),
    ]


def ladder(rng: np.random.Generator) -> list[Part]:
    """A ladder, or a stepladder."""
    count = int(rng.integers(5, 8))
    width = rng.uniform(.1, .14)
    foot = rng.uniform(.42, .62)
    top = rng.uniform(.28, .42)
    is_stepladder = rng.random() < .5

    # Rungs reach from leg to leg, whose distance shrinks from the foot to the top.
    rungs = []
    for y in np.linspace(.8, -.8, count):
        half = foot + (top - foot) * (1 - y) / 2
        rungs.append(level_bar(y, half, width * .8, 1))
    legs = on_both_sides([(foot, 1), (top, -1)], width)
    if not is_stepladder:
        return [*rungs, *legs]

    # A stepladder stands on a second pair of legs, which is behind the first.
    rear_legs = []
    for side in SIDES:
        start = (side * .9 * top + .1, -.9)
        end = (side * foot + .65, .85)
        rear_legs.append(stroke([start, end], width * .8))
    return [*rear_legs, *rungs, *legs]


def fence(rng: np.random.Generator) -> list[Part]:
    """A fence of pointed pickets."""
    count = int(rng.integers(5, 8))
    gap = rng.uniform(.42, .55)
    tip = rng.uniform(.1, .25)
    step = 2 / count
    half = step * (1 - gap) / 2
    bottom = .8
    shoulder = -.6

    # Two rails behind pointed pickets.
    rails = [level_bar(y, 1, .13, 1) for y in (-.3, .42)]
    pickets = []
    for number in np.arange(count):
        x = (number + .5) * step - 1
        left = x - half
        right = x + half
        outline = [
            (left, bottom),
            (left, shoulder),
            (x, shoulder - tip),
            (right, shoulder),
            (right, bottom),
        ]
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
        is_falling = bay % 2 == 1
        if is_falling:
            ends = (top[bay], bottom[bay + 1])
        else:
            ends = (bottom[bay], top[bay + 1])
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
    return [
        *piers,
        *posts,
        *ties,
        stroke(top, width * 1.2),
        stroke(bottom, width * 2, 1),
    ]


def birdcage(rng: np.random.Generator) -> list[Part]:
    """A birdcage on a tray."""
    bars = int(rng.integers(5, 8))
    wide = rng.uniform(.6, .8)
    width = rng.uniform(.065, .09)

    # Ribs rise from the base and bend inwards to the top in a quarter of an ellipse.
    angles = np.linspace(0, 1, 30) * np.pi / 2
    height = .75 * np.sin(angles)
    quarter = curve(np.cos(angles), -.05 - height)
    ribs = []
    for foot in np.linspace(-wide, wide, bars):
        dome = quarter * (foot, 1)
        ribs.append(stroke([(foot, .85), *dome], width))

    rings = []
    for y in (-.05, .4):
        ring = ellipse(0, y, wide, .1)
        rings.append(loop(ring, width))

    # The base is a tray: its rim is round in front and behind.
    rim = wide * 1.08
    front = ellipse(0, .85, rim, .14, 0, 180)
    rear = ellipse(0, .76, rim, .14, 180, 360)
    tray = np.concatenate([front, rear])
    perch = level_bar(.2, rim / 2, .07, 1)
    handle = ellipse(0, -.95, .13)
    return [
        *rings,
        *ribs,
        area(tray, layer=1),
        perch,
        loop(handle, .07, 1),
    ]


def windmill(rng: np.random.Generator) -> list[Part]:
    """A windmill with four sails on a braced tower."""
    hub = (0., -.3)
    start = rng.uniform(0, np.pi / 2)
    width = rng.uniform(.055, .075)

    # The legs, and braces between them that follow their slope.
    tower = on_both_sides([(.12, -.3), (.38, 1)], .09)
    heights = np.linspace(-.05, 1, 5)
    widening = .26 * (heights + .3) / 1.3
    braces = cross_braces(.12 + widening, heights, .06)

    # Four sails at right angles.
    sails = []
    right_angles = np.arange(4) * np.pi / 2
    for angle in start + right_angles:
        along = np.array(polar(angle))
        across = quarter_turn(along) * .26
        sails += _sail(hub, along, across, width)
    return [*tower, *braces, *sails, disc(*hub, .13)]


def _sail(hub: Point, along: np.ndarray, across: np.ndarray, width: float) -> list[Part]:
    """One sail: its arm, its frame and two bars; `across` is as long as the sail is wide."""
    tip = hub + along * .95
    base = hub + along * .25
    frame = [base, base + across, tip + across, tip]
    parts = [
        stroke([hub, tip], .08, 1),
        stroke(frame, width, 1),
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
    shoulder = (half_widths[-1], -.75)
    leg = [(foot, 1), shoulder, (0, -1.05)]
    legs = on_both_sides(leg, width * 1.1)
    braces = cross_braces(half_widths, heights, width * .75)

    # Triangular arms, from the top downwards.
    arms = []
    places = (
        (-.72, .5),
        (-.38, .72),
        (-.04, .6),
    )
    for y, reach in places[:arm_count]:
        triangle = [(-reach, y), (0, y - .13), (reach, y)]
        arms.append(loop(triangle, width, 1))
    return [*legs, *braces, *arms]


# --- Living things ------------------------------------------------------------------------------


def tree(rng: np.random.Generator) -> list[Part]:
    """A forking tree, bare or with leaves."""
    parts, tips = [], []

    def grow(start: Point, angle: float, length: float, width: float, level: int) -> None:
        """Adds a branch of `level` further forks, and all that grows on it."""
        x, y = start
        right = length * math.cos(angle)
        up = length * math.sin(angle)
        end = (x + right, y - up)
        narrow = max(width * .72, .05)
        parts.append(taper(start, end, width, narrow))
        if level == 0:
            tips.append(end)
            return

        # It forks into two, or into three with one straight ahead.
        first = rng.choice([-1, 1])
        directions = [first, -first]
        has_third = level % 2 == 0 and rng.random() >= .6
        if has_third:
            directions = [first, 0, -first]
        for direction in directions:
            bend = rng.uniform(.3, .62)
            shorter = length * rng.uniform(.68, .84)
            grow(end, angle + direction * bend, shorter, width * .7, level - 1)

    upwards = math.pi / 2 + rng.uniform(-.1, .1)
    trunk = rng.uniform(.2, .28)
    grow((0, 1), upwards, .5, trunk, level=4)

    # Half of the trees are bare.
    leaf = rng.uniform(.06, .11)
    has_leaves = rng.choice([0, 1])
    if not has_leaves:
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
    x = bend * along ** 2
    stem = curve(x, 1 - 2 * along)

    # Leaves in pairs, the longest below the middle.
    leaves = []
    for t in np.linspace(.14, .97, count):
        x = bend * t ** 2
        root = (x, 1 - 2 * t)
        phase = math.pi * min(.98, .25 + .72 * t)
        length = .75 * math.sin(phase) ** .8
        ahead = _degrees_of_stem(bend * t)
        for side in SIDES:
            leaf = leaflet(root, length, length * slim, ahead + side * 55)
            leaves.append(leaf)

    # One more leaf continues the stem.
    tip = leaflet(stem[-1], .3, .1, _degrees_of_stem(bend))
    return [*leaves, stroke(stem, .06, 1), tip]


def _degrees_of_stem(lean: float) -> float:
    """The direction of a stem that goes `lean` to the right for 1 upwards, as `leaflet` has it."""
    from_upright = math.atan2(lean, 1)
    return math.degrees(from_upright) - 90


def butterfly(rng: np.random.Generator) -> list[Part]:
    """A butterfly with open wings."""
    upper = rng.uniform(.5, .6)
    lower = rng.uniform(.34, .42)
    rim = rng.uniform(.09, .13)
    upper_radii = (upper, upper * .72)
    lower_radii = (lower, lower * .8)

    # On each side two wings; the feelers and the body lie over them.
    wings = []
    for side in SIDES:
        upper_centre = (side * .55, -.35)
        lower_centre = (side * .45, .42)
        wings += _wing(rng, side, upper_centre, upper_radii, side * -35, rim)
        wings += _wing(rng, side, lower_centre, lower_radii, side * 40, rim)
    feeler = [(0, -.5), (.12, -.8), (.26, -.98)]
    body = ellipse(0, .02, .11, .6)
    return [
        *wings,
        *on_both_sides(feeler, .055, 1),
        area(body, layer=1),
    ]


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
    root = (side * .04, 0)
    rim_points = ellipse(*centre, rx * .95, ry * .95, turn=turn)
    shuffled = rng.permutation(rim_points)
    for end in shuffled[:5]:
        parts.append(stroke([root, end], .06))
    return parts


def snowflake(rng: np.random.Generator) -> list[Part]:
    """A snowflake of six branched arms."""
    width = rng.uniform(.085, .12)
    radii = (.35, .6, .82)
    lengths = rng.uniform(.25, .4, 3) * (1.1, .9, .6)
    has_ring = rng.random() < .6

    # Six arms, each with three pairs of twigs.
    parts = []
    for angle in np.arange(6) * np.pi / 3:
        arm = np.array(polar(angle))
        parts.append(stroke([(0, 0), arm], width))
        for radius, length in zip(radii, lengths, strict=True):
            root = arm * radius
            for turn in (-1., 1.):
                direction = np.array(polar(angle + turn))
                tip = root + length * direction
                parts.append(stroke([root, tip], width * .85))

    if has_ring:
        ring = ellipse(0, 0, .28)
        parts.append(loop(ring, .09, 1))
    centre = disc(0, 0, .14, 1)
    return [*parts, centre]


def web(rng: np.random.Generator) -> list[Part]:
    """A spider web with sagging threads."""
    arms = int(rng.integers(6, 10))
    rings = int(rng.integers(3, 5))
    width = rng.uniform(.06, .085)

    # Arms of unequal length at uneven angles.
    unevenness = rng.uniform(-.18, .18, arms)
    angles = even_angles(arms, unevenness)
    reach = rng.uniform(.85, 1.1, arms)
    tips = polar_curve(angles, reach)
    parts = [stroke([(0, 0), tip], width * 1.15, 1) for tip in tips]

    # Threads hang between neighbouring arms, and sag towards the centre.
    next_tips = np.roll(tips, -1, axis=0)
    for scale in np.linspace(.3, .9, rings):
        for start, end in zip(tips, next_tips, strict=True):
            middle = (start + end) / 2
            thread = bezier(start, middle * .86, end)
            parts.append(stroke(thread * scale, width))
    centre = disc(0, 0, .1, 1)
    return [*parts, centre]


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
    width, height = page.size
    half = max(width, height) / 2
    centre = np.array([width, height]) / 2
    rings = []
    for outline in outlines:
        if len(outline) > 12:
            points = smooth(outline[:, 0])
            rings.append((points - centre) / half)
    letters = area(*rings)
    if not is_underlined:
        return [letters]

    base = height / 2 / half + .06
    return [letters, level_bar(base, .9, .1, 1)]


def _write(word: str, bold: int) -> Image.Image:
    """Writes a word in white on a black page that fits it, mode 'L'."""
    style: dict[str, Any] = {
        'font': ImageFont.load_default(160),
        'stroke_width': bold,
        'spacing': 0,
        'align': 'center',
    }
    scratch = Image.new('L', (1, 1))
    ruler = ImageDraw.Draw(scratch)
    left, top, right, bottom = ruler.multiline_textbbox((0, 0), word, **style)

    # A margin of four pixels keeps outlines off the border.
    width = int(right - left) + 8
    height = int(bottom - top) + 8
    page = Image.new('L', (width, height))
    pen = ImageDraw.Draw(page)
    origin = (4 - left, 4 - top)
    pen.multiline_text(origin, word, 255, **style)
    return page


def wire(rng: np.random.Generator) -> list[Part]:
    """One bent wire: a Lissajous figure, a rose, a spiral or a coil spring."""
    t = np.linspace(0, 2 * np.pi, 400)
    width = rng.uniform(.1, .15)
    figures = (_lissajous, _rose, _spiral, _spring)
    figure = figures[rng.integers(4)]
    line = figure(rng, t)

    # Two of the four return to their start. The others end in a knob.
    if figure in (_lissajous, _rose):
        return [loop(line, width)]
    x, y = line[-1]
    return [stroke(line, width), disc(x, y, .13, 1)]


def _lissajous(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """A Lissajous figure at the parameters t (N,), 0..2 pi; the others likewise."""
    frequencies = ((1, 2), (2, 3), (3, 2), (3, 4))
    number = rng.integers(4)
    across, down = frequencies[number]
    x = np.sin(across * t + .6)
    y = np.sin(down * t)
    return curve(x, y)


def _rose(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    petals = int(rng.integers(3, 7))
    radius = .62 + .38 * np.cos(petals * t)
    return polar_curve(t, radius)


def _spiral(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    turns = rng.uniform(2.5, 3.5)
    radius = t / 6.3
    return polar_curve(t * turns, radius)


def _spring(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    turns = rng.integers(5, 8)
    angle = t * turns
    swing = .2 * np.sin(angle)
    x = t / np.pi - 1 + swing
    y = .55 * np.cos(angle)
    return curve(x, y)


def scissors(rng: np.random.Generator) -> list[Part]:
    """Open scissors."""
    half_angle = rng.uniform(.22, .42)
    ring = rng.uniform(.2, .26)

    # Corners of a blade, in the direction of its point and across, from the screw.
    corners = ((-.35, -.09), (-.35, .09), (.2, .12), (1.1, 0), (.2, -.09))

    # Two halves that cross at the screw, each a blade and a ring for the fingers.
    parts = []
    for side in SIDES:
        right = side * math.sin(half_angle)
        up = math.cos(half_angle)
        along = np.array([right, -up])
        across = quarter_turn(along) * -side
        blade = [along * a + across * b for a, b in corners]
        parts.append(area(blade))

        x, y = along * -.62 - across * .1
        turn = math.degrees(side * half_angle)
        fingers = ellipse(x, y, ring, ring * 1.25, turn=turn)
        parts.append(loop(fingers, .13, 1))
    screw = disc(0, 0, .07, 1)
    return [*parts, screw]


# In the order in which the kinds take turns in a data set.
DRAWINGS = (
    wheel, gear, lattice, chair, tree, fern, bicycle, ladder, fence, text, wire, bridge, birdcage,
    web, windmill, glasses, scissors, key, snowflake, racket, butterfly, pylon)

SHAPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    draw.__name__: draw for draw in DRAWINGS}
