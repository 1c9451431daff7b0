"""Objects of the user's own code, by the place where they are defined: to import them is to run that code."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from thetabox.errors import InputError

# Files that were run, by where they are and what they held, so that a class stays one class.
_RUN: dict[tuple[str, str], ModuleType] = {}


def is_place(name: str) -> bool:
    """Whether a name says where code is: ``package.module:name`` or ``path/to/file.py:name``."""
    return ":" in name


def object_at(place: str, what: str) -> Any:
    """The object at ``package.module:name`` or ``path/to/file.py:name``; ``name`` may have dots.

    Modules of the current folder, and of that of a file, count too, behind those that are installed.

    Args:
        place: where it is defined.
        what: it is, for messages.

    Raises:
        InputError: no such file, module or name, or the code fails as it is imported.

    Example:
        >>> object_at("collections:OrderedDict", "container")
        <class 'collections.OrderedDict'>
    """
    module_name, _, name = place.rpartition(":")
    if not module_name or not name:
        raise InputError(f"{place!r} names no {what}; write package.module:name or path/to/file.py:name")
    file = source_file(place)
    module = _named(module_name, what) if file is None else _run(file, what)
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            near = get_close_matches(part, [n for n in dir(target) if not n.startswith("_")], n=3)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise InputError(f"{place} is no {what}: {module_name} has no {name!r}{hint}")
        target = getattr(target, part)
    return target


def source_file(place: str) -> Path | None:
    """The file that a place names; ``None`` where it names a module."""
    module_name = place.rpartition(":")[0]
    is_file = module_name.endswith(".py") or os.sep in module_name or "/" in module_name
    return Path(module_name) if is_file else None


def _named(name: str, what: str) -> ModuleType:
    _add(Path.cwd())
    with _one_line(f"cannot import the {what}'s module {name}"):
        return importlib.import_module(name)


def _run(file: Path, what: str) -> ModuleType:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file}: no such file, in which the {what} was to be") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    key = str(file.resolve()), hashlib.sha256(content).hexdigest()
    if key not in _RUN:
        # Under a name that is no other module's, by which its classes are found again.
        name = file.stem if file.stem.isidentifier() and not _taken(file.stem) else f"thetabox_user_{len(_RUN)}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise InputError(f"{file} is no file of Python, in which the {what} was to be; it must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        _add(file.resolve().parent)
        try:
            with _one_line(f"{file} fails as it is imported"):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        cloudpickle.register_pickle_by_value(module)  # other processes have no such module
        _RUN[key] = module
    return _RUN[key]


def _taken(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _add(folder: Path) -> None:
    """Modules of a folder can be imported from here on, for code may do so at any time."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's code raises whatever it likes, and a script may end the program
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{what}: {type(error).__name__}{': ' * bool(reason)}{reason[:200]}") from error
