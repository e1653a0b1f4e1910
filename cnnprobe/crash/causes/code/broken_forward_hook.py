import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.hooks import ChangeHook
from cnnprobe.crash.edits.writing import add_parameters, drop_return, index_parameter
from cnnprobe.crash.facts.hooks import (
    Hook,
    RaisingHook,
    describe_hook,
    find_raising_hook,
    get_code,
    is_callable_with,
)
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, Candidate

_OF_A_TUPLE = """
  kept = {}
  def save(module, args, output):
-     kept["lstm"] = output.detach()
+     kept["lstm"] = output[0].detach()
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.lstm = nn.LSTM(5, 8, batch_first=True)
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
          out, _ = self.lstm(x)
          return self.fc(out[:, -1])
  model, args = Net(), (torch.randn(3, 4, 5),)
  model.lstm.register_forward_hook(save)
"""
OF_A_TUPLE = Example(_OF_A_TUPLE, blames="lstm", repair="output[0]")
_RETURNING = """
  kept = []
  def grab(module, args, output):
      kept.append(output)
-     return output.mean((2, 3))
+     output.mean((2, 3))
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 4, 3)
          self.pool = nn.Conv2d(4, 2, 3)
      def forward(self, x):
          return self.pool(self.conv(x)).mean((2, 3))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
  model.conv.register_forward_hook(grab)
"""
RETURNING = Example(_RETURNING, blames="conv", repair="let the hook 'grab'")


@cause("CP057", "broken-forward-hook", (OF_A_TUPLE, RETURNING), family="broken-hook", prior=1300)
def broken_forward_hook(crash: Crash) -> Suspects:
    """A forward hook raises, or returns something that takes the place of the output.

    Why it happens: a hook is called as hook(module, args, output), and gets a tuple where the
    module returns one. What it returns, if not None, is handed on instead of the output.
    What to do: give it these three parameters, take output[0] of a tuple, and return nothing.
    Known exceptions: a hook may return another output on purpose; it is blamed only where the
    forward passes without.
    Source: torch.nn.Module.register_forward_hook.
    """
    raising = find_raising_hook(crash.error)
    if raising is not None:
        yield _explain_raising(crash, raising)
        return
    for fqn in dict.fromkeys(_list_makers(crash)):
        module = crash.modules.get(fqn)
        for key, hook in dict(module._forward_hooks).items() if module is not None else ():
            if get_code(hook) is not None:
                yield _explain_returning(crash, fqn, key, hook)


def _list_makers(crash: Crash) -> Iterator[str]:
    """The modules that made what arrived; a hook's own calls are below its module's row."""
    for info in crash.inputs:
        for at, _ in crash.walk_back(info):
            index: int | None = at
            while index is not None:
                call = crash.trace.calls[index]
                index = call.parent
                if call.fqn:
                    yield call.fqn


def _explain_raising(crash: Crash, found: RaisingHook) -> Suspect:
    module, hook = found.module, found.hook
    fqn = next((name for name, m in crash.modules.items() if m is module), "")
    key = next((k for k, h in module._forward_hooks.items() if h is hook), None)
    said = f"{describe_hook(hook)} on {crash.describe_module(fqn)}"
    message, arithmetic = f"{said} raised {type(crash.error).__name__}", ""
    advice: tuple[str, ...] = ()
    candidates: list[Candidate] = []
    count = 4 if key in module._forward_hooks_with_kwargs else 3
    if found.before and not is_callable_with(hook, 2):
        message = f"{said} cannot be called as hook(module, args), before the forward"
        advice = ("register it by register_forward_hook, or let it take (module, args)",)
        arithmetic = f"its parameters are ({', '.join(inspect.signature(hook).parameters)})"
    elif key is not None and not is_callable_with(hook, count):
        message = f"{said} cannot be called as hook(module, args, output)"
        names = list(inspect.signature(hook).parameters)
        arithmetic = f"its parameters are ({', '.join(names)})"
        candidates += _add_parameters(fqn, key, hook) if len(names) == 1 else []
    elif key is not None and _is_tuple(found.output):
        given = f"a {len(found.output)}-tuple"
        arithmetic = f"{crash.describe_module(fqn)} returns {given}, and the hook gets it whole"
        candidates.append(propose(_take_first(fqn, key, hook), weight=STRONG))
    if key is not None:
        title = f"take {describe_hook(hook)} off {quote(fqn)}"
        candidates.append(propose(ChangeHook(title=title, module=fqn, key=key, hook=None)))
    return blame(fqn, message, *candidates, arithmetic=arithmetic, weight=STRONG + 1, advice=advice)


def _is_tuple(output: Any) -> bool:
    return isinstance(output, tuple) and bool(output) and isinstance(output[0], Tensor)


def _add_parameters(fqn: str, key: int, hook: Hook) -> list[Candidate]:
    """A hook that was written for the output alone."""
    if (code := get_code(hook)) is None:
        return []
    names = ", ".join(["module", "args", *inspect.signature(hook).parameters])
    edit = ChangeHook(
        title=f"write def {code.co_name}({names})",
        code=names,
        module=fqn,
        key=key,
        hook=lambda _module, _args, output: hook(output),
        written=None if inspect.ismethod(hook) else add_parameters(code, "module", "args"),
    )
    return [propose(edit, weight=STRONG)]


def _take_first(fqn: str, key: int, hook: Hook) -> ChangeHook:
    def call_with_first(module: nn.Module, args: Any, output: Any) -> None:
        hook(module, args, output[0])

    code = get_code(hook)
    written = index_parameter(code, code.co_argcount - 1) if code is not None else None
    title = f"use output[0] in {describe_hook(hook)}"
    return ChangeHook(
        title=title, code="output[0]", module=fqn, key=key, hook=call_with_first, written=written
    )


def _explain_returning(crash: Crash, fqn: str, key: int, hook: Hook) -> Suspect:
    """Whether the hook's result is at fault shows a forward in which it returns nothing."""

    def return_nothing(*args: Any, **kwargs: Any) -> None:
        hook(*args, **kwargs)

    code = get_code(hook)
    written = drop_return(code) if code is not None else None
    title = f"let {describe_hook(hook)} return nothing"
    edit = ChangeHook(title=title, module=fqn, key=key, hook=return_nothing, written=written)
    arrived = (f"{t.shape} arrived from {crash.describe_origin(t)}" for t in crash.inputs[:2])
    message = (
        f"{describe_hook(hook)} returns something, which replaces the output of "
        f"{crash.describe_module(fqn)}"
    )
    arithmetic = "; ".join(arrived)
    return blame(fqn, message, edit, arithmetic=arithmetic, weight=STRONG + 1, needs_proof=True)
