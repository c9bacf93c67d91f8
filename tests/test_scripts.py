"""The shell scripts, with recorders in the place of python and Slurm."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDER = """#!/usr/bin/env bash
[ "$1" != -c ] || exit "${NO_TORCH:-0}"  # asked whether it has PyTorch
echo "$(basename "$0") CUDA=${CUDA_VISIBLE_DEVICES:-} $*" >>"$RECORD"
case "$*" in *"$FAIL"*) [ -z "$FAIL" ] || exit "$CODE" ;; esac
"""


@pytest.fixture
def shell(tmp_path):
    """Runs a script in a copy of the project's; returns its exit code and what it called."""
    (tmp_path / 'runtime').mkdir()
    for name in ('sub.sh', 'train.sh', 'test.sh', 'runtime/launch.sh', 'train_test.sh'):
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / 'tools'
    tools.mkdir()

    def run(
        *command: str,
        fail: str = '',
        code: int = 1,
        extra: Mapping[str, str] = {},
        **environment: str,
    ):
        for tool, content in {'python': RECORDER, **extra}.items():
            (tools / tool).write_text(content)
            (tools / tool).chmod(0o755)
        record = tmp_path / 'record'
        record.write_text('')
        dropped = ('SLURM', 'CUDA', 'NNODES', 'CPU', 'MASTER')
        base = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        variables = {
            **base,
            'PATH': f'{tools}:{base["PATH"]}',
            'RECORD': str(record),
            'FAIL': fail,
            'CODE': str(code),
            **environment,
        }
        done = subprocess.run(['bash', *command], cwd=tmp_path, env=variables,
                              capture_output=True, text=True, check=False)
        return done.returncode, record.read_text().splitlines(), done.stderr

    return run


def test_sub_trains_tests_and_evaluates(shell):
    code, calls, _ = shell('sub.sh', 'my run', '0', '1', 'task=COD', 'weights=w.pth', 'resume=auto')
    assert code == 0
    assert calls == [
        'python CUDA=0 train.py --ckpt_dir ckpts/my run '
        'task=COD weights=w.pth resume=auto device=cuda',
        'python CUDA=1 test.py task=COD pred_root=e_preds --ckpt_folder ckpts/my run '
        '--resolution config device=cuda',
        'python CUDA= eval_existingOnes.py --pred_root e_preds --ckpt_folder ckpts/my run task=COD',
    ]


@pytest.mark.parametrize('command', [['train.sh', 'run', 'cpu'], ['test.sh', 'cpu']])
def test_a_python_without_pytorch_gives_way_to_that_of_the_checkout(shell, tmp_path, command):
    code, calls, said = shell(*command, NO_TORCH='1')
    assert (code, calls) == (1, [])
    assert said == ('python has no PyTorch: activate its environment, or install it '
                    '(pip install -r requirements.txt)\n')

    own = tmp_path / '.venv/bin/python'
    own.parent.mkdir(parents=True)
    own.write_text(RECORDER.replace('${NO_TORCH:-0}', '0').replace('$(basename "$0")', 'own'))
    own.chmod(0o755)
    code, calls, _ = shell(*command, NO_TORCH='1')
    assert code == 0
    assert all(call.startswith('own ') for call in calls)


def test_several_gpus_use_torchrun(shell):
    code, calls, _ = shell('train.sh', 'r', '0,2,5', 'task=COD')
    assert (code, len(calls)) == (0, 1)
    assert calls[0].startswith(
        'python CUDA=0,2,5 -m runtime.launch '
        '--standalone --local-addr 127.0.0.1 --nproc-per-node 3 '
        'train.py --ckpt_dir ckpts/r')


def test_several_nodes_need_a_rendezvous(shell):
    code, calls, _ = shell('train.sh', 'r', '0,1', NNODES='2', NODE_RANK='1', MASTER_ADDR='first')
    assert code == 0
    nodes = '--nnodes 2 --node-rank 1 --master-addr first --master-port 29500 --nproc-per-node 2'
    assert nodes in calls[0]
    code, calls, error = shell('train.sh', 'r', '0,1', NNODES='2')
    assert code != 0
    assert not calls
    assert 'NODE_RANK' in error


def test_cpu_takes_no_gpu(shell):
    one = shell('train.sh', 'r', 'cpu')[1]
    assert one == ['python CUDA= train.py --ckpt_dir ckpts/r device=cpu']
    two = shell('train.sh', 'r', 'cpu', CPU_PROCESSES='2')[1][0]
    assert two.startswith(
        'python CUDA= -m runtime.launch --standalone --local-addr 127.0.0.1 --nproc-per-node 2')


def test_test_passes_resolutions_on(shell):
    resolutions = '1024x1024 native'
    _, calls, _ = shell(
        'test.sh', '0', 'masks', resolutions, '--ckpt_folder', 'ckpts/r', 'task=COD')
    assert f'--resolution {resolutions}' in calls[0]
    assert 'pred_root=masks --ckpt_folder ckpts/r' in calls[0]
    assert calls[1] == (
        'python CUDA= eval_existingOnes.py --pred_root masks --ckpt_folder ckpts/r task=COD')


@pytest.mark.parametrize(('fail', 'left'), [('train.py', 1), ('test.py', 2), ('eval_existing', 3)])
def test_the_first_failure_ends_all_with_its_code(shell, fail, left):
    code, calls, _ = shell('sub.sh', 'r', 'cpu', 'cpu', fail=fail, code=43)
    assert code == 43
    assert len(calls) == left


def test_slurm_gets_the_script_itself(shell):
    sbatch = {'sbatch': RECORDER}
    code, calls, _ = shell('sub.sh', 'r', '0,1', '0', 'task=COD', extra=sbatch, SLURM_ACCOUNT='acc',
                           SLURM_PARTITION='gpu')
    assert (code, len(calls)) == (0, 1)
    resources = '--gpus-per-node 2 --cpus-per-gpu 8 --account acc --partition gpu'
    assert f'{resources} --wrap exec bash /' in calls[0]
    assert calls[0].endswith(r'/sub.sh r 0\,1 0 task=COD resume=auto ')
    assert shell('sub.sh', 'r', '0', '0', extra=sbatch, SUBMIT='no')[1][0].startswith('python')


SBATCH = """#!/usr/bin/env bash
while [ "$1" != --wrap ]; do shift; done
cd / && SLURM_JOB_ID=123456 SLURM_JOB_NODELIST=n[1-2] CUDA_VISIBLE_DEVICES=4,5,6,7 exec sh -c "$2"
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* || $1 == 1 ]]; do shift; done
SLURM_NODEID=1 "$@"
"""
SCONTROL = """#!/usr/bin/env bash
[ "$1" = requeue ] && echo "requeue $2" >>"$RECORD" || printf 'n1\\nn2\\n'
"""


def test_a_job_of_several_nodes(shell):
    """Slurm starts a copy elsewhere, and chooses the GPUs.

    Training runs on all nodes, testing on the first.
    """
    slurm = {'sbatch': SBATCH, 'srun': SRUN, 'scontrol': SCONTROL}
    code, calls, error = shell('sub.sh', 'my run', '0,1', '0', 'task=COD', extra=slurm, NNODES='2')
    assert code == 0, error
    assert calls == [
        'python CUDA=4,5 -m runtime.launch '
        '--nnodes 2 --node-rank 1 --master-addr n1 --master-port 23456 --nproc-per-node 2 '
        'train.py --ckpt_dir ckpts/my run task=COD resume=auto device=cuda',
        'python CUDA=4 test.py task=COD pred_root=e_preds --ckpt_folder ckpts/my run '
        '--resolution config device=cuda',
        'python CUDA=4,5,6,7 eval_existingOnes.py --pred_root e_preds '
        '--ckpt_folder ckpts/my run task=COD',
    ]
    # Ended by a signal to the processes alone, as when the user cancels the job: not put into the
    # queue again.
    code, calls, _ = shell('sub.sh', 'r', '0', '0', extra=slurm, fail='train.py', code=75)
    assert (code, len(calls)) == (75, 1)


def test_usage_without_arguments(shell):
    for script in ('sub.sh', 'train.sh', 'test.sh'):
        code, calls, error = shell(script)
        assert (code, calls) == (2, [])
        assert f'./{script}' in error


@pytest.mark.parametrize('command', [
    ('sub.sh', 'run'),
    ('sub.sh', 'run', 'cpu', 'task=COD'),
    ('sub.sh', 'run', 'task=COD'),
    ('train.sh', 'run', 'task=COD'),
    ('train.sh', 'run', '0;1'),
    ('train.sh', '', 'cpu'),
    ('sub.sh', '', 'cpu'),
    ('test.sh', 'task=COD'),
], ids=' '.join)
def test_a_missing_argument_is_refused(shell, command):
    code, calls, error = shell(*command)
    assert (code, calls) == (2, [])
    assert f'./{command[0]} ' in error


@pytest.mark.parametrize('script', ['sub.sh', 'train_test.sh'])
def test_masks_are_made_on_the_first_gpu_of_training_unless_another_is_named(shell, script):
    code, calls, _ = shell(script, 'run', '2')
    assert code == 0
    assert [call.split()[1] for call in calls[:2]] == ['CUDA=2', 'CUDA=2']
    _, calls, _ = shell(script, 'run', '3,1')
    assert calls[0].startswith('python CUDA=3,1 ')
    assert calls[1].startswith('python CUDA=3 test.py')


def test_a_folder_of_masks_is_passed_on(shell):
    for command in (('sub.sh', 'r', 'cpu', 'cpu', 'pred_root=my masks'),
                    ('test.sh', 'cpu', '--ckpt_folder', 'ckpts/r', 'pred_root=my masks')):
        _, calls, _ = shell(*command)
        assert 'test.py pred_root=my masks --ckpt_folder ckpts/r' in calls[-2]
        assert 'eval_existingOnes.py --pred_root my masks --ckpt_folder ckpts/r' in calls[-1]


def test_scripts_run_through_a_link_from_another_folder(shell, tmp_path):
    (tmp_path / 'links').mkdir()
    for name in ('sub.sh', 'train.sh', 'test.sh', 'train_test.sh'):
        (tmp_path / 'links' / name).symlink_to(tmp_path / name)
    assert len(shell('links/sub.sh', 'r', 'cpu', 'cpu')[1]) == 3
    assert len(shell('links/train_test.sh', 'r', 'cpu')[1]) == 3
    assert len(shell('links/train.sh', 'r', 'cpu')[1]) == 1
    assert len(shell('links/test.sh', 'cpu', '--ckpt_folder', 'ckpts/r')[1]) == 2


def test_a_clone_has_the_line_ends_of_unix(tmp_path):
    """As git checks out where it is set to Windows' line ends."""
    rules = (ROOT / '.gitattributes').read_text()
    (tmp_path / '.gitattributes').write_text(rules)
    (tmp_path / 'a.sh').write_bytes(b'echo\n')
    (tmp_path / 'a.png').write_bytes(b'a\r\nb\n')

    def git(*words: str) -> None:
        subprocess.run(['git', '-c', 'core.autocrlf=true', *words], cwd=tmp_path, check=True,
                       capture_output=True)

    git('init')
    git('add', '.')
    for name in ('a.sh', 'a.png'):
        (tmp_path / name).unlink()
    git('checkout-index', '--all', '--force')
    assert (tmp_path / 'a.sh').read_bytes() == b'echo\n'
    assert (tmp_path / 'a.png').read_bytes() == b'a\r\nb\n'
