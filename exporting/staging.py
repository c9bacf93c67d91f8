"""Several files that appear together, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils import replace_file


@contextmanager
def staged(target: str | os.PathLike) -> Iterator[Path]:
    """Yields a path of the target's name in a temporary folder beside it.

    When the block ends without error, the files in that folder move beside the target, over files
    of the same name, the target itself last.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.', dir=target.parent) as folder:
        yield Path(folder, target.name)
        # Whoever sees the target then finds all that it refers to.
        files = list(Path(folder).iterdir())
        files.sort(key=lambda file: file.name == target.name)
        for file in files:
            replace_file(file, target.with_name(file.name))
