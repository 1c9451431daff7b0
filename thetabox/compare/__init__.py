"""Training methods side by side: one command that trains, measures and certifies all of them."""

from thetabox.compare.config import Config, Variant, read_config
from thetabox.compare.run import Comparison, Row, cells, compare

__all__ = ["Comparison", "Config", "Row", "Variant", "cells", "compare", "read_config"]
