"""Jobs go to an executor and answers come back, whatever becomes of the workers."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from thetabox.errors import InputError, UnsupportedOperator
from thetabox.workers import LocalProcesses, Pool, WhereItPays, WorkersLost, check_executor, cores, local, pool, remote
from thetabox.workers.pickled import pickled, unpickled

CONTEXT = {"factor": 3}


def times(context: dict[str, int], job: int) -> int:
    return context["factor"] * job


def where(context: object, job: int) -> tuple[int, int, int]:
    return job, os.getpid(), torch.get_num_threads()


def fails(context: object, job: str) -> None:
    raise {"input": InputError, "operator": UnsupportedOperator, "value": ValueError}[job](f"{job}: so it is")


class Strange(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fails_strangely(context: object, job: int) -> None:
    raise Strange(1, 2)


def dies_once(context: object, file: Path) -> str:
    if not file.exists():
        file.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def dies(context: object, job: int) -> None:
    if job == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def sleeps(context: object, job: float) -> float:
    time.sleep(job)
    return job


def over(started: float) -> None:
    if time.monotonic() > started + 4.0:
        raise TimeoutError


def answers(executor: Executor | None, function: Any, jobs: list[Any], context: Any = CONTEXT) -> list[Any]:
    with Pool(executor, context) as working:
        numbers = [working.add(function, job) for job in jobs]
        found = dict(working.answers())
    assert sorted(found) == numbers
    return [found[number] for number in numbers]


def test_without_an_executor_jobs_are_done_in_order_as_they_are_asked_for() -> None:
    seen = []
    with Pool(None, CONTEXT) as working:
        for job in (1, 2):
            working.add(lambda context, job: seen.append(job), job)
        for number, _ in working.answers():
            assert seen == list(range(1, number + 2))
            if number == 0:
                working.add(lambda context, job: seen.append(job), 3)
    assert seen == [1, 2, 3]


@pytest.mark.slow
def test_workers_answer_what_this_process_does(two: LocalProcesses) -> None:
    jobs = list(range(20))
    assert answers(two, times, jobs) == answers(None, times, jobs)
    assert answers(two, times, jobs, {"factor": 5}) == [5 * job for job in jobs]  # another context after the first


def test_a_worker_has_one_thread_and_is_another_process(two: LocalProcesses) -> None:
    found = answers(two, where, [0, 1, 2])
    assert all(process != os.getpid() and threads == 1 for _, process, threads in found)


def test_jobs_may_follow_from_answers(two: LocalProcesses) -> None:
    with Pool(two, CONTEXT) as working:
        working.add(times, 1)
        found = []
        for _, answer in working.answers():
            found.append(answer)
            if answer < 100:
                working.add(times, answer)
    assert found == [3, 9, 27, 81, 243]


@pytest.mark.parametrize(
    ("job", "kind"), [("input", InputError), ("operator", UnsupportedOperator), ("value", ValueError)]
)
def test_an_error_comes_back_as_it_was(two: LocalProcesses, job: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"^{job}: so it is$"):
        answers(two, fails, [job])


def test_an_error_that_cannot_travel_is_told_in_words(two: LocalProcesses) -> None:
    with pytest.raises(RuntimeError, match=r"^Strange: 1 and 2$"):
        answers(two, fails_strangely, [1])


class AtOnce(Executor):
    """All that was given is done before anybody asks."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def test_what_was_finished_comes_before_an_error() -> None:
    with Pool(AtOnce(), CONTEXT) as working:
        working.add(fails, "value")
        good = working.add(times, 1)
        coming = working.answers()
        assert next(coming)[0] == good
        with pytest.raises(ValueError, match="so it is"):
            next(coming)


def both_hold(two: LocalProcesses, context: Any) -> None:
    """Jobs until each of the two has done one, so that each has the context, however busy the machine is."""
    met: set[int] = set()
    while len(met) < 2:
        met |= {process for _, process, _ in answers(two, where, [0, 1, 2, 3], context)}


def test_the_context_goes_to_a_worker_once(two: LocalProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    submit = two.submit

    def noted(function: Any, *args: Any) -> Future[Any]:
        sent.append(args[2] is not None)
        return submit(function, *args)

    monkeypatch.setattr(two, "submit", noted)
    answers(two, times, list(range(40)), {"factor": 7})
    # As a rule 2; on a busy machine jobs meet other workers than the one that lacked it.
    assert 1 <= sum(sent) < len(sent) // 2
    both_hold(two, {"factor": 7})
    sent.clear()
    answers(two, times, list(range(40)), {"factor": 7})
    assert sum(sent) == 0


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_part_done_again(tmp_path: Path) -> None:
    with LocalProcesses(2) as executor:
        assert answers(executor, dies_once, [tmp_path / "a", tmp_path / "b"]) == ["done", "done"]
        assert answers(executor, times, [1, 2]) == [3, 6]


@pytest.mark.slow
def test_a_part_that_kills_every_worker_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MOST_LOST", 2)
    with LocalProcesses(1) as executor, pytest.raises(WorkersLost, match="2 processes died in a row") as caught:
        answers(executor, dies, [0])
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_executors_of_the_standard_library() -> None:
    with ThreadPoolExecutor(3) as threads:
        assert answers(threads, times, list(range(9))) == [3 * job for job in range(9)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert answers(processes, times, [1, 2]) == [3, 6]
        with pytest.raises(WorkersLost, match="the workers are gone"):
            answers(processes, dies, [0])
        with pytest.raises(WorkersLost, match="the workers are gone"):  # and stay so
            answers(processes, times, [1])


@pytest.mark.slow
def test_the_executor_of_joblib() -> None:
    loky = pytest.importorskip("joblib.externals.loky", reason="joblib is not installed")
    executor = loky.get_reusable_executor(max_workers=1)
    try:
        assert answers(executor, times, [1, 2]) == [3, 6]
        with pytest.raises(WorkersLost, match="the workers are gone"):
            answers(executor, dies, [0])
    finally:
        executor.shutdown(kill_workers=True)


@pytest.mark.slow
def test_leaving_ends_what_is_away() -> None:
    started = time.monotonic()
    with LocalProcesses(1) as executor, Pool(executor, None) as working:
        for _ in range(5):
            working.add(sleeps, 60.0)
        with pytest.raises(TimeoutError):
            for _ in working.answers(lambda: over(started)):
                pass
    assert time.monotonic() - started < 30.0
    assert executor.processes() == []


def test_what_cannot_be_sent_is_one_line() -> None:
    with (
        LocalProcesses(1) as executor,
        pytest.raises(InputError, match=r"cannot be sent to other processes .*--workers 1"),
    ):
        answers(executor, times, [1], {"factor": (number for number in range(3))})


@pytest.mark.slow
def test_what_a_worker_cannot_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalProcesses(1) as executor:
        answers(executor, times, [1])  # it runs, and will not see the module
        (tmp_path / "only_here.py").write_text("class Net:\n    factor = 3\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        context = importlib.import_module("only_here").Net()
        told = r"cannot read the network \(ModuleNotFoundError.*path/to/file\.py:Class"
        with pytest.raises(WorkersLost, match=told) as caught:
            answers(executor, times, [1], context)
    assert "\n" not in str(caught.value)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "versions", lambda: "thetabox 0.0.0, torch 1.0")
    with ThreadPoolExecutor(1) as executor, pytest.raises(WorkersLost, match="install the same on all machines"):
        answers(executor, times, [1])


def alone(context: list[int], job: int) -> int:
    context.append(job)
    time.sleep(0.2)
    return context.pop() if context == [job] else -1


def test_one_job_at_a_time_in_a_process() -> None:
    """Settings of torch and the domains at hand belong to one job, however many threads a worker has."""
    with ThreadPoolExecutor(3) as executor:
        assert answers(executor, alone, [1, 2, 3], []) == [1, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is glibc's")
def test_memory_is_held_where_a_nanny_has_it_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    library = SimpleNamespace(mallopt=lambda *args: called.append(args))
    monkeypatch.setattr(remote, "ctypes", SimpleNamespace(CDLL=lambda name: library))
    for set_by_nanny in (False, True):
        monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
        if set_by_nanny:
            monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
        remote._hold_memory.cache_clear()
        remote.work(remote.versions(), "a", pickled("a"), pickled((where, 1)))
        assert bool(called) == set_by_nanny
    remote._hold_memory.cache_clear()


def test_few_contexts_are_kept() -> None:
    for key in "abc":
        assert remote.work(remote.versions(), key, pickled(key), pickled((where, 1)))[0] == remote.DONE
    assert remote.work(remote.versions(), "a", None, pickled((where, 1)))[0] == remote.MISSING
    state, found = remote.work(remote.versions(), "c", None, pickled((where, 1)))
    assert state == remote.DONE
    assert isinstance(found, bytes)
    assert unpickled(found)[0] == 1


@pytest.mark.slow
def test_processes_are_begun_only_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    with WhereItPays(2) as executor:
        found = answers(executor, where, list(range(6)))
        assert {process for _, process, _ in found} == {os.getpid()}
        assert executor.processes() == []
        monkeypatch.setattr(local, "TRIAL", -1.0)
        monkeypatch.setattr(local, "LEFT", -1.0)
        found = answers(executor, where, list(range(6)))
        assert found[0][1] == os.getpid() or found[0][1] in executor.processes()
        assert {process for _, process, _ in found[1:]} <= set(executor.processes())
        # What cannot be sent goes on here.
        odd = {"factor": (number for number in range(3))}
        assert [process for _, process, _ in answers(executor, where, [1, 2, 3], odd)] == [os.getpid()] * 3
    assert not WhereItPays(1).pays(1e9, 1, 100)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_a_number_of_workers_that_is_none(workers: Any) -> None:
    with pytest.raises(InputError, match="workers"):
        LocalProcesses(workers)


@pytest.mark.parametrize("executor", [2, "tcp://host:8786", object()])
def test_what_is_no_executor(executor: Any) -> None:
    with pytest.raises(InputError, match="get_executor"):
        check_executor(executor)


def test_the_cores_of_this_process() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
