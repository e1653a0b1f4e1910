"""The user's forward hooks: which one raised, what it was given, and whether it can be called."""

import functools
import inspect
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnprobe.crash.facts.words import shorten

_TORCHS = "torch/nn/modules/module.py"
Hook = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class RaisingHook:
    """A forward hook that raised."""

    module: nn.Module
    hook: Hook
    output: Any  # what the module had given
    before: bool = False  # it is called before the forward: hook(module, args)


def find_raising_hook(error: BaseException) -> RaisingHook | None:
    """The forward hook that raised, or that could not be called; None where it was none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]
    for frame, inner in zip(frames, [None, *frames[:-1]], strict=True):
        path, values = frame.f_code.co_filename.replace("\\", "/"), frame.f_locals
        hook, module = values.get("hook"), values.get("self")
        is_torchs = path.endswith(_TORCHS) and frame.f_code.co_name == "inner"
        if is_torchs and hook is not None and isinstance(module, nn.Module):
            code = get_code(hook)
            raised = code is not None and (inner is None or inner.f_code is code)
            before = hook in module._forward_pre_hooks.values()
            given = None if before else values.get("result")
            found = RaisingHook(module=module, hook=hook, output=given, before=before)
            return found if raised else None
    return None


def get_code(hook: Hook) -> types.CodeType | None:
    """The code of a hook that a user wrote, through partial and methods."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    called = hook if hasattr(hook, "__code__") or inspect.ismethod(hook) else type(hook).__call__
    code = getattr(inspect.unwrap(called), "__code__", None)
    is_ours = getattr(hook, "__module__", "").startswith(("cnnprobe.", "torch."))
    return code if isinstance(code, types.CodeType) and not is_ours else None


def describe_hook(hook: Hook) -> str:
    """A hook in words: the hook 'save' at net.py:6."""
    code = get_code(hook)
    if code is None:
        return "a hook"
    return f"the hook {code.co_name!r} at {shorten(f'{code.co_filename}:{code.co_firstlineno}')}"


def is_callable_with(hook: Hook, count: int) -> bool:
    """Whether a hook takes so many arguments."""
    try:
        inspect.signature(hook).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # it has no signature to look at
        return True
    return True
