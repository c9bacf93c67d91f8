"""A picture of the demo's outcome: images, ground truth, and the masks of the first and of the best checkpoint.

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
from utils import atomic_write, find_images, open_image, read_mask

CELL = 300, 260         # the largest width and height of a picture
GAP, MARGIN, HEADER = 10, 24, 76
PAPER, INK, FAINT = '#ffffff', '#1c1e21', '#6a6f76'

Paths = Sequence[str | os.PathLike]


def gallery(image_paths: Paths, gt_paths: Paths, columns: Mapping[str, Paths]) -> Image.Image:
    """Draws one row per image: the image, its ground truth, and a mask for each of `columns`.

    columns: title -> paths of masks, in the order of `image_paths`; lines of a title after the first are smaller.
    Pictures of a row may differ in size; all are scaled to the shape of the image.
    Raises `ValueError` if there are no images or the lists differ in length, or as `open_image`.
    """
    columns = {'Image': image_paths, 'Ground truth': gt_paths, **columns}
    lengths = {title: len(paths) for title, paths in columns.items()}
    if not image_paths or len(set(lengths.values())) > 1:
        raise ValueError(f'each column needs a picture for each image, and one at least: {lengths}')
    rows = [scaled_row(paths) for paths in zip(*columns.values(), strict=True)]
    height = MARGIN + HEADER + sum(row[0].height + GAP for row in rows) - GAP + MARGIN
    page = Image.new('RGB', (2 * MARGIN + len(columns) * (CELL[0] + GAP) - GAP, height), PAPER)
    centres = [MARGIN + i * (CELL[0] + GAP) + CELL[0] // 2 for i in range(len(columns))]
    for x, title in zip(centres, columns, strict=True):
        write_title(page, x, title)
    y = MARGIN + HEADER
    for row in rows:
        for x, picture in zip(centres, row, strict=True):
            page.paste(picture, (x - picture.width // 2, y))
        y += row[0].height + GAP
    return page


def scaled_row(paths: Paths) -> list[Image.Image]:
    """The pictures of one row in RGB, each in the size in which the first one fits into CELL."""
    pictures = [open_image(path).convert('RGB') for path in paths]
    scale = min(CELL[0] / pictures[0].width, CELL[1] / pictures[0].height)
    size = round(pictures[0].width * scale), round(pictures[0].height * scale)
    return [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]


def write_title(page: Image.Image, x: int, title: str) -> None:
    """Writes a title at the top of the page, centred on `x`: its first line large, the others small and pale."""
    draw = ImageDraw.Draw(page)
    head, *rest = title.split('\n')
    draw.text((x, MARGIN), head, INK, ImageFont.load_default(25), anchor='ma')
    for i, line in enumerate(rest):
        draw.text((x, MARGIN + 33 + 22 * i), line, FAINT, ImageFont.load_default(19), anchor='ma')


def matching(folder: Path, images: Sequence[Path]) -> list[Path]:
    """The file in `folder` of the same stem for each of `images`; a `ValueError` names those that have none."""
    if not folder.is_dir():
        raise ValueError(f'{folder}: no such folder')
    by_stem = {path.stem: path for path in find_images(folder)}
    missing = [path.stem for path in images if path.stem not in by_stem]
    if missing:
        raise ValueError(f'{folder}: no mask for {", ".join(missing)}')
    return [by_stem[path.stem] for path in images]


def s_measures(masks: Paths, gt_paths: Paths) -> np.ndarray:
    """The S-measure of each mask, float64 (N,)."""
    return np.array([GroundTruth(read_mask(gt)).score(read_mask(mask), {'sm'})['sm']
                     for mask, gt in zip(masks, gt_paths, strict=True)])


def representative(scores: np.ndarray, count: int) -> list[int]:
    """Indices of `count` scores from the best to the worst, spread evenly over the ranks, the two ends left out."""
    ranks = (np.arange(count) + .5) / count * len(scores)
    return np.argsort(-scores, kind='stable')[ranks.astype(int)].tolist()


def compare(set_folder: Path, first: Path, best: Path, titles: Sequence[str], rows: int) -> Image.Image:
    """The gallery of two folders of masks for the test set in `set_folder` (`im` and `gt`), with mean scores."""
    if not (set_folder / 'im').is_dir():
        raise ValueError(f'{set_folder / "im"}: no such folder; `python -m demo.make_data` makes the demo data')
    images = find_images(set_folder / 'im')
    gt_paths = matching(set_folder / 'gt', images)
    masks = [matching(folder, images) for folder in (first, best)]
    scores = [s_measures(paths, gt_paths) for paths in masks]
    chosen = representative(scores[1], min(rows, len(images)))
    columns = {f'{title}\nS-measure {values.mean():.3f} on {len(images)} images': [paths[i] for i in chosen]
               for title, values, paths in zip(titles, scores, masks, strict=True)}
    return gallery([images[i] for i in chosen], [gt_paths[i] for i in chosen], columns)


def save(page: Image.Image, path: Path) -> None:
    """Writes a gallery as PNG, atomically."""
    data = io.BytesIO()
    page.save(data, 'PNG', optimize=True)
    with atomic_write(path) as file:
        file.write(data.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description='Draws images, ground truth and the masks of two checkpoints.')
    parser.add_argument('--data_root', type=Path, default=Path('datasets'))
    parser.add_argument('--task', default='Demo')
    parser.add_argument('--set', default='TE-Demo', help='images are those of DATA_ROOT/TASK/SET')
    parser.add_argument('--first', type=Path, required=True, help="the first checkpoint's masks: FIRST/SET/*.png")
    parser.add_argument('--best', type=Path, required=True, help="the best checkpoint's masks: BEST/SET/*.png")
    parser.add_argument('--titles', nargs=2, default=('First checkpoint', 'Best checkpoint'), metavar=('FIRST', 'BEST'))
    parser.add_argument('--rows', type=int, default=6)
    parser.add_argument('-o', '--output', type=Path, default=Path('demo.png'))
    options = parser.parse_args()
    try:
        if options.rows < 1 or options.titles[0] == options.titles[1]:
            raise ValueError('--rows must be 1 or more, and the two --titles differ')
        page = compare(options.data_root / options.task / options.set, options.first / options.set,
                       options.best / options.set, options.titles, options.rows)
    except ValueError as error:
        parser.error(str(error))
    save(page, options.output)
    print(f'Picture of the masks: {options.output}')


if __name__ == '__main__':
    main()
