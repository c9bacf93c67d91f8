"""Turns a drawing of `demo.shapes` into a photograph-like image with its exact mask.

The constants are what makes the task harder or easier: lower the blur and the bevel, or raise the camouflage and the
distractors, and the objects melt into their backgrounds.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage

from demo.shapes import SHAPES, Part
from utils import read_image

SUPERSAMPLING = 4                 # of outlines: 4x4 samples a pixel make the soft edges
EXTENT = .68, .9                  # of the object, as a share of the frame in the direction that it fills most
COVERAGE = .12, .38               # share of the pixels it covers; it is thickened or shrunk to get there
MIN_STROKE = .017                 # of the frame's side: 3.3 pixels at 192x192
BACKGROUND_BLUR = .003, .008      # standard deviation, of the side: a shallow depth of field
DISTRACTORS = 0, 2                # out-of-focus objects behind the one that counts, fewest and most
DISTRACTOR_BLUR = .012, .025
CAMOUFLAGE = .2                   # share of the objects painted in colours of their own background
BEVEL = .022                      # of the side: how far from the edge a surface is rounded
SHADOW = .25, .6                  # strength of the shadow that the object casts
GRAIN = 1.5                       # of the film, over everything, in grey levels

TRAIN_SHARE = .6                  # of the width of each photograph; the rest is the test set's
# The photographs that scikit-image carries within its package; it would download all others. Those in colour are taken
# twice as often as the grey ones, which are tinted.
COLOUR = 'astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg'
GREY = 'brick.png', 'camera.png', 'coins.png', 'grass.png', 'gravel.png'
PHOTOGRAPHS = COLOUR * 2 + GREY


def render(rng: np.random.Generator, kind: str, size: int, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """One object of SHAPES[kind] before one photograph.

    size: of the frame, the root of its area in pixels; its aspect ratio is drawn. train: which part of the photographs.
    Returns the image, RGB, uint8 (H, W, 3), and the share of each pixel that the object covers, uint8 (H, W), 0..255.
    """
    frame = draw_frame(rng, size)
    layers = place(rng, SHAPES[kind](rng), frame)
    cover = layers.sum(axis=0)
    light = _unit([rng.uniform(-.8, .8), rng.uniform(-.9, -.35), rng.uniform(.6, 1.)])
    scene = background(rng, frame, train)
    colours = [paint(rng, scene) for _ in layers]
    surface = shade(rng, layers, np.array(colours, np.float32), light)
    scene = cast_shadow(rng, scene, cover, light)
    image = scene + cover[..., None] * (surface - scene)
    image += rng.normal(0, GRAIN / 255, frame).astype(np.float32)[..., None]
    return _to_bytes(image), _to_bytes(cover)


def draw_frame(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Height and width of a frame of about size x size pixels: square, or 5:4, 4:3 or 3:2 either way."""
    aspect = rng.choice([1, 1.25, 4 / 3, 1.5]) ** rng.choice([-1, 1])
    return round(size * aspect ** -.5), round(size * aspect ** .5)


def place(rng: np.random.Generator, parts: Sequence[Part], frame: tuple[int, int]) -> np.ndarray:
    """Leans a drawing and fits it into the frame; returns the coverage of pixels by each layer, float32 (2, H, W)."""
    parts = lean(rng, parts)
    extent, thickening = rng.uniform(*EXTENT), 1.
    where = rng.uniform(-.5, .5, 2)
    for _ in range(6):
        layers = rasterize(fit(parts, frame, extent, thickening, where), frame)
        coverage = layers.sum(axis=0).mean()
        if coverage < COVERAGE[0]:
            extent, thickening = min(extent * 1.06, .94), thickening * 1.18
        elif coverage > COVERAGE[1]:
            extent *= .9
        else:
            break
    return layers


def lean(rng: np.random.Generator, parts: Sequence[Part]) -> list[Part]:
    """Turns, stretches, sometimes shears, and tilts (a mild perspective) a drawing."""
    angle, stretch = rng.normal(0, .18), rng.uniform(.88, 1.14)
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.array([[c, -s], [s, c]]) @ np.diag([stretch, 1 / stretch])
    if rng.random() < .5:
        matrix = matrix @ np.array([[1, rng.uniform(-.2, .2)], [0, 1]])
    tilt = rng.uniform(-.14, .14, 2)

    def moved(ring: np.ndarray) -> np.ndarray:
        ring = ring @ matrix.T
        return ring / (1 + ring @ tilt)[:, None]

    return [Part(tuple(map(moved, part.rings)), part.width, part.closed, part.layer) for part in parts]


def fit(parts: Sequence[Part], frame: tuple[int, int], extent: float, thickening: float,
        where: np.ndarray) -> list[Part]:
    """Scales a drawing to a share `extent` of the frame, in pixels, strokes widened by `thickening`.

    where: -1..1 for x and y; how far from the centre the drawing lies in the room that is left.
    """
    room = np.array(frame[::-1], float)
    margins = [(ring, part.width * thickening / 2) for part in parts for ring in part.rings]
    low = np.min([ring.min(axis=0) - margin for ring, margin in margins], axis=0)
    high = np.max([ring.max(axis=0) + margin for ring, margin in margins], axis=0)
    scale = (extent * room / (high - low)).min()
    centre = room / 2 + where * (room - scale * (high - low)) / 2
    thinnest = MIN_STROKE * math.sqrt(room.prod())
    return [Part(tuple((ring - (low + high) / 2) * scale + centre for ring in part.rings),
                 part.width and max(part.width * thickening * scale, thinnest), part.closed, part.layer)
            for part in parts]


def rasterize(parts: Sequence[Part], frame: tuple[int, int]) -> np.ndarray:
    """Draws parts given in pixels; returns the coverage of pixels by each layer, float32 (2, H, W), sum at most 1."""
    height, width = frame
    canvases = np.zeros((2, height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    for part in parts:
        rings = [np.round(ring * SUPERSAMPLING * 16).astype(np.int32) for ring in part.rings]  # 4 fractional bits
        for layer, canvas in enumerate(canvases):
            colour = 255 if layer == part.layer else 0
            if part.width:
                cv2.polylines(canvas, rings, part.closed, colour, max(1, round(part.width * SUPERSAMPLING)), shift=4)
            else:
                cv2.fillPoly(canvas, rings, colour, shift=4)
    smaller = [cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) for canvas in canvases]
    return np.stack(smaller) / np.float32(255)


def background(rng: np.random.Generator, frame: tuple[int, int], train: bool) -> np.ndarray:
    """A crop of a photograph, out of focus, with objects further out of focus in it; float32 (H, W, 3), 0..1."""
    photograph = load_photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    cut = round(photograph.shape[1] * TRAIN_SHARE)
    photograph = photograph[:, :cut] if train else photograph[:, cut:]
    room = np.array(photograph.shape[:2])
    crop = (np.array(frame) * (room / frame).min() * rng.uniform(.6, 1)).astype(int)
    top, left = (int(rng.integers(free + 1)) for free in room - crop)
    view = np.ascontiguousarray(photograph[top:top + crop[0], left:left + crop[1]][:, ::rng.choice([-1, 1])])
    method = cv2.INTER_AREA if crop[0] > frame[0] else cv2.INTER_CUBIC
    view = grade(rng, cv2.resize(view, frame[::-1], interpolation=method).astype(np.float32) / 255)
    side = math.sqrt(frame[0] * frame[1])
    view = cv2.GaussianBlur(view, (0, 0), rng.uniform(*BACKGROUND_BLUR) * side)
    for _ in range(rng.integers(DISTRACTORS[0], DISTRACTORS[1] + 1)):
        view = add_distractor(rng, view, side)
    return np.clip(view, 0, 1)


@cache
def load_photograph(name: str) -> np.ndarray:
    """One of PHOTOGRAPHS, RGB, uint8 (H, W, 3)."""
    return read_image(Path(skimage.__file__).parent / 'data' / name)


def grade(rng: np.random.Generator, view: np.ndarray) -> np.ndarray:
    """Draws exposure, contrast and colour of a photograph; grey ones become shades between two colours."""
    if np.ptp(view, axis=2).max() < .02:
        dark, bright = np.sort(rng.uniform([[0], [.6]], [[.35], [1]], (2, 3)), axis=0).astype(np.float32)
        view = dark + view * (bright - dark)
    else:
        grey = view.mean(axis=2, keepdims=True)
        view = grey + (view - grey) * np.float32(rng.uniform(.6, 1.3)) * rng.uniform(.85, 1.15, 3).astype(np.float32)
    return .04 + .96 * np.clip(view, 0, 1) ** np.float32(rng.uniform(.7, 1.4)) * np.float32(rng.uniform(.75, 1.05))


def add_distractor(rng: np.random.Generator, view: np.ndarray, side: float) -> np.ndarray:
    """Puts another object of SHAPES far behind: smaller, anywhere, flat and blurred."""
    parts = lean(rng, SHAPES[rng.choice(list(SHAPES))](rng))
    parts = fit(parts, view.shape[:2], rng.uniform(.3, .6), 1, rng.uniform(-1.3, 1.3, 2))
    cover = rasterize(parts, view.shape[:2]).sum(axis=0)
    cover = cv2.GaussianBlur(cover, (0, 0), rng.uniform(*DISTRACTOR_BLUR) * side) * np.float32(rng.uniform(.6, 1))
    return view + cover[..., None] * (paint(rng, view).astype(np.float32) - view)


def paint(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """A colour, RGB (3,), 0..1: one of the scene's own, or a bright, a dark or a vivid one."""
    if rng.random() < CAMOUFLAGE:
        own = scene[rng.integers(scene.shape[0]), rng.integers(scene.shape[1])]
        return np.clip(own * rng.uniform(.8, 1.25) + rng.uniform(-.04, .04), .13, .95)
    hue = (np.cos(2 * np.pi * (rng.random() + np.array([0, 1 / 3, 2 / 3]))) + 1) / 2
    saturation, value = [(.3, .95), (.5, .28), (.95, .85)][rng.integers(3)]  # bright, dark, vivid
    return np.clip((1 - rng.uniform(.5, 1) * saturation * (1 - hue)) * value * rng.uniform(.8, 1.05), .13, 1)


def shade(rng: np.random.Generator, layers: np.ndarray, colours: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Gives the object rounded edges, a texture for each material, diffuse light (Lambert), highlights (Blinn-Phong).

    layers: coverage (2, H, W). colours: (2, 3), 0..1. light: unit vector towards the light, z to the viewer.
    Returns float32 (H, W, 3), sensible where the object is, edges included.
    """
    frame = layers.shape[1:]
    normals = surface_normals(layers, BEVEL * math.sqrt(frame[0] * frame[1]))
    diffuse = np.clip(normals @ light, 0, None)
    facing = np.clip(normals @ _unit(light + np.float32([0, 0, 1])), 0, None)
    fall_off = gradient(rng, frame, rng.uniform(.1, .3))
    surface = np.zeros((*frame, 3), np.float32)
    for layer, colour in zip(layers, colours, strict=True):
        metal = rng.random() < .35
        albedo = colour * (1 + texture(rng, frame) + fall_off)[..., None]
        lit = albedo * (.5 + .75 * diffuse)[..., None]
        if metal:  # reflects a bright sky over a dark ground
            lit *= (.75 + .5 / (1 + np.exp(9 * (normals[..., 1] + .1))))[..., None]
        strength, gloss = (.65, 45) if metal else (rng.uniform(.05, .45), rng.uniform(10, 40))
        lit += strength * (facing ** gloss)[..., None]
        surface += layer[..., None] * lit
    weight = layers.sum(axis=0)[..., None]
    return np.clip(np.where(weight > 0, surface / np.maximum(weight, 1e-6), 0), 0, 1).astype(np.float32)


def surface_normals(layers: np.ndarray, bevel: float) -> np.ndarray:
    """Unit normals (H, W, 3) of layers (2, H, W) whose edges are rounded over `bevel` pixels."""
    height = np.zeros(layers.shape[1:], np.float32)
    for layer in layers:
        inside = cv2.resize(layer, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR) > .5
        distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5) / 2
        distance = cv2.resize(distance, layer.shape[::-1], interpolation=cv2.INTER_AREA)
        remaining = np.clip(bevel - distance, 0, None)
        height += np.sqrt(np.maximum(bevel ** 2 - remaining ** 2, 0))
    height = cv2.GaussianBlur(height, (0, 0), 1)
    slopes = [cv2.Sobel(height, cv2.CV_32F, *axis, ksize=3, scale=1 / 8) for axis in ((1, 0), (0, 1))]
    normals = np.stack([-slopes[0], -slopes[1], np.ones_like(height)], axis=2)
    return normals / np.linalg.norm(normals, axis=2, keepdims=True)


def texture(rng: np.random.Generator, frame: tuple[int, int]) -> np.ndarray:
    """A relative change of brightness, float32 (H, W): none, mottled, grained like wood, or striped."""
    kind, strength = rng.integers(4), np.float32(rng.uniform(.08, .25))
    if kind == 0:
        return np.zeros(frame, np.float32)
    if kind == 1:
        return strength * (noise(rng, frame, 5) + noise(rng, frame, 17))
    along = gradient(rng, frame, 1)
    if kind == 2:
        waves = np.sin(rng.uniform(40, 90) * along + 5 * noise(rng, frame, 50))
        return strength * waves * (.7 + .3 * noise(rng, frame, 4))
    return strength * np.tanh(6 * np.sin(rng.uniform(20, 60) * along))


def noise(rng: np.random.Generator, frame: tuple[int, int], cell: int) -> np.ndarray:
    """Smooth noise of about -1..1, float32 (H, W), whose waves are `cell` pixels long."""
    coarse = rng.uniform(-1, 1, (frame[0] // cell + 2, frame[1] // cell + 2)).astype(np.float32)
    return cv2.resize(coarse, frame[::-1], interpolation=cv2.INTER_CUBIC)


def gradient(rng: np.random.Generator, frame: tuple[int, int], strength: float) -> np.ndarray:
    """A ramp through the frame in a drawn direction, float32 (H, W), within -strength..strength."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in frame)
    return np.float32(strength / math.sqrt(2)) * (math.sin(angle) * y[:, None] + math.cos(angle) * x[None])


def cast_shadow(rng: np.random.Generator, scene: np.ndarray, cover: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Darkens the scene where the object stands between it and the light."""
    side = math.sqrt(cover.size)
    shift = -light[:2] / light[2] * rng.uniform(.015, .045) * side
    moved = cv2.warpAffine(cover, np.float32([[1, 0, shift[0]], [0, 1, shift[1]]]), cover.shape[::-1])
    shadow = cv2.GaussianBlur(moved, (0, 0), rng.uniform(.008, .025) * side)
    return scene * (1 - np.float32(rng.uniform(*SHADOW)) * shadow)[..., None]


def _unit(vector: Sequence[float] | np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, np.float32)
    return vector / np.linalg.norm(vector)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
