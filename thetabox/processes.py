"""Independent jobs in processes of their own, one thread each, with their progress reported while they run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing.managers import SyncManager
from multiprocessing.process import BaseProcess
from queue import Empty, Queue
from typing import Any, TypeVar

from thetabox.errors import Terminated

Job = TypeVar("Job")
Result = TypeVar("Result")

# Called in the parent with (number of the job, what it does, share of that done).
Event = Callable[[int, str, float], None]
# Called in a job: tell("training") returns a function of (done, total).
Tell = Callable[[str], Callable[[int, int], None]]

# Seconds that jobs get after Ctrl-C to keep what they have.
GRACE = 20.0


def run_all(
    function: Callable[[Job, Tell], Result], jobs: Sequence[Job], processes: int, on_event: Event
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
    manager.start(end_with_parent)
    with manager:
        queue = manager.Queue()
        workers = max(1, min(processes, len(jobs)))
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
        futures: list[Future[Result]] = []
        try:
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
            for future in futures:
                future.cancel()
            if isinstance(error, KeyboardInterrupt):  # the jobs had it too, where a terminal sent it to all
                if isinstance(error, Terminated):
                    _interrupt(list((pool._processes or {}).values()))
                wait([future for future in futures if not future.cancelled()], timeout=GRACE)
            for process in list((pool._processes or {}).values()):
                process.terminate()
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


def _follow(queue: Queue[tuple[int, str, float]], on_event: Event) -> None:
    while True:
        try:
            event = queue.get_nowait()
        except Empty:
            return
        on_event(*event)


def _one(function: Callable[[Any, Tell], Any], index: int, job: Any, queue: Queue[tuple[int, str, float]]) -> Any:
    import torch

    torch.set_num_threads(1)

    def tell(phase: str) -> Callable[[int, int], None]:
        queue.put((index, phase, 0.0))
        return lambda done, total: queue.put((index, phase, done / total))

    return function(job, tell)
