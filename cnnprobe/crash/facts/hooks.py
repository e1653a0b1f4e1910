"""The user's forward hooks: which one raised, what it was given, and whether it can be called."""

import ast
import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnnprobe.crash.facts.frames import list_frames
from cnnprobe.crash.facts.source import evaluate, parse
from cnnprobe.crash.facts.words import shorten
from cnnprobe.records.trace import ModuleCall

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
    frames = list_frames(error)[::-1]
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
    if (code := get_code(hook)) is None:
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


@dataclass(frozen=True, kw_only=True)
class Returned:
    """What a module's backward hook returns, by shapes, and what it was to return."""

    given: tuple[tuple[int, ...], ...] | None  # None: a tensor instead of a tuple
    expected: tuple[tuple[int, ...] | None, ...]

    @property
    def shown(self) -> str:
        """What it returns, in words."""
        return "a tensor" if self.given is None else str(self.given)

    @property
    def is_wrong(self) -> bool:
        """Whether it cannot take the place of grad_input."""
        return self.given is None or self.given != self.expected


def read_returned(hook: Hook, call: ModuleCall) -> Returned | None:
    """What a backward hook returns, from its return as it is written; None: nothing, or not known.

    The hook is not called: its return is computed on zeros, where only plain methods make it.
    """
    code = get_code(hook)
    tree = parse(hook) if code is not None else None
    returns = [n.value for n in ast.walk(tree) if isinstance(n, ast.Return)] if tree else []
    names = [a.arg for a in tree.args.args][inspect.ismethod(hook) :] if tree is not None else []
    if len(returns) != 1 or returns[0] is None or len(names) != 3:
        return None
    grad_input = [torch.zeros(t.shape) if t.requires_grad else None for t in call.inputs]
    values = {
        names[1]: tuple(grad_input),
        names[2]: tuple(torch.zeros(t.shape) for t in call.outputs),
    }
    node = returns[0]
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    found: Any = [evaluate(part, values) for part in parts]
    found = tuple(found) if isinstance(node, ast.Tuple) else found[0]
    expected = tuple(tuple(t.shape) if t is not None else None for t in grad_input)
    if isinstance(found, torch.Tensor):
        return Returned(given=None, expected=expected)
    if not isinstance(found, tuple) or not all(isinstance(t, torch.Tensor) for t in found):
        return None
    return Returned(given=tuple(tuple(t.shape) for t in found), expected=expected)
