"""Whatever is asked, workers answer the same bytes as this process does alone."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.workers import networks
from thetabox.errors import InputError
from thetabox.verify.search import bounds, rounds, surplus
from thetabox.workers import LocalProcesses, Pool

EPSILON = [5e-4, 1e-3, 2e-3]
Task = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(scope="module", params=["cnn", pytest.param("lsnn", marks=pytest.mark.long)])
def task(request: pytest.FixtureRequest) -> Task:
    made: Task = getattr(networks, request.param)()
    return made


@pytest.fixture(scope="module")
def alone(task: Task) -> tb.Certificate:
    return tb.certify(*task, EPSILON, baseline=True)


def same(one: tb.Certificate, other: tb.Certificate) -> bool:
    texts = [json.dumps({**c.to_json(), "seconds": 0, "created": ""}, sort_keys=True) for c in (one, other)]
    equal = torch.equal(one.margin, other.margin) and torch.equal(one.baseline, other.baseline)
    return equal and texts[0] == texts[1]


def test_certificates(task: Task, alone: tb.Certificate, two: LocalProcesses) -> None:
    told: list[tuple[int, int]] = []
    found = tb.certify(
        *task, EPSILON, baseline=True, executor=two, progress=lambda done, total: told.append((done, total))
    )
    assert same(found, alone)
    assert 0 < float(alone.verified_accuracy[0]) < 1
    assert told[-1] == (len(task[2]) * len(EPSILON),) * 2
    assert all(done <= total for done, total in told)


@pytest.mark.slow
def test_certificates_of_one_worker_and_of_threads(task: Task, alone: tb.Certificate) -> None:
    with LocalProcesses(1) as one:
        assert same(tb.certify(*task, EPSILON, baseline=True, executor=one), alone)
    with ThreadPoolExecutor(2) as threads:
        assert same(tb.certify(*task, EPSILON, baseline=True, executor=threads), alone)


@pytest.mark.parametrize("domain", ["interval", "linear", "histories"])
def test_one_domain(task: Task, two: LocalProcesses, domain: str) -> None:
    kind = "histories" if isinstance(task[0], tb.models.LSNN) else "linear"
    if domain not in ("interval", kind):
        pytest.skip("a domain of the other network")
    how: dict[str, Any] = {"domain": domain, "criterion": "logits", "precision": "float32", "baseline": True}
    few = task[0], task[1][:20], task[2][:20]
    assert same(tb.certify(*few, EPSILON, executor=two, **how), tb.certify(*few, EPSILON, **how))


def test_radii(task: Task, two: LocalProcesses) -> None:
    few = task[0], task[1][:24], task[2][:24]
    how: dict[str, Any] = {"rtol": 0.05, "options": {"effort": 40.0}}
    found = tb.certified_radius(*few, executor=two, **how)
    assert torch.equal(found, tb.certified_radius(*few, **how))
    assert bool((found > 0).any())
    assert torch.equal(
        tb.certified_radius(*few, domain="interval", executor=two), tb.certified_radius(*few, domain="interval")
    )


@pytest.mark.slow
def test_proven_yields(task: Task, two: LocalProcesses) -> None:
    few = task[0], task[1][-10:], task[2][-10:]  # of the first vowel the LSNN gets none right
    sigma = [1e-4, 1e-3] if isinstance(task[0], tb.models.LSNN) else [0.01, 0.03]
    here, there = tb.certify_yield(*few, sigma), tb.certify_yield(*few, sigma, executor=two)
    assert torch.equal(here.delta, there.delta)
    assert bool(here.proven.any())
    assert (here.proven_by, here.ledger, here.finished) == (there.proven_by, there.ledger, there.finished)
    method = "spikes" if isinstance(task[0], tb.models.LSNN) else "martingale"
    largest = [tb.proven_sigma(*few, rtol=0.2, method=method, executor=executor) for executor in (None, two)]
    assert torch.equal(*largest)


def test_draws(task: Task, two: LocalProcesses) -> None:
    told: list[tuple[int, int]] = []
    how: dict[str, Any] = {"level": [0.1, 0.3], "samples": 40}
    found = tb.mismatch(*task, executor=two, progress=lambda done, total: told.append((done, total)), **how)
    assert torch.equal(found.accuracy, tb.mismatch(*task, **how).accuracy)
    assert told[-1] == (80, 80)
    assert found.accuracy.unique().numel() > 10
    chips = tb.measure.pcm(*task, samples=3, executor=two)
    assert torch.equal(chips.accuracy, tb.measure.pcm(*task, samples=3).accuracy)
    assert (chips.stored, chips.converted) == (tb.measure.pcm(*task, samples=1).stored,) * 2


def test_draws_of_a_yield(task: Task, two: LocalProcesses) -> None:
    told: list[tuple[int, int]] = []
    noise = tb.Noise("gaussian", correlated={"chip": 0.3, "layer": 0.2}, drift={"*": -0.01})
    how: dict[str, Any] = {"sigma": [0.1, 0.2, 0.3], "draws": 50, "share": 0.9, "noise": noise, "seed": 3}
    alone = tb.sampled_yield(*task, **how)
    found = tb.sampled_yield(*task, executor=two, progress=lambda done, total: told.append((done, total)), **how)
    assert told[-1] == (150, 150)
    assert len(told) == 3
    for name in ("accuracy", "probability", "correct", "accuracies"):
        assert torch.equal(getattr(found, name), getattr(alone, name)), name
    assert alone.accuracies.unique().numel() > 10
    assert {**found.to_json(), "seconds": 0} == {**alone.to_json(), "seconds": 0}
    with ThreadPoolExecutor(1) as one:
        assert torch.equal(tb.sampled_yield(*task, executor=one, **how).accuracies, alone.accuracies)
    with pytest.raises(InputError, match="executor"):
        tb.sampled_yield(*task, executor=2)  # type: ignore[arg-type]  # what is refused


@contextmanager
def one_thread() -> Iterator[None]:
    """As many as a worker has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def test_landscapes(task: Task, two: LocalProcesses) -> None:
    told: list[tuple[int, int]] = []
    how: dict[str, Any] = {"directions": 3, "seed": 5}
    with one_thread():
        alone = tb.landscape(*task, **how)
    found = tb.landscape(*task, executor=two, progress=lambda done, total: told.append((done, total)), **how)
    assert (len(told), told[-1]) == (3, (153, 153))
    assert torch.equal(found.loss, alone.loss)
    assert found.loss.unique().numel() > 100
    with pytest.raises(InputError, match="executor"):
        tb.landscape(*task, executor="two")  # type: ignore[arg-type]  # what is refused


@pytest.mark.parametrize("keep", [False, True])
def test_attacks(task: Task, two: LocalProcesses, keep: bool) -> None:
    told: list[tuple[int, int]] = []
    model, x, y = task
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:12, 0]
    few = model, x[right], y[right]
    # Not in rising order, one of them twice, and close enough to be one number in float32.
    how: dict[str, Any] = {"epsilon": [0.1, 1e-4, 1e-4 + 1e-14, 0.1], "steps": 5, "chunk": 5, "keep_weights": keep}
    with one_thread():
        alone = tb.attack(*few, **how)
    found = tb.attack(*few, executor=two, progress=lambda done, total: told.append((done, total)), **how)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert (len(told), told[-1]) == (3, (48, 48))
    for name in ("epsilon", "margin", "correct", "predicted"):
        assert torch.equal(getattr(found, name), getattr(alone, name)), name
    assert bool((alone.margin[0] < alone.margin[1]).any())
    if keep:
        for one, other in zip(found.weights, alone.weights, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match="executor"):
        tb.attack(*few, 0.1, executor="two")  # type: ignore[arg-type]  # what is refused


def test_settings_of_the_program_that_asks_change_nothing(
    task: Task, alone: tb.Certificate, two: LocalProcesses
) -> None:
    """They do not travel, so nothing may follow from them."""
    few, how = (task[0], task[1][:20], task[2][:20]), {"level": [0.3], "samples": 4}
    draws, chips = tb.mismatch(*few, **how).accuracy, tb.measure.pcm(*few, samples=2).accuracy
    torch.set_default_dtype(torch.float64)
    try:
        for executor in (None, two):
            with torch.autocast("cpu"):
                assert torch.equal(tb.mismatch(*few, executor=executor, **how).accuracy, draws)
                assert torch.equal(tb.measure.pcm(*few, samples=2, executor=executor).accuracy, chips)
            with torch.inference_mode(), torch.autocast("cpu"):
                assert same(tb.certify(*task, EPSILON, baseline=True, executor=executor), alone)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle(task: Task, alone: tb.Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    def kill(executor: LocalProcesses) -> None:
        while not killed:
            time.sleep(0.05)
            if running := executor.processes():
                time.sleep(2.0)  # it is at work by now, or about to be
                os.kill(running[0], 9)
                killed.append(running[0])

    with LocalProcesses(2) as executor:
        threading.Thread(target=kill, args=(executor,), daemon=True).start()
        found = tb.certify(*task, EPSILON, baseline=True, executor=executor)
        while not killed:
            time.sleep(0.1)
        assert same(tb.certify(*task, EPSILON, baseline=True, executor=executor), alone)
    assert same(found, alone)


class Stop(KeyboardInterrupt):
    pass


def test_a_run_goes_on_with_workers_and_without(
    task: Task, alone: tb.Certificate, two: LocalProcesses, tmp_path: Path
) -> None:
    """One process begins, workers go on until they are stopped too, one process ends it."""

    def stops(after: int) -> Any:
        def progress(done: int, total: int) -> None:
            if done > after:
                raise Stop

        return progress

    total = len(task[2]) * len(EPSILON)
    for executor, share in ((None, 0.4), (two, 0.7)):
        with pytest.raises(Stop):
            tb.certify(
                *task, EPSILON, baseline=True, resume=tmp_path, executor=executor, progress=stops(int(share * total))
            )
        assert list(tmp_path.rglob("*.safetensors"))
    assert same(tb.certify(*task, EPSILON, baseline=True, resume=tmp_path), alone)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_parts_that_are_finished_are_not_done_again(
    two: LocalProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, jobs = networks.cnn(), []
    add = Pool.add
    monkeypatch.setattr(
        Pool, "add", lambda self, function, job: jobs.append(function.__name__) or add(self, function, job)
    )
    whole = tb.certify(*task, EPSILON)
    wanted, stop = Counter(jobs), int(0.8 * len(task[2]) * len(EPSILON))

    def progress(done: int, total: int) -> None:
        if jobs[-1] == "bound_part" and done > stop:
            raise Stop

    jobs.clear()
    with pytest.raises(Stop):
        tb.certify(*task, EPSILON, resume=tmp_path, progress=progress)
    kept = [path for path in tmp_path.rglob("*.safetensors") if path.name.startswith("linear")]
    assert kept
    jobs.clear()
    assert torch.equal(tb.certify(*task, EPSILON, resume=tmp_path, executor=two).margin, whole.margin)
    assert Counter(jobs)["bound_part"] == wanted["bound_part"] - len(kept)


def test_open_proofs_that_are_not_kept_are_made_anew(
    alone: tb.Certificate, task: Task, two: LocalProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surplus, "MOST_KEPT", 3)
    for executor in (None, two):
        assert same(tb.certify(*task, EPSILON, baseline=True, executor=executor), alone)
    monkeypatch.setattr(rounds, "AT_ONCE", 1)
    assert same(tb.certify(*task, EPSILON, baseline=True, executor=two), alone)


def test_time_that_ends_the_run_leaves_what_was_proven(task: Task, alone: tb.Certificate, two: LocalProcesses) -> None:
    found = tb.certify(*task, EPSILON, timeout=0.0, executor=two, baseline=True)
    assert not found.finished
    assert found.baseline is None
    assert not bool(found.verified.any())
    long = tb.certify(*task, EPSILON, timeout=1e4, executor=two, baseline=True)
    assert same(long, alone)
    with pytest.warns(RuntimeWarning, match="over"):
        assert not bool(tb.certified_radius(*task, timeout=0.0, executor=two).any())


def test_what_workers_cannot_do_is_said_as_without_them(two: LocalProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = networks.cnn()
    with pytest.raises(InputError, match="get_executor"):
        tb.certify(model, x, y, 0.01, executor="two")  # type: ignore[arg-type]  # what is refused
    for ask in (
        lambda executor: tb.certify(model, x, y, 0.01, domain="histories", executor=executor),
        lambda executor: tb.certified_radius(model, x, y, domain="histories", executor=executor),
    ):
        said = []
        for executor in (None, two):
            with pytest.raises(InputError) as caught:
                ask(executor)
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_bounds_are_not_made_here_where_there_are_workers(two: LocalProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = networks.cnn()

    def never(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("in this process")

    monkeypatch.setattr(bounds, "margins", never)
    assert tb.certify(model, x[:8], y[:8], [1e-3, 1e-2], executor=two, baseline=True).finished
