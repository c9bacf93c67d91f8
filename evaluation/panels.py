"""Panels of images for a paper: image, mask and several methods, with zoomed insets."""

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.categories import Image
from evaluation.display import Shown
from evaluation.inputs import read_prediction
from evaluation.paper_figures import MM, Size, encode
from evaluation.places import NO_ROWS, ScoredFiles
from evaluation.results import Sets
from evaluation.stored import Rows
from evaluation.style import drawing
from readers import read_image, read_mask

ZOOM = 0.24  # side of the part that is enlarged where none is given, of an image's shorter side
INSET = 0.46  # longer side of the inset, of a panel's shorter side
GAP = 1.  # mm between panels
TALLEST = 1.4  # a panel's height, of its width
FRAME_COLOR = (232, 17, 45)
FRAME = 2  # pixels
IMAGES_DPI = 300

Box = tuple[int, int, int, int]  # x, y, width and height in pixels


class Corner(NamedTuple):
    """A corner of a panel."""

    is_right: bool
    is_lower: bool

    def place(self, inset: tuple[int, int], panel: tuple[int, int]) -> tuple[int, int]:
        """The left and upper border of an inset in it; sizes are (width, height)."""
        panel_width, panel_height = panel
        width, height = inset
        left = panel_width - width if self.is_right else 0
        top = panel_height - height if self.is_lower else 0
        return left, top


class Request(NamedTuple):
    """An image to draw, and the part of it to enlarge: None for where methods differ most."""

    image: Image
    zoom: Box | None


class Strip(NamedTuple):
    """A row of panels: the image (RGB, if there is one), the mask, predictions (uint8, by method).

    All are (H, W). `zoom` is the part to enlarge, if any.
    """

    image: np.ndarray | None
    mask: np.ndarray
    predictions: dict[str, np.ndarray]
    zoom: Box | None


def parse_requests(texts: Sequence[str], images: Collection[Image]) -> list[Request]:
    """Parses `--panels`: `set/name`, or `name` where one set has it; `:x,y,width,height` behind it.

    Raises:
        ValueError: Naming all that are no scored image, or of several sets.
    """
    requests = []
    problems = []
    for text in texts:
        name, zoom = _split_zoom(text)
        found = [image for image in images if name in (image[1], '/'.join(image))]
        if len(found) == 1:
            requests.append(Request(found[0], zoom))
        elif found:
            sets = ', '.join(dataset for dataset, _ in found)
            problems.append(f'{name} is in {sets}: write SET/{name}')
        else:
            problems.append(f'{name} is no scored image; write SET/NAME without a suffix')
    if problems:
        raise ValueError('--panels: ' + '; '.join(problems))
    return requests


def _split_zoom(text: str) -> tuple[str, Box | None]:
    found = re.fullmatch(r'(.+):(\d+),(\d+),(\d+),(\d+)', text, re.S)
    if found is None:
        return text, None
    name, *numbers = found.groups()
    x, y, width, height = map(int, numbers)
    return name, (x, y, width, height)


def read_strip(
    request: Request,
    sets: Sets,
    methods: Sequence[str],
    zooms: bool,
    rows: Mapping[str, Rows] = MappingProxyType({}),
) -> Strip:
    """Reads an image, its mask and its predictions, from where they were scored.

    Args:
        request: The image.
        sets: The JSON of each set.
        methods: The methods by their names on disk.
        zooms: Whether to enlarge a part where the request names none.
        rows: Stored scores of each set, by which files are known again.

    Raises:
        ValueError: Naming the files that are gone or replaced, or a part to enlarge outside of the
            image.
    """
    dataset, name = request.image
    files = ScoredFiles(sets[dataset], dataset, rows.get(dataset, NO_ROWS))
    mask_file = files.mask(name)
    found = {method: files.prediction(method, name) for method in methods}
    gone = [method for method, file in found.items() if file is None]
    if mask_file is None or gone:
        what = ', '.join(gone or ['mask'])
        raise ValueError(
            f'--panels {dataset}/{name}: no longer there, or not as it was scored: {what}')

    # All of the mask's size.
    mask = read_mask(mask_file)
    height, width = mask.shape
    image = None
    image_file = files.image(name)
    if image_file is not None:
        pixels = read_image(image_file.read_bytes())
        image = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    predictions = {}
    for method, file in found.items():
        assert file is not None
        predictions[method] = read_prediction(file, mask.shape, files.is_zero_one(method))

    # The part to enlarge.
    zoom = request.zoom
    if zoom is None and zooms:
        zoom = most_different(mask, list(predictions.values()))
    if zoom is not None and not _is_inside(zoom, width, height):
        raise ValueError(
            f'--panels {dataset}/{name}: x,y,width,height {zoom} is not inside {width}x{height}')
    return Strip(image, mask, predictions, zoom)


def _is_inside(box: Box, width: int, height: int) -> bool:
    x, y, box_width, box_height = box
    return 0 < box_width <= width - x and 0 < box_height <= height - y


def most_different(mask: np.ndarray, predictions: Sequence[np.ndarray]) -> Box:
    """Finds the part of an image where the predictions differ most from the mask, on average.

    Args:
        mask: uint8 (H, W).
        predictions: Each uint8 (H, W).

    Returns:
        A square.
    """
    errors = np.zeros(mask.shape, np.float32)
    for prediction in predictions:
        errors += cv2.absdiff(prediction, mask)

    # The mean over each square, by its upper left corner.
    height, width = mask.shape
    side = max(1, round(ZOOM * min(height, width)))
    square = (side, side)
    means = cv2.boxFilter(errors, -1, square, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)

    # Of the squares that lie in the image.
    last_row = height - side
    last_column = width - side
    inside = means[:last_row + 1, :last_column + 1]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return int(x), int(y), side, side


def panel_figure(
    strips: Sequence[Strip], shown: Sequence[Shown], size: Size,
) -> dict[str, bytes]:
    """Draws strips below each other, in the width of the page.

    Args:
        strips: The rows.
        shown: The methods, in the order of the columns.
        size: Of the figure.

    Returns:
        The figure by suffix.
    """
    # The image's column is left out if a row has none.
    has_images = all(strip.image is not None for strip in strips)
    heads = ['Image'] if has_images else []
    heads += ['Ground truth', *(method.name for method in shown)]
    width = (size.page - GAP * (len(heads) - 1)) / len(heads)
    heights = [_panel_height(strip, width) for strip in strips]
    below = 1.5 * size.line
    total = sum(heights) + GAP * (len(strips) - 1) + below

    with drawing(heads, size.style):
        figure = Figure((size.page * MM, total * MM))
        top = total
        for strip, height in zip(strips, heights, strict=True):
            top -= height
            corner = free_corner(strip.mask, strip.zoom) if strip.zoom else None
            for column, panel in enumerate(_panels(strip, shown, has_images)):
                # Its place in shares of the figure.
                left = column * (width + GAP)
                place = (left / size.page, top / total, width / size.page, height / total)
                axes = figure.add_axes(place)
                axes.set_axis_off()
                picture = enlarged(panel, strip.zoom, corner, width, height)
                axes.imshow(picture, aspect='auto')
            top -= GAP
        ours = {method.name for method in shown if method.ours}
        _write_heads(figure, heads, ours, width, size)
        return encode(figure)


def _write_heads(
    figure: Figure, heads: Sequence[str], ours: Collection[str], width: float, size: Size,
) -> None:
    """Writes the names below their columns of some mm, smaller where they are too long."""
    canvas = FigureCanvasAgg(figure)
    available = width * MM * figure.dpi
    page_height = figure.get_figheight() / MM
    for column, head in enumerate(heads):
        centre = column * (width + GAP) + width / 2
        text = figure.text(
            centre / size.page,
            .35 * size.line / page_height,
            head,
            ha='center',
            weight='bold' if head in ours else 'normal')
        extent = text.get_window_extent(canvas.get_renderer())
        if extent.width > available:
            text.set_fontsize(size.font * available / extent.width)


def _panel_height(strip: Strip, width: float) -> float:
    """The height in mm of a strip's panels of some width."""
    height, image_width = strip.mask.shape
    return width * min(height / image_width, TALLEST)


def _panels(strip: Strip, shown: Sequence[Shown], has_images: bool) -> list[np.ndarray]:
    """The strip's panels in their order, RGB."""
    panels = []
    if has_images and strip.image is not None:
        panels.append(strip.image)
    predictions = [strip.predictions[method.folder] for method in shown]
    for grey in (strip.mask, *predictions):
        panels.append(np.dstack([grey, grey, grey]))
    return panels


def free_corner(mask: np.ndarray, zoom: Box) -> Corner:
    """Chooses the corner where an inset hides nothing of its part, and least of the object.

    Of equal ones it is the one on the other side of the centre.

    Args:
        mask: uint8 (H, W).
        zoom: The part that the inset enlarges.
    """
    height, width = mask.shape
    x, y, zoom_width, zoom_height = zoom
    enlarged_part = np.zeros_like(mask)
    enlarged_part[y:y + zoom_height, x:x + zoom_width] = 255

    # The corners, the one across from the part first.
    is_left = x + zoom_width / 2 < width / 2
    is_upper = y + zoom_height / 2 < height / 2
    across = Corner(is_right=is_left, is_lower=is_upper)
    beside = Corner(across.is_right, not across.is_lower)
    below = Corner(not across.is_right, across.is_lower)
    near = Corner(not across.is_right, not across.is_lower)

    # What an inset hides in each.
    inset_width, inset_height = _inset_size(zoom, width, height)
    hidden = {}
    for corner in (across, beside, below, near):
        left, top = corner.place((inset_width, inset_height), (width, height))
        rows = slice(top, top + inset_height)
        columns = slice(left, left + inset_width)
        of_part = enlarged_part[rows, columns].sum(dtype=np.int64)
        of_object = mask[rows, columns].sum(dtype=np.int64)
        hidden[corner] = (int(of_part), int(of_object))
    return min(hidden, key=hidden.__getitem__)


def _inset_size(zoom: Box, width: int, height: int) -> tuple[int, int]:
    """Width and height of the inset in a panel of this size."""
    _, _, zoom_width, zoom_height = zoom
    longer = INSET * min(height, width)
    factor = longer / max(zoom_width, zoom_height)
    inset_width = max(1, round(zoom_width * factor))
    inset_height = max(1, round(zoom_height * factor))
    return inset_width, inset_height


def enlarged(
    panel: np.ndarray,
    zoom: Box | None,
    corner: Corner | None,
    width: float,
    height: float,
) -> np.ndarray:
    """Fits a panel into a place, with an enlarged part of it in a corner.

    Args:
        panel: RGB, uint8 (H, W, 3).
        zoom: The part; None for none.
        corner: Where the inset lies.
        width: Of the place in mm.
        height: Of the place in mm; what a tall panel leaves free at its sides is white.

    Returns:
        RGB, uint8.
    """
    # The panel, as large as the place permits.
    dots = IMAGES_DPI * MM
    place_height = round(height * dots)
    place_width = round(width * dots)
    panel_height, panel_width, _ = panel.shape
    scale = min(place_height / panel_height, place_width / panel_width)
    drawn = _resize(panel, round(panel_width * scale), round(panel_height * scale))
    if zoom is not None and corner is not None:
        _add_inset(drawn, panel, zoom, corner, scale)

    # In the middle of the place.
    canvas = np.full((place_height, place_width, 3), 255, np.uint8)
    drawn_height, drawn_width, _ = drawn.shape
    left = (place_width - drawn_width) // 2
    canvas[:drawn_height, left:left + drawn_width] = drawn[:place_height]
    return canvas


def _resize(panel: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resizes a panel; to at least one pixel."""
    size = max(1, width), max(1, height)
    shrinks = width < panel.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(panel, size, interpolation=interpolation)


def _add_inset(
    drawn: np.ndarray, panel: np.ndarray, zoom: Box, corner: Corner, scale: float,
) -> None:
    """Frames the part in a panel that was scaled, and puts it there again, enlarged."""
    # The part, enlarged.
    x, y, zoom_width, zoom_height = zoom
    height, width, _ = drawn.shape
    part = panel[y:y + zoom_height, x:x + zoom_width]
    inset_width, inset_height = _inset_size(zoom, width, height)
    inset = _resize(part, inset_width, inset_height)

    # In its corner.
    left, top = corner.place((inset_width, inset_height), (width, height))
    drawn[top:top + inset_height, left:left + inset_width] = inset

    # A frame around the inset, and around what it enlarges.
    _frame(drawn, (left, top, inset_width, inset_height))
    x, y, zoom_width, zoom_height = (round(value * scale) for value in zoom)
    _frame(drawn, (x, y, zoom_width, zoom_height))


def _frame(drawn: np.ndarray, box: Box) -> None:
    """Draws a frame inside a box."""
    x, y, width, height = box
    drawn_height, drawn_width, _ = drawn.shape
    right = min(x + width, drawn_width) - FRAME
    bottom = min(y + height, drawn_height) - FRAME
    first = (x + 1, y + 1)
    last = (right, bottom)
    cv2.rectangle(drawn, first, last, FRAME_COLOR, FRAME)
