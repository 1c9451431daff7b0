"""The attack: inside the box, monotone, honest in float64, strong enough, and the network left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.measure.networks import learn
from tests.oracles import networks
from tests.oracles.rational import box_ends, exact
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure import attack
from thetabox.models import LSNN, ConvNet


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blobs(samples: int, features: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(samples) % classes
    centres = 2 * torch.randn(classes, features, generator=rng)
    return centres[y] + 0.5 * torch.randn(samples, features, generator=rng), y


def mlp(dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A small network that knows its blobs."""
    torch.manual_seed(0)
    x, y = blobs(24, 5, 3)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    model.eval()
    learn(model, x, y)
    return model.to(dtype), x.to(dtype), y


def spiking() -> tuple[LSNN, Tensor, Tensor]:
    torch.manual_seed(1)
    model = LSNN(4, 12, 3)
    x = torch.randn(6, 15, 4)
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, x, y


def inside(model: nn.Module, weights: dict[str, Tensor], epsilon: float, sample: int) -> None:
    """Every float64 weight of the answer lies in the real box, decided in fractions."""
    for name, values in weights.items():
        theta = dict(model.named_parameters()) | dict(model.named_buffers())
        low, high = box_ends(theta[name], epsilon)
        point = exact(values[sample])
        assert (low <= point).all(), name
        assert (point <= high).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_lie_in_the_real_box_and_flips_hold_in_float64(dtype: torch.dtype) -> None:
    model, x, y = mlp(dtype)
    epsilon = [0.0, 1e-9, 0.05, 0.3, 1.5]
    result = attack(model, x, y, epsilon, keep_weights=True, steps=8)
    assert result.weights is not None
    judge = copy.deepcopy(model).double().eval()
    for e, (eps, weights) in enumerate(zip(epsilon, result.weights, strict=True)):
        for n in range(0, len(y), 3):
            inside(model, weights, eps, n)
            with torch.no_grad():
                logits = torch.func.functional_call(
                    judge, {k: v[n] for k, v in weights.items()}, (x[n : n + 1].double(),)
                )
            wrong = torch.cat([logits[0, : y[n]], logits[0, y[n] + 1 :]])
            assert float(logits[0, y[n]] - wrong.max()) == pytest.approx(float(result.margin[e, n]), abs=1e-12)
    assert result.accuracy[0] == result.clean_accuracy == 1
    assert result.accuracy[-1] == 0
    assert result.correct.shape == (5, 24)
    assert result.margin.dtype == torch.float64


def test_the_attack_finds_the_exact_minimum_of_one_layer() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Identity(), nn.Linear(4, 3))
    x = torch.randn(5, 4)
    with torch.no_grad():
        y = model(x).argmax(1)
    for epsilon in (1e-6, 1e-3, 0.02):
        found = attack(model, x, y, epsilon, give_up=False).margin[0]
        for n in range(5):
            truth = networks.extremes(model, x[n], epsilon, label=int(y[n])).margin
            assert truth is not None
            if truth > 0:
                assert float(found[n]) == pytest.approx(float(truth), rel=1e-9, abs=1e-12)
            assert exact([float(found[n])])[0] >= truth - exact([1e-14])[0]


def test_never_below_the_vertices_of_a_hidden_layer_and_near_them() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(4, 2)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = attack(model, x, y, 0.05, give_up=False).margin[0]
    for n in range(4):
        truth = networks.extremes(model, x[n], 0.05, label=int(y[n])).margin
        assert truth is not None
        assert float(found[n]) >= float(truth) - 1e-12
        if truth > 0:
            assert float(found[n]) <= float(truth) + 1e-6


def test_monotone_in_epsilon_in_whatever_order_it_is_given() -> None:
    model, x, y = mlp()
    rising = attack(model, x, y, [0.0, 0.02, 0.1, 0.3], steps=5)
    assert (rising.accuracy.diff() <= 0).all()
    assert (rising.correct[:-1] | ~rising.correct[1:]).all()
    mixed = attack(model, x, y, [0.3, 0.0, 0.1, 0.02], steps=5)
    assert torch.equal(mixed.correct, rising.correct[[3, 0, 2, 1]])


def test_wrong_at_zero_is_wrong_everywhere() -> None:
    model, x, y = mlp()
    y = y.clone()
    y[0] = (y[0] + 1) % 3
    result = attack(model, x, y, [0.0, 1e-6])
    assert not result.correct[:, 0].any()
    assert result.clean_accuracy == pytest.approx(23 / 24)


@pytest.mark.parametrize("build", [mlp, spiking])
def test_the_network_is_left_as_it_was(build: object) -> None:
    model, x, y = build()
    model.train()
    loss = model(x).sum()
    loss.backward()
    before = {n: (p.clone(), p.grad.clone(), p.requires_grad) for n, p in model.named_parameters()}
    attack(model, x, y, 0.1, steps=3)
    assert all(m.training for m in model.modules())
    for name, p in model.named_parameters():
        value, grad, wants = before[name]
        assert torch.equal(p, value)
        assert p.grad is not None
        assert torch.equal(p.grad, grad)
        assert p.requires_grad == wants


def test_same_seed_same_answer_and_chunks_do_not_matter() -> None:
    model, x, y = mlp(torch.float64)
    one = attack(model, x, y, [0.02, 0.1], restarts=3, seed=4)
    again = attack(model, x, y, [0.02, 0.1], restarts=3, seed=4)
    chunked = attack(model, x, y, [0.02, 0.1], restarts=3, seed=4, chunk=7)
    assert torch.equal(one.margin, again.margin)
    assert torch.allclose(one.margin, chunked.margin, atol=1e-9)


def test_numpy_progress_and_json() -> None:
    model, x, y = mlp()
    calls: list[tuple[int, int]] = []
    result = attack(model, x.numpy(), y.numpy(), 0.01, steps=2, chunk=10, progress=lambda a, b: calls.append((a, b)))
    assert calls == [(10, 24), (20, 24), (24, 24)]
    assert result.epsilon.tolist() == [0.01]
    assert result.to_json()["curve"][0]["total"] == 24
    assert isinstance(result.clean_accuracy, float)


def test_small_cnn() -> None:
    torch.manual_seed(0)
    model = ConvNet.small()
    x = torch.randn(6, 1, 8, 8)
    with torch.no_grad():
        y = model(x).argmax(1)
    result = attack(model, x, y, [1e-7, 0.5], steps=5)
    assert result.accuracy.tolist() == [1.0, 0.0]


def test_lsnn_flips_hold_and_stay_in_the_box() -> None:
    model, x, y = spiking()
    result = attack(model, x, y, [1e-6, 0.3], keep_weights=True, steps=10)
    assert result.accuracy[1] < 1
    assert result.weights is not None
    assert set(result.weights[1]) == {"W_in", "W_rec", "W_out", "b_out"}
    judge = copy.deepcopy(model).double()
    for n in range(len(y)):
        inside(model, result.weights[1], 0.3, n)
        with torch.no_grad():
            logits = torch.func.functional_call(
                judge, {k: v[n] for k, v in result.weights[1].items()}, (x[n : n + 1].double(),)
            )
        assert bool(logits.argmax(1)[0] == y[n]) == bool(result.correct[1, n])


def test_neuron_parameters_move_only_when_named() -> None:
    model, x, y = spiking()
    box = Box(include="threshold,tau", kind="relative")
    result = attack(model, x, y, 0.5, box=box, keep_weights=True, steps=10)
    assert result.weights is not None
    assert set(result.weights[0]) == {"threshold", "tau"}
    moved = (result.weights[0]["threshold"] - model.threshold.double()).abs().amax()
    assert 0 < moved <= 0.005 * (1 + 1e-6)
    assert result.accuracy[0] < 1


def test_a_users_recurrent_network_without_forward() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inward, self.out = nn.Linear(3, 5), nn.Linear(5, 2)

        def initial_state(self, batch: int) -> Tensor:
            return self.out.weight.new_zeros(batch, 5)

        def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            state = 0.5 * state + self.inward(x_t)
            return torch.relu(state), state

        def readout(self, outputs: Tensor) -> Tensor:
            return self.out(outputs.mean(1))

    torch.manual_seed(0)
    model, x = Leaky(), torch.randn(4, 6, 3)
    y = torch.tensor([0, 1, 0, 1])
    assert attack(model, x, y, 2.0, steps=5).accuracy[0] == 0


def test_a_network_that_vmap_refuses_is_attacked_in_a_loop() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) if x.sum().item() > -1e9 else self.linear(-x)

    torch.manual_seed(0)
    model, x = Branching(), torch.randn(4, 3)
    with torch.no_grad():
        y = model(x).argmax(1)
    plain = nn.Sequential(copy.deepcopy(model.linear))
    expected = attack(plain, x, y, [0.01, 0.5]).margin
    assert torch.allclose(attack(model, x, y, [0.01, 0.5]).margin, expected)


def test_a_tie_in_float64_is_no_flip() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    result = attack(model, torch.randn(3, 2), torch.zeros(3, dtype=torch.long), 0.5)
    assert result.correct.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -1.0}, "at least 0"),
        ({"epsilon": float("nan")}, "finite"),
        ({"epsilon": []}, "empty"),
        ({"epsilon": "much"}, "number"),
        ({"x": torch.zeros(0, 5), "y": torch.zeros(0, dtype=torch.long)}, "no samples"),
        ({"x": torch.full((24, 5), torch.nan)}, "NaN"),
        ({"x": torch.zeros(24, 4)}, "does not take inputs of shape"),
        ({"y": torch.zeros(3, dtype=torch.long)}, "one label for each"),
        ({"y": torch.full((24,), 0.5)}, "integers"),
        ({"y": torch.full((24,), 3)}, "knows 0 to 2"),
        ({"steps": 0}, "at least 1"),
        ({"restarts": 0}, "at least 1"),
        ({"chunk": 0}, "at least 1"),
        ({"device": "abacus"}, "unknown device"),
        ({"box": Box(include="nothing")}, "no parameter"),
    ],
)
def test_bad_input_is_one_clear_line(change: dict[str, object], message: str) -> None:
    model, x, y = mlp()
    arguments = {"model": model, "x": x, "y": y, "epsilon": 0.1, **change}
    with pytest.raises(InputError, match=message) as error:
        attack(**arguments)
    assert "\n" not in str(error.value)


def test_nan_weights_are_refused() -> None:
    model, x, y = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        attack(model, x, y, 0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    model, x, y = mlp(torch.float64)
    cpu = attack(model, x, y, [0.02, 0.1], device="cpu", restarts=1)
    gpu = attack(model, x, y, [0.02, 0.1], device="cuda", restarts=1)
    assert torch.allclose(cpu.margin, gpu.margin, atol=1e-9)
    assert gpu.margin.device.type == "cpu"


class Recurrent(nn.Module):
    """A network that torch cannot run with a batch of weights."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.r, self.l = kind(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(self.r(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_networks_that_take_no_batch_of_weights(kind: type[nn.Module]) -> None:
    net, x = Recurrent(kind).eval(), torch.randn(4, 5, 4)
    y = net(x).argmax(1)
    found = tb.attack(net, x, y, epsilon=[1e-3, 2.0], steps=5, restarts=1)
    assert found.accuracy[0] > found.accuracy[1]
    assert tb.mismatch(net, x, y, level=[0.1], samples=3).accuracy.shape == (1, 3)
    assert tb.measure.landscape(net, x, y, directions=1).loss.isfinite().all()
    with pytest.raises(tb.InputError, match="other weights in the place of its own"):
        tb.mismatch(net, x, y, level=[0.1], samples=4, batch=2)


class WithoutGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.l(x).detach().numpy())


class TiedInForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.b.weight = self.a.weight
        return self.a(x) + self.b(x)


def test_without_gradients_an_attack_has_no_direction_and_ends() -> None:
    """As in a batch of weights, where torch takes what has no gradient for flat."""
    net, x = WithoutGradients(), torch.randn(4, 4)
    assert tb.attack(net, x, net(x).argmax(1), epsilon=[0.0]).accuracy[0] == 1.0


def test_networks_that_other_weights_cannot_be_put_into() -> None:
    net, x = TiedInForward(), torch.randn(4, 4)
    with pytest.raises(tb.InputError, match="other weights in the place of its own") as told:
        tb.attack(net, x, net(x).argmax(1), epsilon=[1e-3])
    assert len(str(told.value).splitlines()) == 1
