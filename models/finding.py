"""Paths and names of checkpoints: the file that one means, and what was saved beside it."""

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

from models import zoo
from models.checkpoints.files import IN_FOLDERS, find_in_folder, read_content, read_metadata
from models.checkpoints.tile_order import ORDERS

STATES = ('last.pt', 'last.previous.pt')  # of a run, from which it goes on
# Files that this project writes beside a config of its own, one of which transformers may divide.
WRITTEN = re.compile(r'model\.safetensors(\.index\.json)?|(best|epoch_\d+)\.pth|'
                     r'last(\.previous)?\.pt')
# Fields that every config of ours has had, and other projects' have not together.
OUR_FIELDS = {'bb', 'mul_scl_ipt'}


# --- Files ----------------------------------------------------------------------------------------


def find_checkpoint(path: str | os.PathLike, **hub: Any) -> Path:
    """The file that `path` means: see `models.loading.resolve`.

    `hub` are options for the download of a repository. Raises ValueError if there is no such thing.
    """
    # What is on the disk goes before names.
    name = str(path)
    if not name:
        raise ValueError('the name of the weights is empty, as an unset variable of the shell is')
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        return _find_in_folder(path)

    # Options for the hub mean that it is to be asked, even for weights that are known by name.
    entry = zoo.find(name)
    asks_hub = bool(hub) and is_repository(name)
    if entry and not asks_hub:
        return zoo.fetch(entry)
    if is_repository(name):
        return _fetch_repository(name, **hub)

    near = difflib.get_close_matches(name, zoo.zoo(), 1)
    advice = f'; did you mean {near[0]}?' if near else ''
    raise ValueError(f'{name}: there is no such checkpoint{advice}')


def _find_in_folder(folder: Path) -> Path:
    """A folder's model.safetensors, or a run's best, else its last checkpoint, else its state."""
    candidates = [*IN_FOLDERS, 'best.pth']
    epochs = [path.stem.removeprefix('epoch_') for path in folder.glob('epoch_*.pth')]
    numbers = [int(epoch) for epoch in epochs if epoch.isdecimal()]
    if numbers:
        candidates.append(f'epoch_{max(numbers)}.pth')
    candidates += STATES
    if file := find_in_folder(folder, candidates):
        return file
    raise ValueError(f'{folder}: holds neither model.safetensors nor best.pth nor epoch_<N>.pth '
                     'nor last.pt')


def is_repository(name: str | os.PathLike) -> bool:
    """Whether `name` has the form of a repository on the hub, and there is no such path here."""
    pattern = r'[\w-]+/[\w.-]+(?<!\.pth)(?<!\.pt)(?<!\.safetensors)'
    return re.fullmatch(pattern, str(name)) is not None and not Path(name).exists()


def _fetch_repository(repository: str, **hub: Any) -> Path:
    try:
        return zoo.fetch_repository(repository, **hub)
    except zoo.HUB_ERRORS as error:
        reason = str(error) if isinstance(error, ImportError) else type(error).__name__
        raise ValueError(f'{repository}: neither a local path nor to be had from the hub '
                         f'({reason}); without a network, give a local file') from error


# --- What was saved -------------------------------------------------------------------------------


def saved_config(file: Path) -> dict[str, Any]:
    """The config that this project saved with a checkpoint, as it stands there; {} without one.

    It is in `config.json` beside it, whole or under the key 'birefnet', or inside a run's state. A
    config.json of another project counts for none. Raises ValueError if it cannot be read.
    """
    beside = _ours(_read_json(file.with_name('config.json')))
    if beside or file.name not in STATES:
        return beside
    content = read_content(file, mmap=True)
    return _ours(content.get('config') if isinstance(content, dict) else None)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not JSON ({error})') from error
    except OSError as error:
        raise ValueError(f'{path}: not read ({error.strerror})') from error


def _ours(content: Any) -> dict[str, Any]:
    """`content` if it is a config of ours, else nothing."""
    if isinstance(content, dict):
        content = content.get('birefnet', content)
    if isinstance(content, dict) and content.keys() >= OUR_FIELDS:
        return content
    return {}


def written_tile_order(file: Path, config: dict[str, Any]) -> str:
    """The tile order in which this project wrote a file; '' if it did not, as far as is known.

    `config` is what `saved_config` found. Runs of earlier versions could have the order 'column'.
    """
    order = read_metadata(file).get('tile_order', '')
    if not order and config and WRITTEN.fullmatch(file.name):
        order = config.get('tile_order', 'row')
    return order if order in ORDERS else ''  # others' files may have a field of this name
