"""The command of an installed package: `birefnet COMMAND [ARGUMENT ...]` runs a script.

`python CHECKOUT COMMAND [ARGUMENT ...]` does the same without an installation.
"""

import argparse
import runpy
import sys

# By name: the script that it runs, perhaps with a first argument, and what it does.
COMMANDS = {
    'train': ('train', 'trains a run'),
    'test': ('test', "writes masks of a run's checkpoints over its test sets"),
    'eval': ('eval_existingOnes', 'scores masks against their ground truth'),
    'best': ('gen_best_ep', 'chooses the best checkpoint by its scores'),
    'paper': ('paper', 'makes tables and figures of a paper from the scores'),
    'predict': ('predict', 'segments images and videos'),
    'export': ('export', 'writes networks for ONNX Runtime, torch.export and transformers'),
    'app': ('app', 'serves a web page that segments images and videos'),
    'zoo': ('export zoo', 'lists the published weights by name'),
    'config': ('config', 'prints every option, its value and its meaning'),
}


def main() -> None:
    """Runs the command that the first argument names, with the others as its own."""
    from runtime.starting import start_command  # what only reads COMMANDS does without it
    start_command('birefnet')

    lines = []
    for name, (_, meaning) in COMMANDS.items():
        lines.append(f'  {name:8} {meaning}')
    listed = '\n'.join(lines)
    parser = argparse.ArgumentParser(
        prog='birefnet',
        usage='%(prog)s COMMAND [ARGUMENT ...]',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='High-resolution dichotomous image segmentation with bilateral reference.',
        epilog=f'commands:\n{listed}\n\n`birefnet COMMAND --help` lists the options of one.',
    )
    parser.add_argument('command', choices=COMMANDS, help=argparse.SUPPRESS)

    # Only the first argument is read here; all others, --help included, are the script's.
    own_arguments = sys.argv[1:2] or ['--help']
    command = parser.parse_args(own_arguments).command
    call, _ = COMMANDS[command]
    script, *first = call.split()
    program = 'birefnet' if first else f'birefnet {command}'
    sys.argv[:2] = [program, *first]  # the script's usage begins with it

    # The script runs as if it had been started itself.
    assert __spec__
    package = __spec__.parent  # '' where the checkout itself is run
    module = f'{package}.{script}' if package else script
    runpy.run_module(module, run_name='__main__')


if __name__ == '__main__':
    main()
