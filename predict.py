"""Cuts objects out of pictures and videos: `python predict.py INPUT [OUTPUT] -m MODEL`.

INPUT is a picture, a folder (searched with its folders, whose tree is kept), a pattern in quotes ('photos/*.jpg'), a
list of pictures (.txt, one a line), a video, or - for standard input. OUTPUT is a file, a folder for several pictures,
or - for standard output; default: <name>.out.png beside the picture, or <folder>_out.
"""

import argparse
import glob
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from inference.api import Loaded, finish, prepare, published_sizes, render_frames, sizes_of
from inference.compose import Style
from inference.edges import MATTING
from inference.images import Size, check_format, encode, network_size, one_size, read_picture, write_bytes
from inference.network import DTYPES, Predictor
from inference.pipeline import DEFAULT_WORKERS, run_pipeline
from inference.video import VIDEO_SUFFIXES, check_video_target, convert_video, is_sequence
from models import load_model, optimize
from runtime.device import choose_device, prepare_device
from utils import IMAGE_SUFFIXES, MAX_PIXELS, TooManyPixels, read_image

WATCH_SECONDS = 1.


class Job(NamedTuple):
    """A picture to read, a path or the bytes of standard input, and where its result goes; None: standard output."""

    source: Path | bytes
    target: Path | None


class Summary(NamedTuple):
    """What became of a run: how many pictures or frames went through, how many results were there, what failed."""

    count: int
    skipped: int
    failures: list[str]
    seconds: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s INPUT [OUTPUT] -m MODEL [options]',
        epilog='Exit code: 0, or 1 if anything failed; what failed is named, and the others are done.')
    _add_pictures(parser.add_argument_group('pictures'))
    _add_network(parser.add_argument_group('network'))
    _add_outputs(parser.add_argument_group('what to make (default: a cut-out)'))
    _add_edges(parser.add_argument_group('masks and edges'))
    return parser.parse_args(arguments)


def _add_pictures(group: Any) -> None:
    add = group.add_argument
    add('input', metavar='INPUT')
    add('output', nargs='?', metavar='OUTPUT')
    add('--box', type=_box, metavar='X1,Y1,X2,Y2', help='segment what is in this box, in pixels')
    add('--skip-existing', action='store_true', help='leave results that are there as they are')
    add('-w', '--watch', action='store_true', help='go on with pictures that appear in the folder INPUT')
    add('--max-pixels', type=_number(int, 1), default=MAX_PIXELS, metavar='N',
        help='refuse larger pictures (%(default)s)')
    add('--workers', type=_number(int, 1), default=DEFAULT_WORKERS, metavar='N',
        help='threads that decode and encode (%(default)s)')


def _add_network(group: Any) -> None:
    add = group.add_argument
    add('-m', '--model', required=True,
        help='checkpoint, run, folder or repository in Hugging Face layout, or published weights by name: general, '
             'lite, ... (`python export.py zoo` lists them)')
    add('--tile-order', choices=('row', 'column'), help="'column' for weights of May to October 2024")
    add('--resolution', default='', metavar='SIZE',
        help="WxH, 'native', or a long side; default: the size the weights were trained at")
    add('--device', default='auto', help='auto, cpu, cuda, cuda:N, mps')
    add('--dtype', choices=DTYPES, default='float32', help=f'{", ".join(DTYPES)}', metavar='TYPE')
    add('--compile', action='store_true', help='compile the network: minutes for each new size; for GPUs')
    add('--batch', type=_number(int, 1), default=1, metavar='N',
        help='pictures of one size that go through it together')


def _add_outputs(group: Any) -> None:
    kind = group.add_mutually_exclusive_group().add_argument
    kind('-om', '--only-mask', action='store_true', help='the mask')
    kind('-bgc', '--bgcolor', nargs=4, type=_number(int, 0, 255), metavar=('R', 'G', 'B', 'A'),
         help='on a colour')
    kind('--background', type=Path, metavar='PICTURE', help='on a picture, scaled to cover')
    kind('--blur-background', action='store_true', help='on its own background, blurred')
    kind('--side-by-side', action='store_true', help='the picture, and the cut-out on a chequered pattern')
    group.add_argument('--blur', type=_number(float, .1), default=20., metavar='PIXELS',
                       help='of --blur-background (%(default)s)')
    group.add_argument('--format', choices=('png', 'webp'), default='png', metavar='FORMAT',
                       help='png or webp, of results without a name of their own')
    group.add_argument('--keep-metadata', action='store_true', help="copy the picture's EXIF data, places and all")


def _add_edges(group: Any) -> None:
    add = group.add_argument
    add('-a', '--alpha-matting', '-dc', '--decontaminate', action='store_true',
        help="give soft edges the object's own colour, without the background's")
    add('--matting', choices=MATTING, metavar='METHOD', help=f'the same by {" or ".join(MATTING)}')
    add('--threshold', type=_number(int, 0, 255), metavar='0..255', help='mask values above become 255, all others 0')
    add('--fill-holes', type=_number(int, 0), default=0, metavar='N', help='fill holes of fewer pixels')
    add('--min-object', type=_number(int, 0), default=0, metavar='N', help='remove objects of fewer pixels')
    add('--mask-offset', type=int, default=0, metavar='N', help='grow (or shrink, negative) the mask')
    add('--mask-blur', type=_number(float, 0), default=0, metavar='PIXELS', help='soften the edge')


def _number(kind: type, low: float, high: float = float('inf')) -> Callable[[str], Any]:
    """Parses a number of `kind` within low..high."""
    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f'{text} is not ' + (f'within {low}..{high}' if high < float('inf') else
                                                                  f'{low} or more'))
        return value
    parse.__name__ = 'number' if kind is float else 'whole number'  # for argparse's message
    return parse


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
        blur_background=args.blur, matting=args.matting or (MATTING[0] if args.alpha_matting else ''),
        threshold=args.threshold, fill_holes=args.fill_holes, min_object=args.min_object,
        mask_offset=args.mask_offset, mask_blur=args.mask_blur)


# --- Which pictures ---------------------------------------------------------------------------------------------------


def find_jobs(source: str, output: str | None, suffix: str) -> list[Job]:
    """Finds the images that `source` means, and where their results go.

    Args:
        source: a file, a folder, a pattern, a list of images (.txt), or '-' for standard input.
        output: a file, a folder, or '-' for standard output; default: beside the image or folder.
        suffix: of results without a name of their own, e.g. '.png'.

    Raises:
        ValueError: a list is empty, no image matches, or several would go to standard output.
    """
    if source == '-':
        return _stdin_jobs(output)
    path = Path(source)
    if path.is_dir():
        return _tree_jobs(path, output, suffix)
    if path.suffix.lower() == '.txt' and path.is_file():
        return _listed_jobs(path, output, suffix)
    # A file's own name may hold the characters of a pattern.
    is_pattern = glob.has_magic(source) and not path.is_file() and not path.is_symlink()
    if is_pattern:
        return _pattern_jobs(source, output, suffix)
    return _file_jobs(path, output, suffix)


def _stdin_jobs(output: str | None) -> list[Job]:
    target = None if output in (None, '-') else Path(output)
    return [Job(sys.stdin.buffer.read(), target)]


def _file_jobs(path: Path, output: str | None, suffix: str) -> list[Job]:
    if output == '-':
        return [Job(path, None)]
    target = Path(output or path.with_name(f'{path.stem}.out{suffix}'))
    if target.is_dir():
        target /= f'{path.stem}{suffix}'
    return [Job(path, target)]


def _tree_jobs(path: Path, output: str | None, suffix: str) -> list[Job]:
    """Jobs for a folder and the folders in it."""
    _check_folder(output)
    target = Path(output or f'{path.resolve()}_out')
    files = sorted(_pictures_below(path, target))
    return _folder_jobs(path, files, target, suffix)


def _listed_jobs(path: Path, output: str | None, suffix: str) -> list[Job]:
    """Jobs for a list of images, whose names are relative to the list's folder."""
    names = [line.strip() for line in _read_list(path)]
    files = [path.parent / name for name in names if name]
    if not files or not all(_absolute(file).name for file in files):
        raise ValueError(f'{path}: not a list of pictures')
    return _several_jobs(str(path), files, output, suffix)


def _pattern_jobs(pattern: str, output: str | None, suffix: str) -> list[Job]:
    files = [Path(name) for name in glob.glob(pattern, recursive=True)]
    files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f'{pattern}: no picture matches')
    return _several_jobs(pattern, files, output, suffix)


def _several_jobs(source: str, files: list[Path], output: str | None, suffix: str) -> list[Job]:
    """Jobs for files in several folders, whose tree is kept below the nearest common one."""
    _check_folder(output)
    files = sorted(_absolute(file) for file in files)
    try:
        root = Path(os.path.commonpath([file.parent for file in files]))
        return _folder_jobs(root, files, Path(output or 'predictions'), suffix)
    except ValueError as error:  # on several drives
        raise ValueError(f'{source}: the pictures have no folder in common ({error})') from error


def _absolute(file: Path) -> Path:
    """`file` without '..', so that its result stays below the output folder."""
    return Path(os.path.abspath(file))


def _read_list(path: Path) -> list[str]:
    try:
        return path.read_text(encoding='utf-8').split('\n')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not a list of pictures: not UTF-8 ({error.reason})') from error


def _check_folder(output: str | None) -> None:
    if output == '-' or (output and Path(output).is_file()):
        raise ValueError(f'{output}: several pictures go to a folder; name one')


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


def missing(jobs: list[Job]) -> list[Job]:
    """Those whose result is not there yet."""
    return [job for job in jobs if job.target is None or not job.target.exists()]


def check_targets(jobs: list[Job], transparent: bool) -> None:
    """Raises ValueError naming all formats that cannot hold results, and all folders that cannot be written to."""
    problems = []
    targets = [job.target for job in jobs if job.target is not None]
    for suffix in sorted({target.suffix.lower() for target in targets}):
        try:
            check_format(suffix, transparent)
        except ValueError as error:
            problems.append(str(error))
    for folder in sorted({target.parent for target in targets}):
        nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            problems.append(f'{nearest}: not a folder that can be written to')
    if problems:
        raise ValueError('\n  '.join(dict.fromkeys(problems)))


# --- Work -------------------------------------------------------------------------------------------------------------


def run_jobs(
    jobs: Iterable[Job],
    network: Callable[[list[np.ndarray]], np.ndarray],
    size_of: Callable[[Size], Size],
    style: Style,
    *,
    box: tuple[int, ...] | None = None,
    max_pixels: int = MAX_PIXELS,
    keep_metadata: bool = False,
    default_suffix: str = '.png',
    workers: int = DEFAULT_WORKERS,
    batch: int = 1,
) -> list[str]:
    """Makes every result, with a progress bar, and returns one line for each that failed."""
    def load(job: Job) -> tuple[np.ndarray, Loaded]:
        picture = read_picture(job.source, max_pixels)
        return prepare(picture, size_of, box)

    def save(job: Job, loaded: Loaded, probability: np.ndarray) -> None:
        result = finish(loaded, probability, style)
        suffix = job.target.suffix if job.target else default_suffix
        data = encode(result, suffix, loaded.picture, keep_metadata)
        if job.target is None:
            sys.stdout.buffer.write(data)
        else:
            write_bytes(job.target, data)

    failures = []
    jobs = list(jobs)
    outcomes = run_pipeline(jobs, load, network, save, workers=workers, batch=batch)
    # A bar for several pictures on a terminal (None: tqdm decides by that), never for a single one.
    disable_bar = None if len(jobs) > 1 else True
    with tqdm(total=len(jobs), unit='image', disable=disable_bar) as bar:
        for outcome in outcomes:
            bar.update()
            if outcome.error is None:
                continue
            source = outcome.item.source
            name = 'image data' if isinstance(source, bytes) else str(source)
            failures.append(_failure(name, outcome.error))
            bar.write(failures[-1], file=sys.stderr)
    return failures


def _failure(name: str, error: Exception) -> str:
    """One line that names the picture and says why."""
    if isinstance(error, TooManyPixels):
        return f'{error}; --max-pixels raises it'
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename not in (None, name):
        reason += f': {error.filename}'
    return reason if reason.startswith(name) else f'{name}: {reason}'


def is_video(source: str, output: str | None) -> bool:
    """Whether one of the names is a video's. An animated picture is one if its result is to be."""
    target = Path(output or '')
    suffixes = {Path(source).suffix.lower(), target.suffix.lower()}
    return not suffixes.isdisjoint(VIDEO_SUFFIXES) or is_sequence(target)


def video_target(source: str, output: str | None, style: Style) -> Path:
    """Where a video's result goes. Raises ValueError where that cannot be."""
    target = Path(output or Path(source).with_suffix('.out.webm' if style.transparent else '.out.mp4'))
    check_video_target(target, style.transparent)
    return target


def watch(find: Callable[[], list[Job]], run: Callable[[list[Job]], list[str]]) -> tuple[int, list[str]]:
    """Runs what `find` gives, again and again, until interrupted; returns how many it ran, and what failed.

    Each picture is run once it has not changed for a second, and again when it has changed since: a slow copy may
    have stood still.
    """
    before: dict[Job, Any] = {}
    done: dict[Job, Any] = {}
    count, failures = 0, []
    try:
        while True:
            now = {job: _state(job.source) for job in find()}
            ready = [job for job, state in now.items() if state and state == before.get(job) and state != done.get(job)]
            failures += run(ready)
            count += len(ready)
            done |= {job: now[job] for job in ready}
            before = now
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return count, failures


def _state(path: Path) -> tuple[int, int] | None:
    """What changes when a file does; None for a file that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def load_network(args: argparse.Namespace) -> tuple[Predictor, Callable[[Size], Size]]:
    """The network, ready, and the size at which it sees a picture of a given size."""
    choose_device(args.device)  # a device that is missing is told before the network is loaded
    overrides = {'tile_order': args.tile_order} if args.tile_order else {}
    model = load_model(args.model, **overrides)
    size_of = sizes_of(model, args.resolution, *published_sizes(args.model))
    device = prepare_device(args.device, fixed_size=one_size(size_of))
    fast = optimize(model.to(device), DTYPES[args.dtype], args.compile)
    return Predictor(fast, device), size_of


def run_pictures(args: argparse.Namespace, style: Style) -> Summary:
    """Does the work for pictures."""
    def find() -> list[Job]:
        return find_jobs(args.input, args.output, f'.{args.format}')

    def wanted(jobs: list[Job]) -> list[Job]:
        return missing(jobs) if args.skip_existing else jobs

    def run(jobs: list[Job]) -> list[str]:
        return run_jobs(
            jobs,
            network,
            size_of,
            style,
            box=args.box,
            max_pixels=args.max_pixels,
            keep_metadata=args.keep_metadata,
            default_suffix=f'.{args.format}',
            workers=args.workers,
            batch=args.batch,
        )

    if args.watch and not Path(args.input).is_dir():
        raise ValueError(f'--watch {args.input}: give a folder')
    jobs = find()
    check_targets(jobs, style.transparent)
    todo = wanted(jobs)
    if not args.watch and not todo:
        if not jobs:
            raise ValueError(f'{args.input}: holds no pictures')
        return Summary(0, len(jobs), [], 0)
    network, size_of = load_network(args)
    start = time.perf_counter()
    if args.watch:
        print(f'predict: watching {args.input}; Ctrl-C ends it', file=sys.stderr)
        count, failures = watch(lambda: wanted(find()), run)
    else:
        count, failures = len(todo), run(todo)
    return Summary(count, len(jobs) - len(todo), failures, time.perf_counter() - start)


def run_video(args: argparse.Namespace, style: Style) -> Summary:
    """Does the work for a video."""
    target = video_target(args.input, args.output, style)
    os.stat(args.input)  # a missing file is told before the network is loaded
    network, size_of = load_network(args)

    def render(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        yield from tqdm(render_frames(frames, network, size_of, style, args.box, workers=args.workers,
                                      batch=args.batch), unit='frame')

    start = time.perf_counter()
    count = convert_video(args.input, target, render, args.max_pixels)
    return Summary(count, 0, [], time.perf_counter() - start)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if anything failed."""
    args = parse_arguments(arguments)
    try:
        network_size(args.resolution, (32, 32), (32, 32))
        work = run_video if is_video(args.input, args.output) else run_pictures
        count, skipped, failures, seconds = work(args, style_of(args))
    except (ValueError, OSError) as error:
        print(f'predict: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('predict: interrupted', file=sys.stderr)
        return 130
    print(f'{count - len(failures)} done, {skipped} skipped, {len(failures)} failed in {seconds:.1f} s '
          f'({count / max(seconds, 1e-9):.2f} a second)', file=sys.stderr)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
