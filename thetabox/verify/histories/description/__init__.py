"""Whether a network is what it describes itself to be: by its structure, and in runs.

A proof of the domain speaks of the description (the constants of leaky cells), so the traced graph of one step is
brought into a normal form, polynomials of the network's numbers, and must be that of the description's equations.
"""
