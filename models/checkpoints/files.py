"""Checkpoint files: read without running code from them, written atomically."""

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from models.backbones.registry import State
from utils import atomic_write

# Keys under which files hold a state dict.
WRAPPERS = ('model', 'state_dict', 'model_state_dict', 'params', 'net')


def read_state(path: str | os.PathLike) -> State:
    """Reads a state dict, without running any code from its file, on the CPU.

    Unwraps keys such as 'model' or 'state_dict' and drops the prefixes that DataParallel and
    torch.compile leave.

    Args:
        path: `.safetensors`, else a file of `torch.save`.

    Raises:
        ValueError: the file holds no tensors by name, or tensors that would fill the memory.
    """
    state = _unwrap(_read(path))
    if not state:
        raise ValueError(f'{path}: holds no state dict')
    if strange := [key for key, value in state.items() if not _is_plain(value)]:
        raise ValueError(f'{path}: holds tensors that are not stored value by value: '
                         f'{shorten(strange)}')
    return strip_prefixes(state)


def _read(path: str | os.PathLike) -> Any:
    try:
        if _is_safetensors(path):
            return load_safetensors(path)
        _refuse_compressed(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise ValueError(f'{path}: there is no such checkpoint') from None
    except SafetensorError as error:
        raise ValueError(f'{path}: not a safetensors file ({error})') from error
    except Exception as error:  # torch's unpickler raises many kinds on foreign or damaged files
        reason = str(error)[:200]
        raise ValueError(f'{path}: not loaded: damaged, or holding more than tensors '
                         f'({reason})') from error


def _is_safetensors(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() == '.safetensors'


def _refuse_compressed(path: str | os.PathLike) -> None:
    """Raises ValueError if a torch file is compressed, as torch's own never are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > os.path.getsize(path):
        raise ValueError('compressed, as no checkpoint is')


def _unwrap(content: Any) -> State:
    """The tensors by name in what a file holds, under WRAPPERS or not."""
    for _ in WRAPPERS:  # a limit, since a forged dict may hold itself
        content = _unwrap_once(content)
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items()
            if isinstance(key, str) and isinstance(value, Tensor)}


def _unwrap_once(content: Any) -> Any:
    if isinstance(content, dict):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                return content[wrapper]
    return content


def _is_plain(value: Tensor) -> bool:
    """Whether each value of a tensor is stored, so that it needs no more memory than the file."""
    if value.layout != torch.strided or value.device.type != 'cpu' or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def strip_prefixes(state: Mapping[str, Tensor]) -> State:
    """Drops `module.` and `_orig_mod.`, repeated and in any order, wherever wrappers put them."""
    wrappers = re.compile(r'(?<![^.])(module\.|_orig_mod\.)+')
    return {wrappers.sub('', key): value for key, value in state.items()}


def write_state(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Writes tensors by name, atomically.

    The format follows from the suffix of `path`: `.safetensors`, else that of `torch.save`. Raises
    OSError, leaving what was there, if it cannot be written.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if not _is_safetensors(path):
        save_atomically(plain, path)
        return
    apart = {key: value.clone() for key, value in plain.items()}  # the format has no shared memory
    with atomic_write(path) as file:
        file.write(save_safetensors(apart, {'format': 'pt'}))


def save_atomically(value: Any, path: str | os.PathLike) -> None:
    """`torch.save` that replaces `path` only when all is on the disk.

    Raises OSError, leaving what was there, if it cannot be written.
    """
    with atomic_write(path) as file:
        output = _Output(file)
        try:
            torch.save(value, output)
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


def shorten(keys: Iterable[str], most: int = 4) -> str:
    """The first keys, and how many more there are."""
    keys = list(keys)
    listed = ', '.join(keys[:most])
    if len(keys) > most:
        listed += f' and {len(keys) - most} more'
    return listed
