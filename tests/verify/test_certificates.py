"""Certificates on disk and back, interrupted runs that go on, radii that were themselves proven."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thetabox as tb
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.problem import Problem

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def task() -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(20, 4)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 3
    return model, x, y


def test_json_and_folder_round_trip(task: Any, tmp_path: Path) -> None:
    model, x, y = task
    box = tb.Box(kind="range", include="*.weight", scale={"0.*": 0.5})
    certificate = tb.certify(
        model, x, y, [0.0, 1e-3, 2.0], box=box, profile=True, baseline=True, data_info={"name": "d"}
    )
    stored = certificate.to_json()
    assert list(stored) == [
        "schema",
        "tool",
        "model",
        "data",
        "box",
        "domain",
        "options",
        "sound",
        "arithmetic",
        "precision",
        "clean_accuracy",
        "curve",
        "checked",
        "seconds",
    ]
    assert stored["schema"] == "thetabox.certificate/1"
    assert stored["curve"][0]["verified"] == int(certificate.verified[0].sum())
    assert stored["data"]["name"] == "d"
    certificate.save(tmp_path / "out")
    again = tb.Certificate.load(tmp_path / "out")
    assert torch.equal(again.margin, certificate.margin)
    assert torch.equal(again.verified, certificate.verified)
    assert torch.equal(again.label, y)
    assert torch.equal(again.predicted, certificate.predicted)
    assert again.to_json() == stored
    assert stored["seconds"] is None
    assert certificate.seconds > 0
    assert again.seconds == 0
    assert torch.equal(tb.Certificate.load(tmp_path / "out" / "certificate.json").epsilon, certificate.epsilon)
    assert certificate.clean_accuracy == pytest.approx(0.8)
    assert certificate.verified_accuracy[0] == pytest.approx(0.8)
    with pytest.raises(tb.InputError):
        tb.Certificate.load(tmp_path / "nowhere")
    (tmp_path / "out" / "samples.csv").write_text("sample,label,predicted,epsilon,margin,verified\n")
    with pytest.raises(tb.InputError, match="rows"):
        tb.Certificate.load(tmp_path / "out")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks of 4 samples; the list grows by one with every chunk that is computed."""
    computed: list[int] = []
    plain = PlainIntervals.margins

    def margins(self: PlainIntervals, which: Any, *args: Any) -> Any:
        computed.append(1)
        return plain(self, which, *args)

    monkeypatch.setattr(Problem, "chunk_size", lambda self, levels: 4)
    monkeypatch.setattr(PlainIntervals, "margins", margins)
    return computed


def interrupt(model: Any, x: Any, y: Any, folder: Path) -> None:
    def progress(done: int, total: int) -> None:
        assert total == 40
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tb.certify(model, x, y, [0.0, 0.1], resume=folder, progress=progress)


def test_interrupted_run_goes_on(task: Any, tmp_path: Path, counted: list[int]) -> None:
    model, x, y = task
    whole = tb.certify(model, x, y, [0.0, 0.1])
    assert len(counted) == 5
    counted.clear()
    interrupt(model, x, y, tmp_path / "chunks")
    assert len(counted) == 2
    again = tb.certify(model, x, y, [0.0, 0.1], resume=tmp_path / "chunks")
    assert len(counted) == 5
    assert torch.equal(again.margin, whole.margin)
    assert not (tmp_path / "chunks").exists()


FULL_DISK = """
import resource, signal, sys, torch
import thetabox as tb
from thetabox.verify.problem import Problem

model, x, y = torch.load(sys.argv[1], weights_only=False)
Problem.chunk_size = lambda self, levels: 4

def progress(done, total):
    if done == 16:  # the kernel refuses to write any further, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

try:
    tb.certify(model, x, y, [0.0, 0.1], resume=sys.argv[2], progress=progress)
except tb.InputError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file size on Windows")
def test_a_disk_that_fills_up_costs_one_chunk(task: Any, tmp_path: Path, counted: list[int]) -> None:
    model, x, y = task
    torch.save(task, tmp_path / "task.pt")
    folder = tmp_path / "chunks"
    # -B: what Python would compile under the limit, it would leave cut off for every process after it.
    command = [sys.executable, "-B", "-W", "ignore", "-c", FULL_DISK, str(tmp_path / "task.pt"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cannot write")
    assert len(done.stdout.splitlines()) == 1
    kept = sorted(path.name for path in folder.rglob("*.*"))
    assert kept == ["interval-0-4.safetensors", "interval-4-8.safetensors"]
    tb.certify(model, x, y, [0.0, 0.1], resume=folder)
    assert len(counted) == 3


@pytest.mark.parametrize("change", ["weights", "activation", "labels", "epsilon", "box", "arithmetic", "damage"])
def test_chunks_of_something_else_are_not_used(task: Any, tmp_path: Path, counted: list[int], change: str) -> None:
    model, x, y = task
    interrupt(model, x, y, tmp_path)
    counted.clear()
    sweep, box, arithmetic = [0.0, 0.1], tb.Box(), "real"
    if change == "weights":
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)
        model[0].weight += 1
    elif change == "activation":
        model = nn.Sequential(model[0], nn.Tanh(), model[2])
    elif change == "labels":
        y = (y + 1) % 3
    elif change == "epsilon":
        sweep = [0.0, 0.2]
    elif change == "box":
        box = tb.Box(exclude="0.*")
    elif change == "arithmetic":
        arithmetic = "float32"
    else:
        for file in tmp_path.rglob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:-5])
    info = {"sha256": "the user's own"}
    tb.certify(model, x, y, sweep, box=box, arithmetic=arithmetic, resume=tmp_path, model_info=info)
    assert len(counted) == 5


class Reads(nn.Module):
    """Three rows of its weights by a view made before, or with three numbers of its code."""

    def __init__(self, weight: Any, start: int, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.rows, self.shift = [self.weight.detach()[start : start + 3]], torch.tensor([shift, 0.0, 0.0])

    def forward(self, x: Any) -> Any:
        return x @ self.rows[0].T + self.shift


@pytest.mark.parametrize("other", [(1, 0.0), (0, 0.5)], ids=["other rows", "another constant"])
def test_chunks_of_equal_parameters_read_otherwise(
    tmp_path: Path, counted: list[int], other: tuple[int, float]
) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(6, 4), torch.randn(20, 4)
    first, second = Reads(weight, 0), Reads(weight, *other)
    y = second(x).argmax(1)
    alone = tb.certify(second, x, y, [0.0, 0.1])
    interrupt(first, x, y, tmp_path)
    counted.clear()
    again = tb.certify(second, x, y, [0.0, 0.1], resume=tmp_path)
    assert len(counted) == 5
    assert torch.equal(again.margin, alone.margin)


def test_resume_spares_what_is_not_its_own(task: Any, tmp_path: Path) -> None:
    model, x, y = task
    (tmp_path / "thesis.txt").write_text("years of work")
    tb.certify(model, x, y, 0.1, resume=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(tb.InputError):
        tb.certify(model, x, y, 0.1, resume=tmp_path / "thesis.txt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arithmetic", "precision"), [("real", "float64"), ("float32", "float64"), ("real", "float32")]
)
def test_radius_was_proven_and_a_little_more_was_not(task: Any, arithmetic: str, precision: str) -> None:
    model, x, y = task
    settings = {"arithmetic": arithmetic, "precision": precision}
    found = tb.certified_radius(model, x, y, max_epsilon=0.5, rtol=1e-2, details=True, **settings)
    assert isinstance(found, tb.verify.radius.Radii)
    wrong = model(x).argmax(1) != y
    assert [s == "misclassified" for s in found.status] == wrong.tolist()
    assert (found.radius[wrong] == 0).all()
    assert (found.radius[~wrong] > 0).any()
    for n in (~wrong).nonzero().flatten().tolist()[:8]:
        r = found.radius[n].item()
        if r == 0:
            assert not tb.certify(model, x[n : n + 1], y[n : n + 1], 1e-9, **settings).verified.any()
            continue
        verified = tb.certify(model, x[n : n + 1], y[n : n + 1], [r, min(r * 1.01, 0.5)], **settings).verified
        assert verified[0].item()
        assert not verified[1].item() or r == 0.5


def test_radius_of_extremes() -> None:
    """A constant right answer is proven up to max_epsilon; a tie not at all; loose tolerances still prove."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.ones(2, 1), torch.tensor([0, 1])
    assert tb.certified_radius(layer, x, y, max_epsilon=0.75).tolist() == [0.75, 0.0]
    with torch.no_grad():
        layer.bias.fill_(1.0)
    found = tb.certified_radius(layer, x, y, details=True)
    assert found.radius.tolist() == [0.0, 0.0]
    assert found.status == ["unproven", "misclassified"]


def test_progress_reaches_the_end(task: Any) -> None:
    model, x, y = task
    seen: list[tuple[int, int]] = []
    tb.certify(model, x, y, [0.0, 0.1, 0.2], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60)
