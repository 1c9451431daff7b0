"""The lemmas of docs/yield.md by themselves, by quadrature and enumeration: each would fail here if it were false."""

import itertools
import math

import numpy as np
import pytest
import torch

GRID = np.linspace(-10.0, 10.0, 4001)
WEIGHT = np.exp(-(GRID**2) / 2) / np.exp(-(GRID**2) / 2).sum()


def phi(t):
    return np.exp(-np.square(t) / 2) / math.sqrt(2 * math.pi)


def cdf(t):
    return torch.special.log_ndtr(torch.as_tensor(np.asarray(t, dtype=np.float64))).exp().numpy()


def mean_relu(mean, spread):
    return mean * cdf(mean / spread) + spread * phi(mean / spread)


def relu(t):
    return np.maximum(t, 0.0)


# Tails of sums over layers


def worst_gaussian(variances, a):
    """Largest P(sum of M_j <= -a) over all choices of spreads by what is known before, by dynamic programming."""
    total = math.sqrt(sum(variances))
    place = np.linspace(-9 * total, 9 * total, 3001)
    step = place[1] - place[0]
    value = None
    for variance in reversed(variances):
        s = math.sqrt(variance)
        if value is None:
            noisy = cdf((-a - place) / s)
        else:
            move = np.arange(-int(8 * s / step), int(8 * s / step) + 1)
            weight = np.exp(-((move * step / s) ** 2) / 2)
            padded = np.concatenate([np.ones(len(move) // 2), value, np.zeros(len(move) // 2)])
            noisy = np.convolve(padded, weight / weight.sum(), "valid")
        # Below -a the best is to stop: no more noise.
        value = np.where(place <= -a, 1.0, noisy)
    return float(np.interp(0.0, place, value))


@pytest.mark.parametrize("layers", [1, 2, 4, 20])
@pytest.mark.parametrize("z", [0.2, 0.674, 1.0, 2.0, 3.0])
def test_gaussian_tail_of_a_sum_over_layers(layers, z):
    worst = worst_gaussian([1 / layers] * layers, z)
    assert worst <= 2 * cdf(-z) + 1e-6
    assert worst == pytest.approx(cdf(-z), rel=1e-3) if layers == 1 else worst > 1.002 * cdf(-z)


def test_the_factor_two_is_needed():
    assert worst_gaussian([1 / 20] * 20, 0.674) > 1.6 * cdf(-0.674)
    assert worst_gaussian([0.9, 0.1], 1.0) <= 2 * cdf(-1.0)


def worst_two_points(layers, a):
    """Largest P(sum <= -a) of errors ±s_j, each s_j in {0, 1/2, 1} chosen by the sum so far."""
    value = {s / 2: float(s / 2 <= -a) for s in range(-2 * layers, 2 * layers + 1)}
    for done in reversed(range(layers)):
        reachable = range(-2 * done, 2 * done + 1)
        value = {
            s / 2: max((value[s / 2 - size] + value[s / 2 + size]) / 2 for size in (0.0, 0.5, 1.0)) for s in reachable
        }
    return value[0.0]


def test_subgaussian_tail_of_two_points():
    beyond = False
    for layers in (1, 2, 3, 6, 12):
        for a in np.arange(0.5, layers + 0.5, 0.5):
            z = a / math.sqrt(layers)
            worst = worst_two_points(layers, a)
            assert worst <= math.exp(-z * z / 2) + 1e-12
            beyond |= worst > 2 * cdf(-z)
    # The Gaussian tail is no bound for them.
    assert beyond


def test_proxies_of_bounded_errors():
    t = np.linspace(-8, 8, 161)
    assert (np.cosh(t) <= np.exp(t**2 / 2) * (1 + 1e-12)).all()
    assert (np.sinh(t[t != 0]) / t[t != 0] <= np.exp(t[t != 0] ** 2 / 2)).all()
    for cut in (0.1, 1.0, 3.0):
        inside = np.abs(GRID) <= cut
        mean = (WEIGHT[inside][:, None] * np.exp(GRID[inside][:, None] * t)).sum(0) / WEIGHT[inside].sum()
        assert (mean <= np.exp(t**2 / 2) * (1 + 1e-9)).all()


# One hidden neuron, all by hand


def test_ledger_of_one_hidden_neuron():
    """z = 1 + t n, h = relu(z), margin = (a + s m) h + b: T1's bound, ends of z among its events, holds the truth."""
    needed = 0
    for t, a, s, b, z in itertools.product((0.3, 1.0), (-1.0, 1.0), (0.2, 1.0), (0.3, 1.0, 2.5), (0.3, 0.674, 1.5)):
        value = 1 + t * GRID
        hidden = relu(value)
        mean = a * hidden + b
        given = np.where(hidden > 0, cdf(-mean / np.maximum(s * hidden, 1e-12)), float(b <= 0))
        truth = float((WEIGHT * given).sum())
        low, high = 1 - t * z, 1 + t * z
        most = max(high, 0.0)
        if low >= 0 or a > 0:
            slope, constant = a, b + a
        else:
            chord = high / (high - low)
            slope, constant = a * chord, b + a * chord * (1 - low)
        if low < 0 < a and b > constant:
            slope, constant = 0.0, b
        deviation = math.sqrt(slope**2 * t**2 + s**2 * most**2)
        if constant <= 0:
            continue
        row = 2 * cdf(-constant / deviation)
        assert truth <= row + 2 * cdf(-z)
        needed += truth > row
    # The events of the ends are no ornament: without them the bound is wrong.
    assert needed


def test_variance_of_a_shared_kernel():
    """Coefficients of a kernel's noise add up over its positions before they are squared; |G(h)| <= |G(c)| + R."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, c, r = rng.normal(size=5), rng.normal(size=7), rng.uniform(size=7)
        signs = rng.choice([-1.0, 1.0], (200, 7))
        h = c + signs * r
        gradient = np.stack([(a * h[:, q : q + 5]).sum(1) for q in range(3)], 1)
        centre = np.array([(a * c[q : q + 5]).sum() for q in range(3)])
        around = np.array([(np.abs(a) * r[q : q + 5]).sum() for q in range(3)])
        assert (np.abs(gradient) <= np.abs(centre) + around + 1e-12).all()
        # The change of the row by the kernel's noise is linear with exactly these coefficients.
        noise = rng.normal(size=3)
        moved = np.array([(noise * h[0, p : p + 3]).sum() for p in range(5)])
        assert (a * moved).sum() == pytest.approx((gradient[0] * noise).sum())
    # Taken as independent at every position, the noise of a sum of equal signs would be too small.
    assert np.square([np.ones(5).sum()] * 3).sum() > 5 * 3


def test_a_parameter_read_twice_is_another_theorem():
    """n a + n b(n) with b = 1{n < 0}: T1's variance a² + b² is too small."""
    z = 3.0
    truth = cdf(-z * math.sqrt(2) / 2)  # 2 n <= -z √2
    assert truth > 5 * 2 * cdf(-z)
    # T3 with b in [0, 1]: centre 1/2, radius 1/2.
    lost = math.sqrt(2 / math.pi) * 0.5 + z * (1.5 + 0.5)
    assert cdf(-lost / 2) <= cdf(-z)


# T2


def entropic(a, v, lam, mean, spread):
    """-ln E exp(-λ f)/λ for f = a relu(z) - (λ/2) v relu(z)², z = mean + spread n."""
    mean, spread = np.broadcast_arrays(np.asarray(mean, dtype=float), np.asarray(spread, dtype=float))
    r = relu(mean[..., None] + spread[..., None] * GRID)
    exponent = np.log(WEIGHT + 1e-300) - lam * (a * r - lam / 2 * v * r**2)
    top = exponent.max(-1, keepdims=True)
    return -(np.log(np.exp(exponent - top).sum(-1)) + top[..., 0]) / lam


def test_entropic_bound_for_negative_coefficients():
    """Concave in the mean, and falling with the spread: the chord at the largest spread."""
    rng = np.random.default_rng(1)
    mean = np.linspace(-3, 3, 41)
    wrong_side = False
    for n in range(40):
        lam, s, a = rng.uniform(0.1, 3), rng.uniform(0.1, 1.5), -rng.uniform(0, 2)
        v = 0.0 if n % 2 else rng.uniform(0, 0.6) / (lam * s) ** 2
        wide = entropic(a, v, lam, mean, s)
        assert (np.diff(wide, 2) <= 1e-8).all()
        narrow = entropic(a, v, lam, mean, s * rng.uniform(0.2, 1))
        assert (wide <= narrow + 1e-9).all()
        chord = narrow[0] + (narrow[-1] - narrow[0]) * (mean - mean[0]) / (mean[-1] - mean[0])
        wrong_side |= bool((chord > wide + 1e-6).any())
    # At a smaller spread the chord is no bound.
    assert wrong_side


def test_entropic_bound_for_positive_coefficients():
    """Convex in the mean: the tangent at the least spread, everywhere, less what more spread costs."""
    rng = np.random.default_rng(2)
    mean = np.linspace(-4, 4, 41)
    without = False
    for _ in range(40):
        lam, s, a = rng.uniform(0.1, 3), rng.uniform(0.1, 1.0), rng.uniform(0, 2)
        assert (np.diff(entropic(a, 0.0, lam, mean, s), 2) >= -1e-8).all()
        at = mean[rng.integers(len(mean))]
        below, value, above = entropic(a, 0.0, lam, [at - 1e-4, at, at + 1e-4], s)
        slope = (above - below) / 2e-4
        for factor in (1.0, 1.3, 2.0):
            wide = entropic(a, 0.0, lam, mean, factor * s)
            tangent = value + slope * (mean - at)
            assert (tangent - lam / 2 * slope**2 * s**2 * (factor**2 - 1) <= wide + 1e-5).all()
            without |= bool((tangent > wide + 1e-4).any())
    # What more spread costs has to be taken off.
    assert without


def test_entropic_bound_of_one_hidden_layer():
    """P(margin <= 0) <= exp(-λ ρ), exactly computed, with v relu² <= v U relu on the event z <= U."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        mean, s, a, t, b = rng.normal(), rng.uniform(0.1, 1), rng.normal(), rng.uniform(0.1, 1), rng.uniform(0, 2)
        h = relu(mean + s * GRID)
        truth = float((WEIGHT * np.where(h > 0, cdf(-(a * h + b) / np.maximum(t * h, 1e-12)), 0.0)).sum())
        for lam in (0.2, 1.0, 3.0):
            if lam * t * s < 0.7:
                assert truth <= math.exp(-lam * (b + float(entropic(a, t**2, lam, mean, s)))) + 1e-9
            k = 2.0
            a_event = a - lam / 2 * t**2 * max(mean + k * s, 0.0)
            assert truth <= cdf(-k) + math.exp(-lam * (b + float(entropic(a_event, 0.0, lam, mean, s)))) + 1e-9


# Functions of Gaussian noise that are Lipschitz


def functions():
    """Signed sums of maxima of linear functions of two Gaussians on a grid, with their gradients' largest length."""
    rng = np.random.default_rng(4)
    line = np.linspace(-7, 7, 281)
    n = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    weight = np.exp(-(n**2).sum(1) / 2)
    weight /= weight.sum()
    for _ in range(12):
        a = rng.normal(size=4)
        slope, shift = rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 3))
        slope[:, 0], shift[:, 0] = 0.0, 0.0  # a ReLU of a maximum
        values = np.einsum("okd,nd->nok", slope, n) + shift
        f = values.max(-1) @ a
        pattern = values.argmax(-1)
        gradient = np.einsum("o,nod->nd", a, slope[np.arange(4), pattern])
        yield n, weight, f - weight @ f, gradient, float(np.sqrt((gradient**2).sum(1).max()))


def test_herbst_and_tilted_herbst():
    for n, weight, f, gradient, lipschitz in functions():
        size = (gradient**2).sum(1)
        for lam in np.array([0.3, 1.0, 2.0]) / lipschitz:
            moment = math.log(weight @ np.exp(-lam * f))
            assert moment <= (lam * lipschitz) ** 2 / 2 + 1e-3
            # ln E exp(-λ(f - Ef)) <= λ/2 ∫ E_s |∇f|² ds, E_s under exp(-s f)
            levels = np.linspace(0, lam, 21)
            tilted = [np.exp(-s * f) * weight / (np.exp(-s * f) @ weight) for s in levels]
            inner = np.array([t @ size for t in tilted])
            integral = float(((inner[1:] + inner[:-1]) / 2 * np.diff(levels)).sum())
            assert moment <= lam / 2 * integral + 1e-3
            # Of a unit coordinate under the tilt: P_s(u >= t) <= Φ(sL - t)
            for t in (0.0, 1.0, 2.0):
                for u in (n[:, 0], n @ np.array([0.6, -0.8])):
                    assert tilted[-1] @ (u >= t + 1e-9) <= cdf(lam * lipschitz - t) + 5e-3


def test_lipschitz_functions_have_the_gaussian_tail_and_convex_order():
    for _, weight, f, _, lipschitz in functions():
        for z in (0.3, 0.674, 1.0, 2.0, 3.0):
            assert weight @ (f <= -z * lipschitz) <= 2 * cdf(-z) + 1e-6
            assert weight @ relu(-f - z * lipschitz) <= lipschitz * mean_relu(-z, 1.0) + 1e-6


@pytest.mark.parametrize("cut", [-0.5, 0.0, 1.0])
@pytest.mark.parametrize("layers", [2, 5, 20])
def test_sums_of_lipschitz_layers_have_the_gaussian_tail(cut, layers):
    """Every layer adds s (max(n, -cut) - mean), s in [0, 1/√layers] by what is known before: at most 2 Φ(-z)."""
    n = np.linspace(-8, 8, 161)
    weight = np.exp(-(n**2) / 2) / np.exp(-(n**2) / 2).sum()
    moves = (np.maximum(n, -cut) - weight @ np.maximum(n, -cut)) / math.sqrt(layers)
    place = np.linspace(-6, 6, 2401)
    for z in (0.3, 1.0, 2.0):
        value = (place <= -z).astype(float)
        for _ in range(layers):
            noisy = sum(
                w * np.interp(place + move, place, value, left=1.0) for w, move in zip(weight, moves, strict=True)
            )
            value = np.maximum(value, noisy)
        # The interpolation of the jump is to its left: a little too much, if anything.
        assert np.interp(0.0, place, value) <= 2 * cdf(-z) + 2e-3


def test_lipschitz_functions_about_their_mean_need_the_factor():
    """max(n, -1), about its mean: Φ(-z) alone is false."""
    mean = mean_relu(1.0, 1.0) - 1
    truth = cdf(mean - 1.0)
    assert 1.1 * cdf(-1.0) < truth <= 2 * cdf(-1.0)


def test_tail_by_convex_order():
    """P <= min over u of E relu(g - u) / (t - u) is above the tail 2 Φ(-t), which holds too."""
    for t in (1.0, 2.0, 4.0, 5.0):
        u = np.linspace(t - 2.5, t - 0.02, 400)
        bound = (mean_relu(-u, 1.0) / (t - u)).min()
        assert 2 * cdf(-t) <= bound <= math.exp(-t * t / 2) * 1.05


def test_expectations_of_pooled_values():
    rng = np.random.default_rng(5)
    z = rng.normal(size=(2000, 4))
    reference, others = z[:, 0], z[:, 1:]
    most = relu(z.max(1))
    above = relu(reference) + np.minimum(relu(others - reference[:, None]), relu(others)).sum(1)
    assert (most <= above + 1e-12).all()
    parts = rng.dirichlet(np.ones(5), 2000)[:, :4]
    assert (most >= (parts * z).sum(1) - 1e-12).all()
    # Where a place is certainly active the ReLU is left out, and the parts must add up to 1.
    assert (z.max(1) < (parts * z).sum(1)).any()
    # E[1{m + s n > 0} (θ + τ n) h] = Φ(m/s) θ h + φ(m/s) τ² h⁰ h / s with m = θ h⁰, s = τ |h⁰|
    theta, tau, before, now = 0.7, 0.4, 1.3, 0.9
    m, s = theta * before, tau * before
    exact = float((WEIGHT * (m + s * GRID > 0) * (theta + tau * GRID) * now).sum())
    assert exact == pytest.approx(cdf(m / s) * theta * now + phi(m / s) * tau**2 * before / s * now, abs=1e-4)
    assert exact <= mean_relu(theta * now, tau * now) + 1e-6


def test_chord_outside_of_its_box():
    """What a chord of E relu over a box of means misses outside: (1 - α)(μ - u)₊ + α(l - μ)₊, never both whole."""
    for low, high, spread in ((-1.0, 2.0, 0.5), (-3.0, -1.0, 1.0), (0.5, 0.7, 0.1)):
        ends = mean_relu(np.array([low, high]), spread)
        slope = (ends[1] - ends[0]) / (high - low)
        assert 0 <= slope <= 1
        mean = np.linspace(-8, 8, 321)
        chord = ends[0] + slope * (mean - low)
        excess = (1 - slope) * relu(mean - high) + slope * relu(low - mean)
        assert (mean_relu(mean, spread) <= chord + excess + 1e-12).all()


# Common factors, chips, samples


def test_cells_of_a_common_factor():
    """P(wrong) <= P(|c| > k) + the worst cell, though the cells' own probabilities are not added up."""
    for margin, share, own, k, cells in ((1.0, 0.5, 0.4, 2.0, 8), (1.0, 1.0, 0.2, 1.5, 4), (0.3, 0.2, 0.3, 3.0, 1)):
        truth = float((WEIGHT * cdf(-(margin + share * GRID) / own)).sum())
        edges = np.linspace(-k, k, cells + 1)
        worst = max(cdf(-(margin + share * low) / own) for low in edges[:-1])
        assert truth <= 2 * cdf(-k) + worst
    # One factor of a layer that is read once may be counted among its noise instead.
    assert cdf(-1.0 / math.hypot(0.5, 0.4)) == pytest.approx(
        float((WEIGHT * cdf(-(1.0 + 0.5 * GRID) / 0.4)).sum()), abs=1e-6
    )


def test_chips_are_bounded_whatever_ties_samples_together():
    """P(more than m of S fail) <= Σ δ / (m + 1) for any joint law, and attained where m + 1 samples fail together."""
    rng = np.random.default_rng(6)
    outcomes = np.array(list(itertools.product((0, 1), repeat=6)))
    attained = False
    for allowed in range(6):
        laws = [rng.dirichlet(np.full(64, 0.1)) for _ in range(50)]
        laws.append((outcomes.sum(1) == allowed + 1) / (outcomes.sum(1) == allowed + 1).sum())
        for law in laws:
            expected = (law @ outcomes).sum()
            more = law @ (outcomes.sum(1) > allowed)
            assert more <= expected / (allowed + 1) + 1e-12
            attained |= bool(more > expected / (allowed + 1) - 1e-12)
    assert attained


def test_worst_of_459_draws():
    assert 0.99**459 <= 0.01 < 0.99**458
    # Of a discrete law too: the chance that the worst draw lies above the quantile.
    for law in ([0.005, 0.005, 0.99], [0.011, 0.989], [0.01, 0.99], [0.3, 0.7]):
        below = np.concatenate([[0.0], np.cumsum(law)[:-1]])  # P(accuracy < each value)
        above = np.cumsum(law[::-1])[::-1]
        fails = sum(
            above[n] ** 459 - (above[n + 1] ** 459 if n + 1 < len(law) else 0.0)
            for n in range(len(law))
            if below[n] > 0.01 + 1e-15
        )
        assert fails <= 0.01


def test_clopper_pearson_covers():
    draws, risk = 20, 0.05

    def at_least(successes, p):
        return sum(math.comb(draws, k) * p**k * (1 - p) ** (draws - k) for k in range(successes, draws + 1))

    bounds = [0.0]
    for successes in range(1, draws + 1):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if at_least(successes, middle) <= risk else (low, middle)
        bounds.append(low)
    for p in np.linspace(0.01, 0.99, 99):
        missed = sum(math.comb(draws, k) * p**k * (1 - p) ** (draws - k) for k in range(draws + 1) if bounds[k] > p)
        assert missed <= risk + 1e-12
