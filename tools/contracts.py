"""Checks the import contracts of pyproject.toml: `python -m tools.contracts`.

import-linter reads packages only. It therefore checks the modules of the checkout as the package
that is installed.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from importlinter.cli import lint_imports

from tools.package import TOP, Checkout

ROOT = Path(__file__).parents[1]


def check(folder: Path) -> int:
    """Checks the package in `folder`, prints a report, and returns the exit status."""
    # It looks for the package in the working directory.
    with contextlib.chdir(folder):
        return lint_imports(config_filename=str(ROOT / 'pyproject.toml'), no_cache=True)


def main() -> None:
    """Checks the checkout."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Checkout(ROOT).write(Path(folder, TOP))
        sys.exit(check(Path(folder)))


if __name__ == '__main__':
    main()
