"""The one seam through which independent parts of a run go: to an executor, or one after the other in this process."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from types import TracebackType
from typing import Any

from thetabox.errors import InputError, in_one_line
from thetabox.workers.cluster import cluster_of, lives, scattered
from thetabox.workers.local import WhereItPays, WorkersLost
from thetabox.workers.pickled import pickled, unpickled
from thetabox.workers.remote import DONE, FAILED, LOST, MISSING, MOST_SAID, versions, work

Function = Callable[[Any, Any], Any]
"""(what all jobs read, job) → result."""

# Jobs that wait at the executor for each of its workers, so that none is idle while results are read.
AHEAD = 2
# Workers of an executor that does not say how many it has.
UNTOLD = 16
# Times that one job may be lost with the workers that held what it reads.
LOSSES = 3
# Seconds between two looks at the time and the keyboard.
LOOK = 0.2


def check_executor(executor: Any) -> None:
    """Raise unless jobs can be given to it.

    Raises:
        InputError: it is no executor.
    """
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise InputError(
            f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}; of a Dask client it is "
            "client.get_executor()"
        )


class Pool:
    """Jobs of one run, and what all of them read.

    Leave it to cancel what is still open. Without an executor jobs are done one after the other as results are asked
    for, in the order in which they were added.

    Args:
        executor: where jobs run; ``None`` for this process.
        context: what every job reads; sent to each worker once.

    Raises:
        InputError: on leaving or reading: workers were lost, run other versions, or cannot be sent the context.

    Example:
        >>> with Pool(None, 10) as pool:
        ...     tags = [pool.add(lambda context, job: context * job, job) for job in (1, 2)]
        ...     dict(pool.answers())
        {0: 10, 1: 20}
    """

    def __init__(self, executor: Executor | None, context: Any) -> None:
        self._executor, self._context = executor, context
        self._here = executor is None or isinstance(executor, WhereItPays)
        self._queue: deque[tuple[int, Function, Any]] = deque()
        self._sent: dict[Future[Any], _Sent] = {}
        self._served: set[str] = set()
        self._added = self._done = 0
        self._spent = 0.0
        self._data: bytes | None = None
        self._bytes: Any = None
        self._key = ""

    @property
    def several(self) -> bool:
        """Whether jobs may run at the same time."""
        return self._executor is not None

    def add(self, function: Function, job: Any) -> int:
        """Give a job; returns its number.

        Args:
            function: of the context and the job, importable by name.
            job: what it is to do.
        """
        self._queue.append((self._added, function, job))
        self._added += 1
        return self._added - 1

    def answers(self, check: Callable[[], None] | None = None) -> Iterator[tuple[int, Any]]:
        """Number and result of every job, as they come; more jobs may be added on the way.

        Where it ends before that, the jobs that have no result are forgotten.

        Args:
            check: called before every job in this process and several times a second; may raise.
        """
        try:
            while self._queue or self._sent:
                if check is not None:
                    check()
                if self._here and not self._move_out():
                    yield self._by_this_process()
                else:
                    yield from self._from_workers()
        finally:
            self._drop()

    def _by_this_process(self) -> tuple[int, Any]:
        number, function, job = self._queue.popleft()
        started = time.monotonic()
        result = function(self._context, job)
        self._spent += time.monotonic() - started
        self._done += 1
        return number, result

    def _move_out(self) -> bool:
        """Go on with workers, where that pays."""
        if isinstance(self._executor, WhereItPays) and self._executor.pays(self._spent, self._done, len(self._queue)):
            try:
                self._pickle_context()
            except InputError:
                self._executor = None
                return False
            self._here = False
        return not self._here

    def _from_workers(self) -> Iterator[tuple[int, Any]]:
        """What has come by now."""
        self._send()
        done = wait(self._sent, LOOK, FIRST_COMPLETED).done
        # What was finished is worth having, whatever befell the others.
        for future in sorted(done, key=_failed):
            sent = self._sent.pop(future)
            state, payload = self._outcome(future)
            if state == DONE:
                yield sent.number, unpickled(payload)
            elif state == FAILED:
                raise unpickled(payload)
            elif state == MISSING:
                self._again(sent, payload)
            elif state == LOST:
                self._with_a_new_copy(sent)
            else:
                raise WorkersLost(f"{payload}, and this process {versions()}: install the same on all machines")

    def _again(self, sent: _Sent, worker: str) -> None:
        """Send a job that met a worker without the context, with it unless that is on its way there already."""
        sent.trips += 1
        with_context = worker not in self._served or sent.trips > 2
        self._served.add(worker)
        self._submit(sent, with_context=with_context)

    def _with_a_new_copy(self, sent: _Sent) -> None:
        """Send a job that the scheduler gave up, since the workers that held the context are gone."""
        sent.losses += 1
        if sent.losses > LOSSES or not lives(cluster_of(self._executor)):
            raise _lost(ConnectionError("their scheduler or pool has ended"))
        if sent.context is self._bytes:
            self._scatter()
        self._submit(sent, with_context=False)

    def _send(self) -> None:
        assert self._executor is not None
        while self._queue and len(self._sent) < AHEAD * workers_of(self._executor):
            number, function, job = self._queue.popleft()
            self._submit(_Sent(number, pickled((function, job))), with_context=False)

    def _submit(self, sent: _Sent, *, with_context: bool) -> None:
        assert self._executor is not None
        if self._bytes is None:
            self._pickle_context()
        on_cluster = cluster_of(self._executor) is not None
        context = self._bytes if with_context or on_cluster else None
        sent.context = context
        try:
            self._sent[self._executor.submit(work, versions(), self._key, context, sent.job)] = sent
        except (BrokenExecutor, RuntimeError, OSError) as error:
            raise _lost(error) from error

    def _pickle_context(self) -> None:
        try:
            self._data = pickled(self._context)
        except Exception as error:
            raise InputError(
                f"the network cannot be sent to other processes ({in_one_line(error, MOST_SAID)}); run it in one, "
                "with no executor (--workers 1)"
            ) from error
        self._key = hashlib.sha256(self._data).hexdigest()
        self._scatter()

    def _scatter(self) -> None:
        assert self._executor is not None
        assert self._data is not None
        try:
            self._bytes = scattered(self._executor, self._data)
        except OSError as error:
            raise _lost(error) from error

    def _outcome(self, future: Future[Any]) -> tuple[str, Any]:
        try:
            state, payload = future.result()
            return state, payload
        except WorkersLost:
            raise
        except CancelledError:
            return LOST, b""
        except (BrokenExecutor, OSError) as error:
            raise _lost(error) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "distributed":
                raise _lost(error) from error
            raise

    def _drop(self) -> None:
        for future in self._sent:
            future.cancel()
        self._sent.clear()
        self._queue.clear()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()


class _Sent:
    """A job that is away, and with what it was sent."""

    def __init__(self, number: int, job: bytes) -> None:
        self.number, self.job, self.trips, self.losses = number, job, 0, 0
        self.context: Any = None


def _failed(future: Future[Any]) -> bool:
    return future.cancelled() or future.exception() is not None or future.result()[0] not in (DONE, MISSING)


def workers_of(executor: Executor) -> int:
    """How many jobs it runs at a time, as far as it says so."""
    client = cluster_of(executor)
    if client is not None:
        threads = client.nthreads().values() if client.status == "running" else ()
        return max(1, len(threads))
    count = getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) and count > 0 else UNTOLD


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lost(error: BaseException) -> WorkersLost:
    return WorkersLost(
        f"the workers are gone ({in_one_line(error, MOST_SAID)}); the same again goes on from the parts that they had "
        "finished, where those are kept (resume=, --out)"
    )
