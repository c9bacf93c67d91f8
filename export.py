#!/usr/bin/env python
"""Networks for other programs: `python export.py onnx|pt2|hf|weights -m WEIGHTS -o TARGET`.

onnx  a file with the operator DeformConv (opset 19), which ONNX Runtime has on CPUs from 1.31; rembg takes it as it is.
      OpenVINO lacks that operator; TensorRT and other runtimes have not been tried.
pt2   a program of torch.export, for torch and AOTInductor; needs torchvision where it is loaded.
hf    a folder in Hugging Face's layout, which load_model and transformers load.
weights  a file .safetensors or .pth in the official layout, as programs of this family read it;
      `--tile-order column` for those with the order of before November 2024.
zoo   `python export.py zoo` lists the published weights that -m takes by name.

Input `input_image` (N, 3, H, W), float32: RGB in 0..1, less ImageNet's mean, over its deviation. Output `output_image`
(N, 1, H, W), float32: logits. Every file is compared with the network on photographs before it appears.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporting.hub import save_pretrained
from inference.images import network_size
from models import BiRefNet, load_model, save_checkpoint, zoo
from models.checkpoints.tile_order import ORDERS
from models.loading import resolve
from runtime.messages import print_messages

DTYPES = {'float32': torch.float32, 'float16': torch.float16}
EXTRAS = 'needs what `pip install ".[export]"` installs'


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True, metavar='onnx|pt2|hf|weights|zoo')
    for name in ('onnx', 'pt2', 'hf', 'weights'):
        command = commands.add_parser(name, help='see %(prog)s --help')
        add = command.add_argument
        add('-m', '--model', required=True, help='checkpoint, run, folder, repository, or name of published weights')
        add('-o', '--output', required=True, type=Path, metavar='TARGET', help='file, or folder, to write')
        add('--input-tile-order', choices=ORDERS, help='of weights that do not show it')
        if name != 'pt2':
            add('--dtype', choices=DTYPES, default='float32', help='of the weights and, in ONNX, of the maps inside')
        if name == 'hf':
            add('--license', default='', help="an identifier of the hub's, such as mit, for the card")
            add('--title', default='', help="of the card; default: the folder's name")
            add('--results', default='e_results', help='folder of scores, for the card')
        if name == 'weights':
            add('--tile-order', choices=ORDERS, default='row', help='of the file (%(default)s)')
        if name in ('onnx', 'pt2'):
            add('--size', default='', metavar='WxH', help='default: the size the weights were trained at')
            add('--dynamic', action='store_true', help='any batch, and any sides that are multiples of 32')
            add('--sigmoid', action='store_true', help='probabilities instead of logits')
            add('--photo', nargs='*', default=[], type=Path, help='compare on these (default: two of scikit-image)')
        if name == 'onnx':
            add('--external', action='store_true', help='weights beside the file, in <name>.data')
    commands.add_parser('zoo', help='lists the published weights')
    return parser.parse_args(arguments)


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
    deployed = program.Deployed(model, args.sigmoid, dtype)
    reference = program.Deployed(model, args.sigmoid)
    photos = program.photographs(args.photo)
    places = [(name, size) for name in photos]
    if args.dynamic:
        places.append((next(iter(photos)), (size[0] // 2 // 32 * 32 + 32, size[1] // 2 // 32 * 32 + 64)))
    inputs = {f'{name} at {w}x{h}': program.to_input(photos[name], (w, h)) for name, (w, h) in places}

    def check(copied: Callable[[Tensor], Tensor]) -> None:
        for name, error in program.compare(reference, copied, inputs, program.TOLERANCE[dtype]).items():
            print(f'{name}: largest difference {error:.1e} of the deviation')

    traced = program.trace(deployed, size, args.dynamic)
    if args.command == 'pt2':
        program.save_program(traced, args.output, check)
        print(f'{args.output}: {args.output.stat().st_size / 1e6:.1f} MB')
        return
    onnx.save_onnx(traced, args.output, check, args.external, _metadata(model, args.sigmoid))
    kinds = onnx.operators(args.output)
    print(f'{args.output}: {onnx.bytes_of(args.output) / 1e6:.1f} MB, {sum(kinds.values())} nodes, '
          f'{kinds.get("DeformConv", 0)} of them DeformConv; passed onnx.checker')


def _metadata(model: BiRefNet, sigmoid: bool) -> dict[str, str]:
    """What a program that finds the file may want to know."""
    width, height = model.config.size
    return {'task': model.config.task, 'backbone': model.config.bb, 'trained_at': f'{width}x{height}',
            'output': 'probability' if sigmoid else 'logit'}


def export_folder(args: argparse.Namespace, model: BiRefNet) -> None:
    """Writes a folder in Hugging Face's layout."""
    # Of a run, perhaps.
    checkpoint = resolve(args.model).file if Path(args.model).exists() else ''
    save_pretrained(model, args.output, title=args.title, license=args.license, results=args.results,
                    checkpoint=checkpoint, dtype=DTYPES[args.dtype])
    print(f'{args.output}: {", ".join(sorted(file.name for file in args.output.iterdir()))}')


def export_weights(args: argparse.Namespace, model: BiRefNet) -> None:
    """Writes the weights alone."""
    save_checkpoint(model, args.output, dtype=DTYPES[args.dtype], tile_order=args.tile_order)
    print(f'{args.output}: tile order {args.tile_order}, {args.output.stat().st_size / 1e6:.1f} MB')


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if it could not be done."""
    args = parse_arguments(arguments)
    if args.command == 'zoo':
        print(zoo.table())
        return 0
    print_messages('export', load_model)
    try:
        order = args.input_tile_order
        overrides: dict[str, Any] = {'tile_order': order} if order else {}
        model = load_model(args.model, **overrides)
        export = {'hf': export_folder, 'weights': export_weights}.get(args.command, export_program)
        export(args, model)
    except (ValueError, OSError) as error:
        print(f'export: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
