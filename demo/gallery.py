"""A figure of the demo's outcome: images, ground truth, masks of the first and best checkpoint.

`python -m demo.gallery --first e_preds/demo--epoch_2 --best e_preds/demo--epoch_12 -o demo.png`
"""

import argparse
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation import GroundTruth
from readers import open_image, read_mask, read_soft_mask
from utils import atomic_write, find_images

# In pixels.
CELL = (300, 260)  # the largest width and height of a picture
GAP = 10
MARGIN = 24
HEADER = 76

PAPER = '#ffffff'
INK = '#1c1e21'
FAINT = '#6a6f76'

Paths = Sequence[str | os.PathLike]


# --- Drawing ------------------------------------------------------------------------------------


def gallery(image_paths: Paths, gt_paths: Paths, columns: Mapping[str, Paths]) -> Image.Image:
    """Draws one row per image: the image, its ground truth, and a mask for each of `columns`.

    Pictures of a row may differ in size; all are scaled to the shape of the image.

    Args:
        image_paths: One per row.
        gt_paths: One per row.
        columns: Title -> paths of masks, one per row. Lines of a title after the first are smaller.

    Returns:
        The figure, RGB.

    Raises:
        ValueError: If there are no images or the lists differ in length, or as `open_image`.
    """
    # Each column has as many pictures as there are images.
    columns = {'Image': image_paths, 'Ground truth': gt_paths, **columns}
    lengths = {title: len(paths) for title, paths in columns.items()}
    if not image_paths or len(set(lengths.values())) > 1:
        raise ValueError(
            f'each column needs a picture for each image, and one at least: {lengths}')
    rows = [scaled_row(paths) for paths in zip(*columns.values(), strict=True)]

    # The page is as large as what it holds.
    cell_width, _ = CELL
    column_width = cell_width + GAP
    heights = [row[0].height for row in rows]
    gaps = GAP * (len(rows) - 1)
    width = MARGIN + len(columns) * column_width - GAP + MARGIN
    height = MARGIN + HEADER + sum(heights) + gaps + MARGIN
    page = Image.new('RGB', (width, height), PAPER)

    # Titles and pictures are centred in their columns.
    first_centre = MARGIN + cell_width // 2
    centres = [first_centre + i * column_width for i in range(len(columns))]
    for x, title in zip(centres, columns, strict=True):
        write_title(page, x, title)
    y = MARGIN + HEADER
    for row, row_height in zip(rows, heights, strict=True):
        for x, picture in zip(centres, row, strict=True):
            left = x - picture.width // 2
            page.paste(picture, (left, y))
        y += row_height + GAP
    return page


def scaled_row(paths: Paths) -> list[Image.Image]:
    """The pictures of one row in RGB, each in the size in which the first one fits into CELL."""
    pictures = [open_image(path).convert('RGB') for path in paths]
    image = pictures[0]
    widest, highest = CELL
    scale = min(widest / image.width, highest / image.height)
    width = round(image.width * scale)
    height = round(image.height * scale)
    lanczos = Image.Resampling.LANCZOS
    return [picture.resize((width, height), lanczos) for picture in pictures]


def write_title(page: Image.Image, x: int, title: str) -> None:
    """Writes a title at the top, centred on `x`, its first line large, the others small."""
    draw = ImageDraw.Draw(page)
    large = ImageFont.load_default(25)
    small = ImageFont.load_default(19)
    head, *rest = title.split('\n')
    draw.text((x, MARGIN), head, INK, large, anchor='ma')
    y = MARGIN + 33
    for line in rest:
        draw.text((x, y), line, FAINT, small, anchor='ma')
        y += 22


def save(page: Image.Image, path: Path) -> None:
    """Writes a figure as PNG, atomically."""
    data = io.BytesIO()
    page.save(data, 'PNG', optimize=True)
    with atomic_write(path) as file:
        file.write(data.getvalue())


# --- Choosing what to show ----------------------------------------------------------------------


def matching(folder: Path, images: Sequence[Path]) -> list[Path]:
    """The file in `folder` of the same stem for each of `images`.

    Raises:
        ValueError: Names the images that have none.
    """
    if not folder.is_dir():
        raise ValueError(f'{folder}: no such folder')
    by_stem = {path.stem: path for path in find_images(folder)}
    missing = [path.stem for path in images if path.stem not in by_stem]
    if missing:
        raise ValueError(f'{folder}: no mask for {", ".join(missing)}')
    return [by_stem[path.stem] for path in images]


def s_measures(masks: Paths, gt_paths: Paths) -> np.ndarray:
    """The S-measure of each mask, float64 (N,)."""
    values = []
    for mask, gt in zip(masks, gt_paths, strict=True):
        truth = GroundTruth(read_mask(gt))
        scores = truth.score(read_soft_mask(mask), {'sm'})
        values.append(scores['sm'])
    return np.array(values)


def representative(scores: np.ndarray, count: int) -> list[int]:
    """Indices of `count` scores from good to bad, evenly spread over the ranks without the ends."""
    middles = np.arange(count) + .5
    ranks = middles / count * len(scores)
    best_first = np.argsort(-scores, kind='stable')
    chosen = best_first[ranks.astype(int)]
    return chosen.tolist()


def compare(
    set_folder: Path,
    first: Path,
    best: Path,
    titles: Sequence[str],
    rows: int,
) -> Image.Image:
    """Draws the masks of two checkpoints for images of a test set, with mean scores.

    Args:
        set_folder: The test set: holds `im` and `gt`.
        first: Folder of the first checkpoint's masks.
        best: Folder of the best checkpoint's masks, whose scores choose the images.
        titles: Of the two columns.
        rows: Number of images; fewer if the set is smaller.

    Raises:
        ValueError: If a folder or a mask is missing.
    """
    image_folder = set_folder / 'im'
    if not image_folder.is_dir():
        raise ValueError(
            f'{image_folder}: no such folder; `python -m demo.make_data` makes the demo data')
    images = find_images(image_folder)
    gt_paths = matching(set_folder / 'gt', images)

    # The scores of both checkpoints; those of the best decide on the images to show.
    masks = [matching(folder, images) for folder in (first, best)]
    scores = [s_measures(paths, gt_paths) for paths in masks]
    count = min(rows, len(images))
    chosen = representative(scores[1], count)

    # One column for each checkpoint, with its mean score in the title.
    columns = {}
    for title, values, paths in zip(titles, scores, masks, strict=True):
        mean = values.mean()
        full_title = f'{title}\nS-measure {mean:.3f} on {len(images)} images'
        columns[full_title] = [paths[i] for i in chosen]
    chosen_images = [images[i] for i in chosen]
    chosen_gt = [gt_paths[i] for i in chosen]
    return gallery(chosen_images, chosen_gt, columns)


# --- The command line ---------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Draws images, ground truth and the masks of two checkpoints.')
    add = parser.add_argument
    add('--data_root', type=Path, default=Path('datasets'))
    add('--task', default='Demo')
    add('--set', default='TE-Demo', help='images are those of DATA_ROOT/TASK/SET')
    add('--first', type=Path, required=True,
        help="the first checkpoint's masks: FIRST/SET/*.png")
    add('--best', type=Path, required=True,
        help="the best checkpoint's masks: BEST/SET/*.png")
    add('--titles', nargs=2, default=('First checkpoint', 'Best checkpoint'),
        metavar=('FIRST', 'BEST'))
    add('--rows', type=int, default=6)
    add('-o', '--output', type=Path, default=Path('demo.png'))

    # Titles are the keys of the columns, so two equal ones would be one column.
    options = parser.parse_args()
    if options.rows < 1 or options.titles[0] == options.titles[1]:
        parser.error('--rows must be 1 or more, and the two --titles differ')
    return options


def main() -> None:
    """Draws the figure that the command line asks for."""
    options = parse_arguments()
    set_folder = options.data_root / options.task / options.set
    try:
        page = compare(
            set_folder,
            options.first / options.set,
            options.best / options.set,
            options.titles,
            options.rows,
        )
    except ValueError as error:
        raise SystemExit(f'gallery: {error}') from None
    save(page, options.output)
    print(f'Picture of the masks: {options.output}')


if __name__ == '__main__':
    main()
