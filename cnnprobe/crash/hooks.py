"""The user's own forward hooks: one that raised, one that cannot take what hooks are given, one that changed what its module gives."""

import functools
import inspect
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.writing import add_parameters, drop_return, index_parameter
from cnnprobe.crash.facts.words import quote, shorten
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect, propose

_TORCHS = "torch/nn/modules/module.py"


@dataclass(frozen=True, kw_only=True)
class ChangeHook(Edit):
    """Another forward hook in the place of one of a module's; None takes it off."""

    key: int
    hook: Callable[..., Any] | None

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        hooks = shadow.module(self.module or "")._forward_hooks
        before = dict(hooks)
        if self.hook is None:
            del hooks[self.key]
        else:
            hooks[self.key] = self.hook

        def put_back() -> None:
            hooks.clear()
            hooks.update(before)

        shadow.undo.append(put_back)


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong with the hooks on the failing module, or on those that made what it was given."""
    raised = _raised(crash.error)
    if raised is not None:
        yield from _broken(crash, *raised)
        return
    makers = (call.fqn for info in crash.inputs for _, call in crash.walk_back(info))
    for fqn in dict.fromkeys(fqn for fqn in makers if fqn is not None):
        module = crash.modules.get(fqn)
        for key, hook in dict(module._forward_hooks).items() if module is not None else ():
            if _code(hook) is not None:
                yield _replacing(crash, fqn, key, hook)


def _raised(error: BaseException) -> tuple[nn.Module, Callable[..., Any], Any] | None:
    """The module and the hook that raised, with what the module had given; None where it was no hook."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame, below in zip(frames[::-1], [None, *frames[:0:-1]], strict=True):
        path = frame.f_code.co_filename.replace("\\", "/")
        hook, module = frame.f_locals.get("hook"), frame.f_locals.get("self")
        if (
            path.endswith(_TORCHS)
            and frame.f_code.co_name == "inner"
            and isinstance(module, nn.Module)
            and hook is not None
        ):
            code = _code(hook)
            is_its = code is not None and (below is None or below.f_code is code)
            return (module, hook, frame.f_locals.get("result")) if is_its else None
    return None


def _code(hook: Callable[..., Any]) -> types.CodeType | None:
    """The code of a hook that a user wrote, through partial and methods."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    found = getattr(inspect.unwrap(hook), "__code__", None)
    is_ours = getattr(hook, "__module__", "").startswith(("cnnprobe.", "torch."))
    return found if isinstance(found, types.CodeType) and not is_ours else None


def _name(hook: Callable[..., Any]) -> str:
    code = _code(hook)
    return (
        f"the hook {code.co_name!r} at {shorten(f'{code.co_filename}:{code.co_firstlineno}')}"
        if code is not None
        else "a hook"
    )


def _broken(
    crash: Crash, module: nn.Module, hook: Callable[..., Any], given: Any
) -> Iterator[Suspect]:
    fqn = next((name for name, m in crash.modules.items() if m is module), "")
    key = next((k for k, h in module._forward_hooks.items() if h is hook), None)
    message = f"{_name(hook)} on {describe_module(crash, fqn)} raised {type(crash.error).__name__}"
    arithmetic, candidates = "", list[Candidate]()
    code = _code(hook)
    if key is not None and not _takes(hook, module, key):
        names = list(inspect.signature(hook).parameters)
        message = f"{_name(hook)} on {describe_module(crash, fqn)} cannot be called as a forward hook is: hook(module, args, output)"
        arithmetic = f"its parameters are ({', '.join(names)})"
        if len(names) == 1 and code is not None:
            candidates.append(propose(_of_output(fqn, key, hook, code), weight=STRONG))
    elif key is not None and isinstance(given, tuple) and given and isinstance(given[0], Tensor):
        arithmetic = f"{describe_module(crash, fqn)} gives a tuple of {len(given)}, and the hook is given it as it is"

        def first(module: nn.Module, args: Any, output: Any) -> None:
            hook(module, args, output[0])

        written = index_parameter(code, code.co_argcount - 1) if code is not None else None
        title = f"use output[0] in {_name(hook)}"
        edit = ChangeHook(
            title=title, code="output[0]", module=fqn, key=key, hook=first, written=written
        )
        candidates.append(propose(edit, weight=STRONG))
    if key is not None:
        off = ChangeHook(
            title=f"take {_name(hook)} off {quote(fqn)}", module=fqn, key=key, hook=None
        )
        candidates.append(propose(off, weight=USUAL))
    yield Suspect(
        diagnosis="broken-hook",
        module=fqn,
        message=message,
        arithmetic=arithmetic,
        candidates=tuple(candidates),
        weight=STRONG + 1,
    )


def _of_output(fqn: str, key: int, hook: Callable[..., Any], code: types.CodeType) -> ChangeHook:
    """A hook that was written for the output alone."""
    names = ", ".join(["module", "args", *inspect.signature(hook).parameters])
    return ChangeHook(
        title=f"write def {code.co_name}({names})",
        code=names,
        module=fqn,
        key=key,
        hook=lambda _module, _args, output: hook(output),
        written=add_parameters(code, "module", "args"),
    )


def _takes(hook: Callable[..., Any], module: nn.Module, key: int) -> bool:
    """Whether a hook can be called with what a forward hook is given."""
    try:
        inspect.signature(hook).bind(*range(4 if key in module._forward_hooks_with_kwargs else 3))
    except TypeError:
        return False
    except ValueError:  # it has no signature to look at
        return True
    return True


def _replacing(crash: Crash, fqn: str, key: int, hook: Callable[..., Any]) -> Suspect:
    """What a hook returns takes the place of what its module gives: proven by a forward where it returns nothing."""

    def silent(*args: Any, **kwargs: Any) -> None:
        hook(*args, **kwargs)

    code = _code(hook)
    written = drop_return(code) if code is not None else None
    edit = ChangeHook(
        title=f"let {_name(hook)} return nothing", module=fqn, key=key, hook=silent, written=written
    )
    return Suspect(
        diagnosis="broken-hook",
        module=fqn,
        message=f"{_name(hook)} on {describe_module(crash, fqn)} returns something, which takes the place of what {quote(fqn)} gives",
        arithmetic="; ".join(
            f"{t.shape} arrives from {crash.describe_origin(t)}" for t in crash.inputs[:2]
        ),
        candidates=(propose(edit, weight=STRONG),),
        weight=USUAL,
        needs_proof=True,
    )
