"""JSON of others: as the standard library reads it, and refused where a parser would recurse too deeply."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import thetabox as tb
from thetabox.cli.values import literal
from thetabox.json_text import DEEPEST, finite, json_text, parse
from thetabox.models.pt2 import archive

LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
BRACKETS = [b"[" * 100_000, b'{"a":' * 100_000, b'["]", ' * 100_000]


ANY = LEAVES | st.floats()


@given(st.recursive(ANY, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_numbers_that_json_does_not_know_are_null(content: Any) -> None:
    text = json_text({"content": finite(content)})
    assert parse(text)["content"] == finite(content)


def test_what_is_a_number_stays_one() -> None:
    assert finite({"a": [1.5, float("inf"), (float("nan"), 2)]}) == {"a": [1.5, None, [None, 2]]}


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_what_is_written_is_read(content: Any) -> None:
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False)):
        assert parse(text) == content
        assert parse(text.encode("utf-8", "surrogatepass")) == content


@given(st.text('[]{}"\\,:1a '))
def test_what_is_no_json_is_none(text: str) -> None:
    found = []
    for read in (json.loads, parse):
        try:
            found.append(("read", read(text)))
        except ValueError:
            found.append(("refused", None))
    assert found[0] == found[1]


def test_how_deep() -> None:
    assert parse("[" * DEEPEST + "]" * DEEPEST) is not None
    assert parse(json.dumps("[" * 1000)) == "[" * 1000
    assert parse("[" + ",".join("[]" for _ in range(1000)) + "]") == [[]] * 1000
    with pytest.raises(ValueError, match="deep"):
        parse("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


@pytest.fixture
def unlimited() -> Iterator[None]:
    """Python's limit of recursion as auto_LiRPA sets it; without a limit of ours the process would end here."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("content", BRACKETS, ids=["lists", "objects", "lists with strings"])
def test_files_of_brackets_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    for name, load in (("certificate.json", tb.Certificate.load), ("yield.json", tb.YieldCertificate.load)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(tb.InputError) as told:
            load(tmp_path)
        assert len(str(told.value).splitlines()) == 1
        (tmp_path / name).unlink()
    damaged = tmp_path / "net.safetensors"
    save_file({"weight": torch.ones(2, 2)}, damaged, metadata={"thetabox": content.decode()})
    with pytest.raises(tb.InputError, match="metadata is damaged"):
        tb.load(damaged)
    assert literal(content.decode()) == content.decode()
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive.Archive, "bytes", lambda self, name: content)
        with pytest.raises(tb.InputError) as told:
            tb.load(tmp_path / "net.pt2")
        assert len(str(told.value).splitlines()) == 1
