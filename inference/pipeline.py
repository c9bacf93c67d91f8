"""Runs decoding, network and encoding at the same time.

Threads load ahead of the one thread that runs the network, and save behind it.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

DEFAULT_WORKERS = min(8, os.cpu_count() or 1)


class Outcome(NamedTuple):
    """What became of an item: the `value` that `save` returned, or the `error` of any step."""

    item: Any
    value: Any = None
    error: Exception | None = None


class _Pending(NamedTuple):
    """An item that is being loaded or saved in a thread."""

    item: Any
    future: Future

    def wait(self) -> Outcome:
        try:
            return Outcome(self.item, self.future.result())
        except Exception as error:
            return Outcome(self.item, error=error)


class _Sample(NamedTuple):
    """A loaded item."""

    item: Any
    array: Any
    context: Any


class _Batch(NamedTuple):
    """Samples of one shape, and the items before them that failed to load."""

    samples: list[_Sample]
    failures: list[Outcome]


class _Output(NamedTuple):
    """A sample with the network's output, or with the error of the network."""

    sample: _Sample
    value: Any = None
    error: Exception | None = None


def run_pipeline(
    items: Iterable[Any],
    load: Callable[[Any], tuple[Any, Any]],
    network: Callable[[list[Any]], Iterable[Any]],
    save: Callable[[Any, Any, Any], Any],
    *,
    workers: int = DEFAULT_WORKERS,
    batch: int = 1,
) -> Generator[Outcome, None, None]:
    """Loads items, runs a network on them in batches, and saves its outputs.

    Up to 2 * workers + batch items are between `load` and `network`, and 2 * workers between
    `network` and the caller. A batch that fails is tried again one by one, because it may only be
    too large for the memory. To stop early, close the generator.

    Args:
        items: what to load, in order.
        load: called in the threads as load(item); returns an array with a `shape`, and a context
            of any type for `save`.
        network: called in the calling thread, in the order of the items, with up to `batch`
            consecutive arrays of one shape; returns as many outputs.
        save: called in the threads as save(item, context, output).
        workers: threads.
        batch: arrays that go through the network together.

    Yields:
        One Outcome for each item, soon after it is saved or has failed. An error in any step
        belongs to its item, and the other items go on.
    """
    pool = ThreadPoolExecutor(workers, 'pipeline')
    saving: deque[_Pending] = deque()
    try:
        loading = _submit_ahead(pool, load, items, count=2 * workers + batch)
        for samples, failures in _batches(loading, batch):
            yield from failures
            for sample, value, error in _run(network, samples):
                if error is None:
                    future = pool.submit(save, sample.item, sample.context, value)
                    saving.append(_Pending(sample.item, future))
                else:
                    yield Outcome(sample.item, error=error)
            while saving and (len(saving) > 2 * workers or saving[0].future.done()):
                yield saving.popleft().wait()
        while saving:
            yield saving.popleft().wait()
    finally:
        pool.shutdown(cancel_futures=True)


def values_of(outcomes: Iterable[Outcome]) -> Iterator[Any]:
    """Yields the value of each outcome, and raises the first error."""
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
        yield outcome.value


def _submit_ahead(
    pool: ThreadPoolExecutor,
    load: Callable[[Any], Any],
    items: Iterable[Any],
    count: int,
) -> Iterator[_Pending]:
    """Yields the items being loaded, in order, `count` of them submitted ahead."""
    pending: deque[_Pending] = deque()
    for item in items:
        pending.append(_Pending(item, pool.submit(load, item)))
        if len(pending) == count:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _batches(loading: Iterator[_Pending], max_samples: int) -> Iterator[_Batch]:
    """Gathers up to `max_samples` consecutive samples of one shape."""
    samples: list[_Sample] = []
    failures: list[Outcome] = []
    for pending in loading:
        loaded = pending.wait()
        if loaded.error is not None:
            failures.append(loaded)
            continue

        array, context = loaded.value
        if samples and samples[0].array.shape != array.shape:
            yield _Batch(samples, failures)
            samples, failures = [], []
        samples.append(_Sample(loaded.item, array, context))
        if len(samples) == max_samples:
            yield _Batch(samples, failures)
            samples, failures = [], []
    yield _Batch(samples, failures)


def _run(
    network: Callable[[list[Any]], Iterable[Any]],
    samples: list[_Sample],
) -> Iterator[_Output]:
    """Runs the network on all samples together or, if that fails, on each alone."""
    if not samples:
        return
    arrays = [sample.array for sample in samples]
    try:
        outputs = network(arrays)
    except Exception as error:
        if len(samples) == 1:
            yield _Output(samples[0], error=error)
            return
        for sample in samples:
            yield from _run(network, [sample])
        return
    for sample, output in zip(samples, outputs, strict=True):
        yield _Output(sample, output)
