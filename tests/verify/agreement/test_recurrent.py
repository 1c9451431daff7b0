"""A recurrent network runs by its forward: what that does beside step and readout is no part of a proof."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models import LSNN, RecurrentModule, run_steps
from thetabox.verify.agreement.weights import forward_is_traced


def sequences(count: int = 6) -> Tensor:
    return 3 * torch.randn(count, 12, 4, generator=torch.Generator().manual_seed(1))


class Reversed(LSNN):
    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:
        return super().forward(x.flip(1))


class Turned(LSNN):
    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:
        return super().forward(x.roll(1, 2))


class Scaled(LSNN):
    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:
        return super().forward(2 * x)


class ScaledOutputs(LSNN):
    def outputs(self, x: Tensor) -> Tensor:
        return 2 * super().outputs(x)


class ScaledAnswer(LSNN):
    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:
        return -super().forward(x)


class Short(LSNN):
    """Leaves the last steps out."""

    def outputs(self, x: Tensor) -> Tensor:
        return super().outputs(x[:, :-3])


@pytest.mark.thin(quick=11)
@pytest.mark.parametrize("kind", [Reversed, Turned, Scaled, ScaledOutputs, ScaledAnswer, Short])
@pytest.mark.parametrize("domain", ["interval", "histories", "auto"])
def test_other_forwards_are_refused(kind: type[LSNN], domain: str) -> None:
    torch.manual_seed(0)
    net, x = kind(4, 12, 3), sequences()
    with pytest.raises(tb.InputError, match="something else than step and readout"):
        tb.certify(net, x, [0] * len(x), [0.0, 1e-3], domain=domain)


@pytest.mark.parametrize(
    "hang",
    [
        lambda net: net.register_forward_hook(lambda module, inputs, output: -output),
        lambda net: net.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],)),
    ],
)
def test_hooks_are_part_of_what_runs(hang: Callable[[nn.Module], object]) -> None:
    torch.manual_seed(0)
    net, x = LSNN(4, 12, 3), sequences()
    hang(net)
    with pytest.raises(tb.InputError, match="hooks"):
        tb.logit_bounds(net, x, 1e-3)


class Timed(RecurrentModule):
    """A cell that counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.O = nn.Parameter(torch.eye(4)), nn.Parameter(torch.randn(4, 3))
        self.time = 0

    def initial_state(self, batch: int) -> Tensor:
        self.time = 0
        return self.W.new_zeros(batch, 4)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.time += 1
        state = 0.9 * state + x_t @ self.W * (1.0 if self.time <= 5 else -1.0)
        return state, state

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1) @ self.O


def test_a_step_that_counts_time_is_refused() -> None:
    torch.manual_seed(0)
    x = sequences()
    with pytest.raises(tb.InputError, match="not the function"):
        tb.certify(Timed(), x, [0] * len(x), 1e-3)


@pytest.mark.slow
def test_honest_networks_pass() -> None:
    torch.manual_seed(0)
    for net in (LSNN(4, 12, 3), LSNN(4, 12, 3, recurrent=False), LSNN(4, 12, 3, refractory=0)):
        x = sequences()
        found = tb.certify(net, x, net(x).argmax(1), [0.0, 1e-4])
        assert found.checked["samples"] == len(x)


class Copied(RecurrentModule):
    """Its step reads a copy of the weight, its own forward the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.c = nn.Parameter(torch.ones(64, 1) / 64), nn.Parameter(torch.tensor([1.15]))
        self.held = self.w.detach().clone()

    def initial_state(self, batch: int) -> Tensor:
        return self.w.new_zeros(batch, 1)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return x_t @ self.held, x_t @ self.held

    def readout(self, outputs: Tensor) -> Tensor:
        return torch.cat([outputs.mean(1), self.c.expand(outputs.shape[0], 1)], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(x @ self.w)


class Gated(LSNN):
    """Another answer as soon as some drive is larger than it ever is at the network's own weights."""

    cap = torch.inf

    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:
        answer = super().forward(x)
        return torch.where(((x @ self.W_in).amax((1, 2)) > self.cap)[:, None], -answer, answer)


@pytest.mark.parametrize("silent", [0, 2])
def test_a_forward_of_its_own_is_compared_where_samples_are_loud(silent: int) -> None:
    x = torch.ones(6, 5, 64)
    x[:silent] = 0
    with pytest.raises(tb.InputError, match="not the function that would be bounded"):
        tb.certify(Copied(), x, [1] * 6, [0.0, 0.1])


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["histories", "interval", "auto"])
def test_a_gate_beyond_its_own_weights(domain: str) -> None:
    torch.manual_seed(0)
    net, x = Gated(4, 6, 2, threshold=0.05), 3 * torch.randn(6, 12, 4).abs()
    x[:2] = 0
    with torch.no_grad():
        net.W_in.abs_()
        net.b_out.copy_(torch.tensor([0.0, 0.001]))
        net.cap = float((x @ net.W_in).max()) * 1.0001
    with pytest.raises(tb.InputError, match="not the function that would be bounded"):
        tb.certify(net, x, [1] * 6, [0.0, 1e-3], domain=domain)


def test_methods_of_the_protocols_names_for_another_use() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def initial_state(self, x: Tensor) -> Tensor:
            return x.new_zeros(x.shape[0], 3)

        def step(self, x_t: Tensor, state: Tensor) -> Tensor:
            return state + self.layer(x_t)

        def readout(self, state: Tensor) -> Tensor:
            return state

        def forward(self, x: Tensor) -> Tensor:
            state = self.initial_state(x)
            for x_t in x.unbind(1):
                state = self.step(x_t, state)
            return self.readout(state)

    net, x = Other(), sequences()
    assert tb.certify(net, x, net(x).argmax(1), [0.0, 1e-4]).verified[0].all()


BROKEN = {
    "fails": ("initial_state", lambda self, batch: torch.zeros(batch, -1), "initial_state"),
    "fewer states": ("step", lambda self, x_t, state: (x_t @ self.w, ()), "step must return"),
    "more states": ("step", lambda self, x_t, state: (x_t @ self.w, (state, state)), "step must return"),
    "no state": ("step", lambda self, x_t, state: (x_t @ self.w, None), "step must return"),
    "a number": ("step", lambda self, x_t, state: (x_t @ self.w, 1.0), "step must return|cannot trace"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_protocols_that_are_broken(name: str) -> None:
    method, instead, told = BROKEN[name]
    kind = type("Broken", (Copied,), {method: instead, "forward": RecurrentModule.forward})
    with pytest.raises(tb.InputError, match=told) as error:
        tb.certify(kind(), torch.ones(6, 5, 64), [1] * 6, 0.1)
    assert "\n" not in str(error.value)


class GatedOutputs(LSNN):
    """As ``Gated``, in a method below a forward that is inherited."""

    cap = torch.inf

    def outputs(self, x: Tensor) -> Tensor:
        spikes = super().outputs(x)
        return torch.where(((x @ self.W_in).amax((1, 2)) > self.cap)[:, None, None], 0 * spikes, spikes)


def _instance_forward(net: LSNN) -> None:
    plain = net.forward
    net.forward = lambda x: torch.where(((x @ net.W_in).amax((1, 2)) > net.cap)[:, None], -plain(x), plain(x))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["outputs", "instance", "hook"])
def test_other_ways_around_the_steps_are_as_a_forward_of_its_own(way: str) -> None:
    """A third sample is the one that shows it; the same trace served another sample before."""
    torch.manual_seed(0)
    net = (GatedOutputs if way == "outputs" else Gated if way == "hook" else LSNN)(4, 6, 2, threshold=0.05)
    x = 3 * torch.randn(6, 12, 4).abs()
    with torch.no_grad():
        net.W_in.abs_()
    net.cap = torch.inf
    if way == "instance":
        _instance_forward(net)
    if way == "hook":
        net.__class__ = LSNN
        net.register_forward_hook(
            lambda m, given, out: torch.where(((given[0] @ m.W_in).amax((1, 2)) > m.cap)[:, None], -out, out)
        )
    assert not forward_is_traced(net)
    tb.certify(net, x, [1] * 6, [0.0, 1e-3], domain="interval")
    net.cap = float((x @ net.W_in).max()) * 1.0001
    with pytest.raises(tb.InputError, match="not the function that would be bounded"):
        tb.certify(net, x, [1] * 6, [0.0, 1e-3], domain="interval")


def test_a_forward_that_is_inherited_is_the_traced_one() -> None:
    class Own(RecurrentModule):
        pass

    assert forward_is_traced(LSNN(3, 4, 2))
    assert forward_is_traced(Own())
    assert not forward_is_traced(Copied())


class InAnotherOrder(RecurrentModule):
    """A state by names, which a step returns in another order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(3, 4), nn.Linear(4, 3)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {"v": torch.zeros(batch, 4), "a": torch.zeros(batch, 4)}

    def step(self, x_t: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        v = 0.5 * state["v"] + self.enter(x_t) - 0.3 * state["a"]
        a = 0.9 * state["a"] + 0.1 * v
        return v.relu(), {"a": a, "v": v}

    def readout(self, outputs: Tensor) -> Tensor:
        return self.leave(outputs.mean(1))


def test_states_are_known_by_their_names() -> None:
    net, x = InAnotherOrder(), torch.randn(5, 6, 3)
    bounds = tb.logit_bounds(net, x, 0.0)
    with torch.no_grad():
        answer = net.double()(x.double())
    assert (bounds.lower <= answer + 1e-12).all()
    assert (answer <= bounds.upper + 1e-12).all()


class Limited(LSNN):
    """A step of its own, under the forward of ours."""

    def step(self, x_t: Tensor, state: Any) -> Any:
        return super().step(x_t.clamp(max=0.5), state)


def test_a_step_of_its_own_is_what_runs() -> None:
    torch.manual_seed(0)
    net, x = Limited(3, 8, 2), 2 * torch.randn(4, 20, 3)
    with torch.no_grad():
        assert torch.equal(net(x), net.readout(run_steps(net, x)))
        assert not torch.equal(net(x), LSNN.readout(net, LSNN.outputs(_like(net), x)))
    tb.certify(net, x, net(x).argmax(1), 1e-3)


def _like(net: LSNN) -> LSNN:
    plain = LSNN(3, 8, 2)
    plain.load_state_dict(net.state_dict())
    return plain
