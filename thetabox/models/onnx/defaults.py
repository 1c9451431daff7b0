"""Attributes of a node that its file leaves out, by the schemas of the package onnx."""

from __future__ import annotations

from typing import Any

from thetabox.models.onnx.file import OnnxNode


def defaults_of(node: OnnxNode, opset: int) -> dict[str, Any]:
    """Attributes that ONNX says a node has where it does not name them."""
    from onnx import defs, helper

    try:
        schema = defs.get_schema(node.operator, opset, node.domain)
    except defs.SchemaError:
        return {}
    defaults = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            value = helper.get_attribute_value(attribute.default_value)
            defaults[name] = _text(value)
    return defaults


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value
