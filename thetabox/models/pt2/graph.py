"""From the graph of a ``.pt2`` archive, which is JSON, to a module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from thetabox.errors import InputError
from thetabox.models.batch import check_batch, free_batch
from thetabox.models.contents import first_line, one_line, shown
from thetabox.models.program import Device, Program, Reference, Step
from thetabox.models.pt2.archive import DTYPES, SCHEMA, Archive
from thetabox.models.pt2.merges import unmerged
from thetabox.models.pt2.operators import CHECKS, COMPOSED, operator_of, sized

MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format,
}  # a table, several to a line  # fmt: skip
FREE = "export it with dynamic_shapes={…: {0: torch.export.Dim.DYNAMIC}}"
TRAINING = "call model.eval() before torch.export.export"


def read(path: Path, config: Mapping[str, Any] | None = None) -> Program:
    """The network of a ``.pt2`` archive, in evaluation mode; a batch size written into it becomes free.

    Args:
        path: of the archive.
        config: nothing can be set.

    Raises:
        InputError: damaged, holding code or pickles of more than tensors, exported in training mode, several inputs or
            results, or a batch size that cannot be told from other sizes.
    """
    if config:
        raise InputError(f"{path}: a .pt2 file says all there is of its network; nothing can be set")
    archive = Archive(path)
    name = archive.model()
    content = archive.json(f"models/{name}.json")
    try:
        version = content["schema_version"]["major"]
    except (KeyError, TypeError):
        raise InputError(f"{path}: models/{name}.json is damaged (it names no version)") from None
    if version != SCHEMA:
        raise InputError(f"{path}: written in version {version} of torch's format, not {SCHEMA}; export it again")
    weights, constants = archive.tensors("weights", name), archive.tensors("constants", name)
    try:
        return _Reader(path, content, weights, constants).program()
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, StopIteration) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{path}: models/{name}.json is damaged ({reason})") from None


class _Reader:
    def __init__(self, path: Path, content: Any, weights: dict[str, Any], constants: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.graph, self.signature = content["graph_module"]["graph"], content["graph_module"]["signature"]
        self.tensors = {**constants, **weights}
        self.defined: set[str] = set()

    def program(self) -> Program:
        parameters: dict[str, Any] = {}
        buffers: dict[str, Any] = {}
        wanted_by: dict[str, str] = {}
        inputs: list[str] = []
        for spec in self.signature["input_specs"]:
            ((kind, entry),) = spec.items()
            if kind == "user_input":
                inputs.append(self._input(entry["arg"]))
            elif kind == "constant_input":
                continue
            elif kind in ("parameter", "buffer", "tensor_constant"):
                argument, wanted = entry["arg"]["name"], entry[f"{kind}_name"]
                if wanted not in self.tensors:
                    raise InputError(f"{self.path}: its graph reads {wanted}, which the archive does not hold")
                (parameters if kind == "parameter" else buffers)[argument] = self.tensors[wanted]
                wanted_by[argument] = wanted
            else:
                raise InputError(f"{self.path}: refused, its graph reads an object ({kind}), not only tensors")
        if len(inputs) != 1:
            raise InputError(f"{self.path}: its network has {len(inputs)} inputs ({shown(inputs)}); one is read")
        (source,) = inputs
        self.defined = {source, *parameters, *buffers}
        output = self._output()
        steps = [s for s in (self._step(node) for node in self.graph["nodes"]) if s is not None]
        if output not in self.defined:
            raise InputError(f"{self.path}: its graph returns {output!r}, which nothing computes")
        sizes = {name: meta["sizes"] for name, meta in self.graph["tensor_values"].items()}
        steps = unmerged(steps, sizes, [step.where.partition(" at ")[0] for step in steps])
        kept = any("batch_norm" in node["target"] for node in self.graph["nodes"])
        facts = {
            "format": "pt2",
            "producer": one_line(f"torch {self.content.get('torch_version', '')}")[:80],
            "schema": f"{self.content['schema_version']['major']}.{self.content['schema_version']['minor']}",
            "batch_norm": "kept" if kept else "none in the file",
        }
        names, also = self._names(wanted_by, {name for step in steps for name in step.reads})
        program = Program(source, parameters, buffers, steps, output, facts, names, also)
        meta = self.graph["tensor_values"][source]
        batch = meta["sizes"][0] if meta["sizes"] else {}
        if "as_int" in batch:
            shape = [size.get("as_int") or _hint(size) for size in meta["sizes"]]
            if any(type(size) is not int or size < 1 for size in shape):
                raise InputError(f"{self.path}: its input is said to be of sizes {shape}")
            program = free_batch(self.path, program, shape, DTYPES[meta["dtype"]], FREE)
            program.facts["batch"] = f"exported with {shape[0]}, made free"
        elif all("as_int" in size for size in meta["sizes"][1:]):
            shape = [size["as_int"] for size in meta["sizes"][1:]]
            check_batch(self.path, program, shape, DTYPES[meta["dtype"]], "its graph does not run", FREE)
        return program

    def _names(self, wanted: dict[str, str], read: set[str]) -> tuple[dict[str, str], dict[str, str]]:
        """A name for each tensor that steps read, of several the first, as of a module; and its further names."""
        names: dict[str, str] = {}
        also: dict[str, str] = {}
        for argument, parameter in wanted.items():
            if argument in read:
                same = [n for n, t in self.tensors.items() if t is self.tensors[parameter]]
                names[argument] = parameter if same[0] in names.values() else same[0]
                also |= dict.fromkeys(same, argument)
        return names, {name: argument for name, argument in also.items() if name not in names.values()}

    def _input(self, argument: Any) -> str:
        if "as_tensor" not in argument:
            raise InputError(f"{self.path}: an input of its network is no tensor")
        return str(argument["as_tensor"]["name"])

    def _output(self) -> str:
        results = []
        for spec in self.signature["output_specs"]:
            ((kind, entry),) = spec.items()
            if kind == "buffer_mutation":
                raise InputError(
                    f"{self.path}: the network writes to its {entry['buffer_name']!r}; where it is the statistics of a "
                    f"batch norm, {TRAINING}"
                )
            if kind != "user_output":
                raise InputError(f"{self.path}: refused, its graph has a result of the kind {kind}")
            results.append(entry["arg"])
        if len(results) != 1 or "as_tensor" not in results[0]:
            raise InputError(f"{self.path}: the network returns {len(results)} results; it must return one tensor")
        return str(results[0]["as_tensor"]["name"])

    def _step(self, node: Any) -> Step | None:
        target = str(node["target"])
        if CHECKS.fullmatch(target):
            return None
        function = operator_of(self.path, target)
        where = f"{target.removeprefix('torch.ops.')} at {node.get('name') or ''}".removesuffix(" at ")
        named = {str(entry["name"]): self._value(entry["arg"]) for entry in node["inputs"]}
        schema = getattr(function, "_schema", None)
        if schema is None:
            args, kwargs = tuple(named.values()), dict[str, Any]()
        else:
            self._check_mode(target, named, schema)
            args, kwargs = _by_place(schema, named)
        results = tuple(name for output in node["outputs"] for name in _results(output))
        if not results or self.defined.intersection(r for r in results if r is not None):
            raise InputError(f"{self.path}: two values of its graph have one name ({shown(r or '' for r in results)})")
        self.defined.update(r for r in results if r is not None)
        does, place = sized(target)
        return Step(COMPOSED.get(target, function), args, kwargs, results, where, does, place)

    def _check_mode(self, target: str, named: dict[str, Any], schema: Any) -> None:
        names = [a.name for a in schema.arguments if a.name in ("train", "training")]
        # Where nothing is said, a dropout may take it for granted.
        training = any(named.get(name, True if "dropout" in target else None) not in (False, None) for name in names)
        training |= "native_dropout" in target and named.get("train") is not False
        if training or (target.startswith("torch.ops.aten.scaled_dot_product") and named.get("dropout_p")):
            raise InputError(
                f"{self.path}: exported in training mode ({target.removeprefix('torch.ops.')} is in it); {TRAINING}"
            )

    def _value(self, argument: Any) -> Any:
        ((kind, value),) = argument.items()
        if kind == "as_none":
            return None
        if kind in ("as_tensor", "as_tensors"):
            return self._read(value["name"]) if kind == "as_tensor" else [self._read(v["name"]) for v in value]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._number(value)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self._number(v) for v in value]
        if kind == "as_optional_tensor":
            return self._value(value)
        if kind == "as_optional_tensors":
            return [self._value(v) for v in value]
        if kind == "as_scalar_type":
            return DTYPES[value]
        if kind == "as_memory_format":
            return MEMORY_FORMATS[value]
        if kind == "as_layout":
            return torch.strided if value == 7 else _unknown(kind)
        if kind == "as_device":
            return Device()
        if kind == "as_float":
            return float(value)
        if kind == "as_floats":
            return [float(v) for v in value]
        if kind in ("as_int", "as_bool", "as_string") and isinstance(value, int | str):
            return value
        if kind in ("as_ints", "as_bools") and all(isinstance(v, int) for v in value):
            return list(value)
        raise InputError(f"{self.path}: refused, its graph holds an argument of the kind {kind}")

    def _number(self, value: Any) -> Any:
        ((kind, content),) = value.items()
        return self._read(content) if kind == "as_name" else float(content) if kind == "as_float" else int(content)

    def _read(self, name: str) -> Reference:
        if name not in self.defined:
            raise InputError(f"{self.path}: its graph reads {str(name)[:80]!r} before anything computes it")
        return Reference(name)


def _unknown(kind: str) -> Any:
    raise ValueError(kind)


def _hint(size: Any) -> Any:
    return size.get("as_expr", {}).get("hint", {}).get("as_int")


def _by_place(schema: Any, named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as the operator's schema has them: by place, those behind the last that is given left out."""
    unknown = set(named) - {a.name for a in schema.arguments}
    if unknown:
        raise ValueError(f"{schema.name} has no argument {shown(sorted(unknown))}")
    positional = [a for a in schema.arguments if not a.kwarg_only]
    last = max((i for i, a in enumerate(positional) if a.name in named), default=-1)
    args = tuple(named[a.name] if a.name in named else _default(schema, a) for a in positional[: last + 1])
    return args, {a.name: named[a.name] for a in schema.arguments if a.kwarg_only and a.name in named}


def _default(schema: Any, argument: Any) -> Any:
    if not argument.has_default_value():
        raise ValueError(f"{schema.name} lacks {argument.name}")
    return argument.default_value


def _results(output: Any) -> list[str | None]:
    ((kind, value),) = output.items()
    if kind == "as_none":
        return [None]
    if kind == "as_tensor":
        return [str(value["name"])]
    if kind == "as_tensors":
        return [str(v["name"]) for v in value]
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
        return [str(value["as_name"])]
    raise ValueError(f"a result of the kind {kind}")
