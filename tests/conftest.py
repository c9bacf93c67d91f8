"""What several test modules share."""

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault('OMP_NUM_THREADS', '1')  # for the processes that tests start; torch here has read it by now


@pytest.fixture(scope='module')
def one_thread() -> Iterator[None]:
    """Tiny networks on one thread: where other work runs, several would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
