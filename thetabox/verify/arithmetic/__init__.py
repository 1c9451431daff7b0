"""Numbers: intervals, parameters in their boxes, and the rounding of everything that is computed with them."""
