"""Vector drawings of thin and holed objects, each a function `rng -> list[Part]` in SHAPES.

Drawings live in a plane of about -1..1 in both directions, y downwards; the frame they end up in scales and turns them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Points = np.ndarray | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Part:
    """One brush stroke or one filled area.

    rings: arrays (N, 2) of x, y. Of a stroke the lines, of an area its outlines (even-odd: inner ones are holes).
    width: of the stroke; 0 is an area.
    layer: 0 or 1, the material that it is made of, or None, which cuts a hole into all that was drawn before.
    """
    rings: tuple[np.ndarray, ...]
    width: float = 0
    closed: bool = True
    layer: int | None = 0


def stroke(points: Points, width: float, layer: int | None = 0, closed: bool = False) -> Part:
    return Part((np.asarray(points, float),), width, closed, layer)


def area(*rings: Points, layer: int | None = 0) -> Part:
    return Part(tuple(np.asarray(ring, float) for ring in rings), layer=layer)


def ellipse(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360,
            turn: float = 0) -> np.ndarray:
    """Points (96, 2) of an elliptic arc between two angles in degrees; `turn` turns the whole ellipse, in degrees."""
    angles = np.radians(np.linspace(start, stop, 96))
    across, along = rx * np.cos(angles), (rx if ry is None else ry) * np.sin(angles)
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return np.stack([x + c * across - s * along, y + s * across + c * along], axis=1)


def disc(x: float, y: float, radius: float, layer: int | None = 0) -> Part:
    return area(ellipse(x, y, radius), layer=layer)


def spokes(x: float, y: float, inner: float, outer: float, count: int, width: float, twist: float = 0) -> list[Part]:
    """`count` straight strokes from one circle to another, each turned on its way by `twist` radians."""
    turns = 2 * math.pi * np.arange(count) / count
    return [stroke([(x + inner * math.cos(a), y + inner * math.sin(a)),
                    (x + outer * math.cos(a + twist), y + outer * math.sin(a + twist))], width) for a in turns]


def taper(start: Sequence[float], end: Sequence[float], wide: float, narrow: float) -> Part:
    """A limb that narrows from `wide` to `narrow`, round at its end."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = (end - start) / max(np.linalg.norm(end - start), 1e-9)
    across = np.array([-along[1], along[0]])
    tip = ellipse(0, 0, narrow / 2, start=0, stop=180)
    tip = end + tip[:, :1] * across + tip[:, 1:] * along
    return area([start - across * wide / 2, *tip[::-1], start + across * wide / 2])


def oblique(points: Points, depth: float) -> np.ndarray:
    """Projects x (right), y (up), z (back), of shape (N, 3), onto the plane; `depth` is how far z goes to the right."""
    x, y, z = np.asarray(points, float).T
    return np.stack([x + depth * z, -y - .45 * z], axis=1)


def wheel(rng: np.random.Generator) -> list[Part]:
    count, tyre = int(rng.integers(6, 13)), rng.uniform(.14, .22)
    width = rng.uniform(.07, .11) if count < 9 else .065
    parts = [stroke(ellipse(0, 0, 1), tyre, 1, True), stroke(ellipse(0, 0, .97 - tyre / 2), .07, 0, True)]
    parts += spokes(0, 0, .1, .88, count, width, twist=rng.choice([0, 0, .35]))
    return [*parts, disc(0, 0, rng.uniform(.14, .24), 1), disc(0, 0, .06)]


def gear(rng: np.random.Generator) -> list[Part]:
    teeth, holes, depth = int(rng.integers(9, 17)), int(rng.integers(4, 8)), rng.uniform(.14, .22)
    angles = 2 * np.pi * (np.arange(teeth)[:, None] + np.array([-.3, -.18, .18, .3])) / teeth
    radii = np.tile([1 - depth, 1, 1, 1 - depth], teeth)
    outline = np.stack([radii * np.cos(angles.ravel()), radii * np.sin(angles.ravel())], axis=1)
    ring = 2 * np.pi * np.arange(holes) / holes
    size = min(.2, 1.35 / holes)
    return [area(outline), *(disc(.52 * math.cos(a), .52 * math.sin(a), size, None) for a in ring),
            disc(0, 0, .26, 1), disc(0, 0, .13, None)]


def lattice(rng: np.random.Generator) -> list[Part]:
    width, count, tall = rng.uniform(.075, .11), int(rng.integers(3, 6)), rng.uniform(.75, 1.25)
    ticks = np.linspace(-1, 1, count + 2)[1:-1]
    frame = stroke([(-1, -tall), (1, -tall), (1, tall), (-1, tall)], width * 1.7, 1, True)
    if rng.random() < .5:  # upright bars, else diamonds
        bars = [line for t in ticks for line in ([(t, -tall), (t, tall)], [(-1, t * tall), (1, t * tall)])]
    else:
        bars = [line for t in np.linspace(-2, 2, 2 * count + 1)[1:-1] for line in _diagonals(t, tall)]
    return [*(stroke(bar, width) for bar in bars), frame]


def _diagonals(t: float, tall: float) -> list[list[tuple[float, float]]]:
    """The line x - y = t within the unit square, and its mirror image, stretched to the height `tall`."""
    low, high = max(-1., t - 1), min(1., t + 1)
    line = [(low, (low - t) * tall), (high, (high - t) * tall)]
    return [line, [(-x, y) for x, y in line]]


def chair(rng: np.random.Generator) -> list[Part]:
    depth, leg, back, width = rng.uniform(.25, .5), rng.uniform(.8, 1.1), rng.uniform(.9, 1.2), rng.uniform(.1, .14)

    def line(*points: tuple[float, float, float], scale: float = 1, layer: int = 0) -> Part:
        return stroke(oblique(points, depth), width * scale, layer)

    splay = rng.uniform(0, .12)
    legs = [line((x, 0, z), (x * (1 + splay), -leg, z * (1 + splay))) for z in (.9, 0) for x in (-.6, .6)]
    rungs = [line((-.6, -leg * .55, z), (.6, -leg * .55, z), scale=.7) for z in (.9, 0)]
    posts = [line((x, 0, .9), (x * 1.05, back, 1.)) for x in (-.6, .6)]
    if rng.random() < .5:
        slats = [line((-.6, h * back, .95), (.6, h * back, .95), scale=1.1, layer=1) for h in (.4, .68, .97)]
    else:
        slats = [line((x, 0, .9), (x, back, 1.), scale=.7) for x in np.linspace(-.6, .6, 6)[1:-1]]
        slats.append(line((-.63, back, 1.), (.63, back, 1.), scale=1.5, layer=1))
    seat = [(-.68, 0, -.1), (.68, 0, -.1), (.62, 0, .95), (-.62, 0, .95)]
    return [*legs[:2], rungs[0], *posts, *slats, *legs[2:], rungs[1], area(oblique(seat, depth), layer=1),
            line(*seat[:2], scale=.9, layer=1)]


def tree(rng: np.random.Generator) -> list[Part]:
    parts, tips = [], []

    def grow(x: float, y: float, angle: float, length: float, width: float, level: int) -> None:
        end = (x + length * math.cos(angle), y - length * math.sin(angle))
        parts.append(taper((x, y), end, width, max(width * .72, .05)))
        if level == 0:
            tips.append(end)
            return
        for side in rng.choice([-1, 1]) * np.array([1, -1] if level % 2 or rng.random() < .6 else [1, 0, -1]):
            grow(*end, angle + side * rng.uniform(.3, .62), length * rng.uniform(.68, .84), width * .7, level - 1)

    grow(0, 1, math.pi / 2 + rng.uniform(-.1, .1), .5, rng.uniform(.2, .28), 4)
    leaf = rng.uniform(.06, .11) * rng.choice([0, 1])
    return parts + [disc(*tip, leaf * rng.uniform(.7, 1.3), 1) for tip in tips if leaf]


def fern(rng: np.random.Generator) -> list[Part]:
    bend, count, slim = rng.uniform(-.5, .5), int(rng.integers(7, 11)), rng.uniform(.2, .32)
    along = np.linspace(0, 1, 40)
    stem = np.stack([bend * along ** 2, 1 - 2 * along], axis=1)
    leaves = []
    for t in np.linspace(.14, .97, count):
        root, lean = (bend * t ** 2, 1 - 2 * t), math.degrees(math.atan2(bend * t, 1))
        length = .75 * math.sin(math.pi * min(.98, .25 + .72 * t)) ** .8
        leaves += [leaflet(root, length, length * slim, lean - 90 + side * 55) for side in (-1, 1)]
    return [*leaves, stroke(stem, .06, 1), leaflet(stem[-1], .3, .1, math.degrees(math.atan2(bend, 1)) - 90)]


def leaflet(root: Sequence[float], length: float, width: float, angle: float) -> Part:
    """A pointed leaf that starts at `root` and leads to `angle`, in degrees, clockwise from the right."""
    t = np.linspace(0, 1, 24)
    half = width / 2 * np.sin(np.pi * t ** .8)
    outline = np.concatenate([np.stack([t * length, half], 1), np.stack([t * length, -half], 1)[::-1]])
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return area(outline @ np.array([[c, s], [-s, c]]) + np.asarray(root))


def bicycle(rng: np.random.Generator) -> list[Part]:
    radius, count, width = rng.uniform(.42, .48), int(rng.integers(6, 10)), rng.uniform(.075, .095)
    rear, front, crank, head, seat = (-.62, .3), (.66, .3), (-.08, .34), (.42, -.38), (-.26, -.36)
    wheels = [part for hub in (rear, front) for part in
              (stroke(ellipse(*hub, radius), .085, 1, True), *spokes(*hub, 0, radius, count, .042), disc(*hub, .07, 1))]
    tubes = [(rear, crank), (rear, seat), (seat, crank), (seat, head), (crank, head), (head, front)]
    bars = [stroke([head, (.36, -.56), (.52, -.62), (.6, -.52)], .07, 1), stroke([seat, (-.3, -.5)], .07),
            stroke([(-.48, -.55), (-.16, -.52)], .11, 1)]
    pedals = [stroke(ellipse(*crank, .12), .05, 1, True), stroke([crank, (.05, .53)], .06, 1)]
    return [*wheels, *(stroke(tube, width) for tube in tubes), *bars, *pedals]


def ladder(rng: np.random.Generator) -> list[Part]:
    count, width = int(rng.integers(5, 8)), rng.uniform(.1, .14)
    foot, top = rng.uniform(.42, .62), rng.uniform(.28, .42)
    heights = np.linspace(.8, -.8, count)
    half = [foot + (top - foot) * (1 - h) / 2 for h in heights]
    rungs = [stroke([(-w, h), (w, h)], width * .8, 1) for h, w in zip(heights, half, strict=True)]
    legs = [stroke([(side * foot, 1), (side * top, -1)], width) for side in (-1, 1)]
    prop = [stroke([(side * .9 * top + .1, -.9), (side * foot + .65, .85)], width * .8) for side in (-1, 1)]
    return [*(prop if rng.random() < .5 else []), *rungs, *legs]


def fence(rng: np.random.Generator) -> list[Part]:
    count, gap = int(rng.integers(5, 8)), rng.uniform(.42, .55)
    step = 2 / count
    half, tip = step * (1 - gap) / 2, rng.uniform(.1, .25)
    rails = [stroke([(-1, y), (1, y)], .13, 1) for y in (-.3, .42)]
    pickets = [area([(x - half, .8), (x - half, -.6), (x, -.6 - tip), (x + half, -.6), (x + half, .8)])
               for x in (np.arange(count) + .5) * step - 1]
    return rails + pickets


def text(rng: np.random.Generator) -> list[Part]:
    """A short word or two, in bold outlines traced from Pillow's own font."""
    word = rng.choice(['BiRef', 'Net', 'mask', 'edge', 'R&D', '&', 'Ag', 'fine', 'Q8', 'see', 'thin\nline', 'HD',
                       'open\nair', '2026', 'hello', '?!', '#1', 'pi\nxel', 'Zoom', '@', 'yes'])
    font = ImageFont.load_default(160)
    bold = int(rng.integers(5, 10))
    style = {'font': font, 'stroke_width': bold, 'spacing': 0, 'align': 'center'}
    left, top, right, bottom = ImageDraw.Draw(Image.new('L', (1, 1))).multiline_textbbox((0, 0), word, **style)
    page = Image.new('L', (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(page).multiline_text((4 - left, 4 - top), word, 255, **style)
    outlines, _ = cv2.findContours((np.asarray(page) > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    half = max(page.size) / 2
    letters = area(*((smooth(line[:, 0]) - np.array(page.size) / 2) / half for line in outlines if len(line) > 12))
    base = page.size[1] / 2 / half + .06
    return [letters, stroke([(-.9, base), (.9, base)], .1, 1)] if rng.random() < .4 else [letters]


def smooth(outline: np.ndarray, reach: int = 4) -> np.ndarray:
    """A closed outline (N, 2) without the steps of the pixels it was traced from: a moving average."""
    return np.mean([np.roll(outline, shift, axis=0) for shift in range(-reach, reach + 1)], axis=0)


def wire(rng: np.random.Generator) -> list[Part]:
    """One bent wire: a Lissajous figure, a rose, a spiral or a coil spring."""
    t, width = np.linspace(0, 2 * np.pi, 400), rng.uniform(.1, .15)
    kind = int(rng.integers(4))
    if kind == 0:
        a, b = [(1, 2), (2, 3), (3, 2), (3, 4)][int(rng.integers(4))]
        curve = np.stack([np.sin(a * t + .6), np.sin(b * t)], axis=1)
    elif kind == 1:
        radius = .62 + .38 * np.cos(int(rng.integers(3, 7)) * t)
        curve = np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1)
    elif kind == 2:
        angle = t * rng.uniform(2.5, 3.5)
        curve = np.stack([t / 6.3 * np.cos(angle), t / 6.3 * np.sin(angle)], axis=1)
    else:
        angle = t * rng.integers(5, 8)
        curve = np.stack([t / np.pi - 1 + .2 * np.sin(angle), .55 * np.cos(angle)], axis=1)
    return [stroke(curve, width, closed=kind < 2), *([] if kind < 2 else [disc(*curve[-1], .13, 1)])]


def bridge(rng: np.random.Generator) -> list[Part]:
    bays, tall, width = int(rng.integers(4, 7)), rng.uniform(.45, .65), rng.uniform(.07, .1)
    x = np.linspace(-1, 1, bays + 1)
    rise = rng.choice([0, .3])
    top = np.stack([x, -tall + rise * x ** 2], axis=1)
    bottom = np.stack([x, np.full_like(x, .25)], axis=1)
    posts = [stroke(pair, width * .8) for pair in zip(top, bottom, strict=True)]
    ties = [stroke([a, b], width * .8) for i in range(bays)
            for a, b in [(top[i], bottom[i + 1]) if i % 2 else (bottom[i], top[i + 1])]]
    piers = [area([(s * .86 - .09, .25), (s * .86 + .09, .25), (s * .86 + .12, .75), (s * .86 - .12, .75)], layer=1)
             for s in (-1, 1)]
    return [*piers, *posts, *ties, stroke(top, width * 1.2), stroke(bottom, width * 2, 1)]


def birdcage(rng: np.random.Generator) -> list[Part]:
    bars, wide, width = int(rng.integers(5, 8)), rng.uniform(.6, .8), rng.uniform(.065, .09)
    x = np.linspace(-wide, wide, bars)
    up = np.linspace(0, 1, 30)
    quarter = np.stack([np.cos(up * np.pi / 2), -.05 - .75 * np.sin(up * np.pi / 2)], axis=1)
    ribs = [stroke([(foot, .85), *(quarter * (foot, 1))], width) for foot in x]
    rings = [stroke(ellipse(0, y, wide, .1), width, 0, True) for y in (-.05, .4)]
    wide *= 1.08
    base = [area(np.concatenate([ellipse(0, .85, wide, .14, 0, 180), ellipse(0, .76, wide, .14, 180, 360)]), layer=1)]
    perch = [stroke([(-wide / 2, .2), (wide / 2, .2)], .07, 1), stroke(ellipse(0, -.95, .13), .07, 1, True)]
    return [*rings, *ribs, *base, *perch]


def web(rng: np.random.Generator) -> list[Part]:
    arms, rings, width = int(rng.integers(6, 10)), int(rng.integers(3, 5)), rng.uniform(.06, .085)
    turns = 2 * np.pi * (np.arange(arms) + rng.uniform(-.18, .18, arms)) / arms
    reach = rng.uniform(.85, 1.1, arms)
    tips = np.stack([reach * np.cos(turns), reach * np.sin(turns)], axis=1)
    parts = [stroke([(0, 0), tip], width * 1.15, 1) for tip in tips]
    for scale in np.linspace(.3, .9, rings):
        for a, b in pairwise([*tips, tips[0]]):
            middle = (a + b) / 2 * .86
            sag = [(1 - t) ** 2 * a + 2 * t * (1 - t) * middle + t ** 2 * b for t in np.linspace(0, 1, 12)]
            parts.append(stroke(np.array(sag) * scale, width))
    return [*parts, disc(0, 0, .1, 1)]


def windmill(rng: np.random.Generator) -> list[Part]:
    hub, start, width = (0., -.3), rng.uniform(0, np.pi / 2), rng.uniform(.055, .075)
    tower = [stroke([(-.12, -.3), (-.38, 1)], .09), stroke([(.12, -.3), (.38, 1)], .09)]
    steps = np.linspace(-.05, 1, 5)
    half = [.12 + .26 * (y + .3) / 1.3 for y in steps]
    braces = [stroke([(s * half[i], steps[i]), (-s * half[i + 1], steps[i + 1])], .06)
              for i in range(4) for s in (-1, 1)]
    sails = []
    for a in start + np.arange(4) * np.pi / 2:
        along, across = np.array([math.cos(a), math.sin(a)]), np.array([-math.sin(a), math.cos(a)])
        sails.append(stroke([hub, hub + along * .95], .08, 1))
        sails.append(stroke([hub + along * .25, hub + along * .25 + across * .26, hub + along * .95 + across * .26,
                             hub + along * .95], width, 1))
        sails += [stroke([hub + along * t, hub + along * t + across * .26], width, 1) for t in (.48, .72)]
    return [*tower, *braces, *sails, disc(*hub, .13)]


def glasses(rng: np.random.Generator) -> list[Part]:
    rx, ry, width = rng.uniform(.36, .42), rng.uniform(.28, .42), rng.uniform(.1, .15)
    lenses = [stroke(ellipse(side * .52, .15, rx, ry), width, 0, True) for side in (-1, 1)]
    bars = [stroke([(side * .6, -ry + .05), (side * .85, -ry - .35), (side * .95, -ry - .3)], width, 1)
            for side in (-1, 1)]
    return [*bars, *lenses, stroke(ellipse(0, .13, .17, .14, 180, 360), width)]


def scissors(rng: np.random.Generator) -> list[Part]:
    half, ring = rng.uniform(.22, .42), rng.uniform(.2, .26)
    parts = []
    for side in (-1, 1):
        along = np.array([side * math.sin(half), -math.cos(half)])
        across = np.array([along[1], -along[0]]) * side
        parts.append(area([along * -.35 - across * .09, along * -.35 + across * .09, along * .2 + across * .12,
                           along * 1.1, along * .2 - across * .09]))
        grip = along * -.62 - across * .1
        parts.append(stroke(ellipse(*grip, ring, ring * 1.25, turn=math.degrees(side * half)), .13, 1, True))
    return [*parts, disc(0, 0, .07, 1)]


def key(rng: np.random.Generator) -> list[Part]:
    leaves, bit = int(rng.integers(1, 5)), rng.uniform(.25, .35)
    if leaves == 1:
        bow = [stroke(ellipse(-.68, 0, .36), .17, 1, True)]
    else:
        turns = 2 * np.pi * (np.arange(leaves) + .5) / leaves
        bow = [stroke(ellipse(-.68 + .24 * math.cos(a), .24 * math.sin(a), .21), .13, 1, True) for a in turns]
    notches = [stroke([(x, 0), (x, length)], .13) for x, length in ((.6, bit), (.82, bit * 1.3), (1.02, bit))]
    return [stroke([(-.32, 0), (1.08, 0)], .17), *notches, *bow, stroke([(-.2, -.12), (-.2, .12)], .1, 1)]


def snowflake(rng: np.random.Generator) -> list[Part]:
    width, twigs = rng.uniform(.085, .12), rng.uniform(.25, .4, 3)
    parts = []
    for a in np.arange(6) * np.pi / 3:
        at = np.array([math.cos(a), math.sin(a)])
        parts.append(stroke([(0, 0), at], width))
        for r, length in zip((.35, .6, .82), twigs * (1.1, .9, .6), strict=True):
            parts += [stroke([at * r, at * r + length * np.array([math.cos(a + s), math.sin(a + s)])], width * .85)
                      for s in (-1., 1.)]
    return [*parts, *([stroke(ellipse(0, 0, .28), .09, 1, True)] if rng.random() < .6 else []), disc(0, 0, .14, 1)]


def racket(rng: np.random.Generator) -> list[Part]:
    count, width, rx, ry = int(rng.integers(4, 7)), rng.uniform(.045, .06), rng.uniform(.42, .5), rng.uniform(.5, .6)
    strings = []
    for t in np.linspace(-1, 1, count + 2)[1:-1]:
        x, y = math.sqrt(1 - t ** 2) * rx, math.sqrt(1 - t ** 2) * ry
        strings += [stroke([(rx * t, -.4 - y), (rx * t, -.4 + y)], width),
                    stroke([(-x, -.4 + ry * t), (x, -.4 + ry * t)], width)]
    throat = [stroke([(side * rx * .7, -.4 + ry * .75), (0, .45)], .08, 1) for side in (-1, 1)]
    return [*strings, *throat, stroke(ellipse(0, -.4, rx, ry), .12, 1, True), stroke([(0, .4), (0, 1)], .17, 1),
            stroke([(0, .6), (0, .98)], .1)]


def butterfly(rng: np.random.Generator) -> list[Part]:
    upper, lower, rim = rng.uniform(.5, .6), rng.uniform(.34, .42), rng.uniform(.09, .13)
    parts = []
    for side in (-1, 1):
        wings = [(side * .55, -.35, upper, upper * .72, side * -35), (side * .45, .42, lower, lower * .8, side * 40)]
        for x, y, rx, ry, turn in wings:
            parts.append(area(ellipse(x, y, rx, ry, turn=turn), layer=0))
            parts.append(area(ellipse(x, y, rx - rim, ry - rim, turn=turn), layer=None))
            root = np.array([side * .04, 0])
            rim_points = ellipse(x, y, rx * .95, ry * .95, turn=turn)
            parts += [stroke([root, end], .06) for end in rng.permutation(rim_points)[:5]]
    feelers = [stroke([(0, -.5), (side * .12, -.8), (side * .26, -.98)], .055, 1) for side in (-1, 1)]
    return [*parts, *feelers, area(ellipse(0, .02, .11, .6), layer=1)]


def pylon(rng: np.random.Generator) -> list[Part]:
    width, foot, arms = rng.uniform(.07, .095), rng.uniform(.38, .52), int(rng.integers(2, 4))
    steps = np.linspace(1, -.75, 6)
    half = foot * np.linspace(1, .22, 6)
    legs = [stroke([(s * foot, 1), (s * half[-1], -.75), (0, -1.05)], width * 1.1) for s in (-1, 1)]
    braces = [stroke([(s * half[i], steps[i]), (-s * half[i + 1], steps[i + 1])], width * .75) for i in range(5)
              for s in (-1, 1)]
    beams = [stroke([(-reach, y), (0, y - .13), (reach, y)], width, 1, True) for y, reach in
             list(zip((-.72, -.38, -.04), (.5, .72, .6), strict=True))[:arms]]
    return [*legs, *braces, *beams]


SHAPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {draw.__name__: draw for draw in (
    wheel, gear, lattice, chair, tree, fern, bicycle, ladder, fence, text, wire, bridge, birdcage, web, windmill,
    glasses, scissors, key, snowflake, racket, butterfly, pylon)}
