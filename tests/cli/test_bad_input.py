"""Whatever is wrong with what the user gave: one line, exit status 2, nothing half written."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from thetabox.models import LSNN, MLP, ConvNet, save


def refused(result, *parts: str) -> None:
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("thetabox: ")
    for part in parts:
        assert part in lines[0], lines[0]
    assert "Traceback" not in result.output


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def certify(run, model, out, data="digits", epsilon="0,1e-3", *more):
    return run("certify", model, "--data", data, "--epsilon", epsilon, "--samples", 6, "--out", out, *more)


# --- the model


def test_no_such_file(run, out):
    refused(certify(run, "nowhere.safetensors", out), "nowhere.safetensors", "no such file")
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"hello, world", b"\x00" * 64, b"\xff" * 1000, b"{}"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_not_a_checkpoint(run, out, tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    refused(certify(run, path, out, "digits", "0", "--model", "convnet"), str(path))
    assert not out.exists()


def test_a_folder_is_not_a_checkpoint(run, out, tmp_path):
    refused(certify(run, tmp_path, out), str(tmp_path))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_checkpoint(run, out, tmp_path, cnn, share):
    content = cnn.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(content[: int(len(content) * share)])
    refused(certify(run, path, out), "truncated")
    assert not out.exists()


def test_truncated_state_dict(run, out, tmp_path):
    path = tmp_path / "short.pt"
    torch.save(ConvNet.small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    refused(certify(run, path, out, "digits", "0", "--model", "convnet"), str(path))


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "this code ran")


def test_a_pickle_that_would_run_code_is_refused(run, out, tmp_path):
    target = tmp_path / "ran"
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Trap(target)))
    torch.save({"weight": torch.ones(2), "extra": Trap(target)}, tmp_path / "zipped.pt")
    (tmp_path / "renamed.safetensors").write_bytes((tmp_path / "zipped.pt").read_bytes())
    for name in ("bare.pt", "zipped.pt", "renamed.safetensors"):
        refused(certify(run, tmp_path / name, out, "digits", "0", "--model", "convnet"), name)
    assert not target.exists()
    assert not out.exists()
    pickle.loads((tmp_path / "bare.pt").read_bytes())
    assert target.exists(), "the trap does not work, so its refusal shows nothing"


def test_nan_and_infinite_weights(run, out, tmp_path):
    for value in (float("nan"), float("inf")):
        model = ConvNet.small()
        with torch.no_grad():
            next(model.parameters()).view(-1)[3] = value
        path = tmp_path / "bad.safetensors"
        save(model, path)
        refused(certify(run, path, out), "NaN or infinite")
    assert not out.exists()


def test_checkpoint_without_architecture(run, out, tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file({"weight": torch.ones(3, 3)}, path)
    refused(certify(run, path, out), "--model")
    refused(certify(run, path, out, "digits", "0", "--model", "nonesuch"), "unknown model 'nonesuch'", "lsnn")
    refused(certify(run, path, out, "digits", "0", "--model", "convnet"), "convnet")
    refused(certify(run, path, out, "digits", "0", "--set", "units=3"), "--model")
    refused(certify(run, path, out, "digits", "0", "--model", "mlp", "--set", "sizes"), "name=value")
    refused(certify(run, path, out, "digits", "0", "--model", "mlp", "--set", "nothing=1"), "mlp")


# --- the data


def test_wrong_input_shape(run, out, cnn, lsnn, npz):
    refused(certify(run, cnn, out, "vowels"), "[60, 12]")
    refused(certify(run, lsnn, out, "digits"), "8, 8]")
    refused(certify(run, cnn, out, npz(x=np.zeros((12, 3, 8, 8), np.float32))), "[3, 8, 8]")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"y": np.arange(12)}, "label 11"),
        ({"y": np.arange(12) - 1}, "label"),
        ({"y": np.zeros(5, np.int64)}, "5"),
        ({"y": np.zeros(12)}, "integer"),
        ({"y": np.zeros((12, 2), np.int64)}, "shape"),
        ({"x": np.full((12, 1, 8, 8), np.nan)}, "NaN"),
        ({"x": np.full((12, 1, 8, 8), np.inf)}, "infin"),
        ({"x": np.zeros((0, 1, 8, 8)), "y": np.zeros(0, np.int64)}, "empty"),
        ({"x": np.array(["a"] * 12)}, "numbers"),
        ({"x": np.array([None] * 12, dtype=object)}, "pickle"),
    ],
)
def test_bad_arrays(run, out, cnn, npz, arrays, part):
    refused(certify(run, cnn, out, npz(**arrays)), part)
    assert not out.exists()


def test_bad_data_files(run, out, cnn, tmp_path, npz):
    refused(certify(run, cnn, out, "nonesuch"), "unknown task 'nonesuch'", "digits")
    refused(certify(run, cnn, out, tmp_path / "none.npz"), "none.npz")
    (tmp_path / "text.npz").write_text("x,y")
    refused(certify(run, cnn, out, tmp_path / "text.npz"), "text.npz")
    short = npz("short.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(short[: len(short) // 2])
    refused(certify(run, cnn, out, tmp_path / "short.npz"), "short.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("z.npy", "")
    refused(certify(run, cnn, out, tmp_path / "other.npz"), "x")
    refused(certify(run, cnn, out, "digits", "0", "--split", "nonesuch"), "nonesuch")
    refused(run("certify", cnn, "--data", "digits", "--epsilon", 0, "--samples", 0, "--out", out), "--samples")
    assert not out.exists()


def test_a_task_whose_files_are_missing(run, out, cnn, tmp_path):
    refused(certify(run, cnn, out, "fashion-mnist", "0", "--data-dir", tmp_path / "no"), "no")


# --- numbers and names


@pytest.mark.parametrize("epsilon", ["-1", "0,-1e-3", "abc", "nan", "inf", "1e-3,,2", "", "1e-3;2", "1e-3,1e-3"])
@pytest.mark.parametrize("command", ["certify", "attack", "gate"])
def test_bad_epsilon(run, out, cnn, epsilon, command):
    more = ["--min-verified", 0.5] if command == "gate" else ["--out", out]
    refused(run(command, cnn, "--data", "digits", f"--epsilon={epsilon}", *more), "--epsilon")
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--domain", "nonesuch"),
        ("--option", "histories"),
        ("--option", "nonesuch=4"),
        ("--budget", "-1"),
        ("--budget", "nan"),
        ("--budget", "some"),
        ("--criterion", "nonesuch"),
        ("--arithmetic", "nonesuch"),
        ("--precision", "nonesuch"),
        ("--device", "nonesuch"),
        ("--box-kind", "nonesuch"),
        ("--include", "nonesuch"),
        ("--scale", "conv*=-1"),
        ("--scale", "conv*"),
        ("--scale", "conv*=wide"),
        ("--threads", "0"),
        ("--seed", "-1"),
    ],
)
def test_unknown_settings(run, out, cnn, option, value):
    refused(certify(run, cnn, out, "digits", "0,1e-3", option, value))
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--epsilon", "1e-3"), "--epsilon"),
        (("--data", "vowels"), "--data"),
        (("--fold", "--fold"), "--fold"),
        (("--attack", "--no-attack"), "--attack"),
        (("--effort", 5, "--effort", 5), "--effort"),
        (("--option", "effort=5", "--effort", 600), "'effort'"),
        (("--option", "effort=5", "--option", "effort=6"), "'effort'"),
        (("--set", "width=5", "--set", "width=6", "--model", "mlp"), "'width'"),
        (("--set", "name=5", "--model", "mlp"), "name"),
    ],
    ids=str,
)
def test_what_is_given_twice(run, out, cnn, given, said):
    refused(certify(run, cnn, out, "digits", "0,1e-3", *given), said)
    assert not out.exists()


def test_settings_of_a_training_given_twice(run, tmp_path):
    more = ("--task", "digits", "--out", tmp_path / "m.safetensors", "--epochs", 1)
    refused(run("train", *more, "--method", "awp", "--set", "a=1", "--set", "a=2"), "'a'", "two values")
    refused(run("train", *more, "--model-set", "a=1", "--model-set", "a=2"), "'a'", "two values")


def test_no_gpu(run, out, cnn):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refused(certify(run, cnn, out, "digits", "0", "--device", "cuda"), "cuda")


def test_training(run, out, tmp_path):
    refused(run("train", "--task", "nonesuch", "--out", out / "m.safetensors"), "unknown task")
    refused(run("train", "--task", "digits", "--method", "nonesuch", "--out", out / "m.safetensors"), "nonesuch")
    for setting in ("nonesuch=1", "noise=wide", "noise=-1", "noise=nan"):
        given = ["--method", "forward-noise", "--set", setting, "--out", out / "m.safetensors"]
        refused(run("train", "--task", "digits", *given), setting.split("=")[0])
    refused(run("train", "--task", "digits", "--epochs", 1, "--lr", "nan", "--out", out / "m.safetensors"), "lr")
    refused(run("train", "--task", "digits", "--model", "nonesuch", "--out", out / "m.safetensors"), "nonesuch")
    refused(run("train", "--task", "digits", "--out", tmp_path), "folder")
    refused(run("train", "--task", "digits", "--from", tmp_path / "no", "--out", out / "m.safetensors"), "no")
    both = ("--from", tmp_path / "no", "--model", "convnet")
    refused(run("train", "--task", "digits", *both, "--out", out / "m.safetensors"), "--from brings its own network")
    assert not out.exists()
    (tmp_path / "file").write_text("mine")
    refused(run("train", "--task", "digits", "--epochs", 1, "--out", tmp_path / "file" / "m.safetensors"), "file")


def test_unknown_commands_and_missing_arguments(run):
    refused(run("nonesuch"), "nonesuch")
    refused(run("certify"), "MODEL")
    refused(run("certify", "m", "--nonesuch"), "--nonesuch")
    refused(run("tasks", "nonesuch"), "unknown task")


def test_an_operator_without_a_rule_is_named(run, out, tmp_path, cnn, monkeypatch):
    from thetabox.verify.interpreter.rules.table import TABLE

    monkeypatch.delitem(TABLE, "aten.relu.default")
    refused(certify(run, cnn, out), "aten.relu.default", "relu1")
    assert "no rule for aten.relu.default" in run("inspect", cnn).output
    assert not out.exists()


# --- the output


def test_output_folder_is_a_file(run, tmp_path, cnn):
    (tmp_path / "out").write_text("mine")
    refused(certify(run, cnn, tmp_path / "out"), "is a file")
    for command in ("radius", "attack", "mismatch"):
        epsilon = ["--epsilon", "0"] if command == "attack" else []
        refused(run(command, cnn, "--data", "digits", *epsilon, "--out", tmp_path / "out"), "is a file")
    assert (tmp_path / "out").read_text() == "mine"


def test_output_folder_cannot_be_written(run, cnn):
    refused(certify(run, cnn, "/proc/thetabox"), "/proc/thetabox")
    refused(certify(run, cnn, "/proc/self"), "/proc/self")


@pytest.mark.slow
def test_a_full_disk_half_way(tmp_path, cnn, start):
    """A limit on file size stands for the full disk; the report is larger than it, the json is not."""
    if sys.platform == "win32":
        pytest.skip("no limits on Windows")
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(
        *("certify", cnn, "--data", "digits", "--samples", 6, "--epsilon", "0,1e-3", "--no-attack", "--no-radius"),
        *("--out", tmp_path / "out"),
        preexec_fn=limit,
        cwd=tmp_path,
        # Compiled under the limit, modules would be left cut off for every process after this one.
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 2, complaint
    assert len(complaint.strip().splitlines()) == 1
    assert "cannot write" in complaint
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("command", ["radius", "gate"])
def test_unknown_options_of_a_domain(run, out, cnn, command):
    more = ["--epsilon", 0.1, "--min-verified", 0.5] if command == "gate" else ["--out", out]
    for option, named in (
        (["--option", "nonesuch=4"], "nonesuch"),
        (["--domain", "interval", "--budget", 1], "budget"),
        (["--domain", "nonesuch"], "choose one of auto, interval"),
    ):
        refused(run(command, cnn, "--data", "digits", *option, *more), named)
    assert not out.exists()


def test_gate_refuses_a_second_opinion_before_computing_it(run, cnn):
    result = run("gate", cnn, "--data", "digits", "--epsilon", 0.1, "--min-verified", 0, "--domain", "lirpa")
    refused(result, "takes proofs only")


def test_gate_on_bad_certificates(run, tmp_path, cnn):
    def gate(target, *more):
        return run("gate", target, "--epsilon", 1e-3, "--min-verified", 0.5, *more)

    refused(gate(tmp_path), "no certificate")
    refused(gate(cnn), "--data")
    for text in ("", "{", "[]", "{}", '{"schema": "thetabox.certificate/1"}', '{"schema": "other/1"}'):
        (tmp_path / "certificate.json").write_text(text)
        refused(gate(tmp_path), "certificate")
    refused(gate(cnn, "--data", "digits", "--junit", tmp_path), "folder")
    refused(run("gate", cnn, "--data", "digits", "--epsilon", 1e-3, "--min-verified", 1.5), "--min-verified")
    refused(run("gate", cnn, "--data", "digits", "--epsilon", 1e-3), "--min-verified")


def test_unexpected_errors_are_one_line_too(run, monkeypatch):
    from thetabox.cli.commands import tasks

    def broken() -> None:
        raise RuntimeError("several\nlines")

    monkeypatch.setattr(tasks.command, "callback", lambda name: broken())
    result = run("tasks")
    assert result.exit_code == 70
    assert result.stderr.strip() == (
        "thetabox: unexpected RuntimeError: several lines (thetabox --debug COMMAND … shows where)"
    )
    result = run("--debug", "tasks")
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.slow
def test_bad_input_of_a_real_process(tmp_path, start):
    process = start("certify", tmp_path / "none", "--data", "digits", "--epsilon", "0", "--out", tmp_path / "out")
    output, complaint = process.communicate(timeout=300)
    assert process.returncode == 2
    assert output == ""
    assert complaint.count("\n") == 1
    assert complaint.startswith("thetabox: ")


@pytest.mark.slow
def test_a_reader_that_goes_away(start):
    process = start("methods")
    process.stdout.close()
    assert process.wait(timeout=300) in (0, 1, -13)
    assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_models_of_other_names(tmp_path, run, out):
    """A state_dict beside its network's name, with and without settings, is as good as a checkpoint."""
    torch.save(MLP([64, 16, 10]).state_dict(), tmp_path / "mlp.pt")
    data = tmp_path / "flat.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(5, 64)), y=np.arange(5))
    quick = ("--no-attack", "--no-radius")
    for settings in ([], ["--set", "sizes=[64,16,10]"]):
        result = certify(run, tmp_path / "mlp.pt", out, data, "0,1e-3", "--model", "mlp", *settings, *quick)
        assert result.exit_code == 0, result.output
    torch.save(LSNN(12, 8, 9).state_dict(), tmp_path / "lsnn.pt")
    result = certify(run, tmp_path / "lsnn.pt", out, "vowels", "0", "--model", "lsnn", "--set", "units=7", *quick)
    refused(result)


# --- devices


@pytest.mark.parametrize("times", ["-1", "abc", "1w", "nan", "1e400y", "1h,,2h", "", "60,1min", "1.2.3"])
def test_times(run, out, cnn, times):
    refused(run("pcm", cnn, "--data", "digits", "--samples", 6, "--times", times, "--out", out), "--times")
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--adc-bits", 1), "integer from 2 to 24"),
        (("--dac-bits", 25), "--dac-bits"),
        (("--tile", 0), "--tile"),
        (("--tile", 4), "tiles of at least 9"),
        (("--draws", 0), "--draws"),
        (("--include", "nothing"), "no weight matrix"),
    ],
)
def test_what_devices_cannot_be(run, out, cnn, option, said):
    refused(run("pcm", cnn, "--data", "digits", "--samples", 6, "--times", "25", *option, "--out", out), said)
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--zeta", 0), "--zeta"),
        (("--zeta", "inf"), "zeta"),
        (("--reach", -1), "--reach"),
        (("--reach", "inf"), "alpha"),
        (("--points", 2), "--points"),
        (("--directions", 0), "--directions"),
        (("--include", "nothing"), "no parameter is in the box"),
    ],
)
def test_what_a_landscape_cannot_be(run, out, cnn, option, said):
    refused(run("landscape", cnn, "--data", "digits", "--samples", 6, *option, "--out", out), said)
    assert not out.exists()


def test_compare_refuses_what_does_not_fit(run, tmp_path):
    def compare(*more):
        return run("compare", "--out", tmp_path / "out", *more)

    refused(compare(), "no task")
    refused(compare("--task", "magic"), "unknown task")
    refused(compare("--task", "digits", "--methods", "magic"), "unknown training method")
    refused(compare("--task", "digits", "--sweep", "magic=1,2"), "magic")
    refused(compare("--task", "digits", "--config", tmp_path / "none.toml"), "cannot read")
    refused(compare("--task", "digits", "--seeds", 0), "--seeds")
    (tmp_path / "yield.toml").write_text("yield_delta = 0")
    refused(compare("--task", "digits", "--config", tmp_path / "yield.toml"), "yield_delta is 0")
    (tmp_path / "out").write_text("mine")
    refused(compare("--task", "digits"), "is a file")
    assert (tmp_path / "out").read_text() == "mine"
