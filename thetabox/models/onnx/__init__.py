"""ONNX files, by a map of our own from operators to torch functions; nothing in a file is executed."""

from thetabox.models.onnx import activations, arithmetic, dense, pools, recurrent, shapes  # noqa: F401  # fill the table
from thetabox.models.onnx.build import read
from thetabox.models.onnx.file import data_files
from thetabox.models.onnx.table import OPERATORS, Operator, onnx_operator

__all__ = ["OPERATORS", "Operator", "data_files", "onnx_operator", "read"]
