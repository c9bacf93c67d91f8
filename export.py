#!/usr/bin/env python
"""Networks for other programs: `python export.py onnx|pt2|hf|weights -m WEIGHTS -o TARGET`.

`python export.py zoo` lists the published weights.

onnx  a file with the operator DeformConv (opset 19), which ONNX Runtime has on CPUs from 1.31.
      rembg takes it as it is. OpenVINO lacks that operator; TensorRT and other runtimes have not
      been tried.
pt2   a program of torch.export, for torch and AOTInductor; needs torchvision where it is loaded.
hf    a folder in Hugging Face's layout, which load_model and transformers load.
weights  a .safetensors or .pth file in the official layout, for other programs of the family;
      those that kept the tile order of before November 2024 need `--tile-order column`.
zoo   lists the published weights that -m takes by name; with names, what is known of these.

Input `input_image` (N, 3, H, W), float32: RGB in 0..1, normalised with ImageNet's mean and standard
deviation. Output `output_image` (N, 1, H, W), float32: logits. Every file is compared with the
network on photographs before it appears.
"""

if __name__ == '__main__':  # before the imports, which take seconds
    from runtime.starting import start_command
    start_command('export')

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporting import catalogue
from exporting.hub import save_pretrained
from inference.images import Size, network_size
from models import BiRefNet, load_model, save_checkpoint, zoo
from models.checkpoints.files import read_state
from models.checkpoints.tile_order import ORDERS
from models.loading import resolve
from runtime.command import run_command
from runtime.log import print_messages
from utils import folder_problem, print_error

DTYPES = {'float32': torch.float32, 'float16': torch.float16}
EXTRAS = 'needs what `pip install ".[export]"` installs'


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(
        dest='command', required=True, metavar='onnx|pt2|hf|weights|zoo')
    for name in ('onnx', 'pt2', 'hf', 'weights'):
        command = commands.add_parser(name, help='see %(prog)s --help')
        _add_common(command)
        if name in ('onnx', 'hf'):
            command.add_argument(
                '--dtype', choices=DTYPES, default='float32',
                help='type of the weights and, in ONNX, of the maps inside')
        if name == 'hf':
            _add_card(command)
        elif name == 'weights':
            command.add_argument(
                '--dtype', choices=DTYPES,
                help='type of the weights (default: that of the checkpoint)')
            command.add_argument(
                '--tile-order', choices=ORDERS, default='row',
                help='order of the tiles in the file (default: %(default)s)')
        else:
            _add_program(command)
        if name == 'onnx':
            command.add_argument(
                '--external', action='store_true',
                help='write the weights beside the file, to <name>.data')
    listing = commands.add_parser('zoo', help='lists the published weights')
    listing.add_argument('names', nargs='*', metavar='NAME',
        help='show all facts of these: what -m takes, or the name of a release file')
    listing.add_argument('--json', action='store_true', help='print all facts as JSON')
    return parser.parse_args(arguments)


def _add_common(command: argparse.ArgumentParser) -> None:
    """Adds what all files need."""
    command.add_argument(
        '-m', '--model', required=True,
        help='checkpoint, run, folder, repository, or name of published weights')
    command.add_argument(
        '-o', '--output', required=True, metavar='TARGET',
        help='file or folder to write')
    command.add_argument(
        '--input-tile-order', choices=ORDERS,
        help='order of the tiles in weights that do not show it (default: row)')


def _add_card(command: argparse.ArgumentParser) -> None:
    """Adds what a model card shows."""
    command.add_argument(
        '--license', default='', help="an identifier of the hub's, such as mit, for the card")
    command.add_argument(
        '--title', default='', help="title of the card (default: the folder's name)")
    command.add_argument(
        '--results', default='e_results', help='folder of the scores that the card shows')


def _add_program(command: argparse.ArgumentParser) -> None:
    """Adds what a traced program is made for."""
    command.add_argument(
        '--size', default='', metavar='WxH', help='input size (default: the training size)')
    command.add_argument(
        '--dynamic', action='store_true',
        help='take any batch size, and any sides that are multiples of 32')
    command.add_argument(
        '--sigmoid', action='store_true', help='return probabilities instead of logits')
    command.add_argument(
        '--photo', nargs='*', default=[], type=Path,
        help='compare on these photographs (default: two of scikit-image)')


def check_target(text: str, *, is_folder: bool) -> Path:
    """Checks TARGET before the work, which may take minutes, and returns its path.

    Raises ValueError if no such folder, or no such file, can be written.
    """
    target = Path(text)
    names_folder = text.endswith(('/', os.sep)) or target.is_dir()
    if not text:
        raise ValueError('TARGET is empty, as an unset variable of the shell is')
    if names_folder and not is_folder:
        raise ValueError(f'{text}: a folder; name the file to write')
    if is_folder and target.exists() and not target.is_dir():
        raise ValueError(f'{text}: a file; name the folder to write')
    if problem := folder_problem(target if is_folder else target.parent):
        raise ValueError(problem)
    return target


def export_program(args: argparse.Namespace, model: BiRefNet) -> None:
    """Writes an ONNX file or a torch.export program, and prints what was compared."""
    try:
        from exporting import program
        if args.command == 'onnx':
            from exporting import onnx
    except ImportError as error:
        raise ValueError(f'export.py {args.command} {EXTRAS}: {error}') from error
    if args.command == 'onnx':
        onnx.require_support()

    size = network_size(args.size, model.config.size, model.config.size)
    dtype = DTYPES[getattr(args, 'dtype', 'float32')]
    wrapped = program.ExportWrapper(model, args.sigmoid, dtype)
    reference = program.ExportWrapper(model, args.sigmoid)
    photos = program.photographs(args.photo)
    inputs = {}
    for name, pixels in photos.items():
        inputs[_at_size(name, size)] = program.to_input(pixels, size)
    if args.dynamic:
        # One more size than the one traced at: about half of it.
        width, height = size
        other_size = (width // 2 // 32 * 32 + 32, height // 2 // 32 * 32 + 64)
        name = next(iter(photos))
        inputs[_at_size(name, other_size)] = program.to_input(photos[name], other_size)

    def check(exported: Callable[[Tensor], Tensor]) -> None:
        errors = program.compare(reference, exported, inputs, program.TOLERANCE[dtype])
        for name, error in errors.items():
            print(f'{name}: largest difference {error:.1e} of the standard deviation')

    traced = program.trace(wrapped, size, args.dynamic)
    if args.command == 'pt2':
        program.save_program(traced, args.output, check)
        print(f'{args.output}: {args.output.stat().st_size / 1e6:.1f} MB')
        return
    metadata = _metadata(model, args.sigmoid)
    onnx.save_onnx(traced, args.output, check, args.external, metadata)
    megabytes = onnx.bytes_of(args.output) / 1e6
    kinds = onnx.operators(args.output)
    deformable = kinds.get('DeformConv', 0)
    print(f'{args.output}: {megabytes:.1f} MB, {sum(kinds.values())} nodes, '
          f'{deformable} of them DeformConv; passed onnx.checker')


def _at_size(name: str, size: Size) -> str:
    width, height = size
    return f'{name} at {width}x{height}'


def _metadata(model: BiRefNet, sigmoid: bool) -> dict[str, str]:
    """What a program that finds the file may want to know."""
    width, height = model.config.size
    return {
        'task': model.config.task,
        'backbone': model.config.bb,
        'trained_at': f'{width}x{height}',
        'output': 'probability' if sigmoid else 'logit',
    }


def export_folder(args: argparse.Namespace, model: BiRefNet) -> None:
    """Writes a folder in Hugging Face's layout."""
    # A file or a folder may belong to a run of ours, whose facts the card shows.
    checkpoint = resolve(args.model).file if Path(args.model).exists() else ''
    save_pretrained(
        model,
        args.output,
        title=args.title,
        license=args.license,
        results=args.results,
        checkpoint=checkpoint,
        dtype=DTYPES[args.dtype],
    )
    names = sorted(file.name for file in args.output.iterdir())
    print(f'{args.output}: {", ".join(names)}')


def export_weights(args: argparse.Namespace, model: BiRefNet) -> None:
    """Writes the weights alone."""
    dtype = DTYPES[args.dtype] if args.dtype else _stored_dtype(args.model)
    save_checkpoint(model, args.output, dtype=dtype, tile_order=args.tile_order)
    megabytes = args.output.stat().st_size / 1e6
    print(f'{args.output}: tile order {args.tile_order}, {megabytes:.1f} MB')


def _stored_dtype(name: str) -> torch.dtype:
    """The type of a checkpoint's weights, or float32, which holds the values of several types."""
    state = read_state(resolve(name).file)
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def list_weights(names: list[str], with_json: bool) -> None:
    """Prints what is known of published weights: of all in a table, of named ones everything.

    Raises ValueError that names all unknown ones.
    """
    known = zoo.zoo()
    found = {name: zoo.find(name) or zoo.identify(Path(name)) for name in names or known}
    if unknown := [name for name, entry in found.items() if entry is None]:
        raise ValueError(f'{", ".join(unknown)}: no published weights; take of '
                         f'{", ".join(known)}')
    entries = [entry for entry in found.values() if entry]
    if with_json:
        print(catalogue.as_json(entries))
    elif names:
        print('\n\n'.join(map(catalogue.details, entries)))
    else:
        print(catalogue.overview(entries))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if it could not be done."""
    args = parse_arguments(arguments)
    print_messages('export', load_model)
    try:
        if args.command == 'zoo':
            list_weights(args.names, args.json)
            return 0
        args.output = check_target(args.output, is_folder=args.command == 'hf')
        overrides: dict[str, Any] = {}
        if args.input_tile_order:
            overrides['tile_order'] = args.input_tile_order
        model = load_model(args.model, **overrides)
        if args.command == 'hf':
            export_folder(args, model)
        elif args.command == 'weights':
            export_weights(args, model)
        else:
            export_program(args, model)
    except (ValueError, OSError) as error:
        print_error(f'export: {error}')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(run_command('export', main))
