"""A published recipe from its training set to the table of its best checkpoint, in small.

In COD sizes of images and masks differ: 77 pairs of NC4K do, and pairs of others by a rounding.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import eval_existingOnes
import gen_best_ep
import test as script
from config import Config
from evaluation.results import read_sets
from tests.training.runs import finish, start

SETS = ('TR-COD10K', 'TR-CAMO', 'CHAMELEON', 'NC4K', 'TE-CAMO', 'TE-COD10K')
IMAGE_SIZE = (64, 48)  # (width, height)
MASK_SIZE = {'TR-CAMO': (58, 43), 'NC4K': (58, 43), 'TE-CAMO': (72, 54)}
NETWORK = ('bb=pvt_v2_b0', 'mul_scl_ipt=', 'dec_att=', 'bb_weights=none')
SMALL = ('size=32', 'epochs=1', 'batch_size=2', 'num_workers=0', 'device=cpu')
VALIDATED = ('val_step=1', 'validation_set=NC4K', 'mixed_precision=bf16')


def write_sets(folder: Path) -> None:
    """Two pairs in each set of COD: bright discs on dark noise."""
    rng = np.random.default_rng(0)
    for name in SETS:
        for index in range(2):
            disc = np.zeros(IMAGE_SIZE[::-1], np.uint8)
            cv2.circle(disc, (24 + 8 * index, 24), 14, 255, -1)
            noise = rng.integers(0, 90, (*disc.shape, 3), dtype=np.uint8)
            mask = cv2.resize(disc, MASK_SIZE.get(name, IMAGE_SIZE))
            for kind, pixels in (('im', noise + disc[..., None] // 2), ('gt', mask)):
                file = folder / name / kind / f'{index}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), pixels)


@pytest.mark.slow
def test_cod_with_masks_of_other_sizes_ends_in_its_table(tmp_path):
    data, run, masks, scores = (tmp_path / name for name in ('data', 'cod', 'masks', 'scores'))
    write_sets(data / 'COD')
    fields = [f'data_root={data}', f'pred_root={masks}', f'save_dir={scores}']
    log = tmp_path / 'log'
    training = ['--ckpt_dir', str(run), 'task=COD', *NETWORK, *SMALL, *VALIDATED, *fields]
    assert finish(start('train', training, log)) == [0], log.read_text()
    assert finish(start('test', ['--ckpt_folder', str(run)], log)) == [0], log.read_text()

    method = 'cod--epoch_1-reso_32x32'
    for name in SETS[2:]:
        written = cv2.imread(str(masks / method / name / '0.png'), cv2.IMREAD_UNCHANGED)
        assert written.shape == MASK_SIZE.get(name, IMAGE_SIZE)[::-1], name

    eval_existingOnes.main(['--ckpt_folder', str(run), '--metrics', 'sm+wfm', 'workers=1'])
    gen_best_ep.main(['task=COD', f'save_dir={scores}', '--no-report'])
    table = (scores / 'eval-COD_best_on_sm.txt').read_text()
    cells = [[cell.strip() for cell in row.split('&')][:2] for row in table.splitlines()]
    assert all([name, method] in cells for name in SETS[2:]), table

    # The same weights have the same scores in validation and in the test, to the bit.
    lines = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    [validation] = [line['validation'] for line in lines if 'validation' in line]
    [tested] = read_sets(scores, ['NC4K'])['NC4K']['methods']
    assert tested['scores'] == {name: validation[name] for name in ('sm', 'wfm')}


@pytest.mark.parametrize('broken', ['', 'not an image'])
def test_an_unreadable_ground_truth_is_named_before_the_first_mask(tmp_path, broken):
    write_sets(tmp_path / 'COD')
    (tmp_path / 'COD' / 'NC4K' / 'gt' / '0.png').write_text(broken)
    with pytest.raises(ValueError, match=r'NC4K/gt/0\.png'):
        script.check_data(Config(task='COD', data_root=str(tmp_path)))
