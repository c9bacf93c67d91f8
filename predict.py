"""Segments images and videos: `python predict.py INPUT [OUTPUT] -m MODEL`.

INPUT is an image, a folder (with its subfolders, whose tree is kept), a pattern in quotes
('photos/*.jpg'), a list of images (.txt, one path per line), a video, or - for standard input.
OUTPUT is a file, a folder (for a single image with a slash behind it: out/), or - for standard
output. Default: <name>.out.png beside the image, <folder>_out beside the folder, predictions for a
pattern or a list, and <name>.out.webm or, if it is opaque, <name>.out.mp4 beside the video.

`python predict.py INPUT [OUTPUT.html] --compare MODEL,MODEL,...` writes one page with the results
of several networks side by side.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('predict')

import argparse
import glob
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from inference.api import (
    Box,
    PreparedImage,
    finish,
    prepare,
    render_frames,
    size_rule,
)
from inference.comparison import compare, render_page, show_images
from inference.compose import Style
from inference.edges import MATTING
from inference.images import (
    DecodedImage,
    SizeRule,
    check_format,
    decode_image,
    encode,
    holds_exif,
    is_fixed_size,
    network_size,
    read_backdrop,
    write_bytes,
)
from inference.network import DTYPES, Predictor
from inference.pipeline import DEFAULT_WORKERS, Outcome, run_pipeline
from inference.video import (
    ANIMATED_FORMATS,
    VIDEO_SUFFIXES,
    check_video_target,
    convert_video,
    is_animated,
    is_sequence,
    numbered,
)
from models import load_model, optimize
from models.loading import resolve
from readers import MAX_PIXELS, TooManyPixels
from runtime.command import run_command
from runtime.device import choose_device, prepare_device
from runtime.full_memory import full_memory_reason
from runtime.log import print_messages
from utils import IMAGE_SUFFIXES, fitting_name, folder_problem, print_error, read_lines

MOST_OFFSET = 1000  # pixels: the time and memory that it takes grow with its square
WATCH_SECONDS = 1.
WATCH_REST = 30  # a folder is looked through during at most one part in so many of the time
FileState = tuple[int, int]  # size in bytes, time of the last change in nanoseconds


class Job(NamedTuple):
    """An image and its result.

    Attributes:
        source: the image's path, or its bytes from standard input.
        target: where the result goes; None: standard output.
    """

    source: Path | bytes
    target: Path | None


class Summary(NamedTuple):
    """The outcome of a run.

    Attributes:
        processed: images or frames that were processed, those that failed among them.
        skipped: images whose result existed.
        failures: one line for each image that failed.
        seconds: duration without loading the network.
    """

    processed: int
    skipped: int
    failures: list[str]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which network to load, and how to run it: the options of the same names."""

    model: str
    tile_order: str | None
    resolution: str
    device: str
    dtype: str
    compile: bool


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to go through the images or frames: the options of the same names.

    `suffix` is that of results without a name of their own, e.g. '.png'.
    """

    box: Box | None
    max_pixels: int
    keep_metadata: bool
    suffix: str
    workers: int
    batch: int
    skip_existing: bool
    watch: bool


# --- Command line ---------------------------------------------------------------------------------


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s INPUT [OUTPUT] (-m MODEL | --compare MODEL,MODEL) [options]',
        epilog='Exit code: 0, or 1 if any image failed. Failures are listed with their reasons; '
               'the other images are processed.',
    )
    _add_images(parser.add_argument_group('images'))
    _add_network(parser.add_argument_group('network'))
    _add_outputs(parser.add_argument_group('output (default: a cut-out, transparent around it)'))
    _add_edges(parser.add_argument_group('mask and edges'))
    return parser.parse_args(arguments)


def _add_images(group: Any) -> None:
    add = group.add_argument
    add('input', metavar='INPUT')
    add('output', nargs='?', metavar='OUTPUT')
    add('--box', type=_box, metavar='X1,Y1,X2,Y2',
        help='segment only this part of the image, in pixels')
    add('--skip-existing', action='store_true', help='skip images whose result exists')
    add('-w', '--watch', action='store_true',
        help='watch the folder INPUT and process new and changed images, until Ctrl-C')
    add('--max-pixels', type=_Number(int, 1), default=MAX_PIXELS, metavar='N',
        help='refuse larger images (default: %(default)s)')
    add('--workers', type=_Number(int, 1), default=DEFAULT_WORKERS, metavar='N',
        help='threads that decode and encode (default: %(default)s)')


def _add_network(group: Any) -> None:
    which = group.add_mutually_exclusive_group(required=True).add_argument
    which('-m', '--model',
          help="checkpoint, run's folder, folder or repository in Hugging Face layout, or name of "
               'published weights: general, lite, ... (`python export.py zoo` lists them)')
    which('--compare', type=_models, metavar='MODEL,MODEL',
          help='write one HTML page with the results of several side by side')
    add = group.add_argument
    add('--tile-order', choices=('row', 'column'),
        help="order of the tiles in the multi-scale input; 'column' for published weights of May "
             'to October 2024 (default: from the weights)')
    add('--resolution', default='', metavar='SIZE',
        help="size of the network's input: WxH in multiples of 32, 'native' for the image's own "
             'size, or a long side in pixels (default: the training size)')
    add('--device', default='auto',
        help='auto, cpu, cuda, cuda:N or mps (default: auto, a GPU if there is one)')
    add('--dtype', choices=DTYPES, default='float32', metavar='TYPE',
        help=f'{", ".join(DTYPES)} (default: %(default)s)')
    add('--compile', action='store_true',
        help='compile the network, for GPUs; this takes minutes for each new input size')
    add('--batch', type=_Number(int, 1), default=1, metavar='N',
        help='images of equal input size that go through the network together '
             '(default: %(default)s)')


def _add_outputs(group: Any) -> None:
    kind = group.add_mutually_exclusive_group().add_argument
    kind('-om', '--only-mask', action='store_true', help='the mask, grey')
    kind('-bgc', '--bgcolor', nargs=4, type=_Number(int, 0, 255), metavar=('R', 'G', 'B', 'A'),
         help='the object on a colour, each value 0..255')
    kind('--background', type=Path, metavar='IMAGE',
         help='the object on an image, scaled to cover')
    kind('--blur-background', action='store_true',
         help='the object on its own background, blurred')
    kind('--side-by-side', action='store_true',
         help='the image beside its cut-out on a chequered pattern')

    add = group.add_argument
    add('--blur', type=_Number(float, .1), default=20., metavar='PIXELS',
        help='standard deviation of the blur of --blur-background (default: %(default)s)')
    add('--format', choices=('png', 'webp'), default='png', metavar='FORMAT',
        help='png or webp, for results without a name of their own (default: %(default)s)')
    add('--keep-metadata', action='store_true',
        help="copy the image's EXIF data, which may contain its location")


def _add_edges(group: Any) -> None:
    add = group.add_argument
    add('-a', '--alpha-matting', '-dc', '--decontaminate', action='store_true',
        help="remove the old background's colour from soft edges, by blur fusion")
    add('--matting', choices=MATTING, metavar='METHOD',
        help=f'the same by a chosen method: {" or ".join(MATTING)}')
    add('--threshold', type=_Number(int, 0, 255), metavar='0..255',
        help='make the mask binary: values above become 255, all others 0')
    add('--fill-holes', type=_Number(int, 0), default=0, metavar='N',
        help='fill holes of fewer pixels')
    add('--min-object', type=_Number(int, 0), default=0, metavar='N',
        help='remove objects of fewer pixels')
    add('--mask-offset', type=_Number(int, -MOST_OFFSET, MOST_OFFSET), default=0, metavar='N',
        help='grow the mask by N pixels, or shrink it if negative')
    add('--mask-blur', type=_Number(float, 0), default=0, metavar='PIXELS',
        help='soften the edge by a Gaussian of this standard deviation')


@dataclass(frozen=True)
class _Number:
    """An argparse type: a number of `kind` within low..high."""

    kind: type[int] | type[float]
    low: float
    high: float = float('inf')

    def __call__(self, text: str) -> int | float:
        try:
            value = self.kind(text)
        except ValueError as error:
            noun = 'number' if self.kind is float else 'whole number'
            raise argparse.ArgumentTypeError(f'invalid {noun} value: {text!r}') from error
        if self.low <= value <= self.high and math.isfinite(value):
            return value
        if self.high == float('inf'):
            raise argparse.ArgumentTypeError(f'{text} is not {self.low} or more')
        raise argparse.ArgumentTypeError(f'{text} is not within {self.low}..{self.high}')


def _box(text: str) -> Box:
    if not re.fullmatch(r'\d+,\d+,\d+,\d+', text):
        raise argparse.ArgumentTypeError(f'{text}: give X1,Y1,X2,Y2')
    x1, y1, x2, y2 = map(int, text.split(','))
    return x1, y1, x2, y2


def _models(text: str) -> list[str]:
    names = [name.strip() for name in text.split(',')]
    if len(names) < 2 or '' in names:
        raise argparse.ArgumentTypeError(f'{text}: give two or more, separated by commas')
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f'{text}: names one twice')
    return names


def style_of(args: argparse.Namespace) -> Style:
    """Reads the style of results from the options. Errors as `read_backdrop`."""
    output = 'cutout'
    if args.only_mask:
        output = 'mask'
    elif args.bgcolor:
        output = 'color'
    elif args.background:
        output = 'picture'
    elif args.blur_background:
        output = 'blur'
    elif args.side_by_side:
        output = 'side-by-side'

    matting = args.matting or ''
    if args.alpha_matting and not matting:
        matting = 'blur-fusion'
    return Style(
        output=output,
        color=tuple(args.bgcolor or (255, 255, 255, 255)),
        backdrop=read_backdrop(args.background) if args.background else None,
        blur_background=args.blur,
        matting=matting,
        threshold=args.threshold,
        fill_holes=args.fill_holes,
        min_object=args.min_object,
        mask_offset=args.mask_offset,
        mask_blur=args.mask_blur,
    )


def network_options_of(args: argparse.Namespace) -> NetworkOptions:
    """Reads the options of the network."""
    return NetworkOptions(
        model=args.model or '',
        tile_order=args.tile_order,
        resolution=args.resolution,
        device=args.device,
        dtype=args.dtype,
        compile=args.compile,
    )


def run_options_of(args: argparse.Namespace) -> RunOptions:
    """Reads the options of how images are processed."""
    return RunOptions(
        box=args.box,
        max_pixels=args.max_pixels,
        keep_metadata=args.keep_metadata,
        suffix=f'.{args.format}',
        workers=args.workers,
        batch=args.batch,
        skip_existing=args.skip_existing,
        watch=args.watch,
    )


# --- Which images ---------------------------------------------------------------------------------


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
    if output in (None, '-'):
        return [Job(sys.stdin.buffer.read(), None)]
    if _is_folder(output):
        raise ValueError(f'{output}: standard input has no name that a file in this folder could '
                         'have; name a file')
    return [Job(sys.stdin.buffer.read(), Path(output))]


def _file_jobs(path: Path, output: str | None, suffix: str) -> list[Job]:
    if not path.exists():  # said before the network is loaded, and before all that OUTPUT may lack
        raise ValueError(f'{path}: No such file or directory')
    if output == '-':
        return [Job(path, None)]
    return [Job(path, _file_target(path, output, suffix))]


def _file_target(path: Path, output: str | None, suffix: str) -> Path:
    """Names the result of one file: OUTPUT, a file in the folder OUTPUT, or one beside `path`."""
    if output is None:
        return path.with_name(fitting_name(path.stem, f'.out{suffix}'))
    if _is_folder(output):
        return Path(output, fitting_name(path.stem, suffix))
    return Path(output)


def _is_folder(output: str) -> bool:
    """Whether OUTPUT means a folder, which need not exist if a slash says so."""
    separators = tuple(filter(None, (os.sep, os.altsep)))
    return output.endswith(separators) or Path(output).is_dir()


def _tree_jobs(path: Path, output: str | None, suffix: str) -> list[Job]:
    """Finds the images in a folder and its subfolders."""
    _check_folder(output)
    target = _tree_target(path, output)
    if target.resolve() == path.resolve():
        raise ValueError(f'{target}: holds the images; name another folder for the results')
    files = sorted(_images_below(path, target))
    return _folder_jobs(path, files, target, suffix)


def _tree_target(folder: Path, output: str | None) -> Path:
    if output:
        return Path(output)
    named = folder.resolve()
    return Path(named.parent, fitting_name(named.name, '_out'))


def _listed_jobs(path: Path, output: str | None, suffix: str) -> list[Job]:
    """Reads a list of images, whose paths are relative to the list's folder."""
    names = [line.strip() for line in read_lines(path)]
    files = [path.parent / name for name in names if name]
    if not files or not all(_absolute(file).name for file in files):
        raise ValueError(f'{path}: not a list of images')
    return _several_jobs(str(path), files, output, suffix)


def _pattern_jobs(pattern: str, output: str | None, suffix: str) -> list[Job]:
    # A folder's own name may hold the characters of a pattern too.
    folder, name = os.path.split(pattern)
    own_folder = os.path.join(glob.escape(folder), name)
    found = glob.glob(pattern, recursive=True) or glob.glob(own_folder, recursive=True)
    files = [Path(name) for name in found]
    files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f'{pattern}: no image matches')
    return _several_jobs(pattern, files, output, suffix)


def _several_jobs(source: str, files: list[Path], output: str | None, suffix: str) -> list[Job]:
    """Makes jobs of files in several folders, whose tree is kept below the nearest common one."""
    _check_folder(output)
    files = sorted({_absolute(file) for file in files})  # twice the same image is one
    try:
        root = Path(os.path.commonpath([file.parent for file in files]))
    except ValueError as error:  # on several drives
        raise ValueError(f'{source}: the images have no folder in common ({error})') from error
    return _folder_jobs(root, files, Path(output or 'predictions'), suffix)


def _absolute(file: Path) -> Path:
    """Removes '..' from a path, so that its result stays below the output folder."""
    path = os.path.abspath(file)
    if path.startswith('//'):  # which POSIX keeps, as another root than '/'
        path = path[1:]
    return Path(path)


def _check_folder(output: str | None) -> None:
    if output == '-' or (output and Path(output).is_file()):
        raise ValueError(f'{output}: several images go to a folder; name one')


def _images_below(folder: Path, output: Path) -> Iterator[Path]:
    """Yields image files by suffix, without hidden ones and earlier results.

    Broken links are among them, so that they are reported as failures.
    """
    for entry in _image_entries(folder, output):
        yield Path(entry.path)


def _image_entries(
    folder: Path,
    output: Path,
    suffixes: Collection[str] = IMAGE_SUFFIXES,
) -> Iterator[os.DirEntry]:
    """Yields the directory entries of files with these suffixes, which are cheaper than paths.

    Hidden files and those in the folder `output` are left out, and folders that vanish meanwhile.
    Linked folders are entered, each folder once: links may lead in circles. A subfolder that may
    not be listed, as lost+found, stands among the files, and is reported as one that is not read.
    """
    results = os.path.realpath(output)
    waiting: list[tuple[str, os.DirEntry | None]] = [(os.fspath(folder), None)]
    seen = {results}
    while waiting:
        current, subfolder = waiting.pop()
        identity = os.path.realpath(current)
        if identity in seen:
            continue
        seen.add(identity)
        try:
            entries = _entries(current)
        except PermissionError:
            if subfolder is None:
                raise
            yield subfolder
            continue
        for entry in entries:
            if entry.name.startswith('.'):
                continue
            if _is_folder_entry(entry):
                waiting.append((entry.path, entry))
            elif os.path.splitext(entry.name)[1].lower() in suffixes:
                yield entry


def _is_folder_entry(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which is reported as an image that cannot be read
        return False


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _folder_jobs(root: Path, files: list[Path], output: Path, suffix: str) -> list[Job]:
    """Names each result after its image below `root`, with the new suffix.

    Where two names would be equal, the new suffix comes after the old one. So it does where a name
    is what another image would be called then, as that of photo.jpg.png beside photo.jpg.
    """
    short_names = []
    long_names = []
    for file in files:
        place = file.relative_to(root)
        short_names.append(place.with_name(fitting_name(file.stem, suffix)))
        long_names.append(place.with_name(fitting_name(file.name, suffix)))
    counts = Counter(short_names)
    taken = set(long_names)
    jobs = []
    for file, short, long in zip(files, short_names, long_names, strict=True):
        is_unique = counts[short] == 1 and short not in taken
        jobs.append(Job(file, output / (short if is_unique else long)))
    return jobs


def missing(jobs: list[Job]) -> list[Job]:
    """Selects the jobs whose result does not exist."""
    return [job for job in jobs if job.target is None or not job.target.exists()]


def check_targets(jobs: list[Job], transparent: bool) -> None:
    """Checks that results can be written.

    Raises:
        ValueError: names all formats that cannot hold results, all folders that are not writable,
            and all images that a result would replace.
    """
    targets = [job.target for job in jobs if job.target is not None]
    problems = [
        *_format_problems(targets, transparent),
        *_folder_problems(targets),
        *_replaced([job.source for job in jobs if isinstance(job.source, Path)], targets),
    ]
    if problems:
        raise ValueError('\n  '.join(dict.fromkeys(problems)))


def _replaced(sources: Sequence[Path], targets: Sequence[Path]) -> Iterator[str]:
    """Names the images in whose place a result would be written."""
    places = {os.path.realpath(source) for source in sources}
    for target in targets:
        if os.path.realpath(target) in places:
            yield f'{target}: the result would replace an image; name another file or folder'


def _format_problems(targets: list[Path], transparent: bool) -> Iterator[str]:
    for suffix in sorted({target.suffix.lower() for target in targets}):
        try:
            check_format(suffix, transparent)
        except ValueError as error:
            yield str(error)


def _folder_problems(targets: list[Path]) -> Iterator[str]:
    for folder in sorted({target.parent for target in targets}):
        if problem := folder_problem(folder):
            yield problem


# --- Work -----------------------------------------------------------------------------------------


def load_network(options: NetworkOptions) -> tuple[Predictor, SizeRule]:
    """Loads the network, and returns it with the rule for the size of its input."""
    choose_device(options.device)  # a missing device is reported before the network is loaded
    overrides: dict[str, Any] = {}
    if options.tile_order:
        overrides['tile_order'] = options.tile_order
    model = load_model(options.model, **overrides)
    size_of = size_rule(model, options.resolution)
    device = prepare_device(options.device, fixed_size=is_fixed_size(size_of))
    network = optimize(model.to(device), DTYPES[options.dtype], options.compile)
    return Predictor(network, device), size_of


def run_jobs(
    jobs: Iterable[Job],
    network: Callable[[list[np.ndarray]], np.ndarray],
    size_of: SizeRule,
    style: Style,
    options: RunOptions,
) -> list[str]:
    """Makes all results, with a progress bar, and returns one line for each job that failed.

    Raises:
        KeyboardInterrupt: says how many results were written.
    """
    def load(job: Job) -> tuple[np.ndarray, PreparedImage]:
        image = decode_image(job.source, options.max_pixels)
        return prepare(image, size_of, options.box)

    def save(job: Job, prepared: PreparedImage, probability: np.ndarray) -> list[str]:
        result = finish(prepared, probability, style)
        suffix = job.target.suffix if job.target else options.suffix
        image, notes = _metadata_for(suffix, prepared.image, options.keep_metadata)
        data = encode(result, suffix, image, options.keep_metadata)
        if job.target is None:
            sys.stdout.buffer.write(data)
        else:
            write_bytes(job.target, data)
        written.append(job)
        return notes

    failures: list[str] = []
    written: list[Job] = []  # by several threads
    jobs = list(jobs)
    outcomes = run_pipeline(
        jobs, load, network, save, workers=options.workers, batch=options.batch)
    # A bar for several images on a terminal (None: tqdm decides by that), never for a single one.
    disable_bar = None if len(jobs) > 1 else True
    try:
        with tqdm(total=len(jobs), unit='image', disable=disable_bar) as bar:
            for outcome in outcomes:
                bar.update()
                lines = _report(outcome)
                with bar.external_write_mode(sys.stderr):
                    for line in lines:
                        _warn(line)
                if outcome.error is not None:
                    failures += lines
    except KeyboardInterrupt:
        outcomes.close()  # waits for what is being written
        raise KeyboardInterrupt(
            f'{len(written)} of {len(jobs)} results are written; with --skip-existing the same '
            'command makes those that are missing') from None
    return failures


def _metadata_for(
    suffix: str,
    image: DecodedImage,
    keep: bool,
) -> tuple[DecodedImage, list[str]]:
    """Drops EXIF data that a file with this suffix cannot hold. Returns the image and notes."""
    if not keep or image.exif is None or holds_exif(suffix, image.exif):
        return image, []
    note = f'its EXIF data of {len(image.exif)} bytes is left out: {suffix} holds less'
    return image._replace(exif=None), [note]


def _source_name(source: Path | bytes) -> str:
    return 'image data' if isinstance(source, bytes) else str(source)


def _report(outcome: Outcome) -> list[str]:
    """Says why an image failed, or what its result lacks."""
    source = outcome.item.source
    name = _source_name(source)
    if outcome.error is not None:
        return [_failure(name, outcome.error)]
    notes = list(outcome.value)
    if not isinstance(source, bytes):
        notes += _first_of_several(source)
    return [f'{name}: {note}' for note in notes]


def _first_of_several(source: Path) -> Iterator[str]:
    if is_animated(source):
        yield ('of its frames the first is taken; for all name a file as OUTPUT, such as out.webp '
               'or out.webm')
    elif is_animated(source, formats=('TIFF',)):
        yield 'of its pages the first is taken'


def _failure(name: str, error: Exception) -> str:
    """One line that names the image and says why it failed."""
    if isinstance(error, TooManyPixels):
        return f'{error}; --max-pixels raises it'
    reason = full_memory_reason(error) or str(error) or type(error).__name__
    if isinstance(error, OSError):
        reason = error.strerror or reason
        if error.filename not in (None, name):
            reason += f': {error.filename}'
    return reason if reason.startswith(name) else f'{name}: {reason}'


def run_images(
    source: str,
    output: str | None,
    style: Style,
    options: RunOptions,
    network_options: NetworkOptions,
) -> Summary:
    """Segments the images that INPUT means.

    Raises:
        ValueError: an argument is wrong; if possible, before the network is loaded.
    """
    def find() -> list[Job]:
        return find_jobs(source, output, options.suffix)

    def unfinished(jobs: list[Job]) -> list[Job]:
        return missing(jobs) if options.skip_existing else jobs

    if options.watch and not Path(source).is_dir():
        raise ValueError(f'--watch {source}: give a folder')
    jobs = find()
    _announce_videos(source, output)
    check_targets(jobs, style.transparent)
    todo = unfinished(jobs)
    if not todo and not options.watch:
        if not jobs:
            raise ValueError(f'{source}: holds no images')
        return Summary(0, len(jobs), [], 0)

    network, size_of = load_network(network_options)
    run = partial(run_jobs, network=network, size_of=size_of, style=style, options=options)
    start = time.perf_counter()
    if options.watch:
        _warn(f'watching {source}; Ctrl-C ends it')
        count, failures = watch(lambda: unfinished(find()), run, lambda: scan(source, output))
    else:
        count = len(todo)
        failures = run(todo)
    seconds = time.perf_counter() - start
    return Summary(count, len(jobs) - len(todo), failures, seconds)


def _announce_videos(source: str, output: str | None) -> None:
    """Says how many videos of a folder are left out."""
    folder = Path(source)
    if not folder.is_dir():
        return
    target = _tree_target(folder, output)
    entries = _image_entries(folder, target, VIDEO_SUFFIXES)
    count = sum(not _is_folder_entry(entry) for entry in entries)
    if count:
        _warn(f'{source}: {count} videos are left out; name each as INPUT')


def watch(
    find: Callable[[], list[Job]],
    run: Callable[[list[Job]], list[str]],
    look: Callable[[], dict[Path, FileState]],
) -> tuple[int, list[str]]:
    """Runs the jobs whose images are new or have changed, until interrupted.

    A job is run once its image has not changed for a second, and again after each change: a slow
    copy may have paused.

    Args:
        find: returns all jobs. It is called only when an image is ready.
        run: runs jobs, and returns one line for each that failed.
        look: returns the state of each image.

    Returns:
        The number of jobs that were run, and one line for each that failed.
    """
    previous: dict[Path, FileState] = {}
    done: dict[Path, FileState] = {}
    count = 0
    failures: list[str] = []
    try:
        while True:
            start = time.process_time()
            states = look()
            ready = {
                path: state
                for path, state in states.items()
                if state == previous.get(path) and state != done.get(path)
            }
            if ready:
                jobs = [job for job in find() if job.source in ready]
                failures += run(jobs)
                count += len(jobs)
                done |= ready
            previous = states
            # Looking through many images must not keep a core busy.
            effort = time.process_time() - start
            pause = WATCH_SECONDS if ready else max(WATCH_SECONDS, WATCH_REST * effort)
            time.sleep(pause)
    except KeyboardInterrupt:
        return count, failures


def scan(source: str, output: str | None) -> dict[Path, FileState]:
    """Looks up what changes with each image in a folder: its size and time."""
    folder = Path(source)
    states = {}
    for entry in _image_entries(folder, _tree_target(folder, output)):
        try:
            stat = entry.stat()
        except OSError:  # gone meanwhile, or a broken link
            continue
        states[Path(entry.path)] = stat.st_size, stat.st_mtime_ns
    return states


def is_video(source: str, output: str | None) -> bool:
    """Whether INPUT is a video, or an animated image whose result is to move."""
    if source == '-' or Path(source).is_dir():
        return False
    target = Path(output or '')
    suffixes = {Path(source).suffix.lower(), target.suffix.lower()}
    if not suffixes.isdisjoint(VIDEO_SUFFIXES):
        return True
    can_move = is_sequence(target) or target.suffix.lower() in ANIMATED_FORMATS
    return can_move and not target.is_dir() and is_animated(source)


def video_target(source: str, output: str | None, style: Style) -> Path:
    """Names the file of a video's result. Errors as `check_video_target`."""
    suffix = '.webm' if style.transparent else '.mp4'
    target = _file_target(Path(source), output, suffix)
    check_video_target(target, style.transparent)
    return target


def run_video(
    source: str,
    output: str | None,
    style: Style,
    options: RunOptions,
    network_options: NetworkOptions,
) -> Summary:
    """Segments the frames of a video.

    Raises:
        ValueError: an argument is wrong, or the video cannot be decoded.
        OSError: the video is missing; before the network is loaded.
    """
    target = video_target(source, output, style)
    os.stat(source)
    problems = [*_folder_problems([target]), *_replaced([Path(source)], [target])]
    if problems:
        raise ValueError(problems[0])
    network, size_of = load_network(network_options)

    def render(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        results = render_frames(
            frames,
            network,
            size_of,
            style,
            options.box,
            workers=options.workers,
            batch=options.batch,
        )
        yield from tqdm(results, unit='frame')

    start = time.perf_counter()
    losses: list[str] = []
    try:
        count = convert_video(
            source,
            target,
            render,
            options.max_pixels,
            warn=_warn,
            report_loss=losses.append,
        )
    except KeyboardInterrupt:
        if is_sequence(target):
            raise KeyboardInterrupt('the frames up to here are written') from None
        raise
    for loss in losses:
        _warn(loss)
    behind = numbered(target, count + 1)
    if is_sequence(target) and behind.exists():
        _warn(f'{behind}: is not of this video, but of an earlier run, as those behind it may be')
    return Summary(count + len(losses), 0, losses, time.perf_counter() - start)


# --- Several networks -----------------------------------------------------------------------------


def comparison_target(source: str, output: str | None) -> Path:
    """Names the page. Raises ValueError if it is to be no HTML."""
    path = _absolute(Path(source))
    stem = path.name if path.is_dir() else path.stem
    name = fitting_name(stem, '.compare.html')
    if output is None and source == '-':
        raise ValueError('--compare: name the page, such as comparison.html')
    if output is None and glob.has_magic(source) and not path.exists():
        return Path('comparison.html')
    if output is None:
        return path.with_name(name)
    if _is_folder(output):
        return Path(output, name)
    if Path(output).suffix.lower() not in ('.html', '.htm'):
        raise ValueError(f'{output}: --compare writes a page; name a file that ends in .html')
    return Path(output)


def run_comparison(
    source: str,
    output: str | None,
    style: Style,
    options: RunOptions,
    network_options: NetworkOptions,
    models: list[str],
) -> Summary:
    """Writes a page with the results of several networks.

    Raises:
        ValueError: an argument is wrong, or a network is not to be had; before any work.
    """
    target = comparison_target(source, output)
    sources = [job.source for job in find_jobs(source, None, '.png')]
    if not sources:
        raise ValueError(f'{source}: holds no images')
    problems = [*_missing_models(models), *_folder_problems([target])]
    if problems:
        raise ValueError('\n  '.join(problems))
    device = choose_device(network_options.device)

    def load(model: str) -> tuple[Predictor, SizeRule]:
        return load_network(replace(network_options, model=model))

    start = time.perf_counter()
    images = [partial(decode_image, item, options.max_pixels) for item in sources]
    entries = []
    for entry in compare(models, images, load, style, device, options.box):
        entries.append(entry)
        if entry.seconds is not None:
            _warn(f'{entry.name}: {entry.seconds:.2f} s an image')

    names = [_source_name(item) for item in sources]
    page = render_page(names, show_images(images), entries)
    write_bytes(target, page.encode(errors='backslashreplace'))  # names may be no UTF-8
    _warn(f'{target}: {len(names)} images by {len(entries)} networks')

    failures = []
    for entry in entries:
        for name, picture in zip(names, entry.pictures, strict=True):
            if picture.problem:
                failures.append(f'{entry.name}: {name}: {picture.problem}')
    for line in failures:
        _warn(line)
    seconds = time.perf_counter() - start
    return Summary(len(entries) * len(names), 0, failures, seconds)


def _missing_models(models: list[str]) -> Iterator[str]:
    """Why networks are not to be had. Those that must be downloaded are, one after the other."""
    for model in models:
        try:
            resolve(model)
        except ValueError as error:
            yield str(error)


def _warn(line: str) -> None:
    print_error(f'predict: {line}')


def choose_run(args: argparse.Namespace) -> Callable[..., Summary]:
    """What to do with INPUT. Raises ValueError for options that exclude each other."""
    moves = is_video(args.input, args.output)
    if not args.compare:
        return run_video if moves else run_images
    if moves or args.watch:
        raise ValueError('--compare takes images: neither a video nor --watch')
    return partial(run_comparison, models=args.compare)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if anything failed."""
    args = parse_arguments(arguments)
    print_messages('predict', load_model)
    try:
        if '' in (args.input, args.output):
            raise ValueError('INPUT or OUTPUT is empty, as an unset variable of the shell is')
        network_size(args.resolution, (32, 32), (32, 32))  # a wrong one is reported at once
        summary = choose_run(args)(
            args.input,
            args.output,
            style_of(args),
            run_options_of(args),
            network_options_of(args),
        )
    except (ValueError, OSError) as error:
        _warn(str(error))
        return 1
    except KeyboardInterrupt as interrupt:
        kept = f': {interrupt}' if str(interrupt) else '; nothing was written'
        raise KeyboardInterrupt(f'interrupted{kept}') from None

    count, skipped, failures, seconds = summary
    per_second = count / max(seconds, 1e-9)
    print_error(f'{count - len(failures)} done, {skipped} skipped, {len(failures)} failed '
                f'in {seconds:.1f} s ({per_second:.2f} a second)')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(run_command('predict', main))
