"""Several networks on the same images, on one page: the cut-outs side by side, time and memory."""

import base64
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from inference.api import Box, finish, prepare
from inference.compose import Style
from inference.images import DecodedImage, Size, SizeRule, encode
from inference.network import Predictor
from runtime.memory import PeakWatch

LONGEST_SIDE = 1200  # of images on the page, in pixels
ERRORS = (ValueError, OSError, RuntimeError)  # what a network or an image may fail of

Load = Callable[[], DecodedImage]
LoadNetwork = Callable[[str], tuple[Predictor, SizeRule]]


class Picture(NamedTuple):
    """What the page shows of one image.

    Attributes:
        file: WebP; empty if there is none.
        problem: why there is none.
        seconds: that the network took, its input's resizing and the cut-out included.
        size: of the network's input.
    """

    file: bytes = b''
    problem: str = ''
    seconds: float = 0.
    size: Size = (0, 0)


class Entry(NamedTuple):
    """A network's results.

    Attributes:
        name: as it was asked for.
        pictures: one for each image.
        loading: seconds.
        memory: the most bytes that the process held meanwhile; None if the system does not say.
    """

    name: str
    pictures: list[Picture]
    loading: float = 0.
    memory: int | None = None

    @property
    def seconds(self) -> float | None:
        """The mean over images; None without any."""
        times = [picture.seconds for picture in self.pictures if not picture.problem]
        return sum(times) / len(times) if times else None

    @property
    def sizes(self) -> str:
        """Of the network's input."""
        sizes = {}  # each once, in their order
        for picture in self.pictures:
            width, height = picture.size
            if not picture.problem:
                sizes[f'{width}x{height}'] = True
        return ', '.join(sizes)


# --- Results --------------------------------------------------------------------------------------


def show_images(images: Sequence[Load]) -> list[Picture]:
    """The images themselves, as the page shows them."""
    pictures = []
    for load in images:
        try:
            image = load()
            pictures.append(Picture(_encoded(_own_pixels(image), image)))
        except ERRORS as error:
            pictures.append(Picture(problem=str(error)))
    return pictures


def compare(
    names: Sequence[str],
    images: Sequence[Load],
    load_network: LoadNetwork,
    style: Style,
    device: torch.device,
    box: Box | None = None,
) -> Iterator[Entry]:
    """Runs each network over all images. Only one network is in memory at a time.

    Args:
        names: of the networks.
        images: functions that decode one image each.
        load_network: makes the network of a name, with its rule of sizes.
        style: what to make of image and mask.
        device: that the networks run on.
        box: (x1, y1, x2, y2), in pixels, the part of each image to segment; default: all of it.

    Yields:
        The results of each network. What fails is reported in its pictures.
    """
    def segment(load: Load, network: Predictor, size_of: SizeRule) -> Picture:
        try:
            return _segment(load(), network, size_of, style, box)
        except ERRORS as error:
            return Picture(problem=str(error))

    for name in names:
        watch = PeakWatch(device)
        yield _run_network(name, images, load_network, segment, watch)
        # The next network needs this one's memory.
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()


def _run_network(
    name: str,
    images: Sequence[Load],
    load_network: LoadNetwork,
    segment: Callable[[Load, Predictor, SizeRule], Picture],
    watch: PeakWatch,
) -> Entry:
    start = time.perf_counter()
    try:
        network, size_of = load_network(name)
    except ERRORS as error:
        return Entry(name, [Picture(problem=str(error))] * len(images))
    loading = time.perf_counter() - start

    if network.device.type == 'cuda':
        segment(images[0], network, size_of)  # its first use of the GPU takes longer
    pictures = [segment(load, network, size_of) for load in images]
    return Entry(name, pictures, loading, watch.read())


def _segment(
    image: DecodedImage,
    network: Predictor,
    size_of: SizeRule,
    style: Style,
    box: Box | None,
) -> Picture:
    start = time.perf_counter()
    pixels, prepared = prepare(image, size_of, box)
    probability, = network([pixels])
    result = finish(prepared, probability, style)
    seconds = time.perf_counter() - start
    height, width = pixels.shape[:2]
    return Picture(_encoded(result, image), seconds=seconds, size=(width, height))


def _own_pixels(image: DecodedImage) -> np.ndarray:
    if image.alpha is None:
        return image.pixels
    return np.dstack((image.pixels, image.alpha))


def _encoded(pixels: np.ndarray, image: DecodedImage) -> bytes:
    """A WebP of at most LONGEST_SIDE."""
    height, width = pixels.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        pixels = _shrunk(pixels, size)
    return encode(pixels, '.webp', image)


def _shrunk(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Pillow weights colours by their alpha, so that no dark seam appears around a cut-out."""
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


# --- The page -------------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Comparison of {title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8886; }}
body {{ font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
       margin: 0 auto; padding: 24px; max-width: 1800px; }}
h1 {{ font-size: 24px; margin: 0 0 12px; }}
h2 {{ font-size: 17px; margin: 36px 0 8px; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 18px 4px 0; text-align: right; border-bottom: 1px solid var(--line); }}
th:first-child, td:first-child {{ text-align: left; overflow-wrap: anywhere; min-width: 9em; }}
p {{ font-size: 13px; opacity: .7; margin: 8px 0 0; }}
fieldset {{ border: 0; padding: 0; margin: 16px 0 0; }}
fieldset label {{ margin-right: 14px; white-space: nowrap; }}
.row {{ display: grid; gap: 12px;
       grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }}
figure {{ margin: 0; }}
figure img {{ width: 100%; height: auto; display: block; border: 1px solid var(--line); }}
figcaption {{ font-size: 13px; overflow-wrap: anywhere; }}
figcaption span {{ opacity: .7; }}
.problem {{ border: 1px solid #c33; padding: 12px; overflow-wrap: anywhere; }}
.shown {{ background: repeating-conic-gradient(#ccc 0 25%, #fff 0 50%) 0 0 / 24px 24px; }}
body:has(#white:checked) .shown {{ background: #fff; }}
body:has(#black:checked) .shown {{ background: #000; }}
body:has(#green:checked) .shown {{ background: #0a0; }}
</style>
</head>
<body>
<h1>Comparison of {title}</h1>
<div class="wide"><table>
<tr><th>weights</th><th>network's input</th><th>seconds an image</th><th>seconds to load</th>
<th>memory</th></tr>
{rows}
</table></div>
<p>Seconds: from the decoded image to its cut-out. Memory: the most that the process held.</p>
<fieldset><label><input type="radio" name="background" id="chequered" checked> chequered</label>
<label><input type="radio" name="background" id="white"> white</label>
<label><input type="radio" name="background" id="black"> black</label>
<label><input type="radio" name="background" id="green"> green</label></fieldset>
{sections}
</body>
</html>
"""


def render_page(
    names: Sequence[str],
    originals: Sequence[Picture],
    entries: Sequence[Entry],
) -> str:
    """Writes the page, which loads nothing from elsewhere and runs no script.

    Args:
        names: of the images.
        originals: from `show_images`.
        entries: from `compare`.

    Returns:
        HTML.
    """
    title = ', '.join(entry.name for entry in entries)
    rows = [_table_row(entry) for entry in entries]
    sections = []
    for i, name in enumerate(names):
        figures = [_figure('the image', originals[i], '')]
        for entry in entries:
            picture = entry.pictures[i]
            figures.append(_figure(entry.name, picture, f'{picture.seconds:.2f} s'))
        joined = '\n'.join(figures)
        sections.append(f'<h2>{escape(name)}</h2>\n<div class="row">\n{joined}\n</div>')
    return PAGE.format(
        title=escape(title), rows='\n'.join(rows), sections='\n'.join(sections))


def _table_row(entry: Entry) -> str:
    unknown = '-'
    seconds = entry.seconds
    is_loaded = entry.loading > 0
    cells: list[Any] = [
        entry.name,
        entry.sizes or unknown,
        unknown if seconds is None else f'{seconds:.2f}',
        f'{entry.loading:.1f}' if is_loaded else unknown,
        unknown if entry.memory is None else f'{entry.memory / 1e9:.2f} GB',
    ]
    return '<tr>' + ''.join(f'<td>{escape(cell)}</td>' for cell in cells) + '</tr>'


def _figure(name: str, picture: Picture, note: str) -> str:
    caption = escape(name)
    if picture.problem:
        shown = f'<div class="problem">{escape(picture.problem)}</div>'
    else:
        data = base64.b64encode(picture.file).decode()
        shown = (f'<img class="shown" alt="{caption}" loading="lazy" '
                 f'src="data:image/webp;base64,{data}">')
        caption += f' <span>{note}</span>'
    return f'<figure>{shown}<figcaption>{caption}</figcaption></figure>'
