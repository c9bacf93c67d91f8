"""A process pool that reports which task a worker died on, and leaves no worker behind.

Each worker has one task at a time. `concurrent.futures` reports only that the pool is broken.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import cv2

from runtime.processes import TERMINAL_SIGNALS, blocked_signals, shorten_socket_paths

TaskT = TypeVar('TaskT')
ResultT = TypeVar('ResultT')

# Seconds that a worker has for finishing its task, before it is killed.
PATIENCE = 60


def run(
    function: Callable[[TaskT], ResultT],
    tasks: Iterable[TaskT],
    workers: int,
    describe: Callable[[TaskT], str],
) -> Iterator[tuple[TaskT, ResultT]]:
    """Computes `function(task)` for all tasks. Leaving the loop, by Ctrl-C too, ends all workers.

    Args:
        function: An importable function.
        tasks: Its arguments.
        workers: Processes; below 2 this process works through the tasks in order.
        describe: What to call a task in a message.

    Yields:
        (task, result) as they finish.

    Raises:
        ValueError: As raised by the function.
        RuntimeError: Naming the task, for any other exception or a worker's death.
    """
    if workers < 2:
        yield from _run_here(function, tasks)
        return

    pending = iter(tasks)
    connections: dict[Connection, BaseProcess] = {}
    current: dict[Connection, TaskT] = {}
    context = multiprocessing.get_context('spawn')
    shorten_socket_paths()
    try:
        # A worker for each of the first tasks.
        for _, task in zip(range(workers), pending, strict=False):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, function), daemon=True)
            # Ctrl-C would end it in the midst of its imports, with a traceback.
            with blocked_signals(TERMINAL_SIGNALS):
                process.start()
            theirs.close()
            connections[ours] = process
            current[ours] = task
            ours.send(task)

        # Whoever is done gets the next task.
        while current:
            ready: list[Any] = wait(list(current))  # connections like those given
            for connection in ready:
                task = current.pop(connection)
                worker = connections[connection]
                yield task, _receive(connection, worker, describe(task))
                following = next(pending, None)
                if following is not None:
                    current[connection] = following
                    connection.send(following)
    finally:
        _end(connections)


def _run_here(
    function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT],
) -> Iterator[tuple[TaskT, ResultT]]:
    """Works in this process, without OpenCV's threads: one worker is one core here too."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for task in tasks:
            yield task, function(task)
    finally:
        cv2.setNumThreads(threads)


def _end(connections: dict[Connection, BaseProcess]) -> None:
    """Lets each worker finish its task, so that no file stays half-written, and waits for it."""
    for connection in connections:
        connection.close()
    for process in connections.values():
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


def _receive(connection: Connection, process: BaseProcess, name: str) -> Any:
    try:
        result, error = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        raise RuntimeError(
            f'{name}: the worker process died (exit code {process.exitcode}); '
            'if it ran out of memory, use fewer workers') from None
    if isinstance(error, ValueError):
        raise error
    if error:
        raise RuntimeError(f'{name}: {error}')
    return result


def _serve(connection: Connection, function: Callable) -> None:
    """Works until the other end of the connection closes."""
    # Ctrl-C and a scheduler's SIGTERM reach all processes. The parent's end closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)

    # Errors travel as text: not every exception can be pickled.
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):
            return
        answer: tuple[Any, ValueError | str | None]
        try:
            answer = function(task), None
        except ValueError as error:
            answer = None, ValueError(str(error))
        except Exception:
            answer = None, traceback.format_exc()
        try:
            connection.send(answer)
        except ConnectionError:
            return
