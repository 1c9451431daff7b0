"""Processes of this machine, one thread each, that are replaced when they die."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from thetabox.errors import InputError
from thetabox.processes import ctrl_c_held_back, end_with_parent

# Processes that may die with nothing finished in between, before the run is given up.
MOST_LOST = 4
# Seconds of work in this process before others are started, and that must be left by then: a start takes two to four.
TRIAL, LEFT = 5.0, 20.0


class WorkersLost(InputError):
    """The workers of a run went away, or are of no use."""


class LocalProcesses(Executor):
    """An executor of so many processes on this machine; what a process that died was at is done again by another.

    Args:
        workers: processes.

    Raises:
        InputError: fewer than one.

    Example:
        >>> with LocalProcesses(1) as executor:  # as executor=executor of whatever takes one
        ...     executor.submit(pow, 2, 5).result()
        32
    """

    def __init__(self, workers: int) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InputError(f"workers is {workers!r}; it must be a whole number, at least 1")
        self._max_workers = workers
        self._lock = threading.RLock()
        self._pool: ProcessPoolExecutor | None = None
        self._lost = 0
        self._closed = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        outer: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._start(outer, function, args, kwargs)
        return outer

    def _start(self, outer: Future[Any], function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        while True:
            pool = self._running()
            try:
                with ctrl_c_held_back():  # by processes that this may start
                    inner = pool.submit(function, *args, **kwargs)
                break
            except BrokenProcessPool:
                self._drop(pool)

        def done(inner: Future[Any]) -> None:
            if outer.cancelled() or inner.cancelled():
                outer.cancel()
                return
            error = inner.exception()
            if isinstance(error, BrokenProcessPool) and self._goes_on(pool):
                with self._lock:
                    self._start(outer, function, args, kwargs)
                return
            if not outer.set_running_or_notify_cancel():
                return
            if error is None:
                self._lost = 0
                outer.set_result(inner.result())
            elif isinstance(error, BrokenProcessPool):
                outer.set_exception(WorkersLost(f"{MOST_LOST} processes died in a row: {REASON}"))
            else:
                outer.set_exception(error)

        inner.add_done_callback(done)

    def _goes_on(self, pool: ProcessPoolExecutor) -> bool:
        with self._lock:
            self._drop(pool)
            return not self._closed and self._lost < MOST_LOST

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        if self._pool is pool:
            self._pool = None
            self._lost += 1

    def _running(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._max_workers, mp_context=context, initializer=_begin)
        return self._pool

    def processes(self) -> list[int]:
        """Their numbers, those that run."""
        with self._lock:
            running = None if self._pool is None else self._pool._processes
            return [] if running is None else [p.pid for p in list(running.values()) if p.pid is not None]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End them, whatever they are at."""
        with self._lock:
            self._closed, pool, self._pool = True, self._pool, None
        if pool is not None:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            if wait:
                for process in processes:
                    process.join()


REASON = (
    "they were killed, as for want of memory (take fewer workers), or the program starts workers as it is imported "
    "(put that below `if __name__ == '__main__':`)"
)


class WhereItPays(LocalProcesses):
    """The same, begun only where enough work is left: until then it is done in the process that asks."""

    def pays(self, spent: float, done: int, left: int) -> bool:
        """Whether to begin.

        Args:
            spent: seconds of the jobs done so far.
            done: those.
            left: jobs that wait.
        """
        if self._max_workers < 2 or left < 2:
            return False
        return self._pool is not None or (done > 0 and spent > TRIAL and spent / done * left > LEFT)


def _begin() -> None:
    """A worker ends when it is told to or its parent is gone."""
    import torch

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    torch.set_num_threads(1)
