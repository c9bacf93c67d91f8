"""Runs of train.py in processes of their own: what they leave, how they end, how they go on."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from config import Config
from models import load_model
from tests.training.runs import TINY, finish, make_data, start

PREEMPTED = 75


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp('data'))


def arguments(data: Path, folder: Path, *more: str) -> list[str]:
    return [*TINY, f'data_root={data}', '--ckpt_dir', str(folder), *more]


def run(data: Path, folder: Path, *more: str, size: int = 1) -> tuple[list[int], str]:
    """Exit codes and output."""
    log = folder.with_suffix('.out')
    codes = finish(start('train', arguments(data, folder, *more), log, size))
    return codes, log.read_text()


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp('runs') / 'whole'
    codes, output = run(data, folder)
    assert codes == [0], output
    return folder


def outcome(folder: Path) -> dict[str, bytes]:
    """All that must not depend on interruptions."""
    return {name: (folder / name).read_bytes() for name in ('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth', 'log.jsonl')}


def test_leaves_checkpoints_config_and_log(whole):
    assert Config.load(whole / 'config.json').task == 'Tiny'
    model = load_model(whole / 'epoch_3.pth')
    assert (model.config.bb, model.config.dec_att, model.config.mul_scl_ipt) == ('pvt_v2_b0', '', '')
    lines = [json.loads(line) for line in (whole / 'log.jsonl').read_text().splitlines()]
    steps = [line for line in lines if 'batch' in line]
    assert [line['step'] for line in steps] == list(range(1, 10))
    assert steps[0].keys() >= {'loss', 'bce', 'iou', 'ssim', 'gradient', 'gradient_norm', 'lr'}
    assert 'bce' not in steps[-1]  # the last epoch is tail
    assert lines[-1]['mean']['loss'] < lines[3]['mean']['loss']
    assert list((whole / 'tensorboard').iterdir())


def test_a_run_is_not_overwritten(whole, data):
    before = outcome(whole)
    codes, output = run(data, whole)
    assert codes == [1]
    assert 'resume=auto' in output
    assert outcome(whole) == before


def test_a_complete_run_resumes_to_nothing(whole, data):
    before = outcome(whole)
    assert run(data, whole, 'resume=auto')[0] == [0]
    assert outcome(whole) == before


def test_contradicting_config_is_refused_by_field(whole, data):
    codes, output = run(data, whole, 'resume=auto', 'batch_size=3', 'grad_clip=1')
    assert codes == [1]
    assert "batch_size: the run was started with 2, now it is 3" in output
    assert 'grad_clip' in output
    assert 'resume=force' in output


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1'])
def test_signals_save_and_resume_to_the_same_bits(whole, data, tmp_path, name):
    process, = start('train', arguments(data, tmp_path / 'run'), tmp_path / 'out')
    wait_for(tmp_path / 'run' / 'log.jsonl', lines=4)
    os.kill(process.pid, getattr(signal, name))
    assert finish([process]) == [PREEMPTED], (tmp_path / 'out').read_text()
    codes, output = run(data, tmp_path / 'run', 'resume=auto')
    assert codes == [0], output
    assert outcome(tmp_path / 'run') == outcome(whole)


def wait_for(log: Path, lines: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b'\n') >= lines:
            return
        time.sleep(.02)
    raise TimeoutError(log)


@pytest.mark.slow
def test_twenty_kills_change_nothing(whole, data, tmp_path):
    rng, folder = random.Random(5), tmp_path / 'run'
    more = ['resume=auto', 'save_every=1']
    for _ in range(20):
        process, = start('train', arguments(data, folder, *more), tmp_path / 'out')
        time.sleep(rng.uniform(.5, 6))
        process.kill()
        process.join()
    codes, output = run(data, folder, *more)
    assert codes == [0], output
    assert outcome(folder) == outcome(whole)


@pytest.mark.slow
def test_two_processes_resume_after_a_kill(data, tmp_path):
    codes, output = run(data, tmp_path / 'whole', size=2)
    assert codes == [0, 0], output
    processes = start('train', arguments(data, tmp_path / 'run', 'save_every=1'), tmp_path / 'out', size=2)
    wait_for(tmp_path / 'run' / 'log.jsonl', lines=3)
    for process in processes:
        process.kill()
        process.join()
    codes, output = run(data, tmp_path / 'run', 'resume=auto', 'save_every=1', size=2)
    assert codes == [0, 0], output
    for name in ('epoch_3.pth', 'log.jsonl'):
        assert (tmp_path / 'run' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


def test_truncated_state_gives_way_to_the_previous(whole, data, tmp_path):
    folder = tmp_path / 'run'
    codes, output = run(data, folder)
    assert codes == [0], output
    state = (folder / 'last.pt').read_bytes()
    (folder / 'last.pt').write_bytes(state[:len(state) // 2])
    codes, output = run(data, folder, 'resume=auto')
    assert codes == [0], output
    assert 'damaged' in output
    assert outcome(folder) == outcome(whole)


@pytest.mark.parametrize('more', [
    'lambda_adv_g=10 dynamic_size=((32,64),(32,64)) size=64',
    'auxiliary_classification=true num_classes=3',
    'accumulate=2 ema_decay=.5 grad_clip=1 optimizer=Adam lr_schedule=cosine warmup_steps=2',
    'mixed_precision=bf16 grad_checkpointing=true channels_last=true load_all=true background_color_synthesis=true'],
    ids=['adversarial', 'classes', 'accumulate', 'bf16'])
def test_switches_train(data, tmp_path, more):
    more = more.split()
    if 'num_classes=3' in more:
        data = make_data(tmp_path / 'data')
        for file in (data / 'Tiny' / 'TR-Tiny').glob('*/*'):
            file.rename(file.with_name(f'1#a#2#{"bcd"[int(file.stem) % 3]}#{file.name}'))
    codes, output = run(data, tmp_path / 'run', 'epochs=2', f'cache_dir={tmp_path}', *more)
    assert codes == [0], output
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'log.jsonl').read_text().splitlines()]
    terms = set().union(*lines)
    assert ('adversarial' in terms and 'discriminator' in terms) == (more[0] == 'lambda_adv_g=10')
    assert ('class' in terms) == ('num_classes=3' in more)


def test_weights_bring_their_architecture(whole, data, tmp_path):
    overrides = ['dec_att=ASPPDeformable', 'mul_scl_ipt=cat', f'weights={whole / "epoch_3.pth"}', 'epochs=1', 'lr=0']
    codes, output = run(data, tmp_path / 'run', *overrides)
    assert codes == [0], output
    ours, theirs = load_model(tmp_path / 'run' / 'epoch_1.pth'), load_model(whole / 'epoch_3.pth')
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_validation_keeps_the_best_and_stops_early(data, tmp_path):
    more = ['val_step=1', 'validation_share=.34', 'early_stop=1', 'epochs=6', 'lr=0', 'val_metric=mae']
    codes, output = run(data, tmp_path / 'run', *more)
    assert codes == [0], output
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'log.jsonl').read_text().splitlines()]
    scores = [line['validation'] for line in lines if 'validation' in line]
    assert len(scores) == 2  # with lr=0 the second is no better, which ends the run
    assert scores[0].keys() >= {'sm', 'mae', 'wfm', 'loss'}
    assert '4 training pairs from TR-Tiny, 2 for validation' in output
    assert 'early stop: no better mae since epoch 1' in output
    assert load_model(tmp_path / 'run').config.dec_att == ''  # a run's folder is its best.pth
    assert (tmp_path / 'run' / 'curves.png').stat().st_size > 5000


def test_dry_run_leaves_nothing(data, tmp_path):
    codes, output = run(data, tmp_path / 'run', 'dry_run=true', 'val_step=1')
    assert codes == [0], output
    assert 'a step takes' in output
    assert not (tmp_path / 'run').exists()


def test_bad_data_is_named_before_anything_starts(tmp_path):
    data = make_data(tmp_path / 'data')
    image = data / 'Tiny' / 'TR-Tiny' / 'im' / '1.png'
    image.write_bytes(image.read_bytes()[:200])
    codes, output = run(data, tmp_path / 'run')
    assert codes == [1]
    assert str(image) in output
    codes, output = run(data, tmp_path / 'skipping', 'skip_bad=true', 'epochs=1')
    assert codes == [0], output
    assert '1 pair(s) could not be read' in output
    (data / 'Tiny' / 'TR-Tiny' / 'gt' / '2.png').unlink()
    codes, output = run(data, tmp_path / 'run')
    assert codes == [1]
    assert '2.png' in output


def test_a_loss_that_is_not_finite_ends_all_ranks(data, tmp_path):
    began = time.monotonic()
    codes, output = run(data, tmp_path / 'run', 'lr=1e38', 'weight_decay=0', size=2)
    assert all(code != 0 for code in codes), output
    assert 'not finite' in output
    assert time.monotonic() - began < 60
