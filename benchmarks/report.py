"""The report of many images: `python -m benchmarks.report`. Needs Chromium to open it.

Makes images of the demo, and masks of two methods that are wrong about their borders; scores them,
writes report.html, opens it and prints it. Prints what each takes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from demo.make_data import TASK, TEST_SET, write_sample
from readers import read_mask
from utils import find_images, write_png

ROOT = Path(__file__).parents[1]
NEXT_FRAME = 'new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))'
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
    # Distances to the border, positive inside, moved by a smooth random field.
    height, width = mask.shape
    rng = np.random.default_rng((seed, distance))
    coarse = rng.normal(0, distance, (6, 6))
    field = cv2.resize(coarse, (width, height))
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(255 - mask, cv2.DIST_L2, 3)
    depth = inside - outside + field

    grey = 255 / (1 + np.exp(-depth))
    return grey.astype(np.uint8)


def run(script: str, *arguments: str | Path) -> tuple[float, int]:
    """Runs a script; returns its seconds of processor time and its largest memory in bytes."""
    command = [sys.executable, script, f'task={TASK}', *arguments]
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f'{script} failed')
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def open_report(report: Path) -> None:
    """Opens the report as a reader does, and prints it as PDF."""
    with sync_playwright() as playwright:
        executable = os.environ.get('CHROMIUM') or shutil.which('chromium')
        browser = playwright.chromium.launch(executable_path=executable, args=['--no-sandbox'])
        page = browser.new_page(viewport={'width': 1360, 'height': 900})
        start = time.perf_counter()
        page.goto(report.as_uri())
        page.evaluate(NEXT_FRAME)
        print(f'opened in {time.perf_counter() - start:.1f} s')

        start = time.perf_counter()
        page.select_option('[name=order]', 'name')
        page.evaluate(NEXT_FRAME)
        print(f'sorted in {time.perf_counter() - start:.2f} s')

        start = time.perf_counter()
        page.pdf(path=report.with_suffix('.pdf'), prefer_css_page_size=True)
        size = report.with_suffix('.pdf').stat().st_size
        print(f'printed in {time.perf_counter() - start:.1f} s, {size / 1e6:.1f} MB')
        browser.close()


def main() -> None:
    """Measures the report."""
    options = parse_arguments()
    folder = options.folder.absolute()
    make_folders(folder, options.images, options.size)

    # The scores, once.
    results = ('--save_dir', folder / 'e_results', '--data_lst', TEST_SET)
    roots = ('--pred_root', folder / 'e_preds', '--gt_root', folder / 'datasets' / TASK)
    run('eval_existingOnes.py', *results, *roots)

    # The report without and with images.
    for images in (0, options.images):
        seconds, memory = run('gen_best_ep.py', *results, '--images', str(images))
        print(f'{images} images: {seconds:.1f} s of processor time, {memory / 1e6:.0f} MB')
    report = folder / 'e_results/report.html'
    print(f'{report.stat().st_size / 1e6:.1f} MB')
    open_report(report)


if __name__ == '__main__':
    main()
