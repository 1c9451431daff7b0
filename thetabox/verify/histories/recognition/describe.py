"""What was recognised, in words."""

from __future__ import annotations

from torch import Tensor

from thetabox.verify.histories.neurons import Neurons, Spiking


def summary(net: Spiking) -> str:
    """In one line: "2 layers of leaky cells (64, 9), read by the sum of their spikes"."""
    cells = [layer for layer in net.layers if not layer.union]
    sizes = ", ".join(str(layer.units) for layer in cells)
    layers = "a layer" if len(cells) == 1 else f"{len(cells)} layers"
    pools = ", max pools between" if len(cells) < len(net.layers) or any(layer.largest for layer in cells) else ""
    read = net.layers[net.readout.layer]
    what = "spikes" if read.most else "potentials"
    over = {"sum": "the sum of {} over time", "last": "the last {}", "largest": "the largest {} over time"}
    return f"{layers} of leaky cells ({sizes}){pools}, read by {over[net.readout.over].format(what)}"


def lines(net: Spiking) -> list[str]:
    """One line a layer: what it reads, how it decays, what a spike does."""
    return [f"layer {n}: {_layer(layer)}" for n, layer in enumerate(net.layers)]


def _layer(layer: Neurons) -> str:
    reads = [] if layer.inputs is None else ["the input"]
    reads += [f"layer {n}" for n in layer.below] + [f"layer {n} of the step before" for n in layer.before]
    if layer.largest is not None:
        currents = layer.largest.currents
        reads += ["the largest of currents of the input"] * (currents.inputs is not None)
        reads += [f"the largest of currents of layer {n}" for n in (*currents.below, *currents.before)]
    if layer.union:
        return f"the largest of spikes of {' and '.join(reads)}, {layer.units} times"
    parts = [f"{layer.units} cells of {' and '.join(reads) or 'nothing'}", f"decay {_range(layer.decay.value)}"]
    if layer.synapse is not None:
        parts.append(f"of the current {_range(layer.synapse.value)}")
    if layer.most == 0:
        return ", ".join([*parts, "no spikes"])
    parts.append(f"threshold {_range(layer.threshold.centre)}")
    if layer.most > 1:
        parts.append("several spikes a step")
    if layer.reset is not None:
        late = " in the next step, whatever enters then" if layer.late else ""
        parts.append(f"reset to {_range(layer.reset.centre)}{late}")
    elif layer.twice:
        parts.append("reset by subtraction, looked at twice")
    else:
        parts.append("no reset" if layer.next_drop is None else "reset by subtraction")
    return ", ".join(parts)


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
