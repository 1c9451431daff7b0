"""Imports run one way: no part imports one that stands above it, and none stands in a circle that is not meant."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import thetabox

ROOT = Path(thetabox.__file__).parent
# Rooms of one floor do not import each other; `docs/architecture.md` draws them.
FLOORS = (
    ("version", "errors", "json_text"),
    ("checks", "deep_copy", "processes", "shown", "user_code"),
    ("workers",),
    ("models", "device"),
    ("box", "noise", "data"),
    ("measure",),
    ("verify.kernels", "verify.arithmetic"),
    ("verify.network",),
    ("verify.interpreter", "verify.effort"),
    ("verify.problem", "verify.inspect", "verify.unfinished"),
    ("verify.domain",),
    ("verify.interval", "verify.linear", "verify.histories", "verify.lirpa", "verify.domains"),
    ("verify.search", "verify.arguments", "verify.cells"),
    ("verify.agreement", "verify.stored"),
    ("verify.certificate", "verify.radii"),
    ("verify.certify", "verify.logits", "verify.radius", "verify.worst_case", "verify.yields"),
    ("verify.difference",),
    ("verify",),
    ("train", "report"),
    ("compare",),
    ("cli",),
    ("__main__",),
)
# Results save and plot themselves, by a late import, and a report is made of results.
MEANT = {
    ("measure.attack", "report"),
    ("verify.certificate", "report"),
    ("verify.radii", "report"),
    ("verify.yields.certificate", "report"),
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name below ``thetabox``."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, late ones and those for types included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "thetabox":
            inside = str(node.module).partition(".")[2]
            for alias in node.names:
                name = f"{inside}.{alias.name}".lstrip(".")
                found.add(name if name in MODULES else inside)
    return found


def floor(module: str) -> tuple[int, str] | None:
    """Number and room of a module of the floors."""
    rooms = [(n, room) for n, names in enumerate(FLOORS) for room in names if f"{module}.".startswith(f"{room}.")]
    exact = [(n, room) for n, room in rooms if room != "verify" or module == "verify"]
    return max(exact, key=lambda place: len(place[1]), default=None)


def test_every_module_of_the_verifier_stands_on_a_floor() -> None:
    assert [name for name in MODULES if name.startswith("verify") and floor(name) is None] == []
    assert [
        room for names in FLOORS for room in names if not any(f"{m}.".startswith(f"{room}.") for m in MODULES)
    ] == []


@pytest.mark.parametrize("name", [name for name in MODULES if floor(name) is not None])
def test_no_floor_imports_one_above_it(name: str) -> None:
    own = floor(name)
    assert own is not None
    for other in imported(MODULES[name]):
        if any(name == one and other.startswith(two) for one, two in MEANT):
            continue
        place = floor(other)
        assert place is not None, f"{name} imports {other}, which stands beside the floors"
        assert place[0] < own[0] or place[1] == own[1], f"{name} imports {other}, which is no floor below it"


def test_no_circle_but_the_one_that_is_meant() -> None:
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    graph = {
        name: {other for other in imported(path) if other != name and other != ""}
        for name, path in MODULES.items()
        if name not in packages or name in ("models", "verify.network")
    }
    for one, two in MEANT:
        graph[one] = {other for other in graph[one] if not other.startswith(two)}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' → '.join(error.args[1])}")


@pytest.mark.slow
def test_what_is_slow_to_import_waits_until_it_is_needed() -> None:
    # A third of what a process takes to begin: every command, and every worker.
    code = "import sys, thetabox.cli; print([n for n in ('matplotlib', 'sympy', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"
