"""What several test modules share."""

import os
import signal
from collections.abc import Generator, Iterator

import pytest
import torch
from hypothesis import settings

from utils import printable

# Whether a change is good does not depend on luck: the examples are the same in each run. Searching
# on purpose draws others (tests/test_fuzz.py).
settings.register_profile('repeatable', derandomize=True)
if 'FUZZ_EXAMPLES' not in os.environ:
    settings.load_profile('repeatable')

# For the processes that tests start: torch in this one has read it by now.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# Under nohup SIGHUP is ignored, here and in all that is started from here.
if hasattr(signal, 'SIGHUP'):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Makes captured names that are no UTF-8 printable: xdist sends reports as UTF-8."""
    report = yield
    report.sections = [(title, printable(text)) for title, text in report.sections]
    return report


@pytest.fixture(scope='module')
def one_thread() -> Iterator[None]:
    """Tiny networks on one thread. Beside other work, several would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
