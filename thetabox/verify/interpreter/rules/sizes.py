"""Arithmetic on the number of samples, of which nothing is computed: shapes are read from the trace."""

from __future__ import annotations

from typing import Any

from thetabox.verify.interpreter.context import Context, Value
from thetabox.verify.interpreter.rules.table import EVERYTHING, rule
from thetabox.verify.network.graph import BatchSize


@rule("aten.sym_size.int", parameters=True, slack=True, types="moves")
def batch_size(context: Context, x: Value, dim: int) -> BatchSize:
    """The number of samples: shapes are read from the trace instead."""
    return BatchSize()


@rule("mul", "add", "sub", "floordiv", "aten.sym_numel.default", "<built-in function mul>",
      "<built-in function add>", "<built-in function sub>", "<built-in function floordiv>", "<built-in function eq>",
      "<built-in function ge>", "<built-in function le>", parameters=True, slack=True, types="moves",
      honours=EVERYTHING)  # operators  # fmt: skip
def size_arithmetic(context: Context, *args: Any, **kwargs: Any) -> BatchSize:
    """Arithmetic on sizes, for shapes that are read from the trace."""
    return BatchSize()
