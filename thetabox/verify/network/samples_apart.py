"""Whether samples stay apart: no operator lets one sample's values reach another's."""

from __future__ import annotations

from thetabox.errors import InputError
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.operators import RESHAPING


def check_samples_apart(graph: Graph, operation: Operation) -> None:
    """Refuse whatever lets one sample's values reach another's."""
    outputs = operation.layout if isinstance(operation.layout, tuple) else (operation.layout,)
    batched = [graph.layouts[i] for i in operation.inputs if i in graph.layouts and graph.layouts[i].batch is not None]
    if not batched or operation.operator.startswith("aten.new_"):  # a new tensor takes only the type of its operand
        return
    for layout in outputs:
        if layout is None:
            continue
        if layout.batch is None:
            if 0 in layout.shape:
                continue
            raise InputError(f"{operation.describe()} mixes samples: a whole batch becomes one value")
        reshaping = operation.operator.startswith(RESHAPING)
        if reshaping:
            apart = layout.before_batch == batched[0].before_batch
        else:
            apart = all(b.merged == layout.merged for b in batched)
        if not apart:
            raise InputError(f"{operation.describe()} mixes samples: it moves the batch into another dimension")
