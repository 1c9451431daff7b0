"""Independent jobs in processes of their own, one thread each, with their progress reported while they run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.managers import SyncManager
from multiprocessing.process import BaseProcess
from queue import Empty, Queue
from types import FrameType
from typing import Any, TypeVar

from thetabox.errors import Terminated

Job = TypeVar("Job")
Result = TypeVar("Result")

# Called in the parent with (number of the job, what it does, share of that done).
OnEvent = Callable[[int, str, float], None]
# Called in a job: tell("training") returns a function of (done, total).
Tell = Callable[[str], Callable[[int, int], None]]

# Seconds that jobs get after Ctrl-C to keep what they have.
GRACE = 20.0

_ended: Any = None  # of the run that a process of jobs belongs to: whether it has ended


def run_all(
    function: Callable[[Job, Tell], Result], jobs: Sequence[Job], processes: int, on_event: OnEvent
) -> list[Result]:
    """``function(job, tell)`` of every job, in order; the first error ends all of them.

    Args:
        function: importable by name, as are its argument and result.
        jobs: started in this order, so the longest had better come first.
        processes: jobs at a time.
        on_event: called with what the jobs report.
    """
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(_serve)
    with manager:
        queue = manager.Queue()
        # In memory that is shared: the manager may just have been interrupted in the midst of an answer.
        ended = context.RawValue("b", 0)
        workers = max(1, min(processes, len(jobs)))
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(ended,))
        futures: list[Future[Result]] = []
        try:
            with ctrl_c_held_back():  # by processes that this starts
                futures += [pool.submit(_one, function, index, job, queue) for index, job in enumerate(jobs)]
            while wait(futures, timeout=0.2, return_when="FIRST_EXCEPTION").not_done:
                _follow(queue, on_event)
                if any(future.done() and future.exception() for future in futures):
                    break
            _follow(queue, on_event)
            for future in futures:  # the one that failed speaks first, not those that it left waiting
                if future.done():
                    future.result()
            return [future.result() for future in futures]
        except BaseException as error:
            running = list((pool._processes or {}).values())
            begun = [future for future in futures if future.running()]
            ended.value = 1
            # The pool cancels what waits: where others cancel it, the pool's thread ends in an error.
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):  # the jobs had it too, where a terminal sent it to all
                if isinstance(error, Terminated):
                    _interrupt(running)
                wait(begun, timeout=GRACE)
            for process in running:
                process.kill()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _interrupt(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)


def end_with_parent() -> None:
    """End this process when the one that started it is killed, which leaves it no time to say so."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _follow(queue: Queue[tuple[int, str, float]], on_event: OnEvent) -> None:
    while True:
        try:
            event = queue.get_nowait()
        except Empty:
            return
        on_event(*event)


def _serve() -> None:
    """The queue of events outlives the jobs, which tell of themselves to their end; it ends with the parent."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Processes that are started inside do not see Ctrl-C, from their first line on, until they ask for it.

    A terminal sends it to all of them, and one that is still importing would print where.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interruptible() -> Iterator[None]:
    """An end that is asked for inside is one :class:`KeyboardInterrupt`, also where SIGTERM was sent to all."""
    ways = (signal.SIGINT, signal.SIGTERM)

    heard = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if not heard:  # both may come, and what is kept is kept in peace
            heard = True
            raise KeyboardInterrupt

    for way in ways:
        signal.signal(way, interrupt)
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ways)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ways)


def _begin(ended: Any) -> None:
    global _ended
    _ended = ended
    end_with_parent()


def _one(function: Callable[[Any, Tell], Any], index: int, job: Any, queue: Queue[tuple[int, str, float]]) -> Any:
    if _ended.value:  # given to this process before the run ended
        raise KeyboardInterrupt

    import torch

    torch.set_num_threads(1)

    def tell(phase: str) -> Callable[[int, int], None]:
        queue.put((index, phase, 0.0))
        return lambda done, total: queue.put((index, phase, done / total))

    with _interruptible():
        return function(job, tell)
