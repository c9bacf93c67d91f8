"""The pipeline: order, batches of one shape, failures that stay with their item, bounded memory, overlap."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.pipeline import run_pipeline


def load(item):
    return np.full(item % 3 + 1, item), f'note {item}'


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 4), st.integers(1, 5))
def test_every_item_comes_out_in_order_with_its_own_output(items, workers, batch):
    shapes = []

    def network(arrays):
        shapes.append({a.shape for a in arrays})
        assert len(arrays) <= batch
        return [a * 2 for a in arrays]

    outcomes = list(run_pipeline(items, load, network, lambda item, context, output: (context, output[0]),
                                 workers=workers, batch=batch))
    assert [(o.item, o.value, o.error) for o in outcomes] == [(i, (f'note {i}', 2 * i), None) for i in items]
    assert all(len(s) == 1 for s in shapes)


@pytest.mark.parametrize('stage', ['load', 'network', 'save'])
def test_a_failure_stays_with_its_item(stage):
    def fail(at, value):
        if at == stage and value == 4:
            raise ValueError('four')

    def guarded_load(item):
        fail('load', item)
        return np.array(item), None

    def network(arrays):
        for array in arrays:
            fail('network', array)
        return arrays

    outcomes = list(run_pipeline(range(9), guarded_load, network, lambda item, *_: fail('save', item), batch=3))
    assert {o.item: str(o.error) for o in outcomes if o.error} == {4: 'four'}
    assert sorted(o.item for o in outcomes) == list(range(9))


def test_a_batch_too_large_is_tried_one_by_one():
    def network(arrays):
        if len(arrays) > 1:
            raise RuntimeError('out of memory')
        return arrays

    outcomes = list(run_pipeline(range(4), lambda item: (np.array(item), None), network, lambda *_: None, batch=4))
    assert [o.error for o in outcomes] == [None] * 4


def test_items_are_not_loaded_far_ahead_and_nothing_runs_after_closing():
    loaded, lock = [], threading.Lock()

    def count(item):
        with lock:
            loaded.append(item)
        return np.array(item), None

    outcomes = run_pipeline(range(10_000), count, lambda arrays: arrays, lambda *_: None, workers=2, batch=3)
    next(outcomes)
    outcomes.close()
    assert len(loaded) < 40
    assert not [t for t in threading.enumerate() if t.name.startswith('pipeline')]


def test_decoding_network_and_encoding_overlap():
    """Item 0 is saved and item 7 loaded while the network works on item 1: one at a time, each would wait in vain."""
    together = threading.Barrier(3, timeout=60)

    def load(item):
        if item == 7:  # the first that is loaded when item 0 has left: workers load 2 * 3 + 1 items ahead
            together.wait()
        return np.array(item), None

    def network(arrays):
        if arrays[0] == 1:
            together.wait()
        return arrays

    def save(item, *_):
        if item == 0:
            together.wait()

    outcomes = list(run_pipeline(range(20), load, network, save, workers=3))
    assert [outcome.error for outcome in outcomes] == [None] * 20
