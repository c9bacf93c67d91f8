"""Why a file is no checkpoint, in words that tell its owner what it is instead."""

import os
import zipfile

import torch

ZIP_START = b'PK\3\4'
IMAGE_STARTS = (b'\x89PNG', b'\xff\xd8\xff', b'GIF8', b'II*\0', b'MM\0*')
SOURCE = 'give the checkpoint that it was made of'
# Programs that contain weights, by the name of a file in their archive.
PROGRAMS = {
    'archive_format': f'a program of torch.export; {SOURCE}',
    'constants.pkl': f'a program of TorchScript; {SOURCE}',
}
PICKLE = 'data.pkl'  # in the archives of torch.save
MOST_TYPES = 3  # that are named


def what_it_is(path: str | os.PathLike) -> str:
    """Says what a file is that could not be read; '' if that does not show."""
    # Imported only where loading has failed: the package imports all decoders of images.
    from readers.reasons import CUT_OFF, UNKNOWN, first_bytes, stranger

    start = first_bytes(path)
    if start.startswith(IMAGE_STARTS):
        return 'an image'
    if start.startswith(ZIP_START):  # as torch's files do, which end with their list
        return _kind_of_archive(path) if zipfile.is_zipfile(path) else CUT_OFF
    if str(path).lower().endswith('.onnx'):
        return f'an ONNX file; {SOURCE}'
    what = stranger(start)
    return '' if what == UNKNOWN else what


def _kind_of_archive(path: str | os.PathLike) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition('/')[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return ''
    for name, what in PROGRAMS.items():
        if name in names:
            return what
    if PICKLE in names and str(path).lower().endswith('.safetensors'):
        return 'a file of torch.save; let its name end in .pth'
    return _what_it_holds_besides(path)


def _what_it_holds_besides(path: str | os.PathLike) -> str:
    """Names what else than tensors and plain values a file of torch.save holds; '' if nothing."""
    try:
        types = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # its unpickler raises many kinds on damaged files
        return ''
    if not types:
        return ''
    listed = ', '.join(sorted(types)[:MOST_TYPES])
    if len(types) > MOST_TYPES:
        listed += f' and {len(types) - MOST_TYPES} more'
    return (f'holds more than tensors ({listed}), which could run code; where you trust it, save '
            'its state_dict() alone')
