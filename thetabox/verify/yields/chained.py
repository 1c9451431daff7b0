"""The proofs that are about one layer after the other: for dense layers, and for convolutions in front of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.verify.problem import Problem
from thetabox.verify.yields import entropic, sobolev
from thetabox.verify.yields.chain import LARGEST, Chain, ChainConvolution, Dense
from thetabox.verify.yields.failure import MARGINS, Failure
from thetabox.verify.yields.read_chain import read

# Products of a pass from which on many samples at once gain T1 nothing over one after the other: the digits' networks
# have a quarter of it, and a run of T1 takes a third of one of `log-sobolev`; the paper's CNN has seven times as many,
# and it takes one and a half.
MANY = 1 << 20

Proved = Callable[[Chain, Tensor, Tensor, float, float], Failure]


class Chained:
    """A proof about a chain of layers, under Gaussian noise whose errors share nothing.

    Args:
        name: of the proof.
        chain: the layers.
        prove: chain, samples, labels, σ and what may be spent → failure probabilities and the events behind them.
        rank: of the samples as the proof takes them: 2 for numbers in a row, 4 for images.
        images: whether the network takes samples as images; other numbers are as many channels of one place.
        dear: whether a run takes long.
        large: whether a run of T1 takes no less than one of this proof.
    """

    def __init__(
        self,
        name: str,
        chain: Chain,
        prove: Proved,
        *,
        rank: int,
        images: bool,
        dear: bool,
        large: bool = False,
    ) -> None:
        self.name, self.chain, self.prove = name, chain, prove
        self.rank, self.images, self.dear, self.large = rank, images, dear, large

    def failure(
        self,
        x: Tensor,
        y: Int[Tensor, " samples"],
        sigma: Float[Tensor, " samples"],
        spent: Float[Tensor, " samples"],
    ) -> Failure:
        """Upper bounds; see :class:`~thetabox.verify.yields.proofs.Proof`."""
        x = x.double()
        x = x if self.images else x.flatten(1).reshape(len(x), -1, *[1] * (self.rank - 2))
        probability = torch.ones_like(sigma)
        events: dict[str, tuple[Tensor, Tensor]] = {}
        keys = torch.stack([sigma, spent], 1)
        for key in keys.unique(dim=0):
            members = (keys == key).all(1).nonzero().squeeze(1)
            members = members[self.chain.largest(x[members], float(key[0])) <= LARGEST]
            found = self.prove(self.chain, x[members], y[members], float(key[0]), float(key[1]))
            probability[members] = found.probability
            for group, parts in found.events.items():
                whole = events.setdefault(group, (torch.zeros_like(sigma), torch.zeros_like(sigma)))
                for all_, part in zip(whole, parts, strict=True):
                    all_[members] = part
        return Failure(probability, events)


def _entropic(chain: Chain, x: Tensor, y: Tensor, sigma: float, spent: float) -> Failure:
    """The proof ``entropic``, whose events are all built on."""
    probability = entropic.failure(chain, x, y, sigma, spent)
    groups = {
        group: (torch.full_like(probability, float(count)), torch.full_like(probability, spent * share))
        for group, (count, share) in entropic.events(chain).items()
    }
    left = (probability - sum(share for _, share in groups.values())).clamp(min=0.0)
    others = torch.full_like(probability, len(chain.stages[-1].layer.bias) - 1.0)
    return Failure(probability, {**groups, MARGINS: (others, left)})


def chained(problem: Problem, sizes: Mapping[str, Tensor], noise: Noise, name: str) -> Chained:
    """The proof of a name.

    Raises:
        InputError: the network, or its noise, is not what that proof is about.
    """
    if noise.kind != "gaussian" or noise.correlated or noise.drift or noise.drift_bound:
        raise InputError(f"{name} is about Gaussian noise without drift or common errors; use martingale")
    chain = read(problem, sizes)
    if chain is None:
        raise InputError(
            f"{name} is for dense layers, or convolutions and pools in front of them, with ReLU between, one after the "
            "other, each parameter read once; use martingale"
        )
    if name == "entropic":
        if not entropic.fits(chain):
            raise InputError("entropic is for dense layers with ReLU between them; use martingale")
        return Chained(name, chain, _entropic, rank=2, images=False, dear=False)
    images = isinstance(chain.stages[0].layer, ChainConvolution)
    seen = chain if images else _as_images(chain)
    if not sobolev.fits(seen):
        raise InputError("log-sobolev is for convolutions and pools in front of dense layers; use martingale")
    return Chained(
        name,
        seen,
        sobolev.failure,
        rank=4,
        images=images,
        dear=True,
        large=images and seen.products((problem.x.shape[-2], problem.x.shape[-1])) >= MANY,
    )


def _as_images(chain: Chain) -> Chain:
    """The same with its first layer, a dense one, as a convolution of images of one place."""
    first = chain.stages[0]
    dense = first.layer
    assert isinstance(dense, Dense)
    kernel, size = (t[..., None, None] for t in (dense.weight, dense.weight_size))
    layer = ChainConvolution(kernel, dense.bias, size, dense.bias_size, (1, 1), (0, 0, 0, 0))
    return Chain((replace(first, layer=layer), *chain.stages[1:]))
