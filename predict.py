"""Cuts objects out of pictures and videos: `python predict.py INPUT [OUTPUT] -m MODEL`.

INPUT is a picture, a folder (searched with its folders, whose tree is kept), a pattern in quotes ('photos/*.jpg'), a
list of pictures (.txt, one a line), a video, or - for standard input. OUTPUT is a file, a folder for several pictures,
or - for standard output; by itself <name>.out.png beside the picture, or <folder>_out.
"""

import argparse
import glob
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from inference.compose import Style
from inference.images import Size, encode, network_size, read_picture, write_bytes
from inference.network import DTYPES, Predictor, choose_device
from inference.pipeline import DEFAULT_WORKERS, run_pipeline
from inference.predict import Loaded, finish, prepare, published_sizes, render_frames, sizes_of
from inference.video import VIDEO_SUFFIXES, check_video_target, convert_video
from models import load_model, optimize
from utils import IMAGE_SUFFIXES, MAX_PIXELS, read_image

WATCH_SECONDS = 1.


class Job(NamedTuple):
    """A picture to read, a path or the bytes of standard input, and where its result goes; None: standard output."""

    source: Path | bytes
    target: Path | None


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('input')
    add('output', nargs='?')
    add('-m', '--model', required=True, help='checkpoint, run, or folder or name in Hugging Face layout')
    add('--tile-order', choices=('row', 'column'), help='for weights of 2024: see README')
    add('--resolution', default='', help="WxH, 'native', or a long side; by itself what the weights were trained at")
    add('--box', type=_box, metavar='X1,Y1,X2,Y2', help='segment what is in this box, in pixels')
    add('--device', default='auto', help='auto, cpu, cuda, cuda:N, mps')
    add('--dtype', choices=DTYPES, default='float32')
    add('--compile', action='store_true', help='compile the network: slow to start, then faster')
    add('--batch', type=_positive, default=1, help='pictures of one size that go through the network together')
    add('--workers', type=_positive, default=DEFAULT_WORKERS, help='threads that decode and encode')
    add('--max-pixels', type=_positive, default=MAX_PIXELS, help='larger pictures are refused')
    add('--skip-existing', action='store_true', help='leave results that are there as they are')
    add('-w', '--watch', action='store_true', help='go on with pictures that appear in the folder')
    add('--format', choices=('png', 'webp'), default='png', help='of results without a name of their own')
    add('--keep-metadata', action='store_true', help="copy the picture's EXIF data, places and all")
    _add_outputs(parser.add_argument_group('what to make (by itself a cut-out)').add_mutually_exclusive_group())
    _add_edges(parser.add_argument_group('masks and edges'))
    return parser.parse_args(arguments)


def _add_outputs(group: Any) -> None:
    group.add_argument('-om', '--only-mask', action='store_true')
    group.add_argument('-bgc', '--bgcolor', nargs=4, type=_byte, metavar=('R', 'G', 'B', 'A'))
    group.add_argument('--background', type=Path, metavar='PICTURE', help='scaled to cover')
    group.add_argument('--blur-background', nargs='?', const=20., type=float, metavar='PIXELS')
    group.add_argument('--side-by-side', action='store_true')


def _add_edges(group: Any) -> None:
    group.add_argument('-a', '--alpha-matting', nargs='?', const='blur-fusion', default='', metavar='METHOD',
                       choices=('blur-fusion', 'multi-level'),
                       help="estimate the object's own colour at soft edges, by blur-fusion or multi-level; write it "
                            'behind INPUT')
    group.add_argument('--threshold', type=_byte, help='mask values above become 255, all others 0')
    group.add_argument('--fill-holes', type=int, default=0, metavar='N', help='holes of fewer pixels')
    group.add_argument('--min-object', type=int, default=0, metavar='N', help='remove objects of fewer pixels')
    group.add_argument('--mask-offset', type=int, default=0, metavar='N', help='grow (or shrink, negative) the mask')
    group.add_argument('--mask-blur', type=float, default=0, metavar='PIXELS')


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _byte(text: str) -> int:
    if not 0 <= int(text) <= 255:
        raise argparse.ArgumentTypeError(f'{text} is not within 0..255')
    return int(text)


def _box(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r'\d+,\d+,\d+,\d+', text):
        raise argparse.ArgumentTypeError(f'{text}: give X1,Y1,X2,Y2')
    return tuple(map(int, text.split(',')))


def style_of(args: argparse.Namespace) -> Style:
    """What the flags say about results."""
    chosen = {'mask': args.only_mask, 'color': args.bgcolor, 'picture': args.background,
              'blur': args.blur_background, 'side-by-side': args.side_by_side}
    return Style(
        output=next((output for output, flag in chosen.items() if flag), 'cutout'),
        color=tuple(args.bgcolor or (255,) * 4), backdrop=read_image(args.background) if args.background else None,
        blur_background=args.blur_background or 0, matting=args.alpha_matting, threshold=args.threshold,
        fill_holes=args.fill_holes, min_object=args.min_object, mask_offset=args.mask_offset,
        mask_blur=args.mask_blur)


# --- Which pictures ---------------------------------------------------------------------------------------------------


def find_jobs(source: str, output: str | None, suffix: str) -> list[Job]:
    """The pictures that `source` means, with where their results go. Raises ValueError where there are none."""
    if source == '-':
        return [Job(sys.stdin.buffer.read(), None if output in (None, '-') else Path(output))]
    path = Path(source)
    if path.is_dir():
        folder = Path(output or f'{path.resolve()}_out')
        return _folder_jobs(path, sorted(_pictures_below(path, folder)), folder, suffix)
    listed = path.suffix.lower() == '.txt' and path.is_file()
    if not listed and (path.is_file() or path.is_symlink() or not glob.has_magic(source)):
        target = None if output == '-' else Path(output or path.with_name(f'{path.stem}.out{suffix}'))
        return [Job(path, target / f'{path.stem}{suffix}' if target and target.is_dir() else target)]
    names = _read_list(path) if listed else glob.glob(source, recursive=True)
    files = [path.parent / name.strip() if listed else Path(name) for name in names if name.strip()]
    # Without '..', so that results stay below the output folder.
    files = sorted(Path(os.path.abspath(file)) for file in files if listed or file.suffix.lower() in IMAGE_SUFFIXES)
    if not files or not all(file.name for file in files):
        raise ValueError(f'{source}: {"no list of pictures" if listed else "no picture matches"}')
    try:
        root = Path(os.path.commonpath([file.parent for file in files]))
        return _folder_jobs(root, files, Path(output or 'predictions'), suffix)
    except ValueError as error:  # on several drives
        raise ValueError(f'{source}: the pictures have no folder in common ({error})') from error


def _read_list(path: Path) -> list[str]:
    try:
        return path.read_text(encoding='utf-8').split('\n')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: no list of pictures: not UTF-8 ({error.reason})') from error


def _pictures_below(folder: Path, output: Path) -> Iterator[Path]:
    """Pictures by suffix, broken links among them, which are to be named as failures; nothing hidden, no results."""
    for path in folder.rglob('*'):
        hidden = any(part.startswith('.') for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not path.is_dir() and \
                output.resolve() not in path.absolute().parents:
            yield path


def _folder_jobs(root: Path, files: list[Path], output: Path, suffix: str) -> list[Job]:
    """Results under the pictures' names with the new suffix; behind the old one where two would be the same."""
    plain = [file.relative_to(root).with_suffix(suffix) for file in files]
    clashes = {name for name, count in Counter(plain).items() if count > 1}
    return [Job(file, output / (name.with_name(file.name + suffix) if name in clashes else name))
            for file, name in zip(files, plain, strict=True)]


# --- Work -------------------------------------------------------------------------------------------------------------


def run_jobs(jobs: Iterable[Job], network: Callable[[list[np.ndarray]], np.ndarray], size_of: Callable[[Size], Size],
             style: Style, args: argparse.Namespace) -> list[str]:
    """Makes every result, with a progress bar, and returns one line for each that failed."""
    def load(job: Job) -> tuple[np.ndarray, Loaded]:
        return prepare(read_picture(job.source, args.max_pixels), size_of, args.box)

    def save(job: Job, loaded: Loaded, probability: np.ndarray) -> None:
        result = finish(loaded, probability, style)
        suffix = job.target.suffix if job.target else f'.{args.format}'
        data = encode(result, suffix, loaded.picture, args.keep_metadata)
        if job.target is None:
            sys.stdout.buffer.write(data)
        else:
            write_bytes(job.target, data)

    failures = []
    jobs = list(jobs)
    with tqdm(total=len(jobs), unit='image', disable=None if len(jobs) > 1 else True) as bar:
        for outcome in run_pipeline(jobs, load, network, save, workers=args.workers, batch=args.batch):
            bar.update()
            if outcome.error is not None:
                name = 'standard input' if isinstance(outcome.item.source, bytes) else outcome.item.source
                failures.append(_failure(str(name), outcome.error))
                bar.write(failures[-1], file=sys.stderr)
    return failures


def _failure(name: str, error: Exception) -> str:
    """One line that names the picture and says why."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename not in (None, name):
        reason += f': {error.filename}'
    return reason if reason.startswith(name) else f'{name}: {reason}'


def run_video(source: str, output: str | None, network: Callable[[list[np.ndarray]], np.ndarray],
              size_of: Callable[[Size], Size], style: Style, args: argparse.Namespace) -> int:
    """Makes one video, and returns its number of frames."""
    transparent = style.output == 'cutout' or (style.output == 'color' and style.color[3] < 255)
    target = Path(output or Path(source).with_suffix('.out.webm' if transparent else '.out.mp4'))
    check_video_target(target, transparent)

    def render(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        yield from tqdm(render_frames(frames, network, size_of, style, args.box, workers=args.workers,
                                      batch=args.batch), unit='frame')

    return convert_video(source, target, render)


def watch(find: Callable[[], list[Job]], run: Callable[[list[Job]], object]) -> None:
    """Runs what `find` gives, again and again, each picture once it has stopped growing, until interrupted."""
    done, before = set(), {}
    while True:
        jobs = {job: job.source.stat().st_size for job in find() if job.source.exists() and job.source not in done}
        ready = [job for job, size in jobs.items() if before.get(job) == size]
        run(ready)
        done |= {job.source for job in ready}
        before = jobs
        time.sleep(WATCH_SECONDS)


def load_network(args: argparse.Namespace) -> tuple[Predictor, Callable[[Size], Size]]:
    """The network, ready, and the size at which it sees a picture of a given size."""
    device = choose_device(args.device)
    overrides = {'tile_order': args.tile_order} if args.tile_order else {}
    model = optimize(load_model(args.model, device, **overrides), DTYPES[args.dtype], args.compile)
    return Predictor(model, device), sizes_of(model, args.resolution, *published_sizes(args.model))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if anything failed."""
    args = parse_arguments(arguments)
    try:
        network_size(args.resolution, (32, 32), (32, 32))
        style = style_of(args)
        is_video = Path(args.input).suffix.lower() in VIDEO_SUFFIXES or \
            Path(args.output or '').suffix.lower() in VIDEO_SUFFIXES
        find = partial(find_jobs, args.input, args.output, f'.{args.format}')
        jobs = [] if is_video else find()
        if args.watch and not Path(args.input).is_dir():
            raise ValueError(f'--watch {args.input}: give a folder')
        network, size_of = load_network(args)
        start = time.perf_counter()
        if is_video:
            count, failures, skipped = run_video(args.input, args.output, network, size_of, style, args), [], 0
        elif args.watch:
            watch(find, lambda jobs: run_jobs(_missing(jobs, args), network, size_of, style, args))
        else:
            wanted = _missing(jobs, args)
            failures = run_jobs(wanted, network, size_of, style, args)
            count, skipped = len(wanted), len(jobs) - len(wanted)
    except (ValueError, OSError) as error:
        print(f'predict: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('predict: interrupted', file=sys.stderr)
        return 130
    seconds = time.perf_counter() - start
    print(f'{count - len(failures)} done, {skipped} skipped, {len(failures)} failed in {seconds:.1f} s '
          f'({count / max(seconds, 1e-9):.2f} a second)', file=sys.stderr)
    return 1 if failures else 0


def _missing(jobs: list[Job], args: argparse.Namespace) -> list[Job]:
    return [job for job in jobs if not (args.skip_existing and job.target is not None and job.target.exists())]


if __name__ == '__main__':
    sys.exit(main())
