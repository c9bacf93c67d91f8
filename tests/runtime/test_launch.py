"""Processes under torchrun, as the scripts start them: how signals and failures end them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from runtime.distributed import PREEMPTED
from runtime.launch import first_failure
from tests.training.runs import HANGS, TINY, finish, free_port, make_data, start, wait_for
from training.state import load_state

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='needs Linux')


def train(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """`train.sh` on the CPU, one thread a process; its output goes to `folder`.out."""
    environment = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': str(ROOT),
        **environment,
    }
    script = str(ROOT / 'train.sh')
    command = ['bash', script, 'run', 'cpu', *TINY, '--ckpt_dir', str(folder), *arguments]
    with open(folder.with_suffix('.out'), 'ab') as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


def descendants(process: int) -> list[int]:
    """All processes below one."""
    found = []
    for children in Path(f'/proc/{process}/task').glob('*/children'):
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


@pytest.mark.parametrize(('signals', 'code', 'expected'), [
    ([signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM], PREEMPTED, PREEMPTED),
    ([signal.SIGTERM], 3, 1),
])
def test_processes_get_the_signal_and_their_code_returns(tmp_path, signals, code, expected):
    script = tmp_path / 'script.sh'
    script.write_text(f'trap "exit {code}" USR1 TERM HUP\n'
                      f'touch "{tmp_path}/up$RANK"\n'
                      'for i in {1..600}; do sleep .1; done')
    launch = [sys.executable, '-m', 'runtime.launch', '--standalone', '--nproc-per-node', '2']
    by_address = ['--local-addr', '127.0.0.1']  # the machine's own name may not resolve
    command = [*launch, *by_address, '--no-python', 'bash', str(script)]
    launcher = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + HANGS
    while len(list(tmp_path.glob('up*'))) < 2 and time.monotonic() < deadline:
        time.sleep(.05)
    for number in signals:
        launcher.send_signal(number)
    assert launcher.wait(HANGS) == expected


def test_the_root_cause_is_the_first_failure_of_a_second(tmp_path):
    """torchrun notes whole seconds, and would name rank 0."""
    failures = {}
    for rank, written in ((0, 1700000000.7), (1, 1700000000.4)):
        file = tmp_path / f'{rank}.json'
        extra = {'py_callstack': 'Traceback ...', 'timestamp': str(int(written))}
        message = {'message': f'ValueError: of rank {rank}', 'extraInfo': extra}
        file.write_text(json.dumps({'message': message}))
        os.utime(file, (written, written))
        failures[rank] = ProcessFailure(rank, 4000 + rank, 1, str(file))
    failures[2] = ProcessFailure(2, 4002, -signal.SIGKILL, '<N/A>')  # killed: no file

    assert first_failure(failures) == (
        'of 3 that failed, rank 1 was the first: ValueError: of rank 1')


@pytest.mark.slow
def test_a_signal_to_one_of_two_nodes_saves_and_ends_both(tmp_path):
    """As Slurm does it: to all processes of a node, those that load data included."""
    data = make_data(tmp_path / 'data', train=40)
    whole, folder = tmp_path / 'whole', tmp_path / 'run'
    log = tmp_path / 'out'
    arguments = [*TINY, f'data_root={data}']
    codes = finish(start('train', [*arguments, '--ckpt_dir', str(whole)], log, 2))
    assert codes == [0, 0], log.read_text()

    master = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    nodes = [train(folder, f'data_root={data}', 'num_workers=1', NNODES='2', NODE_RANK=rank,
                   **master) for rank in '01']
    wait_for(folder / 'log.jsonl', lines=2)
    processes = [nodes[1].pid, *descendants(nodes[1].pid)]
    assert len(processes) > 3  # torchrun, training, its fork server and its loader
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGUSR1)
    codes = [node.wait(HANGS) for node in nodes]
    assert codes == [PREEMPTED] * 2, folder.with_suffix('.out').read_text()
    assert not (folder / 'epoch_3.pth').exists()

    resumed = [*arguments, '--ckpt_dir', str(folder), 'resume=auto']
    codes = finish(start('train', resumed, log, 2))
    assert codes == [0, 0], log.read_text()
    for name in ('epoch_3.pth', 'log.jsonl'):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_a_failure_on_one_rank_ends_all_and_is_named(tmp_path):
    """An image becomes unreadable in the middle of a run, which the loader of one rank meets."""
    data, folder = make_data(tmp_path / 'data'), tmp_path / 'run'
    run = train(folder, f'data_root={data}', 'num_workers=1', 'epochs=500', CPU_PROCESSES='2')
    wait_for(folder / 'log.jsonl', lines=8)
    image = data / 'Tiny' / 'TR-Tiny' / 'im' / '1.png'
    image.write_bytes(image.read_bytes()[:200])
    try:
        assert run.wait(HANGS) == 1
    finally:
        for process in [run.pid, *descendants(run.pid)]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    output = folder.with_suffix('.out').read_text()
    assert f'train: {image}: unreadable image' in output
    [line] = [line for line in output.splitlines() if 'was the first' in line]
    assert str(image) in line
    assert load_state(folder)['epoch'] > 1
