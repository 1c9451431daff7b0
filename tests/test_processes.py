"""Jobs in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
        tell("sleeping")(1, 2)
        time.sleep(600)
    except KeyboardInterrupt:
        file.write_text("kept")
        raise


def silent(index: int, phase: str, share: float) -> None:
    return None


def test_answers_come_in_order() -> None:
    seen = []
    assert run_all(double, [3, 1, 2], 2, lambda *event: seen.append(event)) == [6, 2, 4]
    assert sorted(seen) == [(i, "double", share) for i in range(3) for share in (0.0, 1.0)]


def test_the_first_error_ends_all() -> None:
    with pytest.raises(ValueError, match="negative"):
        run_all(double, [1, -1, 2], 1, silent)


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
