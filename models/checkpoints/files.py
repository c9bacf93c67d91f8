"""Checkpoint files: read without running code from them, written atomically."""

import errno
import logging
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from models.backbones.registry import State
from models.checkpoints.reasons import what_it_is
from utils import atomic_write, check_state_dict, read_json, system_error

logger = logging.getLogger(__name__)

# A safetensors file begins with the length of its header, which is JSON.
LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000
MOST_DICTS = 1000  # that are searched in a file
# Of a folder in Hugging Face's layout, in the order in which they are looked for. The list of
# weights in several files ends in INDEX.
INDEX = '.index.json'
IN_FOLDERS = (
    'model.safetensors',
    f'model.safetensors{INDEX}',
    'pytorch_model.bin',
    f'pytorch_model.bin{INDEX}',
)
DECODER = re.compile(r'(.*\.)?decoder\.')
ENCODERS = ('bb.', 'encoder.')  # official, ours
SHARD = re.compile(r'[\w-][\w.-]*\.(safetensors|bin|pth?)')  # a plain name
AVERAGE = re.compile(r'(?<![a-z])ema(?![a-z])|EMA')
WEIGHT = re.compile(r'(.*\.)?(weight|bias)')


def read_state(path: str | os.PathLike) -> State:
    """Reads the state dict of a network, without running any code from its file, on the CPU.

    It may lie in dicts of any names, behind any prefix ('state_dict', 'model.', 'generator.'). Of
    several networks the moving average ('ema') is taken. What DataParallel and torch.compile leave
    in keys is dropped.

    Args:
        path: a safetensors file or one of `torch.save`, whatever its name; or a list of several
            such files as Hugging Face has it (`.index.json`).

    Raises:
        ValueError: the file holds no tensors by name, several networks and no moving average,
            tensors that would fill the memory, or quantised weights; or one of several files is
            missing.
    """
    # Wherever in the file tensors lie by name.
    groups = _find_groups(read_content(path))
    if not groups:
        raise ValueError(f'{path}: holds no state dict')
    groups = {name: check_state_dict(group) for name, group in groups.items()}

    # Those among them that are this method's network.
    networks = _find_networks(groups)
    if networks:
        state = networks[_choose(path, networks)]
    else:  # a backbone's, perhaps
        state = max(groups.values(), key=len)

    # A forged tensor may claim far more memory than its file has bytes.
    if strange := [key for key, value in state.items() if not _is_plain(value)]:
        raise ValueError(f'{path}: holds tensors that are not stored value by value: '
                         f'{shorten(strange)}')
    # As real numbers, whole ones would be read without their scale.
    quantised = [f'{key} ({value.dtype})' for key, value in state.items()
                 if WEIGHT.fullmatch(key) and not value.is_floating_point()]
    if quantised:
        raise ValueError(f'{path}: holds weights that are no real numbers, as quantised ones: '
                         f'{shorten(quantised)}; take the weights from before that')
    return state


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a safetensors file says of itself; {} for other files."""
    if not _holds_safetensors(path):
        return {}
    try:
        with safe_open(path, 'pt') as file:
            return file.metadata() or {}
    except SafetensorError as error:
        reason = what_it_is(path) or error
        raise ValueError(f'{path}: not a safetensors file ({reason})') from error


def read_content(path: str | os.PathLike, mmap: bool = False) -> Any:
    """Reads all that a file holds, without running any code from it, on the CPU.

    With `mmap`, a file of `torch.save` is mapped and its tensors are read on use. Raises ValueError
    that names the file.
    """
    if str(path).endswith(INDEX):
        return _read_shards(Path(path))
    try:
        if _holds_safetensors(path):
            return load_safetensors(path)
        if not _is_compressed(path):
            return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise ValueError(f'{path}: there is no such checkpoint') from None
    except SafetensorError as error:
        reason = what_it_is(path) or error
        raise ValueError(f'{path}: not a safetensors file ({reason})') from error
    except Exception as error:  # torch's unpickler raises many kinds on foreign or damaged files
        cause = system_error(error)
        if cause and cause.errno != errno.EINVAL:  # in a file cut off, torch looks before its start
            raise ValueError(f'{path}: not read ({cause.strerror or cause})') from error
        # torch's own words advise against weights_only=True, which keeps foreign code out.
        reason = what_it_is(path) or 'damaged, or holding more than tensors'
        raise ValueError(f'{path}: not loaded: {reason}') from error
    raise ValueError(f'{path}: not loaded: compressed, as no checkpoint is')


def _read_shards(index: Path) -> State:
    """The tensors of all files that an index lists, which lie beside it."""
    place_of = _read_index(index)
    shards = sorted(set(place_of.values()))
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(f'{index}: {len(missing)} of its {len(shards)} files are not beside it: '
                         f'{shorten(missing)}')

    state: State = {}
    for name in shards:
        content = read_content(index.parent / name)
        expected = [key for key, place in place_of.items() if place == name]
        lacking = [key for key in expected if key not in content]
        if lacking:
            raise ValueError(f'{index.parent / name}: lacks {len(lacking)} of the keys that '
                             f'{index.name} lists: {shorten(lacking)}')
        state.update(content)
    return state


def files_of(path: Path) -> list[Path]:
    """All files that hold a checkpoint: itself and, if it is an index, those that it lists.

    Raises ValueError for an index that lists none.
    """
    if not path.name.endswith(INDEX):
        return [path]
    shards = sorted(set(_read_index(path).values()))
    return [path, *(path.parent / name for name in shards)]


def _read_index(index: Path) -> dict[str, str]:
    """The file of each key. Raises ValueError if names are missing, or lead out of the folder."""
    try:
        content = read_json(index)
    except FileNotFoundError:
        raise ValueError(f'{index}: there is no such checkpoint') from None
    place_of = content.get('weight_map') if isinstance(content, dict) else None
    is_listed = isinstance(place_of, dict) and all(map(_is_shard, place_of.values()))
    if not place_of or not is_listed:
        raise ValueError(f'{index}: lists no files of weights beside it')
    return place_of


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and SHARD.fullmatch(name) is not None


def find_in_folder(folder: Path, names: Iterable[str] = IN_FOLDERS) -> Path | None:
    """The first of these files in a folder; None if it holds none."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _holds_safetensors(path: str | os.PathLike) -> bool:
    """Whether a file is to be read as safetensors, by its name or else by its content."""
    if _is_safetensors(path):
        return True
    try:
        with open(path, 'rb') as file:
            start = file.read(LENGTH_BYTES + 1)
    except OSError:  # reading it will say why
        return False
    length = int.from_bytes(start[:LENGTH_BYTES], 'little')
    return length <= LONGEST_HEADER and start[LENGTH_BYTES:] == b'{'


def _is_safetensors(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() == '.safetensors'


def _is_compressed(path: str | os.PathLike) -> bool:
    """Whether a torch file is compressed, as torch's own never are."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:  # torch will refuse it
        return False
    return size > os.path.getsize(path)


def _find_groups(content: Any) -> dict[str, State]:
    """The dicts in `content` that hold tensors by name, each under its path, such as 'model.'."""
    groups: dict[str, State] = {}
    waiting = [('', content)]
    seen: set[int] = set()  # a forged dict may hold itself
    while waiting and len(seen) < MOST_DICTS:
        path, value = waiting.pop(0)
        if not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))

        # Tensors of this dict are one group; dicts within it are searched later.
        tensors = {}
        for key, item in value.items():
            if not isinstance(key, str):
                continue
            if isinstance(item, Tensor):
                tensors[key] = item
            elif isinstance(item, dict):
                waiting.append((f'{path}{key}.', item))
        if tensors:
            groups[path] = tensors
    return groups


def _find_networks(groups: Mapping[str, State]) -> dict[str, State]:
    """State dicts of this method's networks by what stands before their keys: path and prefix."""
    networks = {}
    for path, group in groups.items():
        matches = [DECODER.match(key) for key in group]
        prefixes = dict.fromkeys(match[1] or '' for match in matches if match)
        for prefix in prefixes:
            own = {key.removeprefix(prefix): value for key, value in group.items()
                   if key.startswith(prefix)}
            if any(key.startswith(ENCODERS) for key in own):
                networks[path + prefix] = own
    return networks


def _choose(path: str | os.PathLike, networks: Mapping[str, State]) -> str:
    """The name of the one network, or of the moving average. Raises ValueError for others."""
    names = list(networks)
    if len(names) == 1:
        return names[0]
    averages = [name for name in names if AVERAGE.search(name)]
    listed = ', '.join(repr(name.rstrip('.')) for name in names)
    if len(averages) != 1:
        raise ValueError(f'{path}: holds several networks, {listed}: save the one that is meant '
                         'alone')
    logger.info('%s: of %s, %r is taken', path, listed, averages[0].rstrip('.'))
    return averages[0]


def _is_plain(value: Tensor) -> bool:
    """Whether each value of a tensor is stored, so that it needs no more memory than the file."""
    if value.layout != torch.strided or value.device.type != 'cpu' or value.is_quantized:
        return False
    size = value.numel() * value.element_size()
    return size <= value.untyped_storage().nbytes()


def write_state(state: Mapping[str, Tensor], path: str | os.PathLike,
                metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors by name, atomically.

    The format follows from the suffix of `path`: `.safetensors`, else that of `torch.save`, which
    has no place for `metadata`. Raises OSError, leaving what was there, if it cannot be written.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if not _is_safetensors(path):
        save_atomically(plain, path)
        return
    apart = {key: value.clone() for key, value in plain.items()}  # the format has no shared memory
    with atomic_write(path) as file:
        file.write(save_safetensors(apart, {'format': 'pt', **(metadata or {})}))


def save_atomically(value: Any, path: str | os.PathLike) -> None:
    """`torch.save` that replaces `path` only when all is on the disk.

    Raises OSError, leaving what was there, if it cannot be written.
    """
    with atomic_write(path) as file:
        output = _Output(file)
        try:
            torch.save(value, cast('IO[bytes]', output))
        except RuntimeError:
            if isinstance(output.error, OSError):
                raise OSError(f'{path}: not written; is the disk full? '
                              f'({output.error})') from output.error
            if output.error:
                raise output.error from None
            raise


class _Output:
    """A file that remembers why it could not be written, which torch's writer hides.

    The reason may be Ctrl-C.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except BaseException as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def beginnings(keys: Iterable[str]) -> str:
    """What keys begin with, most frequent first: 'net. (812 keys), head. (2 keys)'."""
    counts = Counter(key.partition('.')[0] for key in keys)
    words = [f'{part}. ({count} keys)' for part, count in counts.most_common()]
    return shorten(words)


def shorten(keys: Iterable[str], most: int = 4) -> str:
    """The first keys, and how many more there are."""
    keys = list(keys)
    listed = ', '.join(keys[:most])
    if len(keys) > most:
        listed += f' and {len(keys) - most} more'
    return listed
