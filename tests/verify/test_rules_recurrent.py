"""Recurrent layers and cells: the contract, torch's own answers, vertices, and loops written out by hand."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import thetabox as tb
from tests.verify.contract import Case, RuleContract, assert_inside, bounds_with_gradient, evaluate, points
from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import stored
from thetabox.verify.arithmetic.rounding import Rounding, gamma
from thetabox.verify.effort import forward_pass
from thetabox.verify.interpreter.context import Context, Memo, RowEpsilons
from thetabox.verify.interpreter.rules.recurrent_forms import walked
from thetabox.verify.interpreter.rules.recurrent_steps import RecurrentWeights, driven
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.interval.forward import run, run_problem
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.linear import Linear
from thetabox.verify.network import network
from thetabox.verify.problem import Problem, input_interval

pytestmark = pytest.mark.usefixtures("traced_once")

SEQUENCE = (3, 3)  # steps, features
KINDS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Layer(nn.Module):
    """A recurrent layer on [N, T, F] and what its user reads of it."""

    def __init__(self, layer: nn.Module, reads: str = "outputs", state: str = "none") -> None:
        super().__init__()
        self.layer, self.reads, self.state = layer, reads, state
        places = layer.num_layers * (2 if layer.bidirectional else 1)
        torch.manual_seed(7)
        sizes = [layer.proj_size or layer.hidden_size, layer.hidden_size][: 2 if isinstance(layer, nn.LSTM) else 1]
        self.first = nn.ParameterList(nn.Parameter(torch.randn(places, 1, size) * 0.5) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        steps = x if self.layer.batch_first else x.transpose(0, 1)
        if self.state == "none":
            outputs, last = self.layer(steps)
        else:
            outputs, last = self.layer(steps, self._initial(x))
        states = last if isinstance(last, tuple) else (last,)
        if self.reads == "states":
            return torch.cat([s.transpose(0, 1).flatten(1) for s in states], 1)
        outputs = outputs if self.layer.batch_first else outputs.transpose(0, 1)
        return outputs[:, -1] if self.reads == "last" else outputs.flatten(1)

    def _initial(self, x: Tensor) -> Any:
        if self.state == "parameters":
            states = [s.expand(-1, x.shape[0], -1) for s in self.first]
        elif self.state == "zeros":
            states = [x.new_zeros(s.shape[0], x.shape[0], s.shape[2]) for s in self.first]
        else:  # of the sample
            states = [x.mean((1, 2))[None, :, None] * s for s in self.first]
        return tuple(states) if len(states) == 2 else states[0]


class Loop(nn.Module):
    """Cells of torch in a loop of the user's own."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return torch.cat(state, 1) if isinstance(state, tuple) else state


def made(kind: str, seed: int = 0, inputs: int = 3, units: int = 2, **options: Any) -> Any:
    torch.manual_seed(seed)
    return KINDS[kind](inputs, units, **options)


def layer(kind: str, reads: str = "outputs", state: str = "none", **options: Any) -> Layer:
    return Layer(made(kind, **options), reads, state).eval()


class TestLayers(RuleContract):
    cases: ClassVar = {
        "lstm": Case(layer("lstm", batch_first=True), SEQUENCE),
        "lstm projected": Case(layer("lstm", units=3, proj_size=2), SEQUENCE),
        "lstm deep both ways": Case(layer("lstm", "states", num_layers=2, bidirectional=True, dropout=0.3), SEQUENCE),
        "lstm from parameters": Case(layer("lstm", state="parameters", bias=False, batch_first=True), SEQUENCE),
        "gru": Case(layer("gru", batch_first=True), SEQUENCE),
        "gru deep both ways": Case(layer("gru", num_layers=2, bidirectional=True, batch_first=True), SEQUENCE),
        "gru from the sample": Case(layer("gru", "states", "sample", bias=False), SEQUENCE),
        "rnn": Case(layer("rnn", batch_first=True), SEQUENCE),
        "rnn from zeros": Case(layer("rnn", "last", "zeros", bidirectional=True), SEQUENCE),
        "rnn relu": Case(layer("rnn", num_layers=2, nonlinearity="relu", batch_first=True), SEQUENCE),
        "lstm cell": Case(Loop(nn.LSTMCell(3, 2)), SEQUENCE),
        "gru cell": Case(Loop(nn.GRUCell(3, 2, bias=False)), SEQUENCE),
        "rnn cell": Case(Loop(nn.RNNCell(3, 2)), SEQUENCE),
        "rnn relu cell": Case(Loop(nn.RNNCell(3, 2, nonlinearity="relu")), SEQUENCE),
    }


@pytest.mark.slow
@pytest.mark.thin(13)
@pytest.mark.parametrize("state", ["none", "zeros", "parameters", "sample"])
@pytest.mark.parametrize("options", [{"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
@pytest.mark.parametrize("kind", KINDS)
def test_torchs_own_answers_lie_inside(kind: str, options: dict[str, Any], state: str) -> None:
    """In float64 at points of the box, and in float32 where that is the claim (oneDNN's kernel of LSTM included)."""
    module = layer(kind, "outputs", state, units=5, **options)
    torch.manual_seed(3)
    x = torch.randn(4, 6, 3)
    for epsilon in (0.0, 1e-3, 0.2):
        real = bounds_of(module, x, epsilon)
        rounded = bounds_of(module, x, epsilon, "float32")
        for point in points(module, epsilon, 4, inside=1 - 1e-3 if epsilon else 0.0):
            assert_inside(real, evaluate(module, point, x), 1e-13)
            assert_inside(rounded, evaluate(module, {n: p.float() for n, p in point.items()}, x))
        if epsilon == 0.0:
            size = real.upper.abs().max()
            assert (real.upper - real.lower).max() < 1e-12 * (1 + size)


def bounds_of(module: nn.Module, x: Tensor, epsilon: float, arithmetic: str = "real") -> tb.Interval:
    """Bounds of the graph alone, without the runs beside it."""
    problem = Problem(module, tb.verify.arguments.settings("interval", None, arithmetic, "float64", "cpu"), x)
    with torch.no_grad():
        ends = run_problem(problem, slice(0, len(x)), torch.full((1, len(x)), epsilon, dtype=torch.float64)).logits()
    return ends.settled(problem.settings.rounding.roundoff)


@pytest.mark.parametrize("kind", KINDS)
def test_vertices_of_one_unit(kind: str) -> None:
    """One unit, one step: every vertex of the box lies inside; from known values a unit's arguments are exact."""
    module = Layer(made(kind, inputs=1, units=1, bias=False), "last").double().eval()
    x = torch.tensor([[[0.7]], [[-1.3]]], dtype=torch.float64)
    names = [n for n, _ in module.layer.named_parameters()]
    values = {n: p.detach() for n, p in module.named_parameters()}
    free = sum(values[f"layer.{n}"].numel() for n in names)
    bounds = bounds_of(module, x, 0.3)
    reached = []
    for signs in itertools.product((-1.0, 1.0), repeat=free):
        part = torch.tensor(signs, dtype=torch.float64).split([values[f"layer.{n}"].numel() for n in names])
        noise = {f"layer.{n}": s.view_as(values[f"layer.{n}"]) for n, s in zip(names, part, strict=True)}
        point = {n: v * (1 + 0.3 * noise[n]) if n in noise else v for n, v in values.items()}
        reached.append(evaluate(module, point, x))
    truth = torch.stack(reached)
    assert_inside(bounds, truth, 1e-13)
    # No value of the step is read twice but z of a GRU, whose mean is taken at vertices.
    torch.testing.assert_close(bounds.lower, truth.amin(0), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(bounds.upper, truth.amax(0), rtol=1e-12, atol=1e-13)


class ByHand(nn.Module):
    """``layer``'s last output, of one layer and direction, its steps written out."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        r = self.layer
        h = c = x.new_zeros(x.shape[0], r.hidden_size)
        for t in range(x.shape[1]):
            a = F.linear(x[:, t], r.weight_ih_l0, r.bias_ih_l0)
            b = F.linear(h, r.weight_hh_l0, r.bias_hh_l0)
            if isinstance(r, nn.LSTM):
                i, f, g, o = (a + b).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            elif isinstance(r, nn.GRU):
                (ar, az, an), (br, bz, bn) = a.chunk(3, 1), b.chunk(3, 1)
                z, n = (az + bz).sigmoid(), (an + (ar + br).sigmoid() * bn).tanh()
                h = (1 - z) * n + z * h
            else:
                h = (a + b).tanh()
        return h


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", KINDS)
def test_never_looser_than_a_loop_by_hand(kind: str) -> None:
    """Equal but for rounding; of a GRU tighter, for by hand z is read twice."""
    module, hand = Layer(made(kind, units=4, batch_first=True), "last").eval(), None
    hand = ByHand(module.layer).eval()
    torch.manual_seed(5)
    x = torch.randn(3, 8, 3)
    for epsilon in (1e-4, 1e-2):
        walked, unrolled = (bounds_of(m, x, epsilon) for m in (module, hand))
        assert (walked.lower >= unrolled.lower - 1e-11).all()
        assert (walked.upper <= unrolled.upper + 1e-11).all()
        ratio = ((walked.upper - walked.lower) / (unrolled.upper - unrolled.lower)).max()
        assert ratio < (0.9 if kind == "gru" else 1 + 1e-7)


@pytest.mark.slow
@settings(deadline=None, max_examples=7)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10_000), st.floats(0.0, 0.5), st.booleans())
def test_points_of_the_box_lie_inside(kind: str, seed: int, epsilon: float, both: bool) -> None:
    """Any weights, any ε: random corners and inner points, and ε = 0 inside it."""
    module = Layer(made(kind, seed, units=2, bidirectional=both, batch_first=True), "states").double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3.0)
    x = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bounds = bounds_of(module, x, epsilon)
    for point in points(module, epsilon, 6):
        assert_inside(bounds, evaluate(module, point, x), 1e-13)


@pytest.mark.slow
def test_directions_do_not_share_what_is_kept_of_an_input() -> None:
    """Several ε share products of the known input: those of one direction are not the other's."""
    module = layer("gru", "outputs", units=3, bidirectional=True, batch_first=True)
    torch.manual_seed(6)
    x = torch.randn(2, 4, 3)
    problem = Problem(module, tb.verify.arguments.settings("interval", None, "real", "float64", "cpu"), x)
    memo = Memo()
    with torch.no_grad():
        for epsilon in (0.0, 1e-2):
            each = torch.full((1, 2), epsilon, dtype=torch.float64)
            kept = run_problem(problem, slice(0, 2), each, memo=memo).logits()
            alone = run_problem(problem, slice(0, 2), each).logits()
            assert torch.equal(kept.lower, alone.lower)
            assert torch.equal(kept.upper, alone.upper)


def test_gradients_reach_every_weight() -> None:
    module = layer("lstm", "last", "parameters", num_layers=2, batch_first=True)
    x = torch.randn(2, 5, 3)
    lower, upper = bounds_with_gradient(module, x, torch.full((1, 2), 1e-2))
    (upper - lower).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_work_counts_every_step() -> None:
    """A forward pass of the layer is that of its products over all steps."""
    module = Layer(made("lstm", units=8, batch_first=True), "last")
    x = torch.zeros(1, 10, 3)
    products = 10 * 4 * 8 * (3 + 8)
    assert products <= forward_pass(network(module, x)) <= 1.2 * products
    assert network(module, x).largest() >= 10 * 4 * 8


class Misread(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=how not in ("steps first", "no samples"))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "packed":
            lengths = torch.full((x.shape[0],), 3)
            return self.layer(pack_padded_sequence(x, lengths, batch_first=True))[1][0][-1]
        if self.how == "no samples":
            return self.layer(x[:, 0])[0]
        self.layer.train(self.how == "training")
        return self.layer(x)[0][:, -1]


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("steps first", "batch_first=True"),
        ("no samples", "batch_first=True"),
        ("packed", "PackedSequence"),
        ("training", "call eval"),
    ],
)
def test_misread_sequences_are_refused(how: str, line: str) -> None:
    module = Misread(how).eval()
    with pytest.raises(InputError, match=line) as caught:
        bounds_of(module, torch.randn(3, 5, 3), 0.0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_certified_from_end_to_end(kind: str) -> None:
    """The public call, with the runs beside the graph, in both arithmetics; more is proven at smaller ε."""
    module = nn.Sequential(Layer(made(kind, units=6, batch_first=True), "last"), nn.Linear(6, 3)).eval()
    torch.manual_seed(8)
    x = torch.randn(8, 5, 3)
    y = module(x).argmax(1)
    for arithmetic in ("real", "float32"):
        certificate = tb.certify(module, x, y, [0.0, 1e-3, 0.3], domain="interval", arithmetic=arithmetic)
        assert certificate.verified[0].all()
        assert (certificate.margin[:-1] >= certificate.margin[1:]).all()
    attacked = tb.attack(module, x, y, epsilon=[1e-3], steps=5, restarts=1)
    assert (attacked.correct[0] | ~certificate.verified[1]).all()


def correlated(module: nn.Module, x: Tensor, epsilon: float, generators: int, arithmetic: str = "real") -> tb.Interval:
    """Bounds of the graph where recurrent layers are affine forms through time."""
    chosen = tb.verify.arguments.settings("interval", None, arithmetic, "float64", "cpu")
    problem = Problem(module, chosen, x)
    rows = RowEpsilons(torch.full((1, len(x)), epsilon, dtype=torch.float64))
    context = Context(rows, chosen.rounding, correlated=generators)
    with torch.no_grad(), sound_kernels():
        final = run(problem.network, context, problem.tensors, input_interval(x, chosen))
        return final.logits().settled(chosen.rounding.roundoff)


@pytest.mark.slow
@settings(deadline=None, max_examples=3)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 10_000),
    st.floats(0.0, 0.5),
    st.floats(0.3, 6.0),
    st.sampled_from(["none", "parameters", "sample"]),
)
def test_affine_forms_hold_points_of_the_box(kind: str, seed: int, epsilon: float, gain: float, state: str) -> None:
    """Any weights, any ε, few generators and many; never wider than boxes."""
    layer_ = made(kind, seed, units=3, bidirectional=seed % 2 == 0, batch_first=True)
    module = Layer(layer_, "states" if seed % 3 else "outputs", state).double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(gain)
    x = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain = bounds_of(module, x, epsilon)
    for generators in (1, 1000):
        bounds = correlated(module, x, epsilon, generators)
        for point in points(module, epsilon, 6):
            assert_inside(bounds, evaluate(module, point, x), 1e-13)
        assert (bounds.lower >= plain.lower - 1e-12).all()
        assert (bounds.upper <= plain.upper + 1e-12).all()


CELLS: dict[str, Any] = {"lstm": torch.lstm_cell, "gru": torch.gru_cell, "rnn_tanh": torch.rnn_tanh_cell}


@pytest.mark.parametrize("spread", [0.02, 0.4, 3.0])
@pytest.mark.parametrize("most", [1, 1000])
@pytest.mark.parametrize("kind", CELLS)
def test_affine_forms_by_themselves(kind: str, most: int, spread: float) -> None:
    """Without the boxes beside them: states, inputs and weights at corners, where second-order terms count."""
    generator = torch.Generator().manual_seed(12)
    units, features, steps, rows, epsilon = 2, 2, 4, 16, spread / 4
    gates = {"lstm": 4, "gru": 3}.get(kind, 1) * units
    shapes = ((gates, features), (gates, units), (gates,), (gates,))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 for shape in shapes]
    rounding = Rounding(torch.float64)
    context = Context(RowEpsilons(torch.full((1, rows), epsilon, dtype=torch.float64)), rounding, correlated=most)
    weights = RecurrentWeights(*(stored("it", t, rounding, 1.0) for t in tensors))
    states = [torch.randn(rows, units, generator=generator, dtype=torch.float64) for _ in range(1 + (kind == "lstm"))]
    x = torch.randn(steps, rows, features, generator=generator, dtype=torch.float64)
    around = [Interval(t - spread, t + spread, batch=0) for t in states]
    drive = driven(context, Interval(x - spread, x + spread, batch=1), weights)
    found = walked(context, kind, drive, tuple(around), weights, backwards=False)
    assert found is not None
    outputs, last = found

    def corner(t: Tensor, radius: Any) -> Tensor:
        return t + radius * torch.randint(-1, 2, t.shape, generator=generator)

    for _ in range(300):
        point = [corner(t, epsilon * t.abs()) for t in tensors]
        state = [corner(t, spread) for t in states]
        for time in range(steps):
            inputs = corner(x[time], spread)
            state = (
                list(CELLS[kind](inputs, state, *point)) if kind == "lstm" else [CELLS[kind](inputs, *state, *point)]
            )
            assert_inside(tb.Interval(*outputs[time]), state[0])
        for ends, value in zip(last, state, strict=True):
            assert_inside(tb.Interval(*ends), value)


def one_step(kind: str, tensors: list[Tensor], h: Interval, rounding: Rounding) -> tb.Interval:
    """The forms' output of one step from ``h`` at exact weights and no input."""
    context = Context(RowEpsilons(torch.zeros(1, len(h.lower), dtype=torch.float64)), rounding, correlated=100)
    weights = RecurrentWeights(*(stored("it", t, rounding) for t in tensors))
    x = torch.zeros(1, len(h.lower), tensors[0].shape[1], dtype=torch.float64)
    found = walked(context, kind, driven(context, Interval(x, x, batch=1), weights), (h,), weights, backwards=False)
    assert found is not None
    return tb.Interval(*found[0][0])


def test_reset_gate_and_what_it_resets_move_together() -> None:
    """h' = tanh(σ(1.5 h) 1.5 h) with the update gate shut: above its tangent on both sides."""
    hidden = torch.tensor([[1.5], [0.0], [1.5]], dtype=torch.float64)
    shut = torch.tensor([0.0, -30.0, 0.0], dtype=torch.float64)
    tensors = [torch.zeros_like(hidden), hidden, shut, torch.zeros_like(shut)]
    h = torch.linspace(-0.4, 0.4, 9, dtype=torch.float64)[:, None]
    x = torch.zeros_like(h)
    around = Interval(torch.full_like(x[:1], -0.4), torch.full_like(x[:1], 0.4), batch=0)
    assert_inside(one_step("gru", tensors, around, Rounding(torch.float64)), torch.gru_cell(x, h, *tensors))


def test_forms_round_as_far_as_float32_may() -> None:
    """At exact weights and states: at least Higham's γ of the sum, through the slope of the tangent."""
    generator = torch.Generator().manual_seed(13)
    shapes = ((64, 4), (64, 64), (64,), (64,))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) * 0.1 for shape in shapes]
    h = torch.rand(3, 64, generator=generator, dtype=torch.float64)
    ends = one_step("rnn_tanh", tensors, Interval(h, h, batch=0), Rounding(torch.float64, "float32"))
    answer = torch.rnn_tanh_cell(torch.zeros(3, 4, dtype=torch.float64), h, *tensors)
    most = gamma(70, 2.0**-24) * (1 - answer**2) * (h @ tensors[1].abs().T + tensors[2].abs() + tensors[3].abs())
    assert_inside(ends, answer + 0.99 * most)
    assert_inside(ends, answer - 0.99 * most)


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", KINDS)
def test_affine_forms_hold_what_float32_answers(kind: str) -> None:
    """Over forty steps, at weights of the box: the rounding of every step is in the forms, and little of it."""
    module = Layer(made(kind, units=8, batch_first=True), "last").eval()
    torch.manual_seed(9)
    x = torch.randn(4, 40, 3)
    for epsilon in (0.0, 1e-4):
        bounds = correlated(module, x, epsilon, 128, "float32")
        for point in points(module, epsilon, 6, inside=1 - 1e-3 if epsilon else 0.0):
            assert_inside(bounds, evaluate(module, {n: p.float() for n, p in point.items()}, x))
    exact = correlated(module, x, 0.0, 1000)
    assert (exact.upper - exact.lower).max() < 1e-11


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", KINDS)
def test_affine_forms_are_tight(kind: str) -> None:
    """Of one step the noise is exact to first order; over twenty, boxes are several times as wide."""
    module = Layer(made(kind, units=12, batch_first=True), "last").double().eval()
    torch.manual_seed(10)
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    forms, boxes = correlated(module, x, 1e-4, 1000), bounds_of(module, x, 1e-4)
    width = forms.upper - forms.lower
    assert ((boxes.upper - boxes.lower) / width).min() > (2 if kind == "rnn" else 4)
    one, once = correlated(module, x[:, :1], 1e-4, 1000), bounds_of(module, x[:, :1], 1e-4)
    torch.testing.assert_close(one.upper - one.lower, once.upper - once.lower, rtol=1e-3, atol=0.0)


def test_monotone_in_epsilon_and_by_item() -> None:
    """More ε, wider; items at their own ε answer as alone."""
    module = nn.Sequential(Layer(made("lstm", units=5, batch_first=True), "last"), nn.Linear(5, 3)).eval()
    torch.manual_seed(11)
    x = torch.randn(3, 12, 3)
    y = torch.tensor([0, 1, 2])
    problem = Problem(module, tb.verify.arguments.settings("linear", None, "real", "float64", "cpu"), x)
    domain = Linear(problem)
    sweep = torch.tensor([[0.0] * 3, [1e-4] * 3, [1e-2] * 3, [1e-4, 1e-2, 0.0]], dtype=torch.float64)
    margins = domain.margins(slice(None), sweep, y)
    assert (margins[:2] > margins[1:3]).all()
    torch.testing.assert_close(margins[3], margins[[1, 2, 0], [0, 1, 2]], rtol=1e-9, atol=1e-12)
    plain = PlainIntervals(problem).margins(slice(None), sweep, y)
    assert (margins[1:3] > plain[1:3]).all()
    assert domain.passes("margin") > 100


@pytest.mark.slow
def test_auto_proves_a_long_sequence() -> None:
    """Sixty steps: boxes know nothing at 1e-4, forms prove what an attack cannot flip."""
    torch.manual_seed(0)
    module = nn.Sequential(Layer(nn.LSTM(4, 16, batch_first=True), "last"), nn.Linear(16, 4)).eval()
    x = torch.randn(6, 60, 4)
    y = module(x).argmax(1)
    interval, auto = (tb.certify(module, x, y, [1e-4, 1e-3], domain=d) for d in ("interval", "auto"))
    assert auto.verified[0].sum() >= interval.verified[0].sum() + 3
    attacked = tb.attack(module, x, y, epsilon=[1e-4, 1e-3], steps=5, restarts=1)
    assert (attacked.correct | ~auto.verified).all()
