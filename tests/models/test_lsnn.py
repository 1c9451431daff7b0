"""The LSNN against a plain scalar simulation of its equations, its two ways of running, its gradient, its export."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap

from thetabox.errors import InputError
from thetabox.models import LSNN, LSNNState, Recurrent, is_recurrent, run_steps

NEURON = ("tau", "tau_adapt", "threshold", "beta")


def scalar_spikes(model: LSNN, x: list[list[float]]) -> list[list[float]]:
    """The dynamics of one sample with Python floats, straight from the equations."""
    units, n_refr, dt = model.units, model.refractory, model.dt
    w_in, w_rec = model.W_in.tolist(), model.W_rec.tolist() if model.recurrent else None
    thr, beta = model.threshold.tolist(), model.beta.tolist()
    alpha = [math.exp(-dt / t) for t in model.tau.tolist()]
    rho = [math.exp(-dt / t) for t in model.tau_adapt.tolist()]
    v, b, z, r = ([0.0] * units for _ in range(4))
    spikes = []
    for frame in x:
        new = []
        for j in range(units):
            drive = sum(frame[i] * w_in[i][j] for i in range(model.inputs))
            if w_rec is not None:
                drive += sum(z[i] * w_rec[i][j] for i in range(units) if i != j)
            b[j] = rho[j] * b[j] + (1 - rho[j]) * z[j]
            limit = thr[j] + beta[j] * b[j]
            v[j] = alpha[j] * v[j] + (1 - alpha[j]) * drive - z[j] * limit * dt
            new.append(1.0 if r[j] <= 0.1 and v[j] > limit else 0.0)
            r[j] = min(max(r[j] + n_refr * new[j] - 1, 0), n_refr)
        z = new
        spikes.append(z)
    return spikes


def network(seed: int, recurrent: bool, refractory: int = 2, dt: float = 1.0) -> tuple[LSNN, torch.Tensor]:
    torch.manual_seed(seed)
    tau = (torch.rand(6) * 20 + 5).tolist()
    model = LSNN(3, 6, 4, tau=tau, refractory=refractory, dt=dt, recurrent=recurrent).double()
    return model, 2 * torch.randn(4, 25, 3, dtype=torch.float64)


@given(
    seed=st.integers(0, 1000),
    recurrent=st.booleans(),
    refractory=st.integers(0, 4),
    dt=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_spikes_are_those_of_the_equations(seed: int, recurrent: bool, refractory: int, dt: float) -> None:
    model, x = network(seed, recurrent, refractory, dt)
    expected = torch.tensor([scalar_spikes(model, sample) for sample in x.tolist()], dtype=torch.float64)
    assert torch.equal(run_steps(model, x), expected)
    assert torch.equal(model.outputs(x), expected)
    logits = expected.mean(1) @ model.W_out + model.b_out
    torch.testing.assert_close(model(x), logits)


def test_networks_of_the_test_do_spike() -> None:
    model, x = network(0, True)
    assert 0.02 < model.outputs(x).mean() < 0.6


def test_two_by_hand() -> None:
    """One unit, drive 1 a step, α = ½, threshold 0.4, no adaptation: v = .5 spikes; then one silent step."""
    model = LSNN(1, 1, 2, tau=1 / math.log(2), threshold=0.4, beta=0.0, recurrent=False).double()
    with torch.no_grad():
        model.W_in.fill_(1)
    # v: .5 (spike); .25 + .5 − .4 = .35; .175 + .5 = .675 (spike); .3375 + .5 − .4 = .4375, silent (refractory).
    assert model.outputs(torch.ones(1, 5, 1, dtype=torch.float64)).flatten().tolist()[:4] == [1, 0, 1, 0]


def test_equal_to_the_threshold_is_no_spike() -> None:
    model = LSNN(1, 1, 2, tau=1 / math.log(2), threshold=0.5, recurrent=False).double()
    with torch.no_grad():
        model.W_in.fill_(1)
        alpha = torch.exp(-1 / model.tau)
        model.threshold.copy_((1 - alpha) * 1.0)
    assert model.outputs(torch.ones(1, 1, 1, dtype=torch.float64)).item() == 0


@pytest.mark.parametrize("refractory", [0, 1, 2, 3])
def test_silent_steps_after_a_spike(refractory: int) -> None:
    model = LSNN(1, 1, 2, refractory=refractory, beta=0.0, recurrent=False)
    with torch.no_grad():
        model.W_in.fill_(100)
    spikes = model.outputs(torch.ones(1, 12, 1)).flatten()
    gaps = spikes.nonzero().flatten().diff()
    assert (gaps == max(refractory, 1)).all()


def test_diagonal_contributes_nothing() -> None:
    model, x = network(3, True)
    before = model(x)
    with torch.no_grad():
        model.W_rec.fill_diagonal_(1e6)
    torch.testing.assert_close(model(x), before)
    torch.testing.assert_close(run_steps(model, x), model.outputs(x))


@pytest.mark.parametrize("recurrent", [True, False])
def test_gradient_is_that_of_the_step_loop(recurrent: bool) -> None:
    model, x = network(1, recurrent)
    values = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    values |= {name: getattr(model, name).clone().requires_grad_() for name in NEURON}

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner.readout(run_steps(self.inner, x))

    fast = torch.autograd.grad(functional_call(model, values, (x,)).square().sum(), list(values.values()))
    loop = functional_call(Loop(), {f"inner.{k}": v for k, v in values.items()}, (x,))
    slow = torch.autograd.grad(loop.square().sum(), list(values.values()))
    for name, a, b in zip(values, fast, slow, strict=True):
        assert b.abs().max() > 0, name
        torch.testing.assert_close(a, b, msg=name)


def test_gradient_per_sample_under_vmap() -> None:
    model, x = network(2, True)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    many = {name: p * (1 + 0.1 * torch.randn(len(x), *p.shape, dtype=p.dtype)) for name, p in weights.items()}

    def loss(w: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return functional_call(model, w, (sample[None],)).square().sum()

    together = vmap(grad(loss))(many, x)
    for n in range(len(x)):
        alone = grad(loss)({name: w[n] for name, w in many.items()}, x[n])
        for name in alone:
            torch.testing.assert_close(together[name][n], alone[name])


def test_step_exports_with_a_dynamic_batch() -> None:
    model = LSNN(3, 6, 4).eval()

    class OneStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
            output, following = self.inner.step(x, LSNNState(*state))
            return output, *following

    example = (torch.randn(3, 3), *model.initial_state(3))
    dynamic = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        OneStep(), example, dynamic_shapes={"x": dynamic, "state": (dynamic,) * 4}, strict=False
    )
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.gt.Tensor" in operators
    x = torch.randn(7, 3)
    state = (torch.rand(7, 6) * 0.01, torch.rand(7, 6) * 0.01, (torch.rand(7, 6) > 0.5).float(), torch.rand(7, 6))
    for a, b in zip(program.module()(x, *state), OneStep()(x, *state), strict=True):
        torch.testing.assert_close(a, b)


def test_contract_of_names_and_shapes() -> None:
    model = LSNN(3, 6, 4)
    assert {n: list(p.shape) for n, p in model.named_parameters()} == {
        "W_in": [3, 6],
        "W_rec": [6, 6],
        "W_out": [6, 4],
        "b_out": [4],
    }
    assert "W_rec" not in dict(LSNN(3, 6, 4, recurrent=False).named_parameters())
    assert set(dict(model.named_buffers())) == {*NEURON, "off_diagonal"}
    assert set(NEURON) < set(model.state_dict())
    assert is_recurrent(model)
    assert isinstance(model, Recurrent)
    assert not is_recurrent(nn.Linear(2, 2))


def test_return_outputs_for_regularisers() -> None:
    model, x = network(0, True)
    logits, spikes = model(x, return_outputs=True)
    assert spikes.shape == (4, 25, 6)
    assert torch.equal(logits, model.readout(spikes))


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"tau": 0.0}, "tau"),
        ({"tau_adapt": float("nan")}, "tau_adapt"),
        ({"threshold": -1.0}, "threshold"),
        ({"beta": float("inf")}, "beta"),
        ({"tau": [1.0, 2.0]}, "each of 6"),
        ({"dt": 0.0}, "dt"),
        ({"refractory": -1}, "refractory"),
        ({"units": 0}, "sizes"),
    ],
)
def test_bad_arguments(kwargs: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        LSNN(**{"inputs": 3, "units": 6, "classes": 4, **kwargs})


@pytest.mark.parametrize("shape", [(4, 3), (4, 0, 3), (4, 25, 2)])
def test_bad_input_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape"):
        LSNN(3, 6, 4)(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=15)
@given(seed=st.integers(0, 100), recurrent=st.booleans(), refractory=st.integers(0, 4))
def test_without_a_gradient_the_spikes_are_the_same_bit_for_bit(
    dtype: torch.dtype, seed: int, recurrent: bool, refractory: int
) -> None:
    model, x = network(seed, recurrent, refractory)
    model, x = model.to(dtype), x.to(dtype)
    with torch.no_grad():
        alone = model.outputs(x)
    assert torch.equal(alone, model.outputs(x))
    assert 0 < alone.mean() < 1


WRONG_VALUES = [("tau", -2.0), ("tau", 0.0), ("tau_adapt", -1e-3), ("tau_adapt", float("inf")), ("tau", float("nan"))]


@pytest.mark.parametrize(("name", "value"), [*WRONG_VALUES, ("threshold", float("nan")), ("beta", float("inf"))])
def test_values_that_are_no_neurons(name: str, value: float) -> None:
    """Set in place they are found by ``check``; from a state_dict they do not come in, at the top or further down."""
    model = LSNN(3, 6, 4)
    model.check()
    getattr(model, name)[4] = value
    with pytest.raises(InputError, match=f"{name} holds"):
        model.check()
    state = model.state_dict()
    for target in (LSNN(3, 6, 4), nn.Sequential(LSNN(3, 6, 4))):
        inner = target[0] if isinstance(target, nn.Sequential) else target
        prefix = "0." if isinstance(target, nn.Sequential) else ""
        with pytest.raises(InputError, match=f"{name} holds"):
            target.load_state_dict({prefix + k: v for k, v in state.items()})
        inner.check()


def test_negative_thresholds_are_taken() -> None:
    """A cell that spikes unasked is a cell."""
    model = LSNN(3, 6, 4)
    model.threshold.fill_(-0.01)
    LSNN(3, 6, 4).load_state_dict(model.state_dict())
