"""What the site's first page and its recipes show is run, block by block, as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from thetabox.cli import thetabox

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["index.md", *sorted(f"recipes/{page.name}" for page in (DOCS / "recipes").glob("*.md"))]
BLOCK = re.compile(r'```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.DOTALL)
STATUS = re.compile(r"#\s*exit status (\d)\s*$")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # Every page has a net.py of its own.
    monkeypatch.delitem(sys.modules, "net", raising=False)


def command(line: str) -> None:
    """One line of a console block: it ends as the page says, or well."""
    status = STATUS.search(line)
    words = shlex.split(line, comments=True)
    if words[0] == "thetabox":
        done = CliRunner().invoke(thetabox, words[1:])
        code, said = done.exit_code, done.output
    elif words[0] == "python":
        run = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=300, check=False)
        code, said = run.returncode, run.stderr
    else:
        assert words[:2] == ["pip", "install"], f"{line}: nothing runs that"
        return
    assert code == int(status[1] if status else 0), f"{line}\n{said[-1000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_page_runs(page: str) -> None:
    space: dict[str, object] = {}
    blocks = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    assert blocks
    for language, file, text in blocks:
        if file and language == "python":
            Path(file).write_text(text)
        elif language == "python":
            exec(text, space)
        elif language == "console":
            for line in re.sub(r"\\\n\s*", "", text).splitlines():
                if line.startswith("$ "):
                    command(line[2:])


def test_the_site_has_every_page() -> None:
    nav = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": (\S+\.md)$", nav, re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
