"""``--workers`` and ``--cluster``: files of the same bytes, and what is said where it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from tests.workers import networks
from tests.workers.test_cluster import Cluster
from thetabox.cli import thetabox
from thetabox.models import save
from thetabox.workers import Pool

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")


def run(*args: object) -> Result:
    return CliRunner().invoke(thetabox, [str(a) for a in args])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "lsnn.safetensors"
    save(networks.lsnn()[0], path)
    return path


@pytest.fixture
def data(model: Path) -> list[object]:
    return [model, "--data", "vowels", "--samples", 12]


def files(folder: Path) -> dict[str, object]:
    """What a folder holds, less the time that it took and when."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            document = json.loads(path.read_text())
            found[path.name] = {key: value for key, value in document.items() if key not in ("seconds", "created")}
        elif path.suffix == ".csv":
            found[path.name] = path.read_text()
    return found


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize(
    "command",
    [
        ["certify", "--epsilon", "5e-4,1e-3", "--no-radius", "--attack-steps", 2],
        ["radius", "--effort", 30],
        ["yield", "--sigma", "1e-4,1e-3", "--draws", 0],
        ["mismatch"],
        ["pcm", "--draws", 2],
        ["attack", "--epsilon", "1e-3", "--steps", 2],
        ["landscape", "--points", 3, "--directions", 2],
    ],
    ids=lambda command: str(command[0]),
)
def test_workers_write_the_same_files(data: list[object], tmp_path: Path, command: list[object]) -> None:
    name, *options = command
    for workers in (1, 2):
        done = run(name, *data, *options, "--workers", workers, "--out", tmp_path / str(workers))
        assert done.exit_code == 0, done.output
    assert files(tmp_path / "1") == files(tmp_path / "2")
    assert files(tmp_path / "1")


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "claim",
    [["--epsilon", "1e-3", "--min-verified", 0.9], ["--sigma", "1e-3", "--min-yield", 0.99, "--min-accuracy", 0.9]],
    ids=["box", "yield"],
)
def test_gates(data: list[object], workers: int, claim: list[object]) -> None:
    done = run("gate", *data, *claim, "--workers", workers)
    assert done.exit_code == 1, done.output
    assert "FAIL" in done.output.upper()


@pytest.mark.slow
def test_a_stored_claim_needs_no_workers_and_takes_the_option(data: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("certify", *data, "--epsilon", "1e-3", "--no-attack", "--no-radius", "--out", out)
    assert run("gate", out, "--epsilon", "1e-3", "--min-verified", 0.0, "--workers", 2).exit_code == 0


@pytest.mark.slow
def test_a_cluster_by_its_address(data: list[object], tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, workers=1)
    try:
        done = run(
            "certify",
            *data,
            "--epsilon",
            "1e-3",
            "--no-attack",
            "--no-radius",
            "--cluster",
            cluster.address,
            "--out",
            tmp_path / "a",
        )
        assert done.exit_code == 0, done.output
        both = run("radius", *data, "--cluster", cluster.address, "--workers", 2, "--out", tmp_path / "b")
        assert both.exit_code == 2
        assert both.stderr.strip() == "thetabox: --workers and --cluster are two ways to share the work; give one"
    finally:
        cluster.close()
    run("certify", *data, "--epsilon", "1e-3", "--no-attack", "--no-radius", "--workers", 1, "--out", tmp_path / "c")
    assert files(tmp_path / "a") == files(tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["certify", "radius", "compare"])
def test_nobody_at_the_address(
    data: list[object], tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetabox.workers.cluster.PATIENCE", 1.0)
    given = {"certify": [*data, "--epsilon", "1e-3"], "radius": data, "compare": ["--task", "digits"]}[command]
    done = run(command, *given, "--cluster", "tcp://127.0.0.1:1", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no scheduler answers at tcp://127.0.0.1:1" in done.stderr


def test_bad_numbers_of_workers(data: list[object], tmp_path: Path) -> None:
    for value in ("0", "-1", "two", "1.5"):
        done = run("radius", *data, "--workers", value, "--out", tmp_path / "out")
        assert done.exit_code == 2
        assert "--workers" in done.stderr


@pytest.mark.slow
def test_without_a_word_small_work_starts_no_process(
    data: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    inner = Pool

    def noted(executor: Any, context: object) -> object:
        given.append(executor)
        return inner(executor, context)

    monkeypatch.setattr(sys.modules["thetabox.verify.certify"], "Pool", noted)
    monkeypatch.setattr("thetabox.cli.executors.cores", lambda: 2)
    how = [*data, "--epsilon", "1e-4", "--no-radius", "--no-attack", "--domain", "interval"]
    assert run("certify", *how, "--out", tmp_path / "a").exit_code == 0
    assert type(given[0]).__name__ == "WhereItPays"
    assert given[0].processes() == []
    # Whoever chose threads, or has one core, has chosen.
    assert run("certify", *how, "--threads", 1, "--out", tmp_path / "b").exit_code == 0
    monkeypatch.setattr("thetabox.cli.executors.cores", lambda: 1)
    assert run("certify", *how, "--out", tmp_path / "c").exit_code == 0
    assert given[1:] == [None, None]


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("way", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_ends_the_workers_and_keeps_what_is_finished(model: Path, tmp_path: Path, way: signal.Signals) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "thetabox", "certify", model, "--data", "vowels", "--epsilon", "5e-4,1e-3,2e-3"]
    command += ["--samples", 12, "--no-attack", "--no-radius", "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [*map(str, command), "--workers", "2"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children: list[psutil.Process] = []
    while len(list((out / "partial").rglob("histories*.safetensors"))) < 2:
        assert running.poll() is None, running.stderr and running.stderr.read()
        children = psutil.Process(running.pid).children(recursive=True)
        time.sleep(0.05)
    # A terminal sends Ctrl-C to all of them, a batch system SIGTERM to one.
    (os.killpg if way == signal.SIGINT else os.kill)(running.pid, way)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.strip() == (
        f"thetabox: interrupted; the finished part is kept in {out}/partial, and the same command goes on from there"
    )
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    # It goes on without workers, to the same end.
    assert run(*command[3:], "--workers", 1).exit_code == 0
    whole = [part for part in command[3:] if part != out]
    assert run(*whole, tmp_path / "whole", "--workers", 1).exit_code == 0
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.slow
@POSIX
def test_ctrl_c_while_workers_begin_is_one_line(model: Path, tmp_path: Path) -> None:
    """A terminal sends it to all of them, and they are importing."""
    command = [sys.executable, "-m", "thetabox", "radius", model, "--data", "vowels", "--workers", 2, "--out", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [*map(str, command)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process(running.pid).children()):
        assert running.poll() is None
        time.sleep(0.01)
    time.sleep(0.7)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.strip() == "thetabox: interrupted"
