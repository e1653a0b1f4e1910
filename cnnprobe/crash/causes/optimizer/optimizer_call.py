import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_called_method, find_optimizer, read_frame, read_names

_FIRST = """
  model = nn.Linear(4, 2)
  def run(model):
-     optimizer = torch.optim.LBFGS(model.parameters())
+     optimizer = torch.optim.SGD(model.parameters())
      F.cross_entropy(model(torch.randn(2, 4)), torch.tensor([0, 1])).backward()
      optimizer.step()
"""
_SECOND = """
  model = nn.Linear(4, 2)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
-     torch.optim.lr_scheduler.StepLR(model, step_size=10)
+     torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)
"""
_THIRD = """
  model = nn.Linear(4, 2)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
      loss = model(torch.randn(3, 4)).pow(2).mean()
      loss.backward()
      optimizer.step()
-     scheduler.step()
+     scheduler.step(loss.item())
"""
_FOURTH = """
  model = nn.Linear(4, 2)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      watcher = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
      loss = model(torch.randn(3, 4)).pow(2).mean()
      loss.backward()
      optimizer.step()
      valid_loss = model(torch.ones(3, 4)).pow(2).mean().item()
-     watcher.step()
+     watcher.step(valid_loss)
"""
EXAMPLES = (
    Example(_FIRST, repair="call optimizer.step(closure)", is_tried=False),
    Example(_SECOND, repair="write StepLR(optimizer, ...)"),
    Example(_THIRD, repair="write scheduler.step(loss.item())"),
    Example(_FOURTH, repair="write watcher.step(valid_loss)"),
)


@cause("CP091", "optimizer-call", EXAMPLES, stage="step", family="call-signature", prior=780)
def optimizer_call(crash: Crash) -> Suspects:
    """An optimizer or a scheduler was called without what it needs.

    Why it happens: LBFGS computes the loss several times in one step and needs a function that
    does so. A scheduler needs the optimizer, not the model.
    ReduceLROnPlateau needs the value that is to get smaller.
    What to do: optimizer.step(closure); StepLR(optimizer, ...); scheduler.step(loss.item()).
    Known exceptions: other optimizers take a closure but do not need one.
    Source: PyTorch, torch.optim, optimizer.step(closure).
    """
    optimizer = find_optimizer(crash.error)
    if optimizer is not None and isinstance(crash.error, TypeError):
        yield from _suspect_closure(optimizer)
    yield from _suspect_missing(crash)
    found = read_frame(crash.error, "torch/optim/lr_scheduler.py", "__init__")
    if found is not None and not isinstance(found.get("optimizer"), Optimizer):
        yield _suspect_scheduler(crash, found)


def _suspect_missing(crash: Crash) -> Suspects:
    """A method of a scheduler, or of a scaler, that was called without an argument it needs."""
    called = find_called_method(crash.error)
    if called is None or isinstance(called.owner, Optimizer) or len(called.missing) != 1:
        return
    (name,), kind = called.missing, type(called.owner).__name__
    values = read_names(crash.error)
    if name == "optimizer":
        fitting = [n for n, v in values.items() if isinstance(v, Optimizer)]
    else:
        fitting = [n for n, v in values.items() if _is_metric(n, v)]
        fitting.sort(key=lambda n: (not n.startswith("val"), "loss" not in n))
    given = fitting[0] if fitting else name
    value = values.get(given)
    is_number = isinstance(value, Tensor | float) and not isinstance(called.owner, GradScaler)
    shown = f"{given}.item()" if is_number and isinstance(value, Tensor) else given
    code = f"{called.shown}({shown})"

    def check() -> str:
        other = copy.deepcopy(called.owner, {id(t): t for t in _list_tensors(called.owner)})
        getattr(other, called.method)(float(value))  # type: ignore[arg-type]
        return f"a copy of the {kind} takes {shown}"

    title = f"write {code}"
    if name == "metrics" and not given.startswith("val"):
        title += ", or the loss on the validation data, once in each epoch"
    written = replace_expression(crash.error, called.node, code)
    is_tried = is_number and isinstance(called.owner, ReduceLROnPlateau)
    edit = (
        Check(title=title, code=code, check=check, written=written)
        if is_tried
        else Advice(title=title, code=code, written=written)
    )
    message = f"{kind}.{called.method} needs {name!r}, but {called.shown}() was called without it"
    arithmetic = f"{called.method}{inspect.signature(getattr(called.owner, called.method))}"
    raised_in = f"{kind}.{called.method}"
    yield blame(None, message, propose(edit), arithmetic=arithmetic, raised_in=raised_in)


def _is_metric(name: str, value: Any) -> bool:
    """Whether a variable may be what a scheduler watches."""
    if isinstance(value, Tensor):
        return value.numel() == 1
    return type(value) is float and ("loss" in name or name.startswith("val"))


def _list_tensors(owner: Any) -> list[Tensor]:
    """The tensors of a scheduler's optimizer, which a copy shares."""
    optimizer = owner.optimizer
    groups = [group["params"] for group in optimizer.param_groups]
    states = [list(state.values()) for state in optimizer.state.values()]
    return [t for t in tree_leaves([groups, states]) if isinstance(t, Tensor)]


def _suspect_closure(optimizer: Optimizer) -> Suspects:
    kind = type(optimizer).__name__
    needed = inspect.signature(type(optimizer).step).parameters.get("closure")
    if needed is None or needed.default is not needed.empty:
        return
    title = (
        "write def closure(): optimizer.zero_grad(); loss = ...; loss.backward(); return loss, "
        "and call optimizer.step(closure)"
    )
    yield blame(
        None,
        f"{kind} computes the loss several times in one step, but step() did not get the "
        "function that does so",
        propose(Advice(title=title, code="optimizer.step(closure)")),
        arithmetic=f"{kind}.step(closure) has no default for closure",
        raised_in=f"{kind}.step",
    )


def _suspect_scheduler(crash: Crash, found: dict[str, Any]) -> Suspect:
    kind: Any = type(found.get("self"))
    values = read_names(crash.error).items()
    named = [(name, value) for name, value in values if isinstance(value, Optimizer)]
    name, optimizer = named[0] if len(named) == 1 else ("optimizer", None)
    code = f"{kind.__name__}({name}, ...)"
    settings = {
        key: value
        for key, value in found.items()
        if key in inspect.signature(kind).parameters and key != "optimizer"
    }

    def check() -> str:
        other: Any = type(optimizer)
        like: Any = optimizer
        groups = [dict(g, params=[nn.Parameter(torch.zeros(1))]) for g in like.param_groups]
        kind(other(groups), **settings)
        return f"{kind.__name__} takes another {other.__name__} with these settings"

    title = f"write {code}"
    edit = Check(title=title, code=code, check=check) if optimizer is not None else None
    return blame(
        None,
        f"{kind.__name__} changes the learning rate of an optimizer, but got a "
        f"{type(found.get('optimizer')).__name__}",
        propose(edit or Advice(title=title, code=code)),
        arithmetic=f"{kind.__name__}(optimizer, ...)",
        raised_in=kind.__name__,
    )
