"""Networks in Hugging Face's layout: folders written, and brought to the hub.

Our own few lines instead of huggingface_hub's PyTorchModelHubMixin: that saves a module's state dict under the
module's own names and the arguments of its constructor as config, so that every method of it would be overridden.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor

from exporting.card import scores_of, validation_of, write_card
from exporting.huggingface import write_companions
from models.checkpoint import write_state
from models.zoo import WEIGHTS
from utils import epoch_of


def save_folder(folder: str | os.PathLike, state: Mapping[str, Tensor], switches: Mapping[str, Any], *, title: str = '',
                license: str = '', checkpoint: str | os.PathLike = '', results: str | os.PathLike = 'e_results',
                dtype: torch.dtype = torch.float32) -> None:
    """Writes `state`, in the official layout, with all that belongs beside it.

    The card's facts come from the run in whose folder `checkpoint` lies and from the evaluation's folder `results`.
    """
    folder = Path(folder)
    training, scores, validation = {}, {}, {}
    if checkpoint:
        run, epoch = Path(checkpoint).parent, epoch_of(Path(checkpoint))
        if (run / 'config.json').is_file():
            saved = json.loads((run / 'config.json').read_text(encoding='utf-8'))
            training = saved if 'training_set' in saved else {}
        scores = scores_of(results, run.name, epoch, tuple(switches['size']))
        validation = validation_of(run, epoch, training.get('val_metric', 'sm'))
    card = write_card(title or folder.resolve().name, switches, training, scores, validation, license)
    write_companions(folder, switches, card)
    write_state({key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()},
                folder / WEIGHTS)


def upload(repository: str, save: Callable[[str], None], *, private: bool = False, token: str | None = None,
           message: str = 'Weights, config and card') -> str:
    """Brings what `save` writes into a folder to a repository on the hub, made where there is none; its address."""
    api = HfApi(token=token)
    name = api.create_repo(repository, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message))
