"""Operators of torch.export by what they do, wherever a part of the verifier asks for more than their rule."""

from __future__ import annotations

from typing import Any

import torch

RELU = ("aten.relu.default", "aten.relu_.default")
# Two slopes that meet in 0: what linear bounds have lines for.
TWO_SLOPES = (*RELU, "aten.leaky_relu.default")
# Whatever is linear on pieces, and uncertain where a kink lies inside an interval.
PIECEWISE_LINEAR = (*TWO_SLOPES, "aten.hardtanh.default")
COMPARISONS = tuple(f"aten.{name}.{kind}" for name in ("gt", "ge", "lt", "le") for kind in ("Tensor", "Scalar"))
# Operators that jump, beside those that return a truth value, or are so steep somewhere that rounding becomes large.
JUMPS = ("sign", "floor", "ceil", "round", "trunc", "sqrt", "rsqrt", "reciprocal", "div", "log", "pow", "log2", "log10",
         "asin", "acos", "tan")  # names, several to a line  # fmt: skip
# Never below 0, whatever they are given.
NEVER_NEGATIVE = ("aten.sigmoid.default", "aten.softplus.default", "aten.hardsigmoid.default", "aten.relu6.default")

MAX_POOLS_2D = ("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default")
# Those with one result, which commute with a ReLU.
MAX_POOLS = ("aten.max_pool1d.default", "aten.max_pool2d.default")

DENSE = ("aten.linear.default", "aten.addmm.default", "aten.mm.default", "aten.matmul.default")
CONVOLUTIONS = ("aten.conv2d.default", "aten.conv2d.padding", "aten.conv1d.default", "aten.conv1d.padding")
# Products of matrices, and which operand's last dimension a sum runs over.
SUMMED_OPERAND = {
    "aten.linear.default": 0,
    "aten.addmm.default": 1,
    "aten.baddbmm.default": 1,
    "aten.mm.default": 0,
    "aten.bmm.default": 0,
    "aten.matmul.default": 0,
    "aten.mv.default": 0,
}
# Recurrent layers and their cells, and how many gates each has.
RECURRENT = {
    "aten.lstm.input": 4,
    "aten.gru.input": 3,
    "aten.rnn_tanh.input": 1,
    "aten.rnn_relu.input": 1,
    "aten.lstm_cell.default": 4,
    "aten.gru_cell.default": 3,
    "aten.rnn_tanh_cell.default": 1,
    "aten.rnn_relu_cell.default": 1,
}

COPIES = ("aten._to_copy.default", "aten.clone.default", "aten.alias.default", "aten.detach.default")
# May turn the samples' dimension into a merged one and back.
RESHAPING = tuple(f"aten.{name}." for name in ("view", "reshape", "flatten", "unflatten", "_unsafe_view"))
# Operators that stand for others, of which there are rules and which a decomposition leaves as they are.
DIRECT = frozenset(
    f"aten.{name}"
    for name in (
        "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "avg_pool1d.default", "conv1d.default",
        "conv2d.default", "conv2d.padding", "group_norm.default", "instance_norm.default", "layer_norm.default",
        "linear.default", "log_sigmoid.default", "log_softmax.int", "matmul.default", "max_pool1d.default",
        "max_pool2d.default", "pad.default", "prelu.default", "relu6.default", "rms_norm.default",
        "scaled_dot_product_attention.default", "softmax.int", "sym_size.int",
    )
)  # words, several to a line  # fmt: skip
# Operators that a decomposition writes in other words, of which there are rules as well.
COMPOSITE = frozenset(f"aten.{name}" for name in ("batch_norm.default", "flatten.using_ints", "reshape.default"))
COMPOSITE |= RECURRENT.keys()
# Those of which a decomposition has looser bounds.
TIGHTER = frozenset({"aten.hardshrink.default", "aten.softshrink.default"})
# Those of which there is a rule: the table of rules adds each.
RULED: set[str] = set()
# Why some operators have no rule, and what to write instead.
PLACES = "answers a place, which jumps; a certificate bounds values, so return them instead (amax, logits)"
ORDERED = "puts values into an order, which jumps; take amax or amin, or a fixed order"
DRAWN = "draws at random; a certificate speaks of one function of inputs and weights"
REFUSED = {
    **dict.fromkeys(("argmax", "argmin", "argsort", "searchsorted", "bucketize", "nonzero"), PLACES),
    **dict.fromkeys(("topk", "sort", "kthvalue", "median", "nanmedian", "mode", "unique_consecutive"), ORDERED),
    **dict.fromkeys(("multinomial", "bernoulli", "rand", "randn", "rand_like", "randn_like", "randint", "randperm",
                     "normal", "normal_functional", "rrelu_with_noise_functional"), DRAWN),
}  # names, several to a line  # fmt: skip


def why_refused(operator: str, target: Any) -> str | None:
    """Why there is no rule for an operator, where there can be none."""
    if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
        return DRAWN
    return REFUSED.get(operator.removeprefix("aten.").split(".")[0])


def is_convolution(operator: str) -> bool:
    """Whether an operator slides weights over positions, in any number of dimensions, transposed or not."""
    return operator.startswith("aten.conv")
