"""What is asked of the domains: sweeps over ε, stages of ``auto``, the largest ε that is proven."""
