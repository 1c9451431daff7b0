"""Every method on every network: it runs, reproduces, stays in its box, counts its cost, and combines or refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import thetabox as tb
from thetabox.errors import InputError
from thetabox.models import LSNN, MLP, ConvNet, ResNet32
from thetabox.models.lsnn import Spike
from thetabox.train import METHODS, Epoch, TrainResult, evaluate, fit, method, training
from thetabox.train.methods import Step, ibp, run_step, small_boxes, yield_loss
from thetabox.train.methods.abcd import Abcd
from thetabox.train.methods.awp import Awp
from thetabox.train.methods.disturbed import BATCH_NORM, disturbed
from thetabox.train.methods.dropout import Dropout
from thetabox.train.methods.forward_noise import ForwardNoise
from thetabox.train.methods.method import Method
from thetabox.train.methods.quantised import Quantised
from thetabox.train.methods.weight_attack import WeightAttack
from thetabox.train.yields import yield_margins as yield_loss_margins
from thetabox.verify.worst_case import worst_margins

NEURONS = ("threshold", "tau", "tau_adapt", "beta")
COMBINED = (
    "weight-attack+forward-noise",
    "quantised+weight-attack",
    "quantised+forward-noise",
    "dropout+weight-attack",
    "dropout+forward-noise",
    "forward-noise+sam",
    "quantised+entropy-sgd",
    "dropout+abcd",
    "forward-noise+awp",
    "quantised+forward-noise+weight-attack",
    "quantised+ibp",
    "l1+ibp",
    "l1+small-boxes",
    "forward-noise+small-boxes",
    "quantised+small-boxes",
    "l1+counts",
    "forward-noise+yield",
    "weight-attack+yield",
)
DENSE = [name for name in METHODS if name != "counts"]
"""Those that take networks without spikes."""
FEW = {"steps": 2}


def settings(name: str) -> dict:
    """Short attacks; AWP with its attack on the inputs."""
    if "ibp" in name or "small-boxes" in name:
        return {"warmup": 0.0}
    if "yield" in name:
        return {"yield.warmup": 0.0, "yield.sigma": 0.01, **(FEW if "attack" in name else {})}
    few = FEW if any(part in name for part in ("weight-attack", "awp", "entropy-sgd")) else {}
    return {**few, **({"eps_pga": 0.05} if "awp" in name else {})}


def convnet() -> tuple[nn.Module, Tensor]:
    return ConvNet.small(), torch.randn(6, 1, 8, 8)


def resnet() -> tuple[nn.Module, Tensor]:
    return ResNet32(width=2), torch.randn(4, 3, 32, 32)


def lsnn() -> tuple[nn.Module, Tensor]:
    return LSNN(3, 9, 4), 2 * torch.randn(6, 15, 3)


def one_step(build: object, name: str, **more: object) -> tuple[nn.Module, float, dict[str, Tensor]]:
    """(network, loss, state before) of one Adam step."""
    torch.manual_seed(2)
    model, x = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    y = torch.arange(len(x)) % 4
    penalty = (lambda z: 0.01 * z.mean()) if isinstance(model, LSNN) else None
    step = Step(
        model,
        x,
        y,
        dict(model.named_parameters()),
        torch.Generator().manual_seed(5),
        0.5,
        penalty,
        descend=optimiser.step,
    )
    loss = run_step(method(name, {**settings(name), **more}), step)
    optimiser.step()
    return model, float(loss), before


@pytest.mark.thin(3, quick=5)
@pytest.mark.parametrize(
    ("name", "build"),
    [
        pytest.param(n, b, marks=pytest.mark.long)
        if b is resnet and any(bounds in n for bounds in ("ibp", "small-boxes", "yield"))
        else (n, b)
        for n in (*METHODS, *COMBINED)
        for b in (convnet, lsnn, resnet)
        if (b is lsnn or "counts" not in n) and not (b is lsnn and "yield" in n)
    ],
)
def test_one_step(build: object, name: str) -> None:
    model, loss, before = one_step(build, name)
    again = one_step(build, name)[0].state_dict()
    after = model.state_dict()
    assert loss > 0
    for key, value in after.items():
        assert torch.isfinite(value).all(), key
        assert torch.equal(value, again[key]), key
    weights = [key for key, _ in model.named_parameters()]
    assert any(not torch.equal(after[key], before[key]) for key in weights)
    # Of the buffers only batch norm's statistics move, and they once, however many passes a method makes.
    for key, _ in model.named_buffers():
        if "running" not in key and "batches_tracked" not in key and key in after:
            assert torch.equal(after[key], before[key]), key
    assert all(int(value) == 1 for key, value in after.items() if key.endswith("num_batches_tracked"))


@pytest.mark.slow
def test_methods_differ() -> None:
    first = {
        name: torch.cat([p.flatten() for p in one_step(lsnn, name)[0].parameters()])
        for name in METHODS
        if name != "yield"  # for networks that read each parameter once
    }
    names = list(first)
    for i, name in enumerate(names):
        assert all(not torch.equal(first[name], first[other]) for other in names[:i]), name


@pytest.mark.thin(quick=7)
@pytest.mark.parametrize("name", [*METHODS, *COMBINED])
def test_cost_is_the_number_of_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0
    run = Step._run

    def counting(self: Step, *args: object, **kwargs: object) -> object:
        nonlocal passes
        passes += 1
        return run(self, *args, **kwargs)

    def bounding(*args: object, **kwargs: object) -> Tensor:
        nonlocal passes
        passes += 2  # two products where a plain pass has one
        return worst_margins(*args, **kwargs)

    monkeypatch.setattr(Step, "_run", counting)

    def keeping(*args: object, **kwargs: object) -> Tensor:
        nonlocal passes
        passes += yield_loss.PASSES["auto"]
        return yield_loss_margins(*args, **kwargs)

    monkeypatch.setattr(ibp, "worst_margins", bounding)
    monkeypatch.setattr(small_boxes, "worst_margins", bounding)
    monkeypatch.setattr(yield_loss, "yield_margins", keeping)
    one_step(lsnn if "counts" in name else convnet, name)
    assert method(name, settings(name)).gradients_per_step == passes


def test_cost_of_the_defaults() -> None:
    cost = {name: method(name).gradients_per_step for name in METHODS}
    assert cost == {
        **dict.fromkeys(("standard", "dropout", "forward-noise", "quantised"), 1),
        **dict.fromkeys(("sam", "asam", "samson", "amp"), 2),
        "weight-attack": 12,
        "awp": 11,
        "abcd": 4,
        "entropy-sgd": 10,
        "l1": 1,
        "counts": 2,
        "ibp": pytest.approx(2.8),
        "small-boxes": pytest.approx(3.7),
        "yield": pytest.approx(15.4),
    }
    assert method("weight-attack", {"warmup": 0.5, "steps": 1}).gradients_per_step == 2
    loops = {name: method(name).inner_loops for name in METHODS if method(name).inner_loops > 1}
    assert loops == {"abcd": 2, "entropy-sgd": 10}
    assert method("dropout+abcd").inner_loops == 2


@pytest.mark.parametrize(
    "name",
    ["weight-attack+awp", "small-boxes+weight-attack", "sam+weight-attack", "abcd+entropy-sgd", "amp+dropout+asam"],
)
def test_two_searches_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be combined: each searches for weights"):
        method(name)


@pytest.mark.parametrize(
    ("name", "values", "word"),
    [
        ("weight-attack", {"loss": "mse"}, "choose one of kl, reverse-kl, js, l2"),
        ("weight-attack", {"warmup": 1.5}, "warmup=1.5 is out of range"),
        ("samson", {"p": "3"}, "must be 2 or inf"),
        ("sam", {"rho": -1}, "rho=-1.0 is out of range"),
        ("quantised", {"bits": 1}, "bits=1 is out of range"),
        ("dropout", {"p": 1.0}, "p=1.0 is out of range"),
        ("abcd", {"loops": 0}, "loops=0 is out of range"),
        ("entropy-sgd", {"rate": 0.0}, "rate=0.0 is out of range"),
        ("awp", {"eps_pga": "nan"}, "eps_pga=nan is out of range"),
        ("amp", {"steps": 0}, "steps=0 is out of range"),
        ("ibp", {"growth": "cubic"}, "choose one of geometric, linear"),
        ("small-boxes", {"growth": "cubic"}, "choose one of geometric, linear"),
        ("small-boxes", {"share": 1.1}, "share=1.1 is out of range"),
        ("small-boxes", {"share": "nan"}, "share=nan is out of range"),
        ("small-boxes", {"steps": 0}, "steps=0 is out of range"),
    ],
)
def test_values_out_of_range(name: str, values: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        method(name, values)


def step_of(model: nn.Module, x: Tensor, seed: int = 0) -> Step:
    y = torch.arange(len(x)) % 4
    return Step(model, x, y, dict(model.named_parameters()), torch.Generator().manual_seed(seed), 0.5)


# --- which tensors ---


def test_batch_norm_and_nothing_else_is_left_out() -> None:
    model = ResNet32(width=2)
    parameters = dict(model.named_parameters())
    norms = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    assert set(disturbed(model, parameters, "*", BATCH_NORM)) == set(parameters) - norms
    for small in (ConvNet.small(), LSNN(3, 4, 2), MLP((2, 3, 2))):
        assert set(disturbed(small, {}, "*", BATCH_NORM)) == set(dict(small.named_parameters()))


@pytest.mark.parametrize("kind", [WeightAttack, Awp])
def test_attacks_leave_out_what_is_excluded(kind: type) -> None:
    """With everything excluded but one tensor, that one alone is offset."""
    model, x = lsnn()
    step = step_of(model, x)
    attack = kind(include="W_out,tau", steps=2)
    if kind is WeightAttack:
        delta = attack.attack(step, model(x).detach())
    else:
        theta = {name: p.detach() for name, p in step.theta.items()}
        delta = attack.attack(step, theta, disturbed(model, theta, attack.include, attack.exclude))
    assert set(delta) == {"W_out", "tau"}
    assert all(value.abs().max() > 0 for value in delta.values())


@pytest.mark.parametrize("name", ["forward-noise", "weight-attack", "awp"])
def test_neuron_parameters_take_part_where_they_are_named(name: str) -> None:
    include = "*,threshold,tau,tau_adapt,beta"
    model, _, before = one_step(lsnn, name, include=include)
    for key in NEURONS:
        assert torch.equal(getattr(model, key), before[key])
    weights, others = (torch.cat([p.flatten() for p in m.parameters()]) for m in (model, one_step(lsnn, name)[0]))
    assert not torch.equal(weights, others)


@given(seed=st.integers(0, 50), noise=st.floats(0, 5))
def test_noisy_neuron_parameters_stay_positive(seed: int, noise: float) -> None:
    model, x = lsnn()
    chosen = ForwardNoise(noise=noise, include="*,threshold,tau,tau_adapt,beta")
    noisy = chosen.weights(step_of(model, x, seed), dict(model.named_parameters()))
    for key in NEURONS:
        assert (noisy[key] >= 0.0499 * getattr(model, key)).all()
    assert torch.isfinite(step_of(model, x).logits(noisy)).all()


@pytest.mark.parametrize("zeta", [0.1, 3.0])
def test_attacked_neuron_parameters_stay_in_their_box_and_positive(zeta: float) -> None:
    model, x = lsnn()
    chosen = WeightAttack(zeta=zeta, sigma=0.5, steps=2, include="*,threshold,tau,tau_adapt,beta")
    delta = chosen.attack(step_of(model, x), model(x).detach())
    assert set(NEURONS) < set(delta)
    for key, value in delta.items():
        assert (value.abs() <= zeta).all()
        assert key not in NEURONS or (value >= -0.95 - 1e-6).all()


def test_an_attack_on_neurons_alone_teaches_the_weights() -> None:
    """The robustness term of thresholds alone has a gradient by the weights, and the thresholds themselves stay."""
    model, x = lsnn()
    step = step_of(model, x)
    extra = WeightAttack(include="threshold,tau", zeta=0.3, steps=3).extra(step, None)
    assert float(extra.detach()) > 0
    gradients = torch.autograd.grad(extra, [model.W_in, model.W_out])
    assert all(g.abs().max() > 0 for g in gradients)


# --- boxes ---


@given(seed=st.integers(0, 50), zeta=st.floats(0, 1), sigma=st.floats(0, 1))
def test_awp_stays_in_its_boxes(seed: int, zeta: float, sigma: float) -> None:
    torch.manual_seed(seed)
    model, x = MLP((3, 6, 4)), torch.randn(8, 3)
    step = step_of(model, x, seed)
    theta = {name: p.detach() for name, p in step.theta.items()}
    chosen = Awp(zeta=zeta, sigma=sigma, steps=3, eps_pga=0.1)
    assert all((d.abs() <= zeta).all() for d in chosen.attack(step, theta, theta).values())
    assert ((chosen.attacked_inputs(step, theta) - x).abs() <= 0.1 + 1e-6).all()


@given(seed=st.integers(0, 50), zeta=st.floats(0, 0.5), eta=st.floats(0, 10))
def test_abcd_ascends_inside_the_box(seed: int, zeta: float, eta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(40, generator=generator)
    theta = {"w": before.clone(), "norm": before.clone()}
    gradient = {"w": torch.randn(40, generator=generator), "norm": before}
    mask = (torch.rand(40, generator=generator) >= 0.5).float()
    Abcd(eta_a=eta, zeta=zeta).ascend(theta, gradient, {"w": mask})
    moved = theta["w"] - before
    assert (moved.abs() <= zeta * before.abs() * (1 + 1e-5) + 1e-6).all()
    assert (moved[mask == 0] == 0).all()
    assert (moved * gradient["w"] >= 0).all()
    assert torch.equal(theta["norm"], before)


# --- dropout ---


def test_dropped_lsnn_units_feed_nothing() -> None:
    model, x = lsnn()
    weights = Dropout(p=0.5).weights(step_of(model, x), dict(model.named_parameters()))
    silent = (weights["W_out"] == 0).all(1)
    assert 0 < int(silent.sum()) < 9
    assert torch.equal(silent, (weights["W_rec"] == 0).all(1))
    torch.testing.assert_close(weights["W_out"][~silent], 2 * model.W_out[~silent])
    torch.testing.assert_close(weights["W_rec"][~silent], 2 * model.W_rec[~silent])
    assert weights["W_in"] is dict(model.named_parameters())["W_in"]


def test_dropout_of_dense_layers_is_that_of_their_inputs() -> None:
    """Columns of every dense layer but the first of all; the mean over masks is the weight itself."""
    model, x = ConvNet.small(), torch.randn(2, 1, 8, 8)
    step = step_of(model, x)
    draws = [Dropout(p=0.3).weights(step, dict(model.named_parameters())) for _ in range(400)]
    changed = {name for name, p in model.named_parameters() if not torch.equal(draws[0][name], p)}
    assert changed == {"dense1.weight", "dense2.weight"}
    factor = torch.stack([d["dense2.weight"] / model.dense2.weight for d in draws])
    assert factor.mean().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    plain = MLP((3, 5, 4))
    assert set(Dropout().weights(step_of(plain, torch.randn(2, 3)), dict(plain.named_parameters()))) == {
        name for name, _ in plain.named_parameters()
    }
    assert torch.equal(
        Dropout().weights(step_of(plain, torch.randn(2, 3)), dict(plain.named_parameters()))["dense1.weight"],
        plain.dense1.weight,
    )


def test_dropout_needs_hidden_units() -> None:
    model = MLP((3, 4))
    with pytest.raises(InputError, match="no hidden units that dropout knows"):
        run_step(Dropout(), step_of(model, torch.randn(4, 3)))


# --- whole trainings ---


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 3
    centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return centres[y] + 0.6 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)), y


def train(name: str | Method, **kwargs: object) -> TrainResult:
    torch.manual_seed(5)
    chosen = {"epochs": 6, "batch_size": 16, "lr": 2e-2, "seed": 3, "progress": False, "device": "cpu"}
    return fit(MLP((2, 12, 3)), blobs(90, 0), blobs(60, 1), name, set=settings(str(name)), **{**chosen, **kwargs})


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", [*DENSE, "quantised+weight-attack"])
def test_learns_and_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = train(name)

    def stop(record: Epoch) -> None:
        if record.epoch == 3:
            raise KeyboardInterrupt

    out = tmp_path / "m.safetensors"
    assert train(name, out=out, on_epoch=stop).interrupted
    rest = train(name, out=out, resume=True)
    assert rest.history == whole.history
    for a, b in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.best_validation_accuracy > (0.8 if name == "entropy-sgd" else 0.9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*DENSE, *(name for name in COMBINED if "counts" not in name)])
def test_on_a_gpu(name: str) -> None:
    first, second = (train(name, device="cuda", epochs=2) for _ in range(2))
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert a.is_cuda
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)


def test_quantised_training_leaves_the_quantised_network() -> None:
    result = train("quantised", epochs=8)
    for weight in (p for p in result.model.parameters() if p.ndim == 2):
        assert len(weight.unique()) <= 15
        torch.testing.assert_close(Quantised().stored({"w": weight})["w"], weight)
    assert evaluate(result.model, *blobs(60, 1))[0] == result.best_validation_accuracy


def test_rounded_weights_are_lent_to_validation_alone() -> None:
    model = MLP((2, 12, 3))
    before = [p.detach().clone() for p in model.parameters()]

    def interrupted() -> None:
        with training._as_stored(Quantised(bits=2), dict(model.named_parameters())):
            assert len(model.dense1.weight.unique()) <= 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_the_loop_counts_steps_and_lends_its_optimiser(tmp_path: Path) -> None:
    """Steps are counted through a resumption; ``descend`` takes a whole optimiser step, gradient clipping included."""
    seen: list[tuple[int, float]] = []
    moves: list[float] = []

    class Seeing(Method):
        def backward(self, step: Step, objective: object) -> Tensor:
            seen.append((step.index, step.progress))
            loss = super().backward(step, objective)
            before = [p.detach().clone() for p in step.theta.values()]
            step.descend()
            shifts = [(p.detach() - b).norm() for p, b in zip(step.theta.values(), before, strict=True)]
            moves.append(float(torch.stack(shifts).norm()))
            return loss

    def stop(record: Epoch) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    out, more = tmp_path / "m.safetensors", {"optimizer": "sgd", "lr": 0.1, "clip_norm": 1e-3}
    train(Seeing(), out=out, on_epoch=stop, epochs=4, **more)
    train(Seeing(), out=out, resume=True, epochs=4, **more)
    batches = 6  # 90 samples, 16 a batch
    assert [index for index, _ in seen] == list(range(4 * batches))
    assert [progress for _, progress in seen] == pytest.approx([i / (4 * batches) for i in range(4 * batches)])
    # The first move of Nesterov's SGD is 1.9 times rate and gradient, and the gradient's norm is clipped.
    assert moves[0] == pytest.approx(0.1 * 1.9 * 1e-3, rel=1e-3)
    assert min(moves) > 0


@given(seed=st.integers(0, 50), bits=st.integers(2, 24), size=st.floats(1e-6, 1e6))
def test_rounded_weights_lie_on_a_grid_within_half_a_step(seed: int, bits: int, size: float) -> None:
    w = size * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    w.requires_grad_()
    stored = Quantised(bits=bits).stored({"w": w, "b": w[0], "zero": torch.zeros(2, 2)})
    step = float(w.detach().abs().max()) / (2 ** (bits - 1) - 1)
    assert ((stored["w"] - w).abs() <= step / 2 * (1 + 1e-9)).all()
    torch.testing.assert_close(stored["w"] / step, (stored["w"] / step).round())
    assert stored["b"].shape == (4,)
    assert torch.equal(stored["b"], w[0])
    assert torch.equal(stored["zero"], torch.zeros(2, 2))
    assert torch.equal(torch.autograd.grad(stored["w"].sum(), w)[0], torch.ones_like(w))


def test_best_weights_are_looked_for_behind_the_ramp(tmp_path: Path) -> None:
    """Before it ends the network is trained for a smaller box, whatever its accuracy."""

    class Ramped(Method):
        settled_at = 0.5

    result = train(Ramped(), epochs=6)
    assert result.best_epoch >= 4
    assert result.best_validation_accuracy == max(r.validation_accuracy for r in result.history[3:])

    class Late(Method):
        settled_at = 1.0

    assert train(Late(), epochs=3).best_epoch == 3


def test_counts_are_for_spiking_networks() -> None:
    with pytest.raises(InputError, match="recurrent"):
        one_step(convnet, "counts")

    class Peak(LSNN):
        def readout(self, outputs: Tensor) -> Tensor:
            return outputs.amax(1) @ self.W_out + self.b_out

    def build() -> tuple[nn.Module, Tensor]:
        return Peak(3, 9, 4), 2 * torch.randn(6, 15, 3)

    with pytest.raises(InputError, match="linear"):
        one_step(build, "counts")


def test_spikes_have_a_gradient_at_both_ends() -> None:
    """Of the worst case of an LSNN, by the input weights, in which no path goes around the spikes."""
    torch.manual_seed(0)
    model, x = lsnn()
    y = torch.arange(len(x)) % 4
    margins = worst_margins(model, x, y, 1e-3, surrogate=Spike.apply)
    margins.sum().backward()
    assert model.W_in.grad.abs().max() > 0
    without = worst_margins(model, x, y, 1e-3)
    torch.testing.assert_close(without, margins, rtol=0, atol=0)
    assert torch.autograd.grad(without.sum(), model.W_in, allow_unused=True)[0] is None
    proven = tb.certify(model, x, y, 1e-3, domain="interval").margin[0]
    own = torch.zeros_like(margins, dtype=torch.bool).scatter_(1, y[:, None], True)
    least = margins.detach().masked_fill(own, torch.inf).amin(1)
    torch.testing.assert_close(least, proven, rtol=1e-6, atol=1e-9)


def test_ibp_makes_a_network_provable() -> None:
    """More than standard training does, with the same number of epochs."""
    x, y = blobs(60, 1)
    verified = {}
    ways = {"standard": {}, "ibp": {"epsilon": 0.3, "warmup": 0.0}, "small-boxes": {"epsilon": 0.3, "warmup": 0.0}}
    for name, more in ways.items():
        chosen = {"epochs": 12, "batch_size": 16, "lr": 2e-2, "seed": 3, "progress": False, "set": more}
        model = fit(MLP((2, 12, 3)), blobs(90, 0), blobs(60, 1), name, **chosen).model
        verified[name] = float(tb.certify(model, x, y, 0.3, domain="interval").verified_accuracy[0])
    assert min(verified["ibp"], verified["small-boxes"]) > verified["standard"] + 0.05


@pytest.mark.parametrize("name", ["ibp", "small-boxes", "l1+ibp"])
def test_best_weights_of_a_box_are_looked_for_late_behind_its_ramp(name: str) -> None:
    """Margins still grow there, where the accuracy by which weights are chosen does not."""
    assert method(name, {"warmup": 0.2, "ramp": 0.4}).settled_at == pytest.approx(0.9)


def test_a_method_of_ones_own_needs_one_hook() -> None:
    class Shrunk(Method):
        def weights(self, step: Step, weights: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: 0.5 * w for name, w in weights.items()}

    model, x = MLP((3, 4)), torch.randn(4, 3)
    loss = run_step(Shrunk(), step_of(model, x))
    expected = nn.functional.cross_entropy(0.5 * model(x).detach(), torch.arange(4))
    assert float(loss) == pytest.approx(float(expected))
