"""Independent references that share no code with ``thetabox.verify``: exact numbers, small networks, plain loops.

| module   | function | gives |
| ---      | --- | --- |
| rational | exact(values) | floats as ``Fraction`` in an object array (tensor or array in) |
|          | box_ends(theta, ε, kind, factor) | both ends of the parameter box, unrounded |
|          | vertices, sampled_vertices, interior_points | points of a box (lower, upper) |
|          | assert_contains(lo, up, truth_lo, truth_up) | bounds against truth, compared without rounding |
| layers   | dense, conv, relu, max_pool, average_pool | exact values of one sample (no batch dimension) |
|          | dense_hull(W, b, x), conv_hull(W, b, x, …) | exact hull of each output; pairs (lower, upper) in |
|          | margin_minimum(W, b, hidden, label) | exact min of logit_label − logit_k over a shared hidden box |
| networks | forward(model, x) | exact output of an ``nn.Sequential`` for one sample |
|          | extremes(model, x, ε, label) | ``Extremes``: logits and margin reached over vertices and inside |
| lsnn     | tiny(seed), random_inputs(seed) | a small LSNN's parameters and an input |
|          | parameters(model) | those of a ``thetabox.models.LSNN`` |
|          | spikes(x, values), logits(x, values) | exact spikes [T, units] (Arb decides each) and logits |
|          | extremes(values, x, ε, label) | ``Extremes`` over vertices of W_in, W_rec (…) and exact readout |
|          | reachable(values, x, ε) | all joint spike trains of the box, each with witness weights |
|          | readout_extremes(values, trains, ε, label) | exact extremes over given trains and readout box |
| orders   | fused_multiply_add(a, b, c) | float32 FMA, correctly rounded |
|          | all_dots(w, x, bias) | every float32 value of a short dot product, any order, FMA or not |
|          | sample_dots(w, x, bias, rng=) | one float32 evaluation in a random order (n of any size) |
|          | sample_forward(model, x, rng=) | one float32 evaluation of a feed-forward network, batch in |
|          | sample_lsnn(x, values, rng=) | one float32 evaluation of an LSNN's logits |
"""
