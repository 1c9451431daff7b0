"""Networks that a user has given to ``torch.compile``: run as they are here, and left as they were."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from thetabox.models.shared_setting import Shared


def _setting(stance: str) -> AbstractContextManager[None]:
    """How compiled code runs, which torch knows for the whole process."""
    return cast("AbstractContextManager[None]", torch.compiler.set_stance(stance))


def is_compiled(model: nn.Module) -> bool:
    """Whether a user has given the network, or a part of it that is a module, to ``torch.compile``."""
    if "torch._dynamo" not in sys.modules:  # so nothing is; the import takes a second
        return False
    from torch._dynamo.eval_frame import OptimizedModule  # here, for that reason

    return any(isinstance(m, OptimizedModule) or _is_in_place(m) for m in model.modules())


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of ``torch.compile``'s and ``DataParallel``'s wrappers; its parts lose theirs in place."""
    while (inner := _inside(model)) is not None:
        model = inner
    for module in list(model.modules()):
        for name, child in module.named_children():
            if _inside(child) is not None:
                setattr(module, name, unwrapped(child))
    return model


def _inside(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel):
        return cast("nn.Module", module.module)
    if "torch._dynamo" not in sys.modules:
        return None
    from torch._dynamo.eval_frame import OptimizedModule  # as above

    return module._orig_mod if isinstance(module, OptimizedModule) else None


def _is_in_place(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return module._compiled_call_impl is not None or (isinstance(forward, partial) and forward.func is _call_of)


def call_of(module: nn.Module) -> Callable[..., Any]:
    """The call of a module that was compiled in place (``module.compile()``), hooks and all, as a forward of another.

    What was compiled is the call of that very module: from another with the same attributes torch would make the same
    call, and pass over the other's own hooks.
    """
    return partial(_call_of, module)


def _call_of(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


_what_is_compiled = Shared(lambda: _setting("eager_on_recompile"))


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Inside, what was compiled before is used where it fits, and everything else runs as it was written.

    The runs here have more shapes and modes than ``torch.compile`` compiles a function for; behind that it gives the
    function up for the rest of the process, also for other networks with the same layers.
    """
    if "torch._dynamo" not in sys.modules:  # as above
        yield
        return
    with _what_is_compiled():
        yield


def as_written() -> AbstractContextManager[None]:
    """Inside, nothing that is compiled is used; for what runs alone in the process."""
    return _setting("force_eager")
