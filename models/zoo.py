"""Published weights by name: where they are, and how they are fetched and kept.

`python export.py zoo` lists them. Files are looked for in this order:

1. in the folder of weights (`BIREFNET_HOME`, else `birefnet` in the user's cache), where they may
   be put by hand;
2. at `BIREFNET_MIRROR`, the address of a server that has the release files, or the repositories,
   under their names;
3. on the Hugging Face hub, or the mirror of it that `HF_ENDPOINT` names;
4. in the publication's release.

No code from any of them is run.
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

from utils import atomic_write

RELEASE = 'https://github.com/ZhengPeng7/BiRefNet/releases/download/v1'
WEIGHTS, CONFIG = 'model.safetensors', 'config.json'  # of a repository in Hugging Face layout
TIMEOUT = 30  # seconds without an answer
BLOCK = 1 << 20
# Without the package that a SOCKS proxy needs, the client raises ImportError.
HUB_ERRORS = (HfHubHTTPError, LocalEntryNotFoundError, OSError, ImportError)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One entry of zoo.toml, which explains the fields."""

    name: str
    task: str
    purpose: str = ''
    repository: str = ''
    release: str = ''
    backbone: str = 'swin_v1_l'
    size: tuple[int, int] = (1024, 1024)
    dynamic_size: tuple[tuple[int, int], ...] | None = None
    tile_order: str = 'row'
    release_tile_order: str = ''
    sha256: str = ''
    date: str = ''
    training_sets: str = ''
    license: str = ''
    data_license: str = ''
    noncommercial: bool = False
    relatives: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        is_file_name = re.fullmatch(r'[\w.*-]*', self.release)
        assert is_file_name, f'{self.name}: {self.release} is not a plain file name'
        is_repository = re.fullmatch(r'([\w-]+/[\w.-]+)?', self.repository)
        assert is_repository, f'{self.name}: {self.repository} is not a repository'

    @property
    def has_source(self) -> bool:
        """Whether there is a place to download it from."""
        return bool(self.repository or self.release)

    @property
    def file_name(self) -> str:
        """Under which a download is kept, unless it is the release file."""
        return f'{self.name}.safetensors'

    @property
    def file_names(self) -> tuple[str, ...]:
        """Under which it may be put into the folder of weights."""
        return self.file_name, f'{self.name}.pth'

    def facts(self) -> dict[str, Any]:
        """Fields of Config that keys do not show."""
        return {'task': self.task, 'size': self.size, 'dynamic_size': self.dynamic_size}

    def is_release(self, file: Path) -> bool:
        """Whether `file` has the name of this entry's release file."""
        return bool(self.release) and fnmatch.fnmatchcase(file.name, self.release)

    def likely_tile_order(self, file: Path) -> str:
        """The tile order by the date of `file`, one of this entry's, in case it shows none."""
        if self.is_release(file) and self.release_tile_order:
            return self.release_tile_order
        return self.tile_order


@lru_cache(maxsize=1)
def zoo() -> dict[str, Published]:
    """All entries by name."""
    text = Path(__file__).with_name('zoo.toml').read_text(encoding='utf-8')
    entries = {}
    for name, entry in tomllib.loads(text).items():
        fields = {key: _to_tuples(value) for key, value in entry.items()}
        entries[name] = Published(name=name, **fields)
    return entries


def _to_tuples(value: Any) -> Any:
    """`value` with tuples for lists."""
    if not isinstance(value, list):
        return value
    return tuple(_to_tuples(item) for item in value)


def find(name: str) -> Published | None:
    """The entry of this name, or of this repository; None if there is none."""
    if name in zoo():
        return zoo()[name]
    # The hub does not tell cases apart, and model cards write zhengpeng7.
    by_repository = {entry.repository.lower(): entry for entry in zoo().values()}
    return by_repository.get(name.lower()) if name else None


def identify(file: Path) -> Published | None:
    """The entry that a local file is of, by its exact name or place; None for others.

    These are: the name of a release file; an entry's name, in the folder of weights; and
    model.safetensors in a folder named as a repository, a clone's or that of the hub's cache.
    """
    for entry in zoo().values():
        is_kept = file.parent == weights_folder() and file.name in entry.file_names
        if is_kept or entry.is_release(file) or _is_of_repository(file, entry.repository):
            return entry
    return None


def _is_of_repository(file: Path, repository: str) -> bool:
    if not repository or file.name != WEIGHTS:
        return False
    _, _, clone = repository.partition('/')
    cached = 'models--' + repository.replace('/', '--')  # <cached>/snapshots/<commit>/<file>
    folders = [folder.name for folder in file.absolute().parents]
    # The cache has the name that was asked for, in any case.
    is_cached = cached.lower() in (name.lower() for name in folders[2:3])
    return folders[0] == clone or is_cached


# Where nothing can be kept: a download there fails, and BIREFNET_HOME names a better place.
NO_HOME = Path('/nonexistent')


def weights_folder() -> Path:
    """Where weights are kept."""
    if home := os.environ.get('BIREFNET_HOME'):
        return Path(home)
    try:
        cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    except RuntimeError:  # a user whom the system does not know, as in some containers
        cache = NO_HOME
    return Path(cache, 'birefnet')


def fetch(entry: Published) -> Path:
    """The weights of an entry: those that are there, or downloaded.

    Raises ValueError saying what to do by hand.
    """
    # What is there already, else the first place that gives it.
    folder = weights_folder()
    if kept := _find_kept(entry, folder):
        return kept
    if not entry.has_source:
        raise ValueError(f'{entry.name}: no place to download it from is known; put its file as '
                         f'{" or ".join(entry.file_names)} into {folder}')
    tried = []
    for place, attempt in _sources(entry, folder):
        try:
            return attempt()
        except (ValueError, *HUB_ERRORS) as error:
            tried.append(f'{place} ({_short_reason(error)})')

    # None did: which file to fetch by other means, and where it belongs.
    by_hand = []
    if entry.repository:
        by_hand.append(f'{WEIGHTS} of {entry.repository} as {entry.file_name}')
    if entry.release:
        by_hand.append(entry.release)
    raise ValueError(f'{entry.name}: not to be had from {"; ".join(tried)}. Without a network, put '
                     f'{" or ".join(by_hand)} into {folder}; BIREFNET_MIRROR or HF_ENDPOINT may '
                     'name a server that can be reached')


def _find_kept(entry: Published, folder: Path) -> Path | None:
    patterns = [*entry.file_names]
    if entry.release:
        patterns.append(entry.release)
    for pattern in patterns:
        found = sorted(file for file in folder.glob(pattern) if file.is_file())
        if found:
            return found[-1]
    return None


def _short_reason(error: Exception) -> str:
    reason = str(getattr(error, 'reason', error)).strip()
    if not reason:
        return type(error).__name__
    first_line = reason.splitlines()[0]
    return first_line[:150]


def _sources(entry: Published, folder: Path) -> Iterator[tuple[str, Callable[[], Path]]]:
    """The places that may have an entry, each with a function that fetches it from there."""
    mirror = os.environ.get('BIREFNET_MIRROR', '').rstrip('/')
    release = entry.release if '*' not in entry.release else ''  # a pattern names no file

    # The user's own mirror first, in the layout of either place.
    if mirror and release:
        yield mirror, lambda: download(f'{mirror}/{release}', folder / release, entry.sha256)
    if mirror and entry.repository:
        address = f'{mirror}/{entry.repository}'
        file = folder / entry.file_name
        yield address, lambda: download(f'{address}/{WEIGHTS}', file)

    # Then the public places.
    if entry.repository:
        yield (f'the hub, {entry.repository}',
               lambda: _linked(fetch_repository(entry.repository), folder, entry))
    if release:
        yield RELEASE, lambda: download(f'{RELEASE}/{release}', folder / release, entry.sha256)


def _linked(file: Path, folder: Path, entry: Published) -> Path:
    """Links the hub's file under the entry's name, so that it is found there without the hub."""
    link = folder / entry.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # one into a cache that has been cleared
        link.symlink_to(file.absolute())
    except OSError:  # no links on this file system
        return file
    return link


def download(address: str, file: Path, sha256: str = '') -> Path:
    """Downloads over http(s) to `file`, which appears only whole.

    Raises ValueError for other addresses, for a wrong checksum and a wrong length; OSError from the
    network.
    """
    if urllib.parse.urlsplit(address).scheme not in ('http', 'https'):
        raise ValueError(f'{address}: give an address that begins with https:// or http://')

    # Both checks come before the file appears: an error within the block leaves none.
    digest = hashlib.sha256()
    received = 0
    with urllib.request.urlopen(address, timeout=TIMEOUT) as response, atomic_write(file) as out:
        while block := response.read(BLOCK):
            digest.update(block)
            out.write(block)
            received += len(block)

        expected = response.headers.get('Content-Length')
        if expected and received != int(expected):
            raise ValueError(f'{address}: {received} bytes of {expected} arrived')
        actual = digest.hexdigest()
        if sha256 and actual != sha256:
            raise ValueError(f'{address}: its SHA-256 is {actual} instead of {sha256}: '
                             'damaged, or not what it should be')
    return file


def fetch_repository(repository: str, **options: Any) -> Path:
    """Downloads model.safetensors from the Hugging Face hub, and config.json if there is one.

    The hub's client checks them. `options` are those of `hf_hub_download`.
    """
    file = Path(hf_hub_download(repository, WEIGHTS, **options))
    with suppress(*HUB_ERRORS):  # the architecture follows from the keys without it
        hf_hub_download(repository, CONFIG, **options)
    return file
