"""The same answer every time: whatever the load, the threads, the chunks, and what else is asked for beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify import arguments
from thetabox.verify.arguments import settings
from thetabox.verify.domains import domain_class
from thetabox.verify.effort import Meter, forward_pass
from thetabox.verify.histories import splits
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.linear import own_rows
from thetabox.verify.linear.walk import Walk
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds, cascade
from thetabox.verify.search.chunkstore import ChunkStore

pytestmark = pytest.mark.usefixtures("traced_once")

ROOT = Path(__file__).resolve().parents[2]
Task = tuple[nn.Module, Tensor, Tensor]


def pooled() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)),
    )


MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[float], tuple[str, ...]]] = {
    "mlp": (
        lambda: tb.models.MLP([6, 20, 20, 20, 4]),
        (6,),
        [0.0, 1e-3, 5e-3, 1e-2, 0.02, 0.04, 0.08],
        ("auto", "interval", "linear"),
    ),
    "pooled": (pooled, (1, 8, 8), [0.0, 1e-3, 5e-3, 0.02, 0.05, 0.1], ("auto", "interval", "linear")),
    "lsnn": (
        lambda: tb.models.LSNN(3, 12, 4),
        (20, 3),
        [0.0, 1e-5, 3e-4, 1e-3, 3e-3, 1e-2],
        ("auto", "interval", "histories"),
    ),
}


def task_of(name: str, samples: int = 12, seed: int = 1) -> Task:
    """A network with inputs of which every fifth is misclassified."""
    torch.manual_seed(seed)
    make, shape = MAKERS[name][:2]
    model, x = make().eval(), torch.randn(samples, *shape) + 1.0
    with torch.no_grad():
        if name == "lsnn":
            model.W_out.mul_(4.0)
        y = (model(x[:1]) if samples == 1 else model(x)).argmax(1)
    y[::5] = (y[::5] + 1) % 3
    return model, x, y


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(("name", "domain"), [(n, d) for n, (*_, domains) in MAKERS.items() for d in domains])
def test_an_epsilon_is_answered_the_same_whatever_stands_beside_it(name: str, domain: str) -> None:
    """To the last bit, in every subset and in any order."""
    model, x, y = task_of(name)
    sweep = MAKERS[name][2]
    whole = tb.certify(model, x, y, sweep, domain=domain)
    assert 0 < int(whole.verified.sum()) < whole.verified.numel()
    parts = [sweep[2:3], sweep[-2:-1], sweep[::-1], [sweep[4], sweep[1]]]
    for part in parts:
        found = tb.certify(model, x, y, part, domain=domain)
        for row, epsilon in enumerate(part):
            assert torch.equal(found.margin[row], whole.margin[sweep.index(epsilon)]), (part, epsilon)
        listed = tb.logit_bounds(model, x, part, domain=domain)
        alone = tb.logit_bounds(model, x, part[0], domain=domain)
        assert torch.equal(listed.lower[0], alone.lower)
        assert torch.equal(listed.upper[0], alone.upper)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("settled", [{"arithmetic": "float32"}, {"precision": "float32"}, {"criterion": "logits"}])
@pytest.mark.parametrize("name", MAKERS)
def test_so_it_is_in_every_arithmetic(name: str, settled: dict[str, Any]) -> None:
    model, x, y = task_of(name, 40)
    sweep = [0.0, 1e-4, 1e-3, 0.05, 1.5]
    whole = tb.certify(model, x, y, sweep, **settled)
    for part in ([1e-3], [1.5, 0.05, 1e-4]):
        found = tb.certify(model, x, y, part, **settled)
        for row, epsilon in enumerate(part):
            assert torch.equal(found.margin[row], whole.margin[sweep.index(epsilon)]), (part, epsilon)


# Bounds that enter the slack of what follows, which a chain of layers that neither spikes nor clips shows.
SLACKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "leaky": (lambda: nn.Sequential(nn.Linear(6, 12), nn.LeakyReLU(0.1), nn.Linear(12, 3)), (6,)),
    "convolution": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3))
        ),
        (1, 6, 6),
    ),
    "absolute": (lambda: nn.Sequential(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3), nn.Sigmoid()), (6,)),
    "lsnn": (lambda: tb.models.LSNN(3, 12, 4), (20, 3)),
}


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("arithmetic", ["real", "float32"])
@pytest.mark.parametrize("name", SLACKS)
def test_one_epsilon_alone_goes_the_way_of_several(name: str, arithmetic: str, precision: str) -> None:
    make, shape = SLACKS[name]
    box = tb.Box("absolute") if name == "absolute" else None
    sweep = [0.0, 1e-4, 1e-3, 1e-2, 0.05]
    for seed in range(2):
        torch.manual_seed(seed)
        model, x = make().eval(), torch.rand(4, *shape)
        problem = Problem(model, settings("interval", box, arithmetic, precision, "cpu"), x)
        rows = torch.tensor(sweep, dtype=torch.float64)[:, None].expand(-1, 4)
        whole = bounds.logits(PlainIntervals(problem), slice(None), rows)
        alone = [bounds.logits(PlainIntervals(problem), slice(None), row[None]) for row in rows]
        assert torch.equal(torch.cat([found.lower for found in alone]), whole.lower)
        assert torch.equal(torch.cat([found.upper for found in alone]), whole.upper)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_a_sample_is_verified_the_same_whatever_stands_beside_it(name: str) -> None:
    """Verdicts of samples of like size; margins may differ in what they allow for rounding."""
    model, x, y = task_of(name)
    sweep = MAKERS[name][2]
    whole = tb.certify(model, x, y, sweep).verified
    turned = torch.arange(len(x)).flip(0)
    for places in ([7], [11, 2], turned.tolist()):
        found = tb.certify(model, x[places], y[places], sweep).verified
        assert torch.equal(found, whole[:, places])


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("name", MAKERS)
def test_more_effort_never_proves_less(name: str) -> None:
    model, x, y = task_of(name, 16)
    sweep = MAKERS[name][2]
    before, counts = None, []
    for effort in (0, 25, 60, 100, 130, 400, float("inf")):
        found = tb.certify(model, x, y, sweep, options={"effort": effort}).verified
        assert before is None or (found >= before).all(), effort
        before = found
        counts.append(int(found.sum()))
    assert counts[0] < counts[-1]


def made(name: str, domain: str, options: dict[str, Any], samples: int = 8) -> tuple[Any, Tensor]:
    model, x, y = task_of(name, samples)
    problem = Problem(model, settings(domain, None, "real", "float64", "cpu"), x)
    return domain_class(domain)(problem, options), y


def spent(domain: Any, y: Tensor, places: list[int], epsilon: float, left: float = 1e9) -> list[float]:
    meter = Meter(torch.full((len(places),), left, dtype=torch.float64))
    bounds.margins(domain, torch.tensor(places), torch.full((1, len(places)), epsilon), y, "margin", meter)
    assert meter.left is not None
    return (left - meter.left).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "domain", "options", "epsilon"),
    [
        ("mlp", "linear", {"intermediate": "backward"}, 0.04),
        ("pooled", "linear", {"intermediate": "backward"}, 0.05),
        ("lsnn", "histories", {"histories": 4, "splits": 40}, 1e-3),
    ],
)
def test_work_is_counted_the_same_in_any_chunks(
    name: str, domain: str, options: dict[str, Any], epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, y = made(name, domain, options)
    everyone = list(range(8))
    together = spent(bound, y, everyone, epsilon)
    assert max(together) > 0
    assert together == spent(bound, y, everyone[::-1], epsilon)[::-1]
    assert together == [spent(bound, y, [n], epsilon)[0] for n in everyone]
    monkeypatch.setattr(own_rows, "WALK_NUMBERS", 64)
    monkeypatch.setattr("thetabox.verify.linear.domain.WALK_NUMBERS", 64)
    monkeypatch.setattr(splits, "TOGETHER", 9)
    monkeypatch.setattr("thetabox.verify.histories.domain.SLOT_BYTES", {"cpu": 1 << 14})
    bound, y = made(name, domain, options)
    assert together == spent(bound, y, everyone, epsilon)


@pytest.mark.parametrize("name", ["mlp", "pooled"])
def test_a_layer_that_cannot_be_paid_is_not_begun(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are walked back from pre-activations, counted where they are walked, within what was there for them."""
    bound, y = made(name, "linear", {"intermediate": "backward"})
    bound.follows = True
    walked: list[float] = []
    plain = Walk.run

    def run(self: Walk) -> Tensor:
        answer = plain(self)
        if self.coarse:
            walked.append(answer.numel() * self.work)
        return answer

    monkeypatch.setattr(Walk, "run", run)
    full = spent(bound, y, [1], 0.1)[0]
    assert full > 0
    for share in (0.0, 0.3, 0.99, 1.01):
        bound.tighten.prices.clear()
        walked.clear()
        cost = spent(bound, y, [1], 0.1, share * full)[0]
        assert cost <= share * full
        # Two rows a layer are walked to learn what one costs.
        learned = sum(sorted(walked)[: 2 * len(bound.tighten.prices)])
        passes = sum(walked) * bound.tighten.passes
        assert passes <= share * full + learned * bound.tighten.passes
        assert (cost == pytest.approx(full)) == (share > 1.0)


def test_rows_of_a_split_are_paid() -> None:
    bound, y = made("lsnn", "histories", {"histories": 4, "splits": 100})
    full = [spent(bound, y, [n], 3e-3)[0] for n in range(4)]
    assert max(full) > 60
    for left in (0.0, 5.0, 50.0):
        for n, cost in enumerate(full):
            found = spent(bound, y, [n], 3e-3, left)[0]
            assert found <= left
            assert found == pytest.approx(cost) or cost > left


def test_a_forward_pass_counts_multiply_adds() -> None:
    """By hand: 6·20 + 20 + 20·4 for two dense layers and a ReLU; a convolution 3·36·9 and a pool's 3·9 outputs."""

    def work(model: nn.Module, *shape: int) -> int:
        return forward_pass(
            Problem(model, settings("interval", None, "real", "float64", "cpu"), torch.ones(shape)).network
        )

    dense = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4))
    assert work(dense, 2, 6) == 6 * 20 + 20 + 20 * 4
    conv = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 2))
    assert work(conv, 1, 1, 8, 8) == 3 * 36 * 9 + 3 * 9 + 27 + 27 * 2
    one, two = (work(tb.models.LSNN(3, 12, 4), 1, steps, 3) for steps in (10, 20))
    assert 10 * 12 * (12 + 3) < one < two < 2 * one + 1


SCRIPT = """
import sys, torch, thetabox as tb
out, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
sys.path.insert(0, sys.argv[3])
from tests.verify.test_determinism import MAKERS, task_of
for name in ("pooled", "lsnn"):
    model, x, y = task_of(name, 10)
    # Inputs and labels by themselves do not depend on the threads here: they are drawn, and far from any tie.
    tb.certify(model, x, y, MAKERS[name][2], profile=True, baseline=True).save(f"{out}/{name}")
"""


def started(out: Path, threads: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(out), str(threads), str(ROOT)]
    return subprocess.Popen(command, env=environment)


@pytest.mark.long
def test_same_bytes_under_load_and_same_verdicts_with_more_threads(tmp_path: Path) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(1)]
    try:
        runs = [started(tmp_path / "loaded", 1), started(tmp_path / "two", 2)]
        assert [run.wait(timeout=300) for run in runs] == [0, 0]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert started(tmp_path / "quiet", 1).wait(timeout=300) == 0
    for name in ("pooled", "lsnn"):
        loaded, quiet, two = (tmp_path / run / name for run in ("loaded", "quiet", "two"))
        for file in ("certificate.json", "samples.csv"):
            assert (loaded / file).read_bytes() == (quiet / file).read_bytes()
        one, other = (tb.Certificate.load(folder) for folder in (quiet, two))
        assert torch.equal(one.verified, other.verified)
        assert one.options == other.options


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_an_interrupted_run_ends_with_the_same_bytes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = task_of(name)
    sweep = MAKERS[name][2]
    tb.certify(model, x, y, sweep).save(tmp_path / "whole")
    written: list[int] = []
    plain = ChunkStore.write_part

    def write_part(self: ChunkStore, *args: Any) -> None:
        plain(self, *args)
        written.append(1)
        if written == [1, 1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(ChunkStore, "write_part", write_part)
    interrupted = 0
    while True:
        written.clear()
        try:
            tb.certify(model, x, y, sweep, resume=tmp_path / "parts").save(tmp_path / "resumed")
        except KeyboardInterrupt:
            interrupted += 1
            continue
        break
    assert interrupted > 1
    for file in ("certificate.json", "samples.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_a_kept_part_is_that_of_its_own_samples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of a stage's samples is that of computed margins, which another machine may compute otherwise."""
    model, x, y = task_of(name)
    sweep = MAKERS[name][2]
    monkeypatch.setattr(cascade, "LARGEST_PART", 3)
    fresh = tb.certify(model, x, y, sweep)
    plain, margins_of = ChunkStore.write_part, arguments.margins_of
    written: list[str] = []

    def write_part(self: ChunkStore, part: str, *args: Any) -> None:
        plain(self, part, *args)
        written.append(part)
        if len(written) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(ChunkStore, "write_part", write_part)
    with pytest.raises(KeyboardInterrupt):
        tb.certify(model, x, y, sweep, resume=tmp_path)
    assert any(not part[0].isdigit() for part in written)  # a stage had begun
    # The right ones in the opposite order.
    monkeypatch.setattr(arguments, "margins_of", lambda *given: 1e3 / margins_of(*given))
    resumed = tb.certify(model, x, y, sweep, resume=tmp_path)
    assert torch.equal(resumed.verified, fresh.verified)
    torch.testing.assert_close(resumed.margin, fresh.margin, rtol=1e-9, atol=1e-12)
