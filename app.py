"""A page that cuts objects out of pictures and videos: `python app.py [-m MODEL ...]`, then open the address it prints.

Without -m it serves the network that `make demo` trained: a toy, to look at the page with.
"""

import argparse
import io
import os
import signal
import sys
from pathlib import Path
from threading import Event

import numpy as np
import skimage.data
from PIL import Image

from demo.make_data import SEED, sample
from inference.network import DTYPES, Predictor
from models import load_model, optimize
from runtime.device import prepare_device
from webapp.jobs import Limits, Weights
from webapp.storage import temporary_storage

DEMO = Path(__file__).parent / 'ckpts' / 'demo'
TOY = ('These weights are a toy: trained for minutes on drawn objects, they know no photographs. '
       'For real ones start the page with -m.')
TOY_EXAMPLE = 22, 640  # a wheel: number in the demo's test set, of whose pixels the training set has none; and size


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; limits are those of `Limits` unless it says otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, limits = parser.add_argument, Limits()
    add('-m', '--model', action='append', default=[], metavar='MODEL',
        help='weights, as for predict.py; several times for a choice')
    add('--tile-order', choices=('row', 'column'), help='for weights of 2024: see README')
    add('--device', default='auto', help='auto, cpu, cuda, cuda:N, mps')
    add('--dtype', choices=DTYPES, default='float32')
    add('--host', default='127.0.0.1', help='0.0.0.0 lets others in (default: %(default)s, this machine alone)')
    add('-p', '--port', type=int, help='default: the first free one from 7860')
    group = parser.add_argument_group('limits of what a visitor may ask for')
    for option, text in (
            ('--max-pixels', 'of a picture'), ('--max-network-pixels', 'at which the network sees it'),
            ('--max-file-mb', 'megabytes of a file'), ('--max-files', 'pictures at once'),
            ('--max-queue', 'jobs that wait'), ('--max-seconds', 'of a job'),
            ('--max-stored-mb', 'megabytes of all files'),
            ('--keep-minutes', "from a file's last use until it is deleted")):
        field = option.removeprefix('--').removeprefix('max-').replace('-', '_')
        default = getattr(limits, field)
        group.add_argument(option, type=_positive, dest=field, default=default, metavar='N',
                           help=f'{text} (default: {default})')
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def load_weights(args: argparse.Namespace) -> dict[str, Weights]:
    """The networks by the names that visitors see. Raises ValueError for what cannot be loaded."""
    device = prepare_device(args.device)
    overrides = {'tile_order': args.tile_order} if args.tile_order else {}
    sources = args.model or [str(DEMO)]
    if not args.model and not DEMO.exists():
        raise ValueError('there are no weights: give some with -m, or run `make demo`, which trains a toy in minutes')
    loaded = {}
    for source, name in zip(sources, names_of(sources), strict=True):
        print(f'loading {source} ...', file=sys.stderr)
        model = optimize(load_model(source, device, **overrides), DTYPES[args.dtype])
        loaded[name] = Weights(model, Predictor(model, device), source)
    return loaded


def names_of(sources: list[str]) -> list[str]:
    """What to call weights: the last part of their path, or all of it where two would be called the same."""
    short = []
    for source in sources:
        path = Path(source)
        short.append(path.stem if path.is_file() else path.name)

    names = []
    for name, source in zip(short, sources, strict=True):
        is_unique = short.count(name) == 1
        names.append(name if is_unique else source)
    return names


def example_picture(toy: bool) -> bytes:
    """A picture to try the page with, JPEG: for the demo's weights one of their own kind."""
    pixels: np.ndarray = sample(*TOY_EXAMPLE, SEED, train=False)[0] if toy else skimage.data.astronaut()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'JPEG', quality=95)
    return buffer.getvalue()


def serve(args: argparse.Namespace) -> None:
    """Serves the page until interrupted."""
    limits = Limits(**{name: getattr(args, name) for name in Limits.__dataclass_fields__})
    weights = load_weights(args)
    with temporary_storage(60 * limits.keep_minutes) as storage:
        os.environ['GRADIO_TEMP_DIR'] = str(storage.folder)
        os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
        from webapp.page import Page, launch  # Gradio reads these as it is imported
        toy = not args.model
        page = Page(weights, storage, limits, example_picture(toy), TOY if toy else '').build()
        stop = Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        address = launch(page, storage, limits, args.host, args.port)
        print(f'Serving {", ".join(weights)} on {address}'
              f'{" (this machine alone)" if args.host == "127.0.0.1" else ""}; Ctrl-C ends it.', flush=True)
        stop.wait()
        page.close(verbose=False)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if the page could not be served."""
    args = parse_arguments(arguments)
    try:
        serve(args)
    except ImportError as error:
        print(f'app: {error.name} is missing: pip install ".[app]"', file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f'app: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
