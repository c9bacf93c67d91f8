"""Turns a drawing of `demo.shapes` into a photograph-like image with its exact mask.

The constants decide how hard the task is: with less blur, less bevel, more camouflage or more
distractors the objects are harder to tell from their backgrounds.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import skimage

from demo.drawing import Part, rotation
from demo.shapes import SHAPES
from readers import read_image

# The object.
SUPERSAMPLING = 4              # outlines have soft edges of 4x4 samples a pixel
EXTENT = (.68, .9)             # share of the frame in the direction that the object fills most
COVERAGE = (.12, .38)          # share of the pixels; the object is thickened or shrunk to get there
MIN_STROKE = .017              # share of the frame's side: 3.3 pixels at 192x192
CAMOUFLAGE = .2                # share of the objects painted in colours of their own background
BEVEL = .022                   # share of the side: width of the rounded edge of a surface
SHADOW = (.25, .6)             # strength of the shadow that the object casts

# What lies behind it. Blurs are standard deviations, as shares of the side.
BACKGROUND_BLUR = (.003, .008)  # a shallow depth of field
DISTRACTORS = (0, 2)            # fewest and most out-of-focus objects
DISTRACTOR_BLUR = (.012, .025)

GRAIN = 1.5                    # of the film, over everything, in grey levels

# Saturation and value of a bright, a dark and a vivid paint.
PAINTS = ((.3, .95), (.5, .28), (.95, .85))

# The photographs within the package of scikit-image, which would download all others. Those in
# colour are taken twice as often as the grey ones, which are tinted.
COLOUR = ('astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg')
GREY = ('brick.png', 'camera.png', 'coins.png', 'grass.png', 'gravel.png')
PHOTOGRAPHS = COLOUR * 2 + GREY
TRAIN_SHARE = .6               # share of each photograph's width; the test set has the rest

FRACTION_BITS = 4              # of OpenCV's coordinates in fixed point

Frame = tuple[int, int]        # height and width


def render(
    rng: np.random.Generator,
    kind: str,
    size: int,
    train: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one object of SHAPES[kind] in front of a photograph.

    Args:
        rng: Decides everything else, the frame's aspect ratio included.
        kind: A name in SHAPES.
        size: Square root of the frame's area, in pixels.
        train: Whether to take the training set's part of the photographs.

    Returns:
        The image, RGB uint8 (H, W, 3), and the mask, uint8 (H, W): the share of each pixel that
        the object covers, 0..255.
    """
    # What the object covers, and where the light comes from: the front, above.
    frame = draw_frame(rng, size)
    draw_object = SHAPES[kind]
    drawing = draw_object(rng)
    layers = place(rng, drawing, frame)
    cover = layers.sum(axis=0)
    low = [-.8, -.9, .6]
    high = [.8, -.35, 1.]
    light = _unit(rng.uniform(low, high))

    # The surfaces: some take their colour from the background, which then gets the shadow.
    scene = background(rng, frame, train)
    colours = [paint(rng, scene) for _ in layers]
    surface = shade(rng, layers, np.array(colours, np.float32), light)
    scene = cast_shadow(rng, scene, cover, light)

    # The film's grain lies over both.
    image = blend(scene, surface, cover)
    grain = rng.normal(0, GRAIN / 255, frame).astype(np.float32)
    image += grain[..., None]
    return _to_bytes(image), _to_bytes(cover)


def blend(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Puts a colour or an image over another; `cover` (H, W), 0..1, is its opacity."""
    opacity = cover[..., None]
    change = above - below
    return below + opacity * change


# --- The object's outline -----------------------------------------------------------------------


def draw_frame(rng: np.random.Generator, size: int) -> Frame:
    """Draws a frame of about size x size pixels: square, or 5:4, 4:3 or 3:2, upright or not."""
    ratio = rng.choice([1, 1.25, 4 / 3, 1.5])
    exponent = rng.choice([-1, 1])
    aspect = ratio ** exponent
    height = size * aspect ** -.5
    width = size * aspect ** .5
    return round(height), round(width)


def place(rng: np.random.Generator, parts: Sequence[Part], frame: Frame) -> np.ndarray:
    """Leans a drawing and fits it into the frame.

    Returns:
        Each layer's coverage of the pixels, float32 (2, H, W).
    """
    parts = lean(rng, parts)
    extent = rng.uniform(*EXTENT)
    thickening = 1.
    where = rng.uniform(-.5, .5, 2)

    # Thin objects are drawn larger and thicker, massive ones smaller, until the share fits.
    least, most = COVERAGE
    for _ in range(6):
        fitted = fit(parts, frame, extent, thickening, where)
        layers = rasterize(fitted, frame)
        coverage = layers.sum(axis=0).mean()
        if coverage < least:
            extent = min(extent * 1.06, .94)
            thickening *= 1.18
        elif coverage > most:
            extent *= .9
        else:
            break
    return layers


def lean(rng: np.random.Generator, parts: Sequence[Part]) -> list[Part]:
    """Turns, stretches, sometimes shears, and tilts (a mild perspective) a drawing."""
    # One matrix for all linear changes.
    angle = rng.normal(0, .18)
    stretch = rng.uniform(.88, 1.14)
    stretching = np.diag([stretch, 1 / stretch])
    matrix = rotation(angle) @ stretching
    if rng.random() < .5:
        slope = rng.uniform(-.2, .2)
        shear = np.array([[1, slope], [0, 1]])
        matrix = matrix @ shear
    tilt = rng.uniform(-.14, .14, 2)

    # Perspective divides by the distance, which the tilt makes differ from point to point.
    leaning = []
    for part in parts:
        rings = []
        for ring in part.rings:
            moved = ring @ matrix.T
            distance = 1 + moved @ tilt
            rings.append(moved / distance[:, None])
        leaning.append(replace(part, rings=tuple(rings)))
    return leaning


def fit(
    parts: Sequence[Part],
    frame: Frame,
    extent: float,
    thickening: float,
    where: np.ndarray,
) -> list[Part]:
    """Scales a drawing to a frame, in pixels.

    Args:
        parts: The drawing, in any unit.
        frame: Height and width, in pixels.
        extent: Share of the frame in the direction that the drawing fills most.
        thickening: Factor of the widths of strokes before scaling.
        where: x and y, -1..1: how far from the centre the drawing lies in the room that is left.
    """
    # The scale at which the drawing fills `extent` of the narrower direction.
    room = np.array(frame[::-1], float)
    low, high = _bounds(parts, thickening)
    drawn = high - low
    extents = extent * room / drawn
    scale = extents.min()

    # The drawing's middle comes to `centre`, and no stroke gets too thin to see.
    middle = (low + high) / 2
    left_over = room - scale * drawn
    centre = room / 2 + where * left_over / 2
    thinnest = MIN_STROKE * math.sqrt(room.prod())

    fitted = []
    for part in parts:
        rings = [(ring - middle) * scale + centre for ring in part.rings]
        width = part.width
        if width:
            width = max(width * thickening * scale, thinnest)
        fitted.append(replace(part, rings=tuple(rings), width=width))
    return fitted


def _bounds(parts: Sequence[Part], thickening: float) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest x, y of a drawing, widths of strokes included."""
    lows = []
    highs = []
    for part in parts:
        margin = part.width * thickening / 2
        for ring in part.rings:
            lows.append(ring.min(axis=0) - margin)
            highs.append(ring.max(axis=0) + margin)
    lowest = np.min(lows, axis=0)
    highest = np.max(highs, axis=0)
    return lowest, highest


def rasterize(parts: Sequence[Part], frame: Frame) -> np.ndarray:
    """Draws parts given in pixels.

    Returns:
        Each layer's coverage of the pixels, float32 (2, H, W), whose sum is at most 1.
    """
    height, width = frame
    rows = height * SUPERSAMPLING
    columns = width * SUPERSAMPLING
    canvases = np.zeros((2, rows, columns), np.uint8)
    for part in parts:
        for layer, canvas in enumerate(canvases):
            # A part hides what lies below it in the other layer; one of no layer hides both.
            colour = 255 if layer == part.layer else 0
            _draw(canvas, part, colour)

    # The mean over the samples of a pixel is its coverage.
    layers = []
    for canvas in canvases:
        coverage = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
        layers.append(coverage)
    return np.stack(layers) / np.float32(255)


def _draw(canvas: np.ndarray, part: Part, colour: int) -> None:
    """Draws a part, given in pixels of the frame, on a canvas of samples."""
    # OpenCV takes coordinates in fixed point.
    scale = SUPERSAMPLING * 2 ** FRACTION_BITS
    rings = []
    for ring in part.rings:
        rounded = np.round(ring * scale)
        rings.append(rounded.astype(np.int32))
    if part.width:
        width = max(1, round(part.width * SUPERSAMPLING))
        cv2.polylines(canvas, rings, part.closed, colour, width, shift=FRACTION_BITS)
    else:
        cv2.fillPoly(canvas, rings, colour, shift=FRACTION_BITS)


# --- The background -----------------------------------------------------------------------------


def background(rng: np.random.Generator, frame: Frame, train: bool) -> np.ndarray:
    """A crop of a photograph, out of focus, with objects further out of focus in it.

    Returns:
        float32 (H, W, 3), 0..1.
    """
    view = draw_view(rng, frame, train)
    view = grade(rng, view)
    side = _side(frame)
    blur = rng.uniform(*BACKGROUND_BLUR)
    view = _blurred(view, blur * side)

    fewest, most = DISTRACTORS
    count = rng.integers(fewest, most + 1)
    for _ in range(count):
        view = add_distractor(rng, view, side)
    return np.clip(view, 0, 1)


def draw_view(rng: np.random.Generator, frame: Frame, train: bool) -> np.ndarray:
    """Crops one photograph's part for the set, mirrors it at random, and scales it to the frame.

    Returns:
        float32 (H, W, 3), 0..1.
    """
    number = rng.integers(len(PHOTOGRAPHS))
    photograph = load_photograph(PHOTOGRAPHS[number])
    crop = _random_crop(rng, _part_of_set(photograph, train), frame)
    is_mirrored = rng.choice([-1, 1]) == -1
    if is_mirrored:
        crop = crop[:, ::-1]

    # Averaging reduces without aliasing, and would enlarge in blocks.
    height, width = frame
    is_reduced = crop.shape[0] > height
    method = cv2.INTER_AREA if is_reduced else cv2.INTER_CUBIC
    pixels = np.ascontiguousarray(crop)
    view = cv2.resize(pixels, (width, height), interpolation=method)
    return view.astype(np.float32) / 255


def _part_of_set(photograph: np.ndarray, train: bool) -> np.ndarray:
    """The left part of a photograph, which is the training set's, or the rest."""
    width = photograph.shape[1]
    cut = round(width * TRAIN_SHARE)
    if train:
        return photograph[:, :cut]
    return photograph[:, cut:]


def _random_crop(rng: np.random.Generator, photograph: np.ndarray, frame: Frame) -> np.ndarray:
    """A crop of the frame's aspect ratio, of 60 to 100% of the sides that would fit."""
    room = np.array(photograph.shape[:2])
    ratios = room / frame
    share = rng.uniform(.6, 1)
    sides = np.array(frame) * ratios.min() * share
    height, width = sides.astype(int)

    # It lies anywhere in the room that is left.
    rows_left, columns_left = room - (height, width)
    top = rng.integers(rows_left + 1)
    left = rng.integers(columns_left + 1)
    bottom = top + height
    right = left + width
    return photograph[top:bottom, left:right]


@cache
def load_photograph(name: str) -> np.ndarray:
    """One of PHOTOGRAPHS, RGB uint8 (H, W, 3)."""
    package = Path(skimage.__file__).parent
    return read_image(package / 'data' / name)


def grade(rng: np.random.Generator, view: np.ndarray) -> np.ndarray:
    """Draws exposure, contrast and colour of a photograph, float32 (H, W, 3), 0..1.

    A grey one gets shades between two colours.
    """
    # The colours.
    spread = np.ptp(view, axis=2)
    is_grey = spread.max() < .02
    if is_grey:
        view = _tinted(rng, view)
    else:
        saturation = _uniform(rng, .6, 1.3)
        tint = rng.uniform(.85, 1.15, 3).astype(np.float32)
        grey = view.mean(axis=2, keepdims=True)
        view = grey + (view - grey) * saturation * tint

    # The light; black is never quite black.
    gamma = _uniform(rng, .7, 1.4)
    exposure = _uniform(rng, .75, 1.05)
    contrasted = np.clip(view, 0, 1) ** gamma
    return .04 + .96 * contrasted * exposure


def _tinted(rng: np.random.Generator, view: np.ndarray) -> np.ndarray:
    """Maps the greys of a photograph to shades between a dark and a bright colour."""
    low = [[0.], [.6]]
    high = [[.35], [1.]]
    shades = rng.uniform(low, high, (2, 3))
    shades.sort(axis=0)
    dark, bright = shades.astype(np.float32)
    contrast = bright - dark
    return dark + view * contrast


def add_distractor(rng: np.random.Generator, view: np.ndarray, side: float) -> np.ndarray:
    """Puts another object of SHAPES far behind: smaller, anywhere, flat and blurred."""
    # Its outline, partly outside of the frame perhaps.
    frame = view.shape[:2]
    kind = rng.choice(list(SHAPES))
    draw_object = SHAPES[kind]
    parts = lean(rng, draw_object(rng))
    extent = rng.uniform(.3, .6)
    where = rng.uniform(-1.3, 1.3, 2)
    parts = fit(parts, frame, extent, 1, where)

    # Both materials in one colour, out of focus and somewhat transparent.
    layers = rasterize(parts, frame)
    blur = rng.uniform(*DISTRACTOR_BLUR)
    cover = _blurred(layers.sum(axis=0), blur * side)
    opacity = _uniform(rng, .6, 1)
    colour = paint(rng, view).astype(np.float32)
    return blend(view, colour, cover * opacity)


def cast_shadow(
    rng: np.random.Generator,
    scene: np.ndarray,
    cover: np.ndarray,
    light: np.ndarray,
) -> np.ndarray:
    """Darkens the scene where the object stands between it and the light."""
    # The object's silhouette falls on a wall behind it, away from the light.
    height, width = cover.shape
    side = math.sqrt(cover.size)
    distance = rng.uniform(.015, .045)
    right, down, forward = light
    slope = -np.array([right, down]) / forward
    x, y = slope * distance * side
    translation = np.array([[1, 0, x], [0, 1, y]], np.float32)
    moved = cv2.warpAffine(cover, translation, (width, height))

    # The light is wide, so the shadow's edge is soft.
    softness = rng.uniform(.008, .025)
    shadow = _blurred(moved, softness * side)
    strength = _uniform(rng, *SHADOW)
    remaining_light = 1 - strength * shadow
    return scene * remaining_light[..., None]


# --- The object's surface -----------------------------------------------------------------------


def paint(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """A colour, RGB (3,), 0..1: one of the scene's own, or a bright, a dark or a vivid one."""
    # A pixel of the scene, a little lighter or darker.
    if rng.random() < CAMOUFLAGE:
        height, width = scene.shape[:2]
        y = rng.integers(height)
        x = rng.integers(width)
        contrast = rng.uniform(.8, 1.25)
        offset = rng.uniform(-.04, .04)
        changed = scene[y, x] * contrast + offset
        return np.clip(changed, .13, .95)

    # Or a random hue: three cosines, a third of the circle apart.
    phases = rng.random() + np.array([0, 1 / 3, 2 / 3])
    waves = np.cos(2 * np.pi * phases)
    hue = (waves + 1) / 2
    kind = rng.integers(3)
    saturation, value = PAINTS[kind]
    saturation = rng.uniform(.5, 1) * saturation
    colour = 1 - saturation * (1 - hue)
    brightness = rng.uniform(.8, 1.05)
    return np.clip(colour * value * brightness, .13, 1)


def shade(
    rng: np.random.Generator,
    layers: np.ndarray,
    colours: np.ndarray,
    light: np.ndarray,
) -> np.ndarray:
    """Gives the object rounded edges and each material a texture, diffuse light and highlights.

    Diffuse light is Lambert's, highlights are Blinn and Phong's.

    Args:
        rng: Draws the materials.
        layers: Coverage by each material, (2, H, W), 0..1.
        colours: Of the materials, (2, 3), 0..1.
        light: Unit vector towards the light, z towards the viewer.

    Returns:
        float32 (H, W, 3), 0..1; meaningful where the object is, its edges included.
    """
    frame = layers.shape[1:]
    bevel = BEVEL * _side(frame)
    normals = surface_normals(layers, bevel)

    # What depends on the shape alone: both materials share it.
    towards_viewer = np.array([0, 0, 1], np.float32)
    halfway = _unit(light + towards_viewer)
    diffuse = np.clip(normals @ light, 0, None)
    facing = np.clip(normals @ halfway, 0, None)
    strength = rng.uniform(.1, .3)
    fall_off = gradient(rng, frame, strength)

    # Each material's light, weighted by its coverage. Metal mirrors a sky, all else is matt.
    surface = np.zeros((*frame, 3), np.float32)
    received = .5 + .75 * diffuse
    for layer, colour in zip(layers, colours, strict=True):
        is_metal = rng.random() < .35
        pattern = 1 + texture(rng, frame) + fall_off
        albedo = colour * pattern[..., None]
        lit = albedo * received[..., None]
        if is_metal:
            lit *= _reflected_sky(normals)[..., None]
            strength, gloss = .65, 45.
        else:
            strength = rng.uniform(.05, .45)
            gloss = rng.uniform(10, 40)
        highlight = strength * facing ** gloss
        lit += highlight[..., None]
        surface += layer[..., None] * lit

    # The mean over the materials, so that a pixel at the edge has the object's full colour.
    weight = layers.sum(axis=0)[..., None]
    mean = surface / np.maximum(weight, 1e-6)
    covered = np.where(weight > 0, mean, 0)
    return np.clip(covered, 0, 1).astype(np.float32)


def _reflected_sky(normals: np.ndarray) -> np.ndarray:
    """What metal reflects at each pixel: a bright sky over a dark ground."""
    downwards = normals[..., 1]
    steepness = 9 * (downwards + .1)
    sky_share = 1 / (1 + np.exp(steepness))
    return .75 + .5 * sky_share


def surface_normals(layers: np.ndarray, bevel: float) -> np.ndarray:
    """Unit normals (H, W, 3) of layers (2, H, W) whose edges are rounded over `bevel` pixels."""
    # The height of a quarter circle over each edge, flat farther inside.
    height: np.ndarray = np.zeros(layers.shape[1:], np.float32)
    for layer in layers:
        distance = _distance_to_edge(layer)
        remaining = np.clip(bevel - distance, 0, None)
        squared_height = bevel ** 2 - remaining ** 2
        height += np.sqrt(np.maximum(squared_height, 0))
    height = _blurred(height, 1)

    # A surface's normal leans against its slopes. Sobel's filter sums eight differences.
    sobel = partial(cv2.Sobel, height, cv2.CV_32F, ksize=3, scale=1 / 8)
    slope_x = sobel(dx=1, dy=0)
    slope_y = sobel(dx=0, dy=1)
    upwards = np.ones_like(height)
    normals = np.stack([-slope_x, -slope_y, upwards], axis=2)
    lengths = np.linalg.norm(normals, axis=2, keepdims=True)
    return normals / lengths


def _distance_to_edge(layer: np.ndarray) -> np.ndarray:
    """Distance of each pixel inside a layer to its edge, in pixels, measured at twice the size."""
    height, width = layer.shape
    larger = cv2.resize(layer, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    is_inside = larger > .5
    inside = is_inside.astype(np.uint8)
    doubled = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    distance = doubled / 2
    return cv2.resize(distance, (width, height), interpolation=cv2.INTER_AREA)


def texture(rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """A relative change of brightness, float32 (H, W): none, mottled, wood grain, or stripes."""
    kinds = ('none', 'mottled', 'wood', 'stripes')
    kind = kinds[rng.integers(4)]
    strength = _uniform(rng, .08, .25)
    if kind == 'none':
        return np.zeros(frame, np.float32)
    if kind == 'mottled':
        fine = noise(rng, frame, 5)
        coarse = noise(rng, frame, 17)
        return strength * (fine + coarse)

    # Waves in one direction: bent and uneven as in wood, or steep as stripes.
    along = gradient(rng, frame, 1)
    if kind == 'wood':
        frequency = rng.uniform(40, 90)
        bend = 5 * noise(rng, frame, 50)
        waves = np.sin(frequency * along + bend)
        unevenness = .7 + .3 * noise(rng, frame, 4)
        return strength * waves * unevenness
    frequency = rng.uniform(20, 60)
    waves = np.sin(frequency * along)
    return strength * np.tanh(6 * waves)


def noise(rng: np.random.Generator, frame: Frame, cell: int) -> np.ndarray:
    """Smooth noise of about -1..1, float32 (H, W), whose waves are `cell` pixels long."""
    height, width = frame
    rows = height // cell + 2
    columns = width // cell + 2
    values = rng.uniform(-1, 1, (rows, columns))
    coarse = values.astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def gradient(rng: np.random.Generator, frame: Frame, strength: float) -> np.ndarray:
    """A ramp through the frame in a random direction, float32 (H, W), -strength..strength."""
    angle = rng.uniform(0, 2 * np.pi)
    height, width = frame
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    down = math.sin(angle) * y
    right = math.cos(angle) * x
    ramp = down + right

    # In a diagonal direction the ramp ends at the square root of 2.
    scale = strength / math.sqrt(2)
    return np.float32(scale) * ramp


# --- Numbers and images -------------------------------------------------------------------------


def _side(frame: Frame) -> float:
    """The side of a square of the frame's area, in pixels."""
    height, width = frame
    return math.sqrt(height * width)


def _uniform(rng: np.random.Generator, low: float, high: float) -> np.float32:
    """A random number in the precision of images: float64 would turn them into float64 as well."""
    return np.float32(rng.uniform(low, high))


def _blurred(image: np.ndarray, deviation: float) -> np.ndarray:
    """Blurs an image by a Gaussian of this standard deviation, in pixels."""
    return cv2.GaussianBlur(image, (0, 0), deviation)


def _unit(vector: np.ndarray) -> np.ndarray:
    """The vector scaled to length 1, float32."""
    values = np.asarray(vector, np.float32)
    length = np.linalg.norm(values)
    return values / length


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """0..1 as uint8."""
    levels = np.clip(values, 0, 1) * 255
    rounded = np.round(levels)
    return rounded.astype(np.uint8)
