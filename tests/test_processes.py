"""Jobs in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from thetabox.errors import Terminated
from thetabox.processes import GRACE, Tell, run_all

HERE = Path(__file__)


def double(job: int, tell: Tell) -> int:
    tell("double")(1, 1)
    if job < 0:
        raise ValueError("negative")
    return 2 * job


def sleep(file: Path, tell: Tell) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(600)


def keeps(file: Path, tell: Tell) -> None:
    try:
        file.write_text("begun")
        tell("sleeping")(1, 2)
        time.sleep(600)
    except KeyboardInterrupt:
        file.write_text("kept")
        raise


def silent(index: int, phase: str, share: float) -> None:
    return None


@pytest.mark.slow
def test_answers_come_in_order() -> None:
    seen = []
    assert run_all(double, [3, 1, 2], 2, lambda *event: seen.append(event)) == [6, 2, 4]
    assert sorted(seen) == [(i, "double", share) for i in range(3) for share in (0.0, 1.0)]


@pytest.mark.slow
def test_the_first_error_ends_all() -> None:
    with pytest.raises(ValueError, match="negative"):
        run_all(double, [1, -1, 2], 1, silent)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")
def test_jobs_hear_of_a_termination_that_reached_the_parent_alone(tmp_path: Path) -> None:
    def terminated(index: int, phase: str, share: float) -> None:
        if share > 0:
            raise Terminated

    started = time.monotonic()
    with pytest.raises(Terminated):
        run_all(keeps, [tmp_path / "job"], 1, terminated)
    assert (tmp_path / "job").read_text() == "kept"
    assert time.monotonic() - started < GRACE


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [Terminated, KeyboardInterrupt])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")
def test_jobs_that_wait_do_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: type[BaseException]
) -> None:
    """Not even those that a process has been given already; nor does a thread of the pool end in a traceback."""

    others = multiprocessing.active_children()  # of other tests

    def children() -> list[BaseProcess]:
        return [child for child in multiprocessing.active_children() if child not in others]

    def interrupted(index: int, phase: str, share: float) -> None:
        if share > 0:
            if interrupt is KeyboardInterrupt:  # as a terminal sends it, to jobs too
                for process in children():
                    os.kill(process.pid or 0, signal.SIGINT)
            raise interrupt

    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    with pytest.raises(interrupt):
        run_all(keeps, [tmp_path / str(n) for n in range(12)], 2, interrupted)
    wait_for(lambda: not children())
    assert raised == []
    # One of the two processes may not yet have begun its job when the other tells.
    assert {file.read_text() for file in tmp_path.iterdir()} == {"kept"}
    assert {file.name for file in tmp_path.iterdir()} <= {"0", "1"}


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_jobs_keep_what_they_have_when_all_are_told_to_end(tmp_path: Path, way: signal.Signals) -> None:
    """As a terminal does with Ctrl-C, and what supervises a service with SIGTERM."""
    code = (
        "import signal, sys; from pathlib import Path; from tests.test_processes import *\n"
        "from thetabox.cli.group import _interrupt\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGTERM, _interrupt)\n"
        "    tell = lambda index, phase, share: share and print('begun', flush=True)\n"
        "    try: run_all(keeps, [Path(name) for name in sys.argv[1:]], 2, tell)\n"
        "    except KeyboardInterrupt: sys.exit(130)"
    )
    script, files = tmp_path / "parent.py", [tmp_path / str(n) for n in range(6)]
    script.write_text(code)
    place = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, script, *files],
        env={**os.environ, "PYTHONPATH": place},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    os.killpg(parent.pid, way)
    _, errors = parent.communicate(timeout=60)
    assert (parent.returncode, errors) == (130, "")
    assert [file.exists() and file.read_text() for file in files] == ["kept", "kept", *[False] * 4]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see whether a process runs")
def test_jobs_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A killed parent cannot tell them to; nobody is left to want their results."""
    code = (
        "import sys; from pathlib import Path; from tests.test_processes import *\n"
        "if __name__ == '__main__': run_all(sleep, [Path(sys.argv[1])], 1, silent)"
    )
    script, file = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(code)
    place = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen([sys.executable, script, file], env={**os.environ, "PYTHONPATH": place})
    wait_for(lambda: file.exists() and file.read_text() != "")
    child = int(file.read_text())
    assert runs(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not runs(child))


def runs(pid: int) -> bool:
    """Whether a process is there and no mere entry of one that ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
