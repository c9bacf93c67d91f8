"""Decoding, network and encoding at the same time: threads load ahead and save behind the one thread of the network."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

DEFAULT_WORKERS = min(8, os.cpu_count() or 1)


class Outcome(NamedTuple):
    """What became of an item: `value` is what `save` returned, or `error` what went wrong with this one."""

    item: Any
    value: Any = None
    error: Exception | None = None


class _Sample(NamedTuple):
    item: Any
    array: Any
    note: Any


def run_pipeline(items: Iterable[Any], load: Callable[[Any], tuple[Any, Any]],
                 network: Callable[[list[Any]], Sequence[Any]], save: Callable[[Any, Any, Any], Any], *,
                 workers: int = DEFAULT_WORKERS, batch: int = 1) -> Iterator[Outcome]:
    """Yields one Outcome for each item, soon after it is saved or has failed; stop early by closing the generator.

    `load(item)`, in `workers` threads, gives an array with a `shape` and a note of any kind. `network(arrays)`, in the
    calling thread and in the order of the items, takes up to `batch` arrays of one shape that follow each other and
    gives as many outputs. `save(item, note, output)` runs in the threads again. An exception in any of them belongs to
    its item, others go on; a batch that fails is tried again one by one, for it may only be too large for the memory.
    Up to 2 * workers + batch items are between `load` and `network`, and 2 * workers between `network` and caller.
    """
    pool = ThreadPoolExecutor(workers, 'pipeline')
    saving: deque[tuple[Any, Future]] = deque()
    try:
        for samples, failures in _batches(_submit_ahead(pool, load, items, 2 * workers + batch), batch):
            yield from failures
            for sample, output, error in _run(network, samples):
                if error is None:
                    saving.append((sample.item, pool.submit(save, sample.item, sample.note, output)))
                else:
                    yield Outcome(sample.item, error=error)
            while saving and (len(saving) > 2 * workers or saving[0][1].done()):
                yield _outcome(*saving.popleft())
        while saving:
            yield _outcome(*saving.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _submit_ahead(pool: ThreadPoolExecutor, load: Callable[[Any], Any], items: Iterable[Any],
                  most: int) -> Iterator[tuple[Any, Future]]:
    """Items with their futures, in order, `most` of them submitted before the first is needed."""
    pending: deque[tuple[Any, Future]] = deque()
    for item in items:
        pending.append((item, pool.submit(load, item)))
        if len(pending) == most:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _batches(loading: Iterator[tuple[Any, Future]], most: int) -> Iterator[tuple[list[_Sample], list[Outcome]]]:
    """Samples of one shape that follow each other, up to `most`, with the items that failed to load on the way."""
    samples: list[_Sample] = []
    failures: list[Outcome] = []
    for item, future in loading:
        loaded = _outcome(item, future)
        if loaded.error is not None:
            failures.append(loaded)
            continue
        sample = _Sample(item, *loaded.value)
        if samples and samples[0].array.shape != sample.array.shape:
            yield samples, failures
            samples, failures = [], []
        samples.append(sample)
        if len(samples) == most:
            yield samples, failures
            samples, failures = [], []
    yield samples, failures


def _run(network: Callable[[list[Any]], Sequence[Any]],
         samples: list[_Sample]) -> Iterator[tuple[_Sample, Any, Exception | None]]:
    """Each sample with its output, or with what went wrong."""
    if not samples:
        return
    try:
        outputs = network([sample.array for sample in samples])
    except Exception as error:
        if len(samples) == 1:
            yield samples[0], None, error
        else:
            for sample in samples:
                yield from _run(network, [sample])
        return
    for sample, output in zip(samples, outputs, strict=True):
        yield sample, output, None


def _outcome(item: Any, future: Future) -> Outcome:
    try:
        return Outcome(item, future.result())
    except Exception as error:
        return Outcome(item, error=error)
