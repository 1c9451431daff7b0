"""The interpreter of graphs with intervals for values, and its table of rules."""
