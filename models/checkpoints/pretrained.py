"""Pretrained weights of backbones, in the formats that their authors publish."""

import os
import re
from pathlib import Path

from models.backbones.base import Backbone
from models.backbones.registry import State, find_family
from models.checkpoints.files import IN_FOLDERS, find_in_folder, read_state
from models.checkpoints.infer import differences
from models.checkpoints.names import DERIVED, OFFICIAL_PREFIX, OUR_PREFIX
from models.zoo import weights_folder

WEIGHTS = Path('weights')  # beside the commands, where pretrained files are looked for
WHOLE_NETWORKS = (OFFICIAL_PREFIX, OUR_PREFIX)  # with which keys of their backbones begin
PUBLISHED_FOLDER = 'cv'  # in which the publication keeps them there


def find_pretrained(bb: str) -> Path | None:
    """The pretrained file of a backbone, under its authors' name; None if it is not at hand.

    It is looked for in `weights` of the current folder and in the folder of published weights, and
    in `cv` of both; in each place also in a folder that has the name of its repository.
    """
    pattern = _pretrained_name(bb)
    if not pattern:
        return None
    family = find_family(bb)
    repository = family.pretrained_folders.get(bb, '') if family else ''
    for folder in (WEIGHTS, weights_folder()):
        for place in (folder, folder / PUBLISHED_FOLDER):
            found = [file for file in sorted(place.glob(pattern)) if file.is_file()]
            if not found and repository:
                copies = [find_in_folder(copy) for copy in sorted(place.glob(repository))]
                found = [file for file in copies if file]
            if found:
                return found[-1]
    return None


def where_to_get(bb: str) -> str:
    """Says where pretrained weights of a backbone come from, and where they belong."""
    family = find_family(bb)
    ways = []
    if name := _pretrained_name(bb):
        ways.append(f'put {name} into {WEIGHTS}/ or {weights_folder()} (BIREFNET_HOME)')
    if family is None or family.on_hub:
        ways.append('let bb_weights=hub download them')
    return ', or '.join(ways)


def _pretrained_name(bb: str) -> str:
    """The pattern of the name of a backbone's pretrained file; '' if only the hub has it."""
    family = find_family(bb)
    return family.pretrained_files.get(bb, '') if family else ''


def load_backbone(backbone: Backbone, path: str | os.PathLike) -> None:
    """Loads pretrained weights, in the official format of the backbone, from a file or folder.

    Classifier heads are ignored, position tables of another window interpolated. Raises ValueError
    if anything of the backbone's own is left without weights.
    """
    # The file's tensors under our names, as far as the backbone has them.
    net = backbone.net
    own = net.state_dict()
    family = find_family(backbone.name)
    state = _read_pretrained(path)
    if any(key.startswith(WHOLE_NETWORKS) for key in state):
        raise ValueError(f'{path}: holds a whole network, not a backbone alone; weights=FILE '
                         'starts from all of it')
    if family and family.rename_pretrained:
        state = family.rename_pretrained(state, net)
    fitting = {key: value for key, value in state.items() if key in own}

    # What pretraining cannot give, such as norms that classifiers lack, may be absent.
    needed = {key: value.shape for key, value in own.items()}
    if family and family.untrained:
        untrained = re.compile(family.untrained)
        needed = {key: shape for key, shape in needed.items() if not untrained.match(key)}
    found = {key: value.shape for key, value in fitting.items() if key in needed}
    if problem := differences(needed, found):
        raise ValueError(f'{path}: no weights for bb={backbone.name}: {problem}')
    net.load_state_dict(fitting, strict=False)


def _read_pretrained(path: str | os.PathLike) -> State:
    """The tensors of a file, or of a folder in Hugging Face's layout."""
    if Path(path).is_dir():
        file = find_in_folder(Path(path))
        if file is None:
            raise ValueError(f'{path}: holds none of {", ".join(IN_FOLDERS)}')
        path = file
    state = {}
    for key, value in read_state(path).items():
        if not DERIVED.search(key):
            state[key.removeprefix('backbone.')] = value
    return state
