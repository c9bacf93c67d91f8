"""The pipeline: order, batches of one shape, errors of single items, bounded memory, overlap."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.pipeline import Outcome, run_pipeline


def load(item):
    """Loads arrays of three shapes in turn."""
    return np.full(item % 3 + 1, item), f'context {item}'


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 4), st.integers(1, 5))
def test_every_item_comes_out_in_order_with_its_own_output(items, workers, batch):
    shapes = []

    def network(arrays):
        shapes.append({array.shape for array in arrays})
        assert len(arrays) <= batch
        return [array * 2 for array in arrays]

    def save(item, context, output):
        return context, output[0]

    outcomes = list(run_pipeline(items, load, network, save, workers=workers, batch=batch))
    assert outcomes == [Outcome(item, (f'context {item}', 2 * item)) for item in items]
    assert all(len(together) == 1 for together in shapes)


@pytest.mark.parametrize('stage', ['load', 'network', 'save'])
def test_a_failure_stays_with_its_item(stage):
    def fail(at, value):
        if at == stage and value == 4:
            raise ValueError('four')

    def load(item):
        fail('load', item)
        return np.array(item), None

    def network(arrays):
        for array in arrays:
            fail('network', array)
        return arrays

    def save(item, *_):
        fail('save', item)

    outcomes = list(run_pipeline(range(9), load, network, save, batch=3))
    assert {o.item: str(o.error) for o in outcomes if o.error} == {4: 'four'}
    assert sorted(o.item for o in outcomes) == list(range(9))


def load_number(item):
    return np.array(item), None


def discard(*_):
    """Saves nothing."""


def test_a_batch_too_large_is_tried_one_by_one():
    def network(arrays):
        if len(arrays) > 1:
            raise RuntimeError('out of memory')
        return arrays

    outcomes = list(run_pipeline(range(4), load_number, network, discard, batch=4))
    assert [o.error for o in outcomes] == [None] * 4


def test_items_are_not_loaded_far_ahead_and_nothing_runs_after_closing():
    loaded, lock = [], threading.Lock()

    def count(item):
        with lock:
            loaded.append(item)
        return load_number(item)

    outcomes = run_pipeline(
        range(10_000), count, lambda arrays: arrays, discard, workers=2, batch=3)
    next(outcomes)
    outcomes.close()
    assert len(loaded) < 40
    assert not [t for t in threading.enumerate() if t.name.startswith('pipeline')]


def test_decoding_network_and_encoding_overlap():
    """Item 0 is saved and item 7 loaded while the network works on item 1.

    One at a time, each would wait for the others in vain.
    """
    together = threading.Barrier(3, timeout=60)

    def load(item):
        # Workers load 2 * 3 + 1 items ahead: item 7 is loaded when item 0 has left.
        if item == 7:
            together.wait()
        return load_number(item)

    def network(arrays):
        if arrays[0] == 1:
            together.wait()
        return arrays

    def save(item, *_):
        if item == 0:
            together.wait()

    outcomes = list(run_pipeline(range(20), load, network, save, workers=3))
    assert [outcome.error for outcome in outcomes] == [None] * 20
