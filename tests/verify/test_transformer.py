"""Small Transformers and a network like MobileNet, certified end to end: never where a draw or an attack flips."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from tests.verify.contract import evaluate, points
from thetabox.errors import InputError, UnsupportedOperator

TOKENS, FEATURES, CLASSES = 4, 5, 3


class Encoder(nn.Module):
    """Tokens from a dense layer or a table, encoder layers, their mean, a head."""

    def __init__(self, *, table: bool = False, layers: int = 1, mask: bool = False, **settings: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8) if table else nn.Linear(FEATURES, 8)
        self.position = nn.Parameter(torch.randn(TOKENS, 8) * 0.1)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **settings)  # type: ignore[arg-type]  # settings of the layer
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(TOKENS, TOKENS).triu(1).bool() if self.mask else None
        return self.head(self.encoder(self.embed(x) + self.position, mask=mask, is_causal=False).mean(1))


class ByHand(nn.Module):
    """Causal attention as many write it, with a mask of minus infinities and a root mean square norm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(FEATURES, 12, bias=False), nn.Linear(4, CLASSES)
        self.norm = nn.RMSNorm(4, eps=1e-5)
        self.register_buffer("mask", torch.ones(TOKENS, TOKENS).triu(1).bool())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2) / 2).masked_fill(self.mask, -torch.inf)
        return self.out(F.silu(self.norm(scores.softmax(-1) @ v)).mean(1))


class Inverted(nn.Module):
    """An inverted residual block with hard swish and a gate (Howard et al., ICCV 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.Hardswish()
        )
        self.block = nn.Sequential(
            nn.Conv2d(4, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.project = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.GroupNorm(2, 4))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        inner = self.block(h)
        return self.head(h + self.project(inner * self.gate(inner)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "encoder": (Encoder, lambda: torch.randn(6, TOKENS, FEATURES)),
    "encoder, norm first, gelu, two layers": (
        lambda: Encoder(layers=2, norm_first=True, activation="gelu"),
        lambda: torch.randn(6, TOKENS, FEATURES),
    ),
    "encoder with a mask": (lambda: Encoder(mask=True), lambda: torch.randn(6, TOKENS, FEATURES)),
    "encoder of words": (lambda: Encoder(table=True), lambda: torch.randint(0, 9, (6, TOKENS))),
    "attention by hand": (ByHand, lambda: torch.randn(6, TOKENS, FEATURES)),
    "inverted residual": (Inverted, lambda: torch.randn(6, 1, 8, 8)),
}


SLOWER = ("encoder, norm first, gelu, two layers", "encoder with a mask", "attention by hand")
NAMES = [pytest.param(n, marks=pytest.mark.long) if n in SLOWER else n for n in NETWORKS]


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    maker, draw = NETWORKS[name]
    model, x = maker().eval(), draw()
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_certified_and_never_against_a_draw_or_an_attack(name: str) -> None:
    model, x, y = made(name)
    before = copy.deepcopy(model.state_dict())
    sweep = [0.0, 1e-7, 1e-4, 1e-3, 1e-2, 0.1]
    cert = tb.certify(model, x, y, sweep)
    assert cert.verified[0].all()
    assert cert.verified[1].float().mean() > 0.8
    assert (cert.margin[1:] <= cert.margin[:-1] + 1e-9).all()
    for place, epsilon in enumerate(sweep):
        found = tb.attack(model, x, y, epsilon=[epsilon], steps=5, restarts=1)
        assert not (cert.verified[place] & ~found.correct[0]).any()
        if x.is_floating_point():
            for point in points(model, epsilon, 4, inside=1 - 1e-6):
                answer = evaluate(model, point, x)
                rest = answer.scatter(1, y[:, None], -torch.inf).amax(1)
                margin = answer.gather(1, y[:, None])[:, 0] - rest
                assert (margin >= cert.margin[place] - 1e-12).all()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("name", [n for n in NETWORKS if "words" not in n])
def test_float32_runs_lie_inside(name: str) -> None:
    model, x, _ = made(name)
    for epsilon in (0.0, 1e-3):
        found = tb.logit_bounds(model, x, epsilon, domain="interval", arithmetic="float32")
        for point in points(model, epsilon, 4, inside=1 - 1e-3):
            answer = evaluate(model, {n: p.float() for n, p in point.items()}, x).double()
            assert (found.lower <= answer).all()
            assert (answer <= found.upper).all()


@pytest.mark.slow
def test_words_as_real_numbers_and_as_whole_ones() -> None:
    class Cast(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.long())

    model, x, y = made("encoder of words")
    whole = tb.certify(model, x, y, [0.0, 1e-4], domain="interval")
    real = tb.certify(Cast(model), x.float(), y, [0.0, 1e-4], domain="interval")
    torch.testing.assert_close(whole.margin, real.margin, rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match=r"beyond the table|out of range"):
        tb.certify(model, x + 9, y, 1e-4)


class Bare(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(FEATURES, FEATURES), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def repeated(h: Tensor) -> Tensor:
    few = h[:, None, None].expand(-1, 2, -1, -1)
    return F.scaled_dot_product_attention(torch.cat([few, few], 1), few, few, enable_gqa=True).flatten(1)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "argmax": (lambda h: h + h.argmax(1, keepdim=True), "aten.argmax.default.*answers a place"),
    "place of the maximum": (lambda h: h + h.max(1, keepdim=True).indices, "maximum's place"),
    "grouped queries": (repeated, "enable_gqa"),
    "dropped weights": (
        lambda h: F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None], dropout_p=0.5).flatten(1),
        "drops weights at random",
    ),
    "negative shrinkage": (lambda h: F.hardshrink(h, -0.5), "lambda"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_clear_line(name: str) -> None:
    function, reason = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises((InputError, UnsupportedOperator), match=reason) as caught:
        tb.logit_bounds(Bare(function), torch.randn(3, FEATURES), 1e-3, domain="interval")
    assert "\n" not in str(caught.value)
