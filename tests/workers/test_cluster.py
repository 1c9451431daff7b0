"""A real Dask cluster: a scheduler and two workers, each a process of its own."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.workers import networks
from tests.workers.test_same_answers import same
from thetabox.compare import compare, read_config
from thetabox.errors import InputError
from thetabox.workers import WorkersLost, on_cluster

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

ROOT = Path(__file__).resolve().parents[2]
EPSILON = [5e-4, 1e-3, 2e-3]
Task = tuple[nn.Module, Tensor, Tensor]


class Cluster:
    """Processes of `dask scheduler` and `dask worker`."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0")
        self.address = self._said(self.scheduler, r"Scheduler at:\s*(tcp://\S+)")
        self.workers = [self.add_worker() for _ in range(workers)]

    def _start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + args[0], *args[1:]]
        return subprocess.Popen(
            command, env=self.environment, stderr=subprocess.PIPE, text=True, cwd=self.folder, bufsize=1
        )

    def add_worker(self) -> subprocess.Popen[str]:
        """One of one thread, without a process that would start another in its place."""
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder))
        worker = self._start("worker", self.address, *options)
        self._said(worker, r"(Registered to)")
        return worker

    @staticmethod
    def _said(process: subprocess.Popen[str], what: str) -> str:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(what, line):
                return found[1]
        raise AssertionError("it ended without a word of it")

    def close(self) -> None:
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("dask"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def task() -> Task:
    return networks.lsnn()


@pytest.fixture(scope="module")
def alone(task: Task) -> tb.Certificate:
    return tb.certify(*task, EPSILON, baseline=True)


@pytest.mark.slow
def test_a_cluster_answers_the_same(cluster: Cluster, task: Task, alone: tb.Certificate) -> None:
    with on_cluster(cluster.address) as executor:
        assert same(tb.certify(*task, EPSILON, baseline=True, executor=executor), alone)
        few = task[0], task[1][:10], task[2][:10]
        assert torch.equal(tb.certified_radius(*few, executor=executor), tb.certified_radius(*few))


@pytest.mark.slow
def test_the_executor_of_the_users_own_client(cluster: Cluster) -> None:
    task = networks.cnn()
    with distributed.Client(cluster.address, set_as_default=False) as client:
        found = tb.certify(*task, [1e-3, 1e-2], baseline=True, executor=client.get_executor())
    assert same(found, tb.certify(*task, [1e-3, 1e-2], baseline=True))


@pytest.mark.slow
def test_a_worker_of_a_cluster_killed_in_the_middle(cluster: Cluster, task: Task, alone: tb.Certificate) -> None:
    victim = cluster.add_worker()
    killed = []

    def kill(done: int, total: int) -> None:
        if not killed and done > total // 3:
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.wait())

    with on_cluster(cluster.address) as executor:
        assert same(tb.certify(*task, EPSILON, baseline=True, executor=executor, progress=kill), alone)
    assert killed


@pytest.mark.long
def test_the_worker_that_holds_the_only_copy_of_the_network_is_killed(
    task: Task, alone: tb.Certificate, tmp_path: Path
) -> None:
    """Dask's scheduler thins out what it was told to send to every worker (its active memory manager)."""
    own = Cluster(tmp_path)
    killed = []

    def kill(done: int, total: int) -> None:
        if killed or done < total // 3:
            return
        with distributed.Client(own.address, set_as_default=False) as client:
            for _ in range(100):
                holders = {key: places for key, places in client.who_has().items() if key.startswith("bytes-")}
                if [len(places) for places in holders.values()] == [1]:
                    break
                time.sleep(0.2)
            ((only,),) = holders.values()
            killed.append(client.run(os.getpid)[only])
            os.kill(killed[0], signal.SIGKILL)
            while only in client.scheduler_info()["workers"]:
                time.sleep(0.1)

    try:
        with on_cluster(own.address) as executor:
            assert same(tb.certify(*task, EPSILON, baseline=True, executor=executor, progress=kill), alone)
    finally:
        own.close()
    assert killed


@pytest.mark.long
def test_the_cells_of_a_comparison(cluster: Cluster, tmp_path: Path) -> None:
    few = {"epochs": 1}
    config = read_config(None, task="digits", methods=["standard", "dropout"], seeds=1, fit=few, samples=20, draws=2)
    told = []
    with on_cluster(cluster.address) as executor:
        found = compare(config, tmp_path / "out", executor=executor, on_event=lambda *event: told.append(event))
    assert len(found.rows) == 2
    assert sorted(told) == [(0, "done", 1.0), (1, "done", 1.0)]


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_line_and_what_was_finished_is_kept(
    task: Task, alone: tb.Certificate, tmp_path: Path
) -> None:
    own = Cluster(tmp_path, workers=1)
    kept = tmp_path / "kept"

    def kill(done: int, total: int) -> None:
        if done > total // 3:
            own.scheduler.send_signal(signal.SIGKILL)

    started = time.monotonic()
    try:
        with on_cluster(own.address) as executor, pytest.raises(WorkersLost, match="the workers are gone") as caught:
            tb.certify(*task, EPSILON, baseline=True, executor=executor, progress=kill, resume=kept)
    finally:
        own.close()
    assert time.monotonic() - started < 60.0
    assert "\n" not in str(caught.value)
    assert list(kept.rglob("*.safetensors"))
    assert same(tb.certify(*task, EPSILON, baseline=True, resume=kept), alone)


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thetabox.workers.cluster.PATIENCE", 1.0)
    for address in ("tcp://127.0.0.1:1", "nonsense", "ftp://127.0.0.1:1", ""):
        with pytest.raises(InputError, match="no scheduler") as caught, on_cluster(address):
            pass
        assert "\n" not in str(caught.value)
        # Nothing of it is left, to close itself while another client is made, which would never end.
        assert not [one for one in gc.get_objects() if type(one) is distributed.Client and one.status != "closed"]


def test_a_scheduler_without_workers(tmp_path: Path) -> None:
    own = Cluster(tmp_path, workers=0)
    try:
        with pytest.raises(InputError, match="has no worker"), on_cluster(own.address):
            pass
    finally:
        own.close()


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'thetabox\[cluster\]'"), on_cluster("tcp://host:8786"):
        pass
