import dis
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose, vary
from cnnprobe.crash.edits.hooks import ChangeHook
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import drop_return
from cnnprobe.crash.facts.frames import get_path, list_backward_frames, list_frames
from cnnprobe.crash.facts.hooks import describe_hook, get_code, read_returned
from cnnprobe.crash.facts.saved import find_saved, find_start, walk_nodes
from cnnprobe.crash.facts.words import quote

# What a hook does beside computing: it may not be called once more then.
_WRITING = frozenset({"STORE_GLOBAL", "STORE_ATTR", "STORE_DEREF", "STORE_SUBSCR"})
_PURE = frozenset(dir(Tensor)) | frozenset(dir(torch))

_NET = """
def hook(module, grad_input, grad_output):
    print(grad_output[0].norm())
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(8, 8), nn.Linear(8, 3)
        self.body.register_full_backward_hook(hook)
        self.body.weight.register_hook(lambda gradient: gradient / 2)
    def forward(self, x):
        return self.fc(torch.relu(self.body(x)))
model = Net()
def run(model):
    x = torch.randn(4, 8, requires_grad=True)
    model(x).sum().backward()
"""


_PROGRAM = """
  def save(module, grad_input, grad_output):
      module.kept = grad_output[0].detach()
-     return grad_output
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body, self.fc = nn.Linear(8, 6), nn.Linear(6, 3)
          self.fc.register_full_backward_hook(save)
      def forward(self, x):
          return self.fc(torch.relu(self.body(x)))
  model = Net()
  def run(model):
      model(torch.randn(4, 8)).sum().backward()
"""
EXAMPLES = (
    *(
        vary(_NET, right, wrong, repair, blames="body", is_tried=False)
        for right, wrong, repair in (
            ("grad_output[0].norm()", "grad_output.norm()", "grad_output[0] is the gradient"),
            ("gradient / 2", "gradient[:2]", "return a gradient of (8, 8)"),
            ("gradient / 2", "gradient.view(4, 10)", "or take it off"),
        )
    ),
    Example(_PROGRAM, blames="fc", repair="let the hook 'save'"),
)


@cause("CP089", "broken-gradient-hook", EXAMPLES, stage="backward", family="broken-hook", prior=870)
def broken_gradient_hook(crash: Crash) -> Suspects:
    """A hook raised in the backward, or returned another kind of gradient.

    Why it happens: a module's backward hook is called as hook(module, grad_input, grad_output),
    with tuples of gradients. A tensor's hook is called with the gradient alone.
    What to do: take grad_output[0]. Return nothing, or a gradient of the same shape and dtype.
    Known exceptions: a hook that changes what lies outside of it is not called once more to see
    what it returns.
    Source: PyTorch, torch.nn.Module.register_full_backward_hook and torch.Tensor.register_hook.
    """
    if find_start(crash) is None:
        return
    codes = [frame.f_code for frame, _ in list_backward_frames(crash.error)]
    suspects = [*_blame_modules(crash, codes), *_blame_parameters(crash, codes)]
    if not suspects and codes and not _is_other_code(crash, codes[0]):
        suspects = [_blame_unknown(crash, codes[0].co_name)]
    if not codes and not find_saved(crash).modified:
        suspects = [*_blame_module_returns(crash), *_blame_returns(crash)]
    yield from suspects[:1]


def _blame_modules(crash: Crash, codes: list[Any]) -> Suspects:
    raised = f"raised {type(crash.error).__name__}: {crash.error}"
    for fqn, module in crash.modules.items():
        for hook in (*module._backward_hooks.values(), *module._backward_pre_hooks.values()):
            if getattr(hook, "__code__", None) in codes:
                name = hook.__name__
                title = (
                    f"correct {name!r}: grad_output[0] is the gradient of what {quote(fqn)} gives"
                )
                message = f"the backward hook {name!r} on {quote(fqn)} {raised}"
                arithmetic = (
                    "it is called as hook(module, grad_input, grad_output) with tuples of gradients"
                )
                yield blame(fqn, message, title, arithmetic=arithmetic)


def _blame_module_returns(crash: Crash) -> Suspects:
    """A backward hook of a module that returns gradients of other shapes than it was given."""
    for call in crash.trace.calls:
        module = crash.modules.get(call.fqn) if call.fqn is not None else None
        for key, hook in dict(module._backward_hooks).items() if module is not None else ():
            code, found = get_code(hook), read_returned(hook, call)
            if code is None or found is None or not found.is_wrong:
                continue
            title = f"let {describe_hook(hook)} return nothing"
            edit = ChangeHook(
                title=title,
                module=call.fqn,
                key=key,
                hook=None,
                registry="_backward_hooks",
                written=drop_return(code),
            )
            message = (
                f"{describe_hook(hook)}, a backward hook on {crash.describe_call(call)}, "
                "returns something that replaces grad_input but has other shapes"
            )
            arithmetic = f"it returns {found.shown}, but grad_input is {found.expected}"
            yield blame(call.fqn, message, propose(edit), arithmetic=arithmetic)


def _blame_parameters(crash: Crash, codes: list[Any]) -> Suspects:
    for fqn, name, parameter, hook in _list_hooks(crash):
        if getattr(hook, "__code__", None) in codes:
            what = f"raised {type(crash.error).__name__}: {crash.error}"
            yield _blame_hook(fqn, name, parameter, hook, what)


def _blame_returns(crash: Crash) -> Suspects:
    """A hook of a parameter that returns another kind of gradient: it is called once more."""
    for fqn, name, parameter, hook in _list_hooks(crash):
        if not _is_pure(hook):
            continue
        with torch.no_grad():
            given = hook(torch.zeros_like(parameter))
        if isinstance(given, Tensor) and given.shape != parameter.shape:
            what = f"returns a gradient of another shape: {tuple(given.shape)}"
            yield _blame_hook(fqn, name, parameter, hook, what)
        elif given is not None and getattr(given, "dtype", None) != parameter.dtype:
            kind = getattr(given, "dtype", type(given).__name__)
            what = f"returns {kind} instead of a gradient of {parameter.dtype}"
            yield _blame_hook(fqn, name, parameter, hook, what)


def _list_hooks(crash: Crash) -> Iterator[tuple[str, str, Tensor, Callable[..., Any]]]:
    for fqn, module in crash.modules.items():
        for name, parameter in module._parameters.items():
            for hook in (getattr(parameter, "_backward_hooks", None) or {}).values():
                if parameter is not None:
                    yield fqn, name, parameter, hook


def _is_pure(hook: Callable[..., Any]) -> bool:
    """Whether a hook only computes, with torch's functions and methods."""
    if not inspect.isfunction(hook):
        return False
    steps = list(dis.get_instructions(hook))
    names = [step.argval for step in steps if step.opname.startswith(("LOAD_METHOD", "LOAD_ATTR"))]
    writes = any(step.opname in _WRITING for step in steps)
    return not writes and "print" not in hook.__code__.co_names and set(names) <= _PURE


def _blame_hook(fqn: str, name: str, parameter: Tensor, hook: Any, what: str) -> Suspect:
    shape, called = tuple(parameter.shape), getattr(hook, "__name__", "without a name")
    title = f"return a gradient of {shape} from the hook, or take it off"
    message = f"the gradient hook {called!r} on the parameter {name!r} of {quote(fqn)} {what}"
    arithmetic = f"it is called with the gradient, {shape}, and returns one of that shape or None"
    return blame(fqn, message, propose(Advice(title=title, module=fqn)), arithmetic=arithmetic)


def _is_other_code(crash: Crash, code: Any) -> bool:
    """Whether code that the backward called is a function's backward, or a rerun forward."""
    loss = find_start(crash)
    kinds: list[Any] = [
        getattr(node, "_forward_cls", None)
        for node in walk_nodes(loss.grad_fn if loss is not None else None)
        if isinstance(node, BackwardCFunction)
    ]
    is_rerun = any("checkpoint" in get_path(frame) for frame in list_frames(crash.error))
    return is_rerun or any(kind.backward.__code__ is code for kind in kinds)


def _blame_unknown(crash: Crash, name: str) -> Suspect:
    """A hook of a tensor that is no parameter: what it sits on is not known."""
    return blame(
        None,
        f"the hook {name!r} raised in the backward: {type(crash.error).__name__}: {crash.error}",
        f"correct {name!r}: it gets the gradient, a tensor, or take it off",
        arithmetic="a tensor's hook is called with the gradient alone",
    )
