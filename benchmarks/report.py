"""The report of many images: `python -m benchmarks.report`. Needs Chromium to open it.

Makes images of the demo, and masks of two methods that are wrong about their borders; scores them,
writes report.html, opens it and prints it. Prints what each takes.
"""

import argparse
import resource
import time
from pathlib import Path

import cv2
import numpy as np

import eval_existingOnes
import gen_best_ep
from demo.make_data import TASK, TEST_SET, write_sample
from readers import read_mask
from tests.browser import chromium
from utils import find_images, write_png

METHODS = {'ours': 3, 'theirs': 6}  # by how many pixels their masks are wrong


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='where the images are, or will be')
    parser.add_argument('--images', type=int, default=500)
    parser.add_argument('--size', type=int, default=720, help='square root of their area')
    return parser.parse_args()


def make_folders(folder: Path, images: int, size: int) -> None:
    """Makes images, masks and predictions, unless they are there."""
    source = folder / 'datasets' / TASK / TEST_SET
    if source.is_dir():
        return
    for index in range(images):
        write_sample(index, source, size, seed=7, train=False)
    for index, path in enumerate(find_images(source / 'gt')):
        mask = read_mask(path)
        for method, distance in METHODS.items():
            prediction = spoil(mask, distance, index)
            write_png(folder / 'e_preds' / method / TEST_SET / path.name, prediction)


def spoil(mask: np.ndarray, distance: int, seed: int) -> np.ndarray:
    """A prediction that loses thin parts in some places, and adds others."""
    rng = np.random.default_rng((seed, distance))
    field = cv2.resize(rng.normal(0, distance, (6, 6)), mask.shape[::-1])
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(255 - mask, cv2.DIST_L2, 3)
    depth = inside - outside + field
    return (255 / (1 + np.exp(-depth))).astype(np.uint8)


def open_report(report: Path) -> None:
    """Opens the report as a reader does, and prints it as PDF."""
    with chromium() as browser:
        page = browser.new_page(viewport={'width': 1360, 'height': 900})
        start = time.perf_counter()
        page.goto(report.absolute().as_uri())
        page.wait_for_selector('.card img')
        print(f'opened in {time.perf_counter() - start:.1f} s')

        start = time.perf_counter()
        page.select_option('[name=order]', 'name')
        page.evaluate('new Promise(requestAnimationFrame)')
        print(f'sorted in {time.perf_counter() - start:.2f} s')

        start = time.perf_counter()
        page.pdf(path=report.with_suffix('.pdf'), prefer_css_page_size=True)
        print(f'printed in {time.perf_counter() - start:.1f} s')


def main() -> None:
    """Measures the report."""
    options = parse_arguments()
    make_folders(options.folder, options.images, options.size)
    folders = [
        '--pred_root', str(options.folder / 'e_preds'),
        '--gt_root', str(options.folder / 'datasets' / TASK)]
    results = ['--save_dir', str(options.folder / 'e_results'), '--data_lst', TEST_SET]
    eval_existingOnes.main([f'task={TASK}', *folders, *results])

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter(), time.process_time()
    gen_best_ep.main([f'task={TASK}', *results])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    report = options.folder / 'e_results/report.html'
    print(
        f'written in {time.perf_counter() - start[0]:.1f} s, '
        f'{time.process_time() - start[1]:.1f} s of processor time; '
        f'{report.stat().st_size / 1e6:.1f} MB; memory grew by {grown / 1e3:.0f} MB')
    open_report(report)


if __name__ == '__main__':
    main()
