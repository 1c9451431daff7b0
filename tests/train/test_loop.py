"""The training loop: it learns, reproduces bit for bit, resumes exactly, keeps the best, and refuses bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models import LSNN, MLP, checkpoint_info, load
from thetabox.train import Epoch, TrainResult, checkpointer, evaluate, fit, method
from thetabox.train import training as training_module
from thetabox.train.methods import METHODS, Method
from thetabox.train.settings import TrainingSettings

Pair = tuple[Tensor, Tensor]


def blobs(n: int, seed: int) -> Pair:
    """Three Gaussian blobs in the plane."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return centres[y] + 0.6 * torch.randn(n, 2, generator=generator), y


def rhythms(n: int, seed: int) -> Pair:
    """Sequences of 20 steps in which one of two channels is louder."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.3 * torch.randn(n, 20, 2, generator=generator)
    x[torch.arange(n), :, y] += 0.7
    return x, y


def mlp() -> nn.Module:
    torch.manual_seed(5)
    return MLP((2, 12, 3))


def lsnn() -> nn.Module:
    torch.manual_seed(5)
    return LSNN(2, 10, 2)


def train(model: nn.Module, name: str = "standard", **kwargs: object) -> TrainResult:
    make = rhythms if isinstance(model, LSNN) else blobs
    defaults: dict = {"epochs": 6, "batch_size": 16, "lr": 1e-2, "seed": 3, "progress": False, "device": "cpu"}
    return fit(model, make(90, 0), make(60, 1), name, **{**defaults, **kwargs})


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


METHOD_NAMES = ["standard", "forward-noise", "weight-attack", "weight-attack+forward-noise"]


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("build", [mlp, lsnn])
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_learns_and_reproduces_bit_for_bit(build: object, name: str) -> None:
    first = train(build(), name)
    second = train(build(), name)
    assert first.best_validation_accuracy > 0.9
    assert equal(weights(first.model), weights(second.model))
    assert first.history == second.history
    other = train(build(), name, seed=4)
    assert not equal(weights(first.model), weights(other.model))


def test_methods_differ() -> None:
    results = [weights(train(mlp(), name).model) for name in METHOD_NAMES]
    for i in range(len(results)):
        for j in range(i):
            assert not equal(results[i], results[j])


def test_global_state_is_left_alone() -> None:
    torch.manual_seed(11)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    model = mlp()
    torch.manual_seed(11)
    train(model, threads=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not model.training


def test_best_epoch_is_kept() -> None:
    """A rate so high that accuracy moves up and down: the model must be the best epoch's, not the last."""
    result = train(mlp(), lr=0.5, epochs=8)
    best = max(result.history, key=lambda e: (e.validation_accuracy, -e.validation_loss))
    assert result.best_epoch == best.epoch
    accuracy, loss = evaluate(result.model, *blobs(60, 1))
    assert (accuracy, loss) == (best.validation_accuracy, best.validation_loss)
    assert result.best_validation_accuracy == accuracy
    assert len({e.validation_accuracy for e in result.history}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "weight-attack+forward-noise"])
@pytest.mark.parametrize("kind", [mlp, lsnn])
def test_interrupted_and_resumed_equals_uninterrupted(name: str, kind: object, tmp_path: Path) -> None:
    whole = train(kind(), name, schedule="cosine")

    def stop(record: Epoch) -> None:
        if record.epoch == 3:
            raise KeyboardInterrupt

    out = tmp_path / "m.safetensors"
    part = train(kind(), name, schedule="cosine", out=out, on_epoch=stop)
    assert part.interrupted
    assert len(part.history) == 3
    assert equal(weights(load(out)), weights(part.model))
    assert (tmp_path / "m.safetensors.resume").exists()
    rest = train(kind(), name, schedule="cosine", out=out, resume=True)
    assert not rest.interrupted
    assert rest.history == whole.history
    assert equal(weights(rest.model), weights(whole.model))
    assert equal(weights(load(out)), weights(whole.model))
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_interrupted_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    run_step = training_module.run_step

    def interrupting(*args: object) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 15:  # six batches an epoch: in the third
            raise KeyboardInterrupt
        return run_step(*args)

    monkeypatch.setattr(training_module, "run_step", interrupting)
    out = tmp_path / "m.safetensors"
    part = train(mlp(), out=out)
    assert part.interrupted
    assert len(part.history) == 2
    rest = train(mlp(), out=out, resume=True)
    assert equal(weights(rest.model), weights(train(mlp()).model))


def test_interrupted_before_the_first_epoch_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupting(*_: object) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_module, "run_step", interrupting)
    result = train(mlp(), out=tmp_path / "m.safetensors")
    assert result.interrupted
    assert result.best_epoch == 0
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_is_renewed_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointer, "SAVE_EVERY_SECONDS", 0.0)
    out = tmp_path / "m.safetensors"
    seen = []

    def look(record: Epoch) -> None:
        seen.append((record.epoch, checkpoint_info(out)["info"]["best_epoch"]))
        if record.epoch == 4:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(mlp(), out=out, on_epoch=look, lr=0.3)
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4]
    assert all(best <= epoch for epoch, best in seen)
    rest = train(mlp(), out=out, resume=True, lr=0.3)
    assert equal(weights(rest.model), weights(train(mlp(), lr=0.3).model))


def test_resume_refuses_another_training(tmp_path: Path) -> None:
    def stop(_: Epoch) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "m.safetensors"
    train(mlp(), out=out, on_epoch=stop)
    with pytest.raises(InputError, match="other settings"):
        train(mlp(), out=out, resume=True, lr=1e-3)
    with pytest.raises(InputError, match="other settings"):
        train(mlp(), "forward-noise", out=out, resume=True)
    side = tmp_path / "m.safetensors.resume"
    side.write_bytes(side.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be resumed"):
        train(mlp(), out=out, resume=True)


def test_checkpoint_says_how_it_was_made(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    result = train(mlp(), "weight-attack", set={"zeta": "0.05", "steps": 2}, out=out, info={"task": "blobs"})
    info = checkpoint_info(out)["info"]
    assert info["task"] == "blobs"
    assert info["method"] == "weight-attack"
    assert "zeta=0.05" in info["hyper_parameters"]
    assert info["seed"] == 3
    assert info["best_validation_accuracy"] == result.best_validation_accuracy


def test_schedules_and_optimisers_train() -> None:
    for schedule in ("constant", "cosine", "late-cosine", "steps"):
        for optimizer in ("adam", "sgd"):
            result = train(mlp(), schedule=schedule, optimizer=optimizer, lr=2e-2, weight_decay=1e-4, clip_norm=1.0)
            assert result.best_validation_accuracy > 0.9, (schedule, optimizer)


def test_rate_penalty_lowers_the_firing_rate() -> None:
    x = rhythms(60, 1)[0]
    free = train(lsnn(), epochs=10).model.outputs(x).mean()
    held = train(lsnn(), epochs=10, rate_penalty=0.1).model.outputs(x).mean()
    assert held < 0.7 * free


def test_augmentation() -> None:
    x = torch.arange(8.0).expand(500, 8)[:, :, None]
    moved = TrainingSettings(time_shift=2).augment(x, torch.Generator().manual_seed(0))[:, :, 0]
    allowed = {tuple(min(max(t + s, 0), 7) for t in range(8)) for s in range(-2, 3)}
    assert {tuple(int(v) for v in row) for row in moved} == allowed
    noise = TrainingSettings(input_noise=0.3).augment(x, torch.Generator().manual_seed(0)) - x
    assert noise.std().item() == pytest.approx(0.3, rel=0.05)
    assert train(lsnn(), input_noise=0.1, time_shift=2).best_validation_accuracy > 0.9


def test_a_methods_own_backward_is_used() -> None:
    class Frozen(Method):
        def backward(self, step: object, objective: object) -> Tensor:
            loss = objective()
            for p in step.theta.values():
                p.grad = torch.zeros_like(p)
            return loss.detach()

    model = mlp()
    before = weights(model)
    train(model, Frozen(), epochs=1)
    assert equal(weights(model), before)


def test_batch_norm_statistics_move_with_the_task_loss_alone() -> None:
    torch.manual_seed(0)
    steps = []
    for name in ("standard", "weight-attack"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        fit(model, blobs(90, 0), blobs(60, 1), name, epochs=1, batch_size=30, lr=1e-3, progress=False, device="cpu")
        steps.append(int(model[1].num_batches_tracked))
    assert steps == [3, 3]


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"schedule": "nope"}, "schedule"),
        ({"optimizer": "nope"}, "optimizer"),
        ({"device": "tpu"}, "device"),
        ({"set": {"zeta": 1}}, "no hyper-parameter 'zeta'"),
        ({"lr": 1e30, "optimizer": "sgd"}, "loss became"),
        ({"out": "/nonexistent-folder/m.safetensors"}, "cannot write"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_bad_settings(kwargs: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        train(mlp(), **kwargs)


def test_bad_data() -> None:
    x, y = blobs(30, 0)
    good = (x, y)
    model = mlp()
    for data, word in [
        ((x[:0], y[:0]), "empty"),
        ((x, y[:5]), "labels of shape"),
        ((x, y + 0.5), "integers"),
        ((x, y - 1), "integers of at least 0"),
        ((x * math.nan, y), "NaN"),
        ((x, y + 5), "labels go up to 7"),
        ((x[:, :1], y), "does not take inputs"),
    ]:
        with pytest.raises(InputError, match=word):
            fit(model, data, good, progress=False, device="cpu")
    with pytest.raises(InputError, match="validation data is empty"):
        fit(model, good, (x[:0], y[:0]), progress=False, device="cpu")
    with pytest.raises(InputError, match="different shapes"):
        fit(model, good, (x[:, :1], y), progress=False, device="cpu")


class Answering(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.dense, self.answer = mlp(), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.dense(x))


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (Answering(lambda o: (o, o)), "returns a tuple"),
        (Answering(lambda o: o[:, None].repeat(1, 3, 1)), r"returns \[1, 3, 3\] for one sample"),
        (Answering(lambda o: o.sum()), r"returns \[\] for one sample"),
        (mlp().requires_grad_(False), "no parameter that is trained"),
    ],
)
def test_networks_that_cannot_be_trained(model: nn.Module, word: str) -> None:
    data = blobs(30, 0)
    with pytest.raises(InputError, match=word) as caught:
        fit(model, data, data, progress=False, device="cpu")
    assert "\n" not in str(caught.value)


def test_progress_goes_to_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    train(mlp(), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "validation" in captured.err


def test_numpy_arrays_and_method_objects() -> None:
    x, y = (a.numpy() for a in blobs(90, 0))
    result = fit(mlp(), (x, y), (x, y), method("standard"), epochs=3, lr=1e-2, progress=False, device="cpu")
    assert result.best_validation_accuracy > 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("build", [mlp, lsnn])
def test_on_a_gpu(build: object, tmp_path: Path) -> None:
    name = "weight-attack+forward-noise"
    first = train(build(), name, device="cuda", out=tmp_path / "m.safetensors")
    second = train(build(), name, device="cuda")
    assert first.best_validation_accuracy > 0.9
    assert next(first.model.parameters()).is_cuda
    assert equal(weights(first.model), weights(second.model))
    assert not next(load(tmp_path / "m.safetensors").parameters()).is_cuda


def test_rare_classes_come_more_often() -> None:
    y = torch.tensor([0] * 10 + [1] * 4 + [2])
    places = TrainingSettings(repeat_rare=5).places(y)
    assert y[places].bincount().tolist() == [10, 8, 5]
    assert TrainingSettings().places(y).tolist() == list(range(15))


# --- the last batch


def normalised() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(2, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


class Sizes(Method):
    """Keeps the size of every batch it is given."""

    name = "sizes"
    seen: list[int] = []  # noqa: RUF012 - one list for the whole test

    def extra(self, step, logits=None):
        self.seen.append(len(step.x))


@pytest.mark.parametrize(
    ("samples", "batch", "sizes"),
    [
        (65, 16, [16, 16, 16, 17]),
        (66, 16, [16, 16, 16, 16, 2]),
        (64, 16, [16, 16, 16, 16]),
        (17, 16, [17]),
        (16, 16, [16]),
        (5, 2, [2, 3]),
        (3, 1, [1, 1, 1]),
        (1, 16, [1]),
        (7, 16, [7]),
    ],
)
def test_a_lone_last_sample_joins_the_batch_before_it(samples: int, batch: int, sizes: list[int]) -> None:
    assert TrainingSettings(batch_size=batch).batches(samples) == len(sizes)
    Sizes.seen = []
    fit(mlp(), blobs(samples, 0), blobs(6, 1), Sizes(), epochs=2, batch_size=batch, progress=False, device="cpu")
    assert Sizes.seen == 2 * sizes


@pytest.mark.parametrize("name", [n for n in METHODS if n != "counts"])
def test_every_method_ends_an_epoch_with_one_sample_more(name: str) -> None:
    results = [
        fit(
            normalised(), blobs(33, 0), blobs(9, 1), name, epochs=2, batch_size=16, seed=3, progress=False, device="cpu"
        )
        for _ in range(2)
    ]
    assert equal(*[weights(result.model) for result in results])


def test_a_batch_of_one_is_a_line_where_batch_norm_stands() -> None:
    for samples, batch in ((1, 16), (5, 1)):
        with pytest.raises(InputError, match="batch norm") as caught:
            fit(normalised(), blobs(samples, 0), blobs(6, 1), batch_size=batch, progress=False, device="cpu")
        assert "\n" not in str(caught.value)


def test_a_lone_sample_resumes_too(tmp_path: Path) -> None:
    def stop(record: Epoch) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    data = (blobs(33, 0), blobs(9, 1))
    same = {"epochs": 4, "batch_size": 16, "progress": False, "device": "cpu"}
    path = tmp_path / "m.safetensors"
    torch.manual_seed(5)
    net = MLP((2, 12, 3))
    expected = fit(net, *data, **same)
    torch.manual_seed(5)
    assert fit(MLP((2, 12, 3)), *data, out=path, on_epoch=stop, **same).interrupted
    torch.manual_seed(5)
    again = fit(MLP((2, 12, 3)), *data, out=path, resume=True, **same)
    assert equal(weights(again.model), weights(expected.model))


# --- data as it comes


def test_data_of_other_forms_is_the_same_data() -> None:
    x, y = blobs(30, 0)
    expected = weights(fit(mlp(), (x, y), (x, y), epochs=2, progress=False, device="cpu").model)
    big = x.numpy().astype(">f4")
    for data in [
        (x.numpy()[::-1].copy()[::-1], y.numpy()[::-1].copy()[::-1]),
        (big, y.numpy().astype(">i2")),
        (list(x), y.tolist()),
        (x.clone().requires_grad_(), y.double()),
        (x.to_sparse(), y.to(torch.uint8)),
        [x, y],
    ]:
        assert equal(weights(fit(mlp(), data, data, epochs=2, progress=False, device="cpu").model), expected)
    for wrong in (None, (x,), "digits", (x, y, y), (x.to(torch.complex64), y), ([["a"]], [0])):
        with pytest.raises(InputError) as caught:
            fit(mlp(), wrong, (x, y), progress=False, device="cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["standard", "awp", "weight-attack", "sam"])
def test_a_first_layer_that_works_in_place_leaves_the_data(name: str) -> None:
    def net(inplace: bool) -> nn.Module:
        torch.manual_seed(5)
        return nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 3))

    found = []
    for inplace in (False, True):
        (x, y), (v, w) = blobs(33, 0), blobs(9, 1)
        before = x.clone(), v.clone()
        found.append(weights(fit(net(inplace), (x, y), (v, w), name, epochs=2, progress=False, device="cpu").model))
        assert torch.equal(x, before[0])
        assert torch.equal(v, before[1])
    assert equal(*found)
