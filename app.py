"""Serves a web page that segments images and videos: `python app.py [-m MODEL ...]`.

Open the address that it prints. Without -m it serves the network that `make demo` trained, a toy
to look at the page with.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('app')

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from threading import Event
from typing import Any

import skimage.data
from PIL import Image

from demo.make_data import SEED, sample
from inference.network import DTYPES, Predictor
from models import load_model, optimize
from runtime.command import ENDING_SIGNALS, run_command
from runtime.device import prepare_device
from runtime.log import print_messages
from runtime.processes import heeded_signals
from webapp.jobs import Limits, LoadedModel
from webapp.storage import temporary_storage

DEMO = Path(__file__).parent / 'ckpts' / 'demo'
TOY = ('These weights are a toy: trained for minutes on drawn objects, they know no photographs. '
       'For real ones start the page with -m.')
# A wheel of the demo's test set. The training set has none of its pixels.
EXAMPLE_NUMBER = 22
EXAMPLE_SIZE = 640

# By option: the field of Limits, and its meaning.
LIMIT_OPTIONS = {
    '--max-pixels': ('pixels', 'pixels of an image, and of a video frame'),
    '--max-network-pixels': ('network_pixels', "pixels of the network's input"),
    '--max-file-mb': ('file_mb', 'megabytes of a file'),
    '--max-files': ('files', 'images in one job'),
    '--max-queue': ('queue', 'waiting jobs'),
    '--max-seconds': ('seconds', 'seconds of a job'),
    '--max-stored-mb': ('stored_mb', 'megabytes of all uploads and results together'),
    '--keep-minutes': ('keep_minutes', "minutes from a file's last use until it is deleted"),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line. The defaults of limits are those of `Limits`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('-m', '--model', action='append', default=[], metavar='MODEL',
        help='weights, as for predict.py; repeat it to offer a choice, the first is preselected')
    add('--tile-order', choices=('row', 'column'),
        help="order of the tiles in the multi-scale input; 'column' for published weights of May "
             'to October 2024 (default: from the weights)')
    add('--device', default='auto',
        help='auto, cpu, cuda, cuda:N or mps (default: auto, a GPU if there is one)')
    add('--dtype', choices=DTYPES, default='float32', metavar='TYPE',
        help=f'{", ".join(DTYPES)} (default: %(default)s)')
    add('--host', default='127.0.0.1',
        help='address to listen on; 0.0.0.0 admits other machines '
             '(default: %(default)s, this machine only)')
    add('-p', '--port', type=int, help='default: the first free one from 7860')

    group = parser.add_argument_group('limits for a visitor')
    limits = Limits()
    for option, (field, meaning) in LIMIT_OPTIONS.items():
        default = getattr(limits, field)
        group.add_argument(option, type=_positive, dest=field, default=default, metavar='N',
                           help=f'{meaning} (default: {default})')
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a whole number of 1 or more')
    return int(text)


def load_models(
    sources: Sequence[str],
    device_name: str,
    dtype: str,
    tile_order: str | None,
) -> dict[str, LoadedModel]:
    """Loads networks, by the names that visitors see.

    Args:
        sources: weights, as for `load_model`; without any, those of the demo.
        device_name: as for `prepare_device`.
        dtype: one of DTYPES.
        tile_order: 'row' or 'column'; None: from the weights.

    Raises:
        ValueError: weights or device are missing, or cannot be used.
    """
    device = prepare_device(device_name)
    overrides: dict[str, Any] = {'tile_order': tile_order} if tile_order else {}
    if not sources:
        if not DEMO.exists():
            raise ValueError('there are no weights: give some with -m, or run `make demo`, '
                             'which trains a toy in minutes')
        sources = [str(DEMO)]

    models = {}
    for source, name in zip(sources, names_of(sources), strict=True):
        print(f'loading {source} ...', file=sys.stderr)
        model = optimize(load_model(source, device, **overrides), DTYPES[dtype])
        models[name] = LoadedModel(model, Predictor(model, device), source)
    return models


def names_of(sources: Sequence[str]) -> list[str]:
    """Names weights by the last part of their path, or by all of it where two would be equal."""
    short = []
    for source in sources:
        path = Path(source)
        short.append(path.stem if path.is_file() else path.name)

    names = []
    for name, source in zip(short, sources, strict=True):
        is_unique = short.count(name) == 1
        names.append(name if is_unique else source)
    return names


def example_image(toy: bool) -> bytes:
    """Makes an image to try the page with, JPEG; for the demo's weights one of their own kind."""
    if toy:
        pixels = sample(EXAMPLE_NUMBER, EXAMPLE_SIZE, SEED, train=False)[0]
    else:
        pixels = skimage.data.astronaut()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'JPEG', quality=95)
    return buffer.getvalue()


def serve(
    models: dict[str, LoadedModel],
    limits: Limits,
    toy: bool,
    host: str,
    port: int | None,
) -> None:
    """Serves the page until interrupted.

    Args:
        models: the networks, by the names that visitors see.
        limits: what a visitor may ask for.
        toy: whether they are the demo's.
        host: address to listen on.
        port: port to listen on; None: the first free one from 7860.
    """
    with temporary_storage(60 * limits.keep_minutes) as storage:
        # Gradio reads these as it is imported.
        os.environ['GRADIO_TEMP_DIR'] = str(storage.folder)
        os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
        # It asks itself over the loopback whether it serves, which no proxy can pass on, and
        # nothing else of other machines.
        os.environ['NO_PROXY'] = os.environ['no_proxy'] = '*'
        from webapp.page import Page, launch

        notice = TOY if toy else ''
        page = Page(models, storage, limits, example_image(toy), notice).build()
        stop = Event()
        for number in {signal.SIGINT, signal.SIGTERM, *heeded_signals(ENDING_SIGNALS)}:
            signal.signal(number, lambda *_: stop.set())

        address = launch(page, storage, limits, host, port)
        reach = ' (this machine alone)' if host == '127.0.0.1' else ''
        print(f'Serving {", ".join(models)} on {address}{reach}; Ctrl-C ends it.', flush=True)
        stop.wait()
        page.close(verbose=False)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if the page could not be served."""
    args = parse_arguments(arguments)
    print_messages('app', load_model)
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    try:
        models = load_models(args.model, args.device, args.dtype, args.tile_order)
        serve(models, limits, not args.model, args.host, args.port)
    except ImportError as error:
        reason = f'{error.name} is missing: pip install ".[app]"' if error.name else error
        print(f'app: {reason}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        raise KeyboardInterrupt('interrupted before it served') from None
    except (ValueError, OSError) as error:
        print(f'app: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(run_command('app', main))
