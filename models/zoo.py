"""Published weights by name: where they are, and how they are fetched and kept. `python -m models.zoo` lists them.

Files are looked for, in this order: in the folder of weights (`BIREFNET_HOME`, else `birefnet` in the user's cache),
where they may be put by hand; at `BIREFNET_MIRROR`, the address of a server that has the release files, or the
repositories, under their names; on the Hugging Face hub or the mirror of it that `HF_ENDPOINT` names; in the
publication's release. No code from any of them is run.
"""

import fnmatch
import hashlib
import os
import re
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tabulate import tabulate

from utils import atomic_write

RELEASE = 'https://github.com/ZhengPeng7/BiRefNet/releases/download/v1'
WEIGHTS, CONFIG = 'model.safetensors', 'config.json'  # of a repository in Hugging Face layout
TIMEOUT = 30  # seconds without an answer
BLOCK = 1 << 20
HUB_ERRORS = (HfHubHTTPError, LocalEntryNotFoundError, OSError)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One entry of zoo.toml, which explains the fields."""

    name: str
    task: str
    repository: str = ''
    release: str = ''
    backbone: str = 'swin_v1_l'
    size: tuple[int, int] = (1024, 1024)
    dynamic_size: tuple[tuple[int, int], ...] | None = None
    tile_order: str = 'row'
    release_tile_order: str = ''
    sha256: str = ''

    def __post_init__(self) -> None:
        assert re.fullmatch(r'[\w.*-]*', self.release), f'{self.name}: {self.release} is no plain file name'
        assert re.fullmatch(r'([\w-]+/[\w.-]+)?', self.repository), f'{self.name}: {self.repository} is no repository'

    def facts(self, file: Path) -> dict[str, Any]:
        """What the keys of `file`, one of this entry's, do not tell: fields of Config."""
        released = bool(self.release) and fnmatch.fnmatchcase(file.name, self.release)
        order = self.release_tile_order if released else ''
        return {'task': self.task, 'size': self.size, 'dynamic_size': self.dynamic_size,
                'tile_order': order or self.tile_order}


@lru_cache(maxsize=1)
def zoo() -> dict[str, Published]:
    """All entries by name."""
    entries = tomllib.loads(Path(__file__).with_name('zoo.toml').read_text(encoding='utf-8'))
    return {name: Published(name=name, **{key: _frozen(value) for key, value in entry.items()})
            for name, entry in entries.items()}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def find(name: str) -> Published | None:
    """The entry of this name, or of this repository; None if there is none."""
    return zoo().get(name) or next((entry for entry in zoo().values() if name and entry.repository == name), None)


def weights_folder() -> Path:
    """Where weights are kept."""
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(os.environ.get('BIREFNET_HOME') or Path(cache, 'birefnet'))


def fetch(entry: Published) -> Path:
    """The weights of an entry: those that are there, or downloaded. Raises ValueError saying what to do by hand."""
    folder = weights_folder()
    for pattern in filter(None, (f'{entry.name}.safetensors', entry.release)):
        if found := sorted(file for file in folder.glob(pattern) if file.is_file()):
            return found[-1]
    tried = []
    for where, attempt in _sources(entry, folder):
        try:
            return attempt()
        except (ValueError, *HUB_ERRORS) as error:
            tried.append(f'{where} ({_reason(error)})')
    files = ' or '.join(filter(None, (
        entry.repository and f'{WEIGHTS} of {entry.repository} as {entry.name}.safetensors', entry.release)))
    raise ValueError(f'{entry.name}: not to be had from {"; ".join(tried)}. Without a network, put {files} into '
                     f'{folder}; BIREFNET_MIRROR or HF_ENDPOINT may name a server that can be reached')


def _reason(error: Exception) -> str:
    reason = str(getattr(error, 'reason', error)).strip()
    return reason.splitlines()[0][:150] if reason else type(error).__name__


def _sources(entry: Published, folder: Path) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Where an entry may be had, and how."""
    mirror = os.environ.get('BIREFNET_MIRROR', '').rstrip('/')
    exact = entry.release if '*' not in entry.release else ''
    if mirror and exact:
        yield mirror, lambda: download(f'{mirror}/{exact}', folder / exact, entry.sha256)
    if mirror and entry.repository:
        yield (f'{mirror}/{entry.repository}',
               lambda: download(f'{mirror}/{entry.repository}/{WEIGHTS}', folder / f'{entry.name}.safetensors'))
    if entry.repository:
        yield f'the hub, {entry.repository}', lambda: _linked(fetch_repository(entry.repository), folder, entry)
    if exact:
        yield RELEASE, lambda: download(f'{RELEASE}/{exact}', folder / exact, entry.sha256)


def _linked(file: Path, folder: Path, entry: Published) -> Path:
    """The hub's file under the entry's name: it is found there without the hub, and by that name in results."""
    link = folder / f'{entry.name}.safetensors'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # one into a cache that has been cleared
        link.symlink_to(file.absolute())
    except OSError:  # no links on this file system
        return file
    return link


def download(address: str, file: Path, sha256: str = '') -> Path:
    """Downloads over http(s) to `file`, which appears only whole, and with this checksum where one is given.

    Raises ValueError for other addresses, for a wrong checksum and a wrong length; OSError from the network.
    """
    if urllib.parse.urlsplit(address).scheme not in ('http', 'https'):
        raise ValueError(f'{address}: give an address that begins with https:// or http://')
    digest, received = hashlib.sha256(), 0
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, atomic_write(file) as out:
        while block := answer.read(BLOCK):
            digest.update(block)
            out.write(block)
            received += len(block)
        if (expected := answer.headers.get('Content-Length')) and received != int(expected):
            raise ValueError(f'{address}: {received} bytes of {expected} arrived')
        if sha256 and digest.hexdigest() != sha256:
            raise ValueError(f'{address}: its SHA-256 is {digest.hexdigest()} instead of {sha256}: damaged, or not '
                             'what it should be')
    return file


def fetch_repository(repository: str, **options: Any) -> Path:
    """model.safetensors of a repository on the Hugging Face hub, checked by the hub's client, and its config beside
    it if it has one. `options` are those of `hf_hub_download`."""
    file = Path(hf_hub_download(repository, WEIGHTS, **options))
    with suppress(*HUB_ERRORS):  # the keys tell the architecture without it
        hf_hub_download(repository, CONFIG, **options)
    return file


def table() -> str:
    """All entries, to read."""
    rows = [[e.name, e.task, e.backbone, ' to '.join(f'{a}x{b}' for a, b in zip(*e.dynamic_size, strict=True))
             if e.dynamic_size else f'{e.size[0]}x{e.size[1]}', e.repository, e.release] for e in zoo().values()]
    return tabulate(rows, ['name', 'task', 'backbone', 'trained at', 'repository', 'release file'])


if __name__ == '__main__':
    print(table())
