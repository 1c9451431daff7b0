"""A name of a module means one thing: none is assigned twice, so that no constant takes another's place."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import thetabox

ROOT = Path(thetabox.__file__).parent


def assigned_twice(code: str) -> list[str]:
    """Names that statements of a module itself assign more than once; `x += 1` and branches of an `if` do not."""
    names: Counter[str] = Counter()
    for statement in ast.parse(code).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        names.update(n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
    return sorted(name for name, count in names.items() if count > 1)


def test_no_module_assigns_a_name_twice() -> None:
    found = {str(path.relative_to(ROOT)): assigned_twice(path.read_text()) for path in ROOT.rglob("*.py")}
    assert len(found) > 500
    assert {path: names for path, names in found.items() if names} == {}


def test_what_is_assigned_twice_is_found() -> None:
    assert assigned_twice("A, B = 1, 2\nB, C = 3, 4\nD: int = 5\nD = 6\n") == ["B", "D"]
