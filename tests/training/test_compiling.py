"""What torch.compile reports of parts that it cannot compile."""

import logging

import pytest

from training.compiling import ShortReports

REPORT = """WON'T CONVERT forward /a/base.py line 42
due to:
Traceback (most recent call last):
  File "/a/cpu.py", line 1, in compile
    raise CppCompileError(cmd, output) from e
torch._inductor.exc.InductorError: CppCompileError: C++ compile error

Command:
g++ a.cpp
"""


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord('torch', logging.WARNING, 'a.py', 1, text, None, None)


@pytest.mark.parametrize(('text', 'reason'), [
    (REPORT, 'torch._inductor.exc.InductorError: CppCompileError: C++ compile error'),
    ("WON'T CONVERT forward a.py line 3\ndue to: ?", "WON'T CONVERT forward a.py line 3"),
])
def test_a_failure_is_one_line_for_all_parts(caplog, text, reason):
    reports = ShortReports()
    assert not reports.filter(record(text))
    assert not reports.filter(record(text))
    (entry,) = caplog.records
    assert entry.getMessage().endswith(f'more slowly ({reason})')


def test_other_reports_stay(caplog):
    assert ShortReports().filter(record('recompiles too often'))
    assert not caplog.records
