"""Runs of train.py in processes of their own: what they leave, how they end, how they go on."""

import errno
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from config import Config
from data import workers
from dataset import Batch
from models import build_birefnet, load_model
from runtime.distributed import PREEMPTED
from runtime.locks import hold_lock
from runtime.starting import INTERRUPTED
from tests.training.runs import TINY, finish, make_data, start, wait_for
from tests.training.trainers import ALONE
from training.sharding import ON_CPU
from training.state import load_state
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp('data'))


def arguments(data: Path, folder: Path, *more: str) -> list[str]:
    return [*TINY, f'data_root={data}', '--ckpt_dir', str(folder), *more]


def run(
    data: Path, folder: Path, *more: str, size: int = 1, draws_pictures: bool = False,
) -> tuple[list[int], str]:
    """Exit codes and output."""
    log = folder.with_suffix('.out')
    codes = finish(start('train', arguments(data, folder, *more), log, size, draws_pictures))
    return codes, log.read_text()


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp('runs') / 'whole'
    codes, output = run(data, folder, draws_pictures=True)
    assert codes == [0], output
    return folder


def read_log(folder: Path) -> list[dict]:
    """The lines of log.jsonl."""
    text = (folder / 'log.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


def outcome(folder: Path) -> dict[str, bytes]:
    """All that must not depend on interruptions."""
    names = ('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth', 'log.jsonl')
    return {name: (folder / name).read_bytes() for name in names}


def test_leaves_checkpoints_config_and_log(whole):
    assert Config.load(whole / 'config.json').task == 'Tiny'
    config = load_model(whole / 'epoch_3.pth').config
    assert (config.bb, config.dec_att, config.mul_scl_ipt) == ('pvt_v2_b0', '', '')
    lines = read_log(whole)
    steps = [line for line in lines if 'batch' in line]
    assert [line['step'] for line in steps] == list(range(1, 10))
    assert steps[0].keys() >= {'loss', 'bce', 'iou', 'ssim', 'edge', 'gradient_norm', 'lr'}
    assert 'bce' not in steps[-1]  # the last epoch is tail
    assert lines[-1]['mean']['loss'] < lines[3]['mean']['loss']


def test_tensorboard_shows_the_run(whole):
    events = EventAccumulator(str(whole / 'tensorboard'), {'scalars': 0, 'images': 0})
    events.Reload()
    lines = read_log(whole)
    losses = [line['loss'] for line in lines if 'batch' in line]
    assert [event.value for event in events.Scalars('loss/loss')] == pytest.approx(losses)
    scalars = events.Tags()['scalars']
    assert {'loss/bce', 'loss/edge'} <= set(scalars)
    assert {'optimizer/lr', 'optimizer/lr_backbone', 'optimizer/gradient_norm'} <= set(scalars)
    assert {'speed/images_per_second', 'speed/waiting_for_data'} <= set(scalars)
    assert 'memory/host_GB' in scalars
    assert all(event.value > 0 for event in events.Scalars('speed/images_per_second'))

    previews = events.Tags()['images']
    assert len(previews) == 3  # every second of six pairs
    encoded = [event.encoded_image_string for event in events.Images(previews[0])]
    strips = [np.asarray(Image.open(io.BytesIO(png))) for png in encoded]
    assert len(strips) == 3  # each epoch
    assert np.array_equal(strips[0][:, :256], strips[2][:, :256])  # the same image
    assert not np.array_equal(strips[0][:, 524:780], strips[2][:, 524:780])  # another prediction


def test_a_run_is_not_overwritten(whole, data):
    before = outcome(whole)
    codes, output = run(data, whole)
    assert codes == [1]
    assert 'resume=auto' in output
    assert outcome(whole) == before


def test_checkpoints_without_a_state_are_not_overwritten(whole, data, tmp_path):
    folder = shutil.copytree(whole, tmp_path / 'run')
    for state in folder.glob('last*'):
        state.unlink()
    codes, output = run(data, folder)
    assert codes == [1]
    assert 'holds epoch_2.pth of a run whose state, last.pt, is gone' in output
    assert outcome(folder) == outcome(whole)


def test_a_run_counts_on_from_other_weights(whole, data, tmp_path):
    codes, output = run(data, tmp_path / 'more', '--resume', str(whole / 'epoch_3.pth'),
                        '--epochs', '5')
    assert codes == [0], output
    assert 'epochs 4 to 5 are trained' in output
    assert {path.name for path in (tmp_path / 'more').glob('*.pth')} == {'epoch_4.pth',
                                                                        'epoch_5.pth'}
    steps = [line for line in read_log(tmp_path / 'more') if 'batch' in line]
    assert [(line['epoch'], line['step']) for line in steps] == [
        (4, 1), (4, 2), (4, 3), (5, 4), (5, 5), (5, 6)]


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


@pytest.mark.parametrize('name', ['SIGTERM', pytest.param('SIGUSR1', marks=pytest.mark.slow)])
def test_signals_save_and_resume_to_the_same_bits(whole, data, tmp_path, name):
    process, = start('train', arguments(data, tmp_path / 'run'), tmp_path / 'out')
    wait_for(tmp_path / 'run' / 'log.jsonl', lines=4)
    os.kill(process.pid, getattr(signal, name))
    assert finish([process]) == [PREEMPTED], (tmp_path / 'out').read_text()
    codes, output = run(data, tmp_path / 'run', 'resume=auto')
    assert codes == [0], output
    assert outcome(tmp_path / 'run') == outcome(whole)


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


REPLICATED = ''
SHARDED = (
    'sharding=fsdp ema_decay=.5 lambda_adv_g=10 grad_checkpointing=true mixed_precision=bf16 '
    'accumulate=2 grad_clip=1 val_step=1 validation_set=VD-Tiny')


@pytest.mark.slow
@pytest.mark.parametrize('more', [
    pytest.param(REPLICATED, id='replicated'),
    pytest.param(SHARDED, id='sharded', marks=pytest.mark.skipif(
        not ON_CPU, reason='FSDP2 on CPUs needs a newer PyTorch')),
])
def test_two_processes_resume_after_a_kill(tmp_path, more):
    data = make_data(tmp_path / 'data', train=9)
    # Three images to validate on for two processes; six are left for training.
    for kind in ('im', 'gt'):
        training = data / 'Tiny' / 'TR-Tiny' / kind
        validation = data / 'Tiny' / 'VD-Tiny' / kind
        validation.mkdir(parents=True)
        for name in ('6.png', '7.png', '8.png'):
            (training / name).rename(validation / name)
    more = ['save_every=2', 'batch_size=1', 'epochs=2', *more.split()]
    codes, output = run(data, tmp_path / 'whole', *more, size=2)
    assert codes == [0, 0], output
    processes = start('train', arguments(data, tmp_path / 'run', *more), tmp_path / 'out', size=2)
    wait_for(tmp_path / 'run' / 'log.jsonl', lines=3)
    for process in processes:
        process.kill()
        process.join()
    codes, output = run(data, tmp_path / 'run', 'resume=auto', *more, size=2)
    assert codes == [0, 0], output
    for name in ('epoch_2.pth', 'log.jsonl'):
        assert (tmp_path / 'run' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
    assert load_model(tmp_path / 'run' / 'epoch_2.pth').config.bb == 'pvt_v2_b0'


def test_truncated_state_gives_way_to_the_previous(whole, data, tmp_path):
    folder = shutil.copytree(whole, tmp_path / 'run')
    state = (folder / 'last.pt').read_bytes()
    (folder / 'last.pt').write_bytes(state[:len(state) // 2])
    codes, output = run(data, folder, 'resume=auto')
    assert codes == [0], output
    assert f'{folder / "last.pt"}: damaged' in output
    assert outcome(folder) == outcome(whole)


@pytest.mark.parametrize('more', [
    'lambda_adv_g=10 dynamic_size=((32,64),(32,64)) size=64',
    'auxiliary_classification=true num_classes=3',
    'accumulate=2 ema_decay=.5 grad_clip=1 optimizer=Adam lr_schedule=cosine warmup_steps=2',
    pytest.param('mixed_precision=bf16 grad_checkpointing=true channels_last=true load_all=true '
                 'background_color_synthesis=true', marks=pytest.mark.slow),
], ids=['adversarial', 'classes', 'accumulate', 'bf16'])
def test_switches_train(data, tmp_path, more):
    more = more.split()
    if 'num_classes=3' in more:
        data = make_data(tmp_path / 'data')
        for file in (data / 'Tiny' / 'TR-Tiny').glob('*/*'):
            file.rename(file.with_name(f'1#a#2#{"bcd"[int(file.stem) % 3]}#{file.name}'))
    codes, output = run(data, tmp_path / 'run', 'epochs=2', f'cache_dir={tmp_path}', *more)
    assert codes == [0], output
    lines = read_log(tmp_path / 'run')
    terms = set().union(*lines)
    assert ('adversarial' in terms and 'discriminator' in terms) == (more[0] == 'lambda_adv_g=10')
    assert ('class' in terms) == ('num_classes=3' in more)


def build_trainer(**fields) -> Trainer:
    cfg = Config(bb='pvt_v2_b0', mul_scl_ipt='', size=(32, 32), deform_kernels=(3,),
                 tail_epochs=0, **fields)
    torch.manual_seed(0)
    return train.build_trainer(cfg, build_birefnet(cfg), 10, ALONE)


def one_batch() -> Batch:
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mask = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    return Batch(image, mask, [], torch.full((2,), -1), [])


def test_the_backbone_has_a_rate_of_its_own():
    trainer = build_trainer(lr=1e-2, lr_bb_factor=.1, warmup_steps=1)
    inside = {id(p) for p in trainer.model.encoder.backbone.parameters()}
    optimizer = trainer.network.optimizer
    others, backbone = optimizer.param_groups
    assert {id(p) for p in backbone['params']} == inside
    assert len(others['params']) + len(inside) == len(list(trainer.model.parameters()))
    assert optimizer.defaults['fused']
    trainer.step(one_batch())
    assert trainer.network.rates == pytest.approx([5e-3, 5e-4])  # warming up


def test_autocast_and_memory_format_reach_the_network():
    trainer = build_trainer(mixed_precision='bf16', channels_last=True, grad_clip=1.)
    convolution = trainer.model.decoder.levels[3].block.conv_in
    seen = []
    convolution.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    trainer.step(one_batch())
    [(x, output)] = seen
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert output.dtype == torch.bfloat16
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert all(math.isfinite(value) for value in trainer.take_means().values())


def count_kept_values(checkpointing: bool) -> dict[str, int]:
    """Values, but for weights, that the forward pass keeps for the backward pass."""
    trainer = build_trainer(grad_checkpointing=checkpointing)
    counts = {'backbone': 0, 'decoder': 0}
    current = []
    parts = {'backbone': trainer.model.encoder.backbone, 'decoder': trainer.model.decoder}
    for name, module in parts.items():
        module.register_forward_pre_hook(lambda *_, name=name: current.append(name))
        module.register_forward_hook(lambda *_: current.pop() and None)
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        is_weight = tensor.untyped_storage().data_ptr() in weights
        if current and not is_weight:
            counts[current[-1]] += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        trainer.step(one_batch())
    return counts


def test_checkpointing_keeps_less_of_backbone_and_decoder():
    few = count_kept_values(checkpointing=True)
    many = count_kept_values(checkpointing=False)
    assert few['backbone'] < .5 * many['backbone']
    assert few['decoder'] < .5 * many['decoder']


class Twice(torch.nn.Module):
    """A network that is quick to try."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


@pytest.mark.skipif(
    torch.__version__ < (2, 9), reason='PyTorch 2.6 says nothing about what it does not compile')
def test_what_cannot_be_compiled_runs_and_says_so(monkeypatch, caplog, capfd):
    def broken(*_, **__):
        raise RuntimeError('no compiler here')

    monkeypatch.setattr('torch._inductor.compile_fx.compile_fx', broken)
    with torch._dynamo.config.patch(suppress_errors=False):  # which gives it back at the end
        model = build_trainer(compile=True).model
        for part in (model.encoder.backbone, model.decoder):
            assert part._compiled_call_impl
        # Small, as all inner parts are tried one by one after the whole.
        part = Twice()
        part.compile()
        x = torch.ones(3)
        assert torch.equal(part(x), 2 * x)
    assert 'run as they are, more slowly (RuntimeError: no compiler here)' in caplog.text
    assert 'Traceback' not in capfd.readouterr().err


def test_weights_bring_their_architecture(whole, data, tmp_path):
    weights = whole / 'epoch_3.pth'
    other_architecture = ['dec_att=ASPPDeformable', 'mul_scl_ipt=cat']
    codes, output = run(data, tmp_path / 'run', *other_architecture, f'weights={weights}',
                        'epochs=1', 'lr=0')
    assert codes == [0], output
    found = load_model(tmp_path / 'run' / 'epoch_1.pth').parameters()
    expected = load_model(weights).parameters()
    assert all(torch.equal(p, q) for p, q in zip(found, expected, strict=True))


def test_validation_keeps_the_best_and_stops_early(data, tmp_path):
    validation = ['val_step=1', 'validation_share=.34', 'early_stop=1', 'val_metric=mae']
    codes, output = run(
        data, tmp_path / 'run', 'epochs=6', 'lr=0', *validation, draws_pictures=True)
    assert codes == [0], output
    lines = read_log(tmp_path / 'run')
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


def test_bad_data_met_in_the_middle(tmp_path):
    """Damage that only decoding finds, in a pair to train on and in one to validate on."""
    data = make_data(tmp_path / 'data')
    validated = make_data(tmp_path / 'other') / 'Tiny' / 'TR-Tiny'
    shutil.copytree(validated, data / 'Tiny' / 'VD')
    damaged = [data / 'Tiny' / name for name in ('TR-Tiny/im/3.png', 'VD/im/5.png')]
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2:len(content) // 2 + 40] = bytes(40)
        path.write_bytes(content)
    codes, output = run(data, tmp_path / 'run', 'epochs=1')
    assert codes == [1]
    assert 'epoch 1/1' not in output
    assert f'ValueError: {damaged[0]}: unreadable' in output
    more = ['training_set=TR-Tiny', 'validation_set=VD', 'val_step=1', 'epochs=1']
    codes, output = run(data, tmp_path / 'skipping', 'skip_bad=true', *more)
    assert codes == [0], output
    assert '2 pair(s) could not be read' in output
    assert all(f'skipped: {path}' in output for path in damaged)


@pytest.mark.parametrize(
    'more', ['', 'val_step=1 validation_set=TE-Tiny'], ids=['training', 'validation'])
def test_a_failure_on_one_rank_ends_all(tmp_path, more):
    data, folder = make_data(tmp_path / 'data', test=3), tmp_path / 'run'
    run_arguments = arguments(data, folder, 'epochs=500', *more.split())
    processes = start('train', run_arguments, tmp_path / 'out', size=2)
    wait_for(folder / 'log.jsonl', lines=5)
    image = data / 'Tiny' / ('TE-Tiny' if more else 'TR-Tiny') / 'im' / '1.png'
    image.write_bytes(image.read_bytes()[:200])
    codes, output = finish(processes), (tmp_path / 'out').read_text()
    assert all(code != 0 for code in codes), output
    assert f'{image}: ' in output
    assert load_state(folder)['epoch'] > 1


@pytest.mark.skipif(not hasattr(resource, 'prlimit'), reason='needs Linux')
@pytest.mark.slow
def test_a_disk_that_becomes_full_leaves_the_last_state(whole, data, tmp_path):
    folder = tmp_path / 'run'
    process, = start('train', arguments(data, folder, 'save_every=1'), tmp_path / 'out')
    wait_for(folder / 'log.jsonl', lines=2)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, hard))
    assert finish([process]) == [1]
    output = (tmp_path / 'out').read_text()
    assert f'{folder}/' in output
    assert 'is the disk full?' in output
    assert not [p.name for p in folder.iterdir() if p.suffix in ('.tmp', '.new')]
    codes, output = run(data, folder, 'resume=auto')
    assert codes == [0], output
    assert 'damaged' not in output
    assert outcome(folder) == outcome(whole)


def test_a_folder_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    processes = start('train', arguments(data, tmp_path / 'file' / 'run'), tmp_path / 'out')
    assert finish(processes) == [1]
    assert str(tmp_path / 'file') in (tmp_path / 'out').read_text()


def test_a_loss_that_is_not_finite_ends_all_ranks(data, tmp_path):
    codes, output = run(data, tmp_path / 'run', 'lr=1e38', 'weight_decay=0', size=2)
    assert all(code != 0 for code in codes), output
    assert 'not finite' in output


# --- Ends -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path, data):
    folder = tmp_path / 'run'
    log = tmp_path / 'out'
    command = [sys.executable, 'train.py', *arguments(data, folder, 'epochs=500')]
    with open(log, 'wb') as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output,
            # A shell may have started the tests with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        wait_for(folder / 'log.jsonl', lines=5)
        process.send_signal(signal.SIGINT)
        assert process.wait() == INTERRUPTED
    output = log.read_text()
    assert 'Traceback' not in output
    epoch = load_state(folder)['epoch']
    assert output.splitlines()[-1] == (
        f'train: interrupted: {folder} holds the state in epoch {epoch} after 0 batches; '
        'the same command with resume=auto goes on from there')


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path, data):
    refused = pytest.raises(ValueError, match='another process is training this run')
    with hold_lock(tmp_path / train.LOCK, 'busy'), refused:
        train.main(arguments(data, tmp_path))
    assert not (tmp_path / 'log.txt').exists()


def test_a_single_pair_cannot_be_split(tmp_path):
    data = make_data(tmp_path, train=1)
    cfg = Config(task='Tiny', data_root=str(data), val_step=1)
    with pytest.raises(ValueError, match='single pair'):
        train.find_data(cfg)


def test_a_cache_that_cannot_be_kept_costs_a_warning(tmp_path, caplog, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(train, 'PairCache', refuse)
    assert train.build_cache([], (32, 32), tmp_path, skip_bad=False) is None
    assert 'Read-only file system' in caplog.text


@pytest.mark.parametrize(('free', 'fitting'), [(100, 4), (9, 3), (5, 1), (1, 0), (None, 0)])
def test_workers_have_room_for_their_batches(monkeypatch, caplog, free, fitting):
    """In units of a batch: two a worker, and two that the network holds."""
    def disk_usage(_):
        if free is None:
            raise FileNotFoundError
        return SimpleNamespace(free=1000 * free)

    monkeypatch.setattr(workers.shutil, 'disk_usage', disk_usage)
    monkeypatch.setattr(sys, 'platform', 'linux')
    assert workers.workers_that_fit(4, batch_bytes=1000) == fitting
    assert ('--shm-size' in caplog.text) == (fitting < 4)
