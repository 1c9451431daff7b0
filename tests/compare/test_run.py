"""Comparisons that are run: stages kept, interrupted and gone on with, and their report."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thetabox
from thetabox import data
from thetabox.compare import Comparison, Config, Variant, cells, compare, read_config
from thetabox.compare.row import Row
from thetabox.compare.stages import run_cell
from thetabox.compare.summary import write_report
from thetabox.compare.tables import draws, mismatch_table, p_table, pcm_table, yield_table
from thetabox.errors import InputError


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clouds of points: an MLP learns them in two epochs."""
    random = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = random.normal(size=(240, 4)) + 2.0 * np.eye(4)[y]
    path = tmp_path_factory.mktemp("data") / "clouds.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


@pytest.fixture
def config(own_data: Path) -> Config:
    return Config(
        str(own_data),
        methods=("standard", "weight-attack"),
        seeds=2,
        fit={"epochs": 2},
        set={"steps": 2},
        samples=20,
        proof_samples=10,
        level=(0.0, 0.3),
        draws=4,
        epsilon=(0.0, 1e-3),
        attack=(0.05,),
        attack_steps=4,
        directions=2,
        landscape_train_samples=25,
        shared_runs=2,
        shared_steps=3,
        pcm_draws=2,
        pcm_times=(25.0, 3600.0),
    )


def silent(phase: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def run(config: Config, out: Path) -> Comparison:
    """In this process, cell by cell."""
    for cell in cells(config, out):
        run_cell(cell, silent)
    return compare(config, out)


def test_fewer_training_samples(config: Config, tmp_path: Path) -> None:
    """They are what is trained on, and a network of other samples is not taken for theirs."""
    config = replace(config, methods=("standard",), seeds=1, directions=0)
    whole, few = (run(c, tmp_path).rows[0].results["train"][0] for c in (config, replace(config, train_samples=60)))
    assert (whole["batches"], few["batches"]) == (3, 1)
    assert whole["history"] != few["history"]


def test_a_comparison_shows_itself(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(replace(config, directions=0, pcm_draws=0, shared_runs=0), tmp_path)
    assert repr(found).splitlines()[0] == (
        f"Comparison: 2 methods on {config.task}, 2 seeds each; percent, mean over the seeds"
    )
    names, cells_ = found.summary()
    assert names == ["method", "clean", "mismatch 0", "mismatch 0.3", "proven at ε = 0", "proven at ε = 0.001"]
    page = found._repr_html_()
    for row, line in zip(found.rows, cells_, strict=True):
        proven = np.mean([one["accuracy"] for one in row.results["certify"]], 0)
        assert line[0] == row.variant.label
        assert line[4:] == [f"{100 * value:.1f}" for value in proven]
        assert all(f"<td>{cell}</td>" in page for cell in line)
    frame = found.to_pandas()
    assert list(frame["method"]) == ["standard", "standard", "weight-attack", "weight-attack"]
    assert list(frame["seed"]) == [0, 1, 0, 1]
    second = found.rows[0].results
    assert frame["clean"][1] == second["mismatch"][1]["clean_accuracy"]
    assert frame["mismatch 0.3"][1] == np.mean(second["mismatch"][1]["accuracy"][1])
    assert frame["attacked 0.05"][1] == second["attack"][1]["accuracy"][2]
    assert frame["verified 0.001"][1] == second["certify"][1]["accuracy"][1]
    axes = found.plot().axes[0]
    assert {line.get_label() for line in axes.lines} >= {"standard", "weight-attack"}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install"):
        found.to_pandas()


def times(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.glob("cells/*/*")}


@pytest.mark.slow
def test_all_stages_and_the_report(config: Config, tmp_path: Path) -> None:
    found = run(config, tmp_path)
    assert [row.variant.label for row in found.rows] == ["standard", "weight-attack"]
    assert all(len(results) == 2 for row in found.rows for results in row.results.values())
    for row in found.rows:
        for attacked, proven in zip(row.results["attack"], row.results["certify"], strict=True):
            places = [attacked["epsilon"].index(e) for e in proven["epsilon"]]
            for place, verified in zip(places, proven["verified"], strict=True):
                assert all(a >= v for a, v in zip(attacked["correct"][place], verified, strict=True))
        for shared, each in zip(row.results["shared"], row.results["attack"], strict=True):
            assert shared["epsilon"] == each["epsilon"] == [0.0, 1e-3, 0.05]
            assert shared["samples"] == 20
            assert shared["accuracy"] == sorted(shared["accuracy"], reverse=True)
        for aged, seed in zip(row.results["pcm"], (0, 1), strict=True):
            model = thetabox.load(tmp_path / "cells" / f"{row.variant.folder}-seed{seed}" / "model.safetensors")
            test = data.load(config.task, "test").subset(20)
            again = thetabox.measure.pcm(model, test.x, test.y, (25.0, 3600.0), 2, seed=seed, device="cpu")
            assert aged["accuracy"] == again.accuracy.tolist()
            train = data.load(config.task, "train").subset(25)
            around = thetabox.landscape(model, train.x, train.y, directions=2, seed=seed, device="cpu")
            assert row.results["landscape_train"][seed]["loss"] == around.loss.tolist()
            assert row.results["landscape"][seed]["loss"] != around.loss.tolist()
    page = write_report(tmp_path, found).read_text()
    for title in (
        "Random mismatch",
        "Worst case",
        "Proven",
        "Loss landscape",
        "Cost of training",
        "Configuration",
        "One worst case for all samples",
        "Phase-change memory",
        "after 25 s",
        "Loss landscape on the training set",
    ):
        assert title in page
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", page)
    assert not (tmp_path / "missing.txt").exists()
    stored = json.loads((tmp_path / "results.json").read_text())
    assert len(stored["rows"][1]["train"][0]["history"]) == 2
    assert "seconds" not in (tmp_path / "results.json").read_text()


@pytest.mark.slow
def test_only_what_changed_is_done_again(config: Config, tmp_path: Path) -> None:
    run(config, tmp_path)
    before = times(tmp_path)
    run(config, tmp_path)
    assert times(tmp_path) == before
    run(replace(config, draws=5), tmp_path)
    changed = {name for name, stamp in times(tmp_path).items() if stamp != before[name]}
    assert {Path(name).name for name in changed} == {"mismatch.json"}
    model = next(tmp_path.glob("cells/standard-seed0/model.safetensors"))
    model.write_bytes((tmp_path / "cells/standard-seed1/model.safetensors").read_bytes())
    some = {cell.folder.name: cell.missing() for cell in cells(replace(config, draws=5), tmp_path)}
    assert some["standard-seed0"] == ["mismatch", "attack", "shared", "certify", "landscape", "landscape_train", "pcm"]
    assert some["standard-seed1"] == []
    (tmp_path / "cells/standard-seed1/attack.json").write_text("{")
    assert cells(replace(config, draws=5), tmp_path)[1].missing() == ["attack"]


def test_stages_that_nobody_asked_for_are_left_out(config: Config, tmp_path: Path) -> None:
    config = replace(config, methods=("standard",), seeds=1, directions=0, shared_runs=0, pcm_draws=0)
    found = run(config, tmp_path)
    assert set(found.rows[0].results) == {"train", "mismatch", "attack", "certify"}
    page = write_report(tmp_path, found).read_text()
    assert not any(title in page for title in ("One worst case", "after 25 s", "along random directions"))
    # The new stages alone are done afterwards.
    some = cells(replace(config, shared_runs=1, pcm_draws=1), tmp_path)
    assert [cell.missing() for cell in some] == [["shared", "pcm"]]


@pytest.mark.slow
def test_both_norms_of_samson_are_rows(config: Config, tmp_path: Path) -> None:
    config = replace(
        config,
        methods=("samson",),
        set={},
        seeds=1,
        directions=0,
        shared_runs=0,
        pcm_draws=0,
        sweep={"p": (2, math.inf)},
    )
    found = run(config, tmp_path)
    assert [row.variant.label for row in found.rows] == ["samson p=2", "samson p=inf"]
    one, other = (row.results["train"][0]["history"] for row in found.rows)
    assert one != other
    write_report(tmp_path, found)
    assert read_config(tmp_path / "config.toml") == config
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [row["label"] for row in stored["rows"]] == ["samson p=2", "samson p=inf"]


@pytest.mark.slow
def test_proven_yield_of_every_method(config: Config, tmp_path: Path) -> None:
    """Yield alone and after other methods, each proven as ``certify_yield`` does, and nothing done twice."""
    after = "weight-attack+forward-noise+yield"
    plain = replace(
        config,
        methods=("standard", "yield", after),
        set={"steps": 2, "yield.sigma": 0.2, "yield.warmup": 0.5, "yield.ramp": 0.1, "yield.after": True},
        seeds=1,
        directions=0,
        shared_runs=0,
        pcm_draws=0,
        model="mlp",
        model_set={"sizes": [4, 6, 3]},
    )
    run(plain, tmp_path)
    asked = replace(plain, yield_sigma=(0.05, 0.2), yield_delta=0.05)
    assert [cell.missing() for cell in cells(asked, tmp_path)] == [["yield"]] * 3
    before = times(tmp_path)
    found = run(asked, tmp_path)
    assert {Path(name).name for name, stamp in times(tmp_path).items() if before.get(name) != stamp} == {"yield.json"}
    test = data.load(config.task, "test").subset(10)
    for row in found.rows:
        (result,) = row.results["yield"]
        model = thetabox.load(tmp_path / "cells" / f"{row.variant.folder}-seed0" / "model.safetensors")
        assert model.config == {"sizes": [4, 6, 3]}
        proof = thetabox.certify_yield(model, test.x, test.y, [0.05, 0.2], 0.05, device="cpu")
        assert result["proven_share"] == proof.proven_share.tolist()
        assert result["mean_accuracy"] == proof.mean_accuracy.tolist()
        assert result["proven"] == ["".join("1" if v else "0" for v in proven) for proven in proof.proven.tolist()]
    assert len({str(row.results["train"][0]["history"]) for row in found.rows}) == 3
    table = yield_table(found.rows)
    assert table.columns == ["method", "clean", "σ = 0.05", "σ = 0.2"]
    assert [row[0] for row in table.rows] == ["standard", "yield", after]
    assert float(table.rows[0][2]) == pytest.approx(
        100 * found.rows[0].results["yield"][0]["proven_share"][0], abs=0.05
    )
    page = write_report(tmp_path, found).read_text()
    assert "Proven yield" in page
    assert "at least 0.95 of all chips" in page
    assert "## Proven yield" in (tmp_path / "tables.md").read_text()
    assert "yield" in json.loads((tmp_path / "results.json").read_text())["rows"][0]
    assert read_config(tmp_path / "config.toml") == asked
    # Another δ is another proof, another network another training.
    assert cells(replace(asked, yield_delta=0.01), tmp_path)[0].missing() == ["yield"]
    assert "train" in cells(replace(asked, model_set={"sizes": [4, 7, 3]}), tmp_path)[0].missing()


def test_a_network_that_does_not_exist_is_refused_before_anything_is_written(config: Config, tmp_path: Path) -> None:
    for model_set in ({"sizes": [4]}, {"magic": 1}):
        with pytest.raises(InputError):
            compare(replace(config, model="mlp", model_set=model_set), tmp_path / "out")
    assert not list(tmp_path.rglob("*.toml"))


def command(config: Config, out: Path) -> list[str]:
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.parent / "config.toml"
    file.write_text(config.to_toml())
    return [sys.executable, "-W", "ignore", "-m", "thetabox", "compare", "--config", str(file), "--out", str(out)]


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a group of processes")
def test_interrupted_anywhere_it_ends_the_same(config: Config, tmp_path: Path) -> None:
    whole, parts = tmp_path / "a" / "whole", tmp_path / "b" / "parts"
    done = subprocess.run(command(config, whole), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for stages in (1, 3):
        before = len(list(parts.glob("cells/*/*.json")))
        process = subprocess.Popen(
            command(config, parts),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell starts what runs in its background deaf to Ctrl-C, which its children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 200
        while len(list(parts.glob("cells/*/*.json"))) < before + stages and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 130, complaint
        assert "Traceback" not in complaint
        assert (parts / "missing.txt").read_text().strip()
    kept = times(parts)
    done = subprocess.run(command(config, parts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    now = times(parts)
    assert all(now[name] == stamp for name, stamp in kept.items() if name.endswith(".json"))
    assert not (parts / "missing.txt").exists()
    for name in ("results.json", "tables.md", "config.toml", "random-mismatch.png", "proven.png", "proven.pdf"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()

    def page(out: Path) -> str:
        text = (out / "report.html").read_text()
        return text[: text.index("Cost of training")]

    assert page(parts) == page(whole)


def row(label: str, accuracy: list[list[float]]) -> Row:
    found: dict[str, list[dict[str, Any]]] = {"mismatch": [{"accuracy": accuracy, "clean_accuracy": 0.9}]}
    return Row(Variant(label, label), found, {})


def test_tables_by_hand() -> None:
    rows = [row("low", [[0.9, 0.9], [0.1, 0.3]]), row("high", [[0.8, 0.8], [0.5, 0.7]])]
    assert draws(rows[0]).tolist() == [[0.9, 0.9], [0.1, 0.3]]
    table = mismatch_table(rows, (0.0, 0.3))
    assert table.columns == ["method", "clean", "mismatch 0", "mismatch 0.3"]
    assert table.rows[0] == ["low", "90.00", "90.00 ± 0.00 (90.00)", "20.00 ± 14.14 (10.00)"]
    # Two against two, all of one above the other: 2 of the 6 orders are as extreme.
    assert p_table(rows, (0.0, 0.3)).rows == [["low", "–", "0.33"], ["high", "–", "best"]]
    rows[0].results["pcm"] = [{"accuracy": [[0.5]]}, {"accuracy": [[0.7]]}]
    aged = pcm_table(rows[:1], (3600.0,))
    assert (aged.columns, aged.rows) == (["method", "after 1 h"], [["low", "60.00 ± 14.14 (50.00)"]])
    assert "| low | – | 0.33 |" in p_table(rows, (0.0, 0.3)).markdown()
