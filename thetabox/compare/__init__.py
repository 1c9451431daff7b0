"""Training methods side by side: one command that trains, measures and certifies all of them."""

import sys
from types import ModuleType
from typing import Any

from thetabox.compare.comparison import Comparison
from thetabox.compare.config import Config, Variant, read_config
from thetabox.compare.row import Row
from thetabox.compare.run import cells, compare

__all__ = ["Comparison", "Config", "Row", "Variant", "cells", "compare", "read_config"]


class _Callable(ModuleType):
    """``tb.compare(...)`` is ``tb.compare.compare(...)``: the package is named after its one function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Comparison:
        return compare(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
