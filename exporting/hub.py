"""Networks in Hugging Face's layout: folders written, and uploaded to the hub.

A few lines of our own instead of huggingface_hub's PyTorchModelHubMixin: that saves a module's
state dict under the module's own names and the arguments of its constructor as config, so that
every method of it would have to be overridden.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi

from exporting.card import scores_of, validation_of, write_card
from exporting.huggingface import write_companions
from models import Architecture, BiRefNet, save_checkpoint
from models.finding import saved_config
from models.zoo import WEIGHTS
from utils import epoch_of, replace_file

logger = logging.getLogger(__name__)

# Config fields written into exported folders; local paths are left out.
PUBLIC = ('bb', *(field.name for field in fields(Architecture)), 'task', 'size', 'dynamic_size')


def save_pretrained(
    model: BiRefNet,
    folder: str | os.PathLike,
    *,
    title: str = '',
    license: str = '',
    checkpoint: str | os.PathLike = '',
    results: str | os.PathLike = 'e_results',
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a folder in Hugging Face's layout, which `load_model`, transformers and others read.

    It holds model.safetensors in the official layout, config.json, preprocessor_config.json, a
    modelling file and the card README.md.

    Args:
        model: built from a Config, or loaded.
        folder: made if it is not there.
        title: of the card; default: the folder's name.
        license: an identifier of the hub's, for the card, e.g. 'mit'.
        checkpoint: in the folder of the run whose training set and validation the card reports.
        results: folder of an evaluation, whose scores the card reports.
        dtype: of the weights.

    Raises:
        ValueError: transformers cannot load this backbone, or the folder is that of a run, whose
            own config would be replaced; nothing is written.
    """
    folder = Path(folder)
    if _is_run(folder):
        raise ValueError(f'{folder}: holds a run, whose config.json would be replaced; name '
                         'another folder')
    fields_of_config = model.config.as_dict()
    config = {name: value for name, value in fields_of_config.items() if name in PUBLIC}
    facts = _facts_of_run(checkpoint, results, tuple(config['size']))
    own_title = title or folder.resolve().name
    card = write_card(own_title, config, *facts, license)
    with _files_moved_together(folder) as part:
        write_companions(part, config, card)
        save_checkpoint(model, part / WEIGHTS, dtype=dtype)


def _is_run(folder: Path) -> bool:
    """Whether the config in a folder is that of a run: exported ones leave its training set out."""
    try:
        return 'training_set' in saved_config(folder / WEIGHTS)
    except ValueError:  # no config at all
        return False


@contextmanager
def _files_moved_together(folder: Path) -> Iterator[Path]:
    """A new folder whose files move to `folder` when the block ends without error: all or none."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix='.', dir=folder) as part:
            yield Path(part)
            for file in sorted(Path(part).iterdir()):
                replace_file(file, folder / file.name)
    except BaseException:
        if is_new:
            with suppress(OSError):  # one that has files by now
                folder.rmdir()
        raise


class _RunFacts(NamedTuple):
    """What is known of the run that trained a network."""

    training: Mapping[str, Any]  # its config
    scores: Mapping[str, Any]  # by test set
    validation: Mapping[str, float]


def _facts_of_run(
    checkpoint: str | os.PathLike,
    results: str | os.PathLike,
    size: tuple[int, int],
) -> _RunFacts:
    """Collects what the run's folder and the evaluation say of a checkpoint, if there is one."""
    if not checkpoint:
        return _RunFacts({}, {}, {})
    run = Path(checkpoint).parent
    epoch = epoch_of(Path(checkpoint))

    # A config of ours without these is one of an exported folder.
    saved = saved_config(Path(checkpoint))
    training = saved if saved.keys() >= {'training_set', 'epochs', 'batch_size'} else {}
    try:
        scores = scores_of(results, run.name, epoch, size)
    except OSError as error:  # the card is a convenience
        logger.warning('the card shows no scores: %s', error)
        scores = {}
    validation = validation_of(run, epoch, training.get('val_metric', 'sm'))
    return _RunFacts(training, scores, validation)


def push_to_hub(
    model: BiRefNet,
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = 'Weights, config and card',
    **options: Any,
) -> str:
    """Uploads what `save_pretrained` writes to a repository on the Hugging Face hub.

    Args:
        model: as for `save_pretrained`.
        repository: `<owner>/<name>`, created if it is not there.
        private: whether a new repository is private.
        token: of the hub; default: the one that its client has saved.
        message: of the commit.
        options: of `save_pretrained`.

    Returns:
        The commit's address.
    """
    api = HfApi(token=token)
    name = api.create_repo(repository, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, **{'title': repository, **options})
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message))
