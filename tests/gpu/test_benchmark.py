"""benchmarks/gpu.py, on the CPU: each part gives a line, whatever becomes of the others."""

import json

import pytest
import torch

from benchmarks import gpu

SMALL = '--device cpu --size 64x64 --backbones pvt_v2_b0 --runs 1 --train-batch 1'.split()


def names_and_lines(path) -> dict[str, dict]:
    return {line['case']: line for line in map(json.loads, path.read_text().splitlines())}


@pytest.mark.slow
def test_prints_and_keeps_a_line_for_each_case(one_thread, tmp_path, capsys):
    file = tmp_path / 'gpu.jsonl'
    cases = '--dtypes bf16 --batches 1 --compiled without'.split()
    assert gpu.main([*SMALL, *cases, '--json', str(file)]) == 0
    lines = names_and_lines(file)
    assert list(lines) == [
        'pvt_v2_b0 plain float32 batch 1',
        'pvt_v2_b0 optimize bf16 batch 1',
        'pvt_v2_b0 train bf16 batch 1',
        'pvt_v2_b0 train bf16 batch 1 grad_checkpointing',
    ]
    assert all(line['ms'] > 0 for line in lines.values())
    output = capsys.readouterr().out
    assert all(name in output for name in lines)
    assert '1.00x' in output


@pytest.mark.slow
def test_goes_on_after_a_failure(monkeypatch, tmp_path, capsys):
    def prepare(case, size, device):
        if case.variant == 'plain':
            raise torch.OutOfMemoryError('no memory left\nand much more')
        return lambda: None

    monkeypatch.setattr(gpu, 'prepare', prepare)
    file = tmp_path / 'gpu.jsonl'
    assert gpu.main([*SMALL, '--parts', 'inference', '--batches', '1', '--json', str(file)]) == 0
    lines = names_and_lines(file)
    failed = lines.pop('pvt_v2_b0 plain float32 batch 1')
    assert failed['error'] == 'OutOfMemoryError: no memory left'
    assert all('ms' in line for line in lines.values())
    assert 'no memory left' in capsys.readouterr().out


@pytest.mark.parametrize(('seconds', 'code'), [
    ('-1', 1),
    pytest.param('60', 0, marks=pytest.mark.slow),
])
def test_begins_nothing_when_its_time_is_over(monkeypatch, seconds, code, capsys):
    monkeypatch.setattr(gpu, 'prepare', lambda *_: lambda: None)
    assert gpu.main([*SMALL, '--seconds', seconds]) == code
    assert ('left out' in capsys.readouterr().out) == bool(code)


def test_compiled_cases_come_with_what_they_are_compared_with():
    parts = ['inference', 'training']
    cases = list(gpu.list_cases(parts, ['swin_v1_t'], list(gpu.DTYPES), [1, 4], 2))
    only = [case for case in cases if gpu.is_wanted(case, 'only')]
    assert {case.reference for case in only} <= set(only)
    assert sum(case.compiled for case in only) == sum(case.compiled for case in cases) == 8
    assert not any(case.compiled for case in cases if gpu.is_wanted(case, 'without'))
