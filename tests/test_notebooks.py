"""The example notebooks run from top to bottom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")

EXAMPLES = Path(__file__).parents[1] / "examples"


def _kinds(cell: Any) -> tuple[list[str], set[str]]:
    """Results and figures in order, and the streams: into how many pieces these are cut is a matter of time."""
    outputs = cell.get("outputs", ())
    results = [output["output_type"] for output in outputs if output["output_type"] != "stream"]
    return results, {output["name"] for output in outputs if output["output_type"] == "stream"}


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    kept = [_kinds(cell) for cell in notebook.cells]
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    for cell, outputs in zip(notebook.cells, kept, strict=True):
        assert _kinds(cell) == outputs, cell.source
