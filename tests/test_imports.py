"""Names of the package are imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import thetabox as tb

LATE = ("torch", "matplotlib", "sympy", "thetabox.verify")


@pytest.mark.parametrize("name", tb.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(tb, name) is not None
    assert name in dir(tb)


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = tb.nothing  # type: ignore[attr-defined]  # that is what is tested


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_does_not_wait_for_torch(argument: str) -> None:
    code = (
        "import sys; from thetabox.cli import main\n"
        f"try: main([{argument!r}])\n"
        f"except SystemExit as end: print(end.code, [name for name in {LATE} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "0 []"


def test_jobs_in_processes_of_their_own_do_not_load_what_they_do_not_use() -> None:
    code = f"import sys, thetabox.processes; print([name for name in {LATE} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
