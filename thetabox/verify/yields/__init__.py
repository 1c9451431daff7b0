"""Proven yield: the share of chips of random mismatch that classify a sample right, bounded from below by proof."""
