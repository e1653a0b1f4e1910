"""An optimizer or a scheduler that was called without what it needs."""

import inspect
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.frames import read_frame, read_names
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLES = (
    Example(
        """
        model = nn.Linear(4, 2)


        def run(model):
            optimizer = torch.optim.LBFGS(model.parameters())
            F.cross_entropy(model(torch.randn(2, 4)), torch.tensor([0, 1])).backward()
            optimizer.step()
        """,
        old="LBFGS(",
        new="SGD(",
        blames=None,
        repair="call optimizer.step(closure)",
        is_tried=False,
    ),
    Example(
        """
        model = nn.Linear(4, 2)


        def run(model):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            torch.optim.lr_scheduler.StepLR(model, step_size=10)
        """,
        old="StepLR(model,",
        new="StepLR(optimizer,",
        blames=None,
        repair="write StepLR(optimizer, ...)",
    ),
)


@cause(
    code="CP091",
    name="optimizer-call",
    stage="step",
    family="call-signature",
    prior=780,
    examples=EXAMPLES,
)
def optimizer_call(crash: Crash) -> Iterator[Suspect]:
    """An optimizer or a scheduler was called without what it needs.

    Why it happens: LBFGS computes the loss several times in one step and needs a function that
    does so. A scheduler needs the optimizer, not the model.
    What to do: optimizer.step(closure); StepLR(optimizer, ...).
    Known exceptions: other optimizers take a closure but do not need one.
    Source: PyTorch, torch.optim, optimizer.step(closure).
    """
    optimizer = _find_optimizer(crash)
    if optimizer is not None and isinstance(crash.error, TypeError):
        yield from _suspect_closure(optimizer)
    found = read_frame(crash.error, "torch/optim/lr_scheduler.py", "__init__")
    if found is not None and not isinstance(found.get("optimizer"), Optimizer):
        yield _suspect_scheduler(crash, found)


def _find_optimizer(crash: Crash) -> Optimizer | None:
    """The optimizer whose step raised."""
    for frame, _ in traceback.walk_tb(crash.error.__traceback__):
        for value in (frame.f_locals.get("self"), *(frame.f_locals.get("args") or ())[:1]):
            if isinstance(value, Optimizer):
                return value
    return None


def _suspect_closure(optimizer: Optimizer) -> Iterator[Suspect]:
    kind = type(optimizer).__name__
    needed = inspect.signature(type(optimizer).step).parameters.get("closure")
    if needed is None or needed.default is not needed.empty:
        return
    title = (
        "write def closure(): optimizer.zero_grad(); loss = ...; loss.backward(); return loss, "
        "and call optimizer.step(closure)"
    )
    yield Suspect(
        module=None,
        message=f"{kind} computes the loss several times in one step, but step() did not get the "
        "function that does so",
        arithmetic=f"{kind}.step(closure) has no default for closure",
        candidates=(propose(Advice(title=title, code="optimizer.step(closure)")),),
        weight=STRONG,
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
        groups = [dict(g, params=[nn.Parameter(torch.zeros(1))]) for g in optimizer.param_groups]  # type: ignore[union-attr]
        kind(other(groups), **settings)
        return f"{kind.__name__} takes another {other.__name__} with these settings"

    title = f"write {code}"
    edit = Check(title=title, code=code, check=check) if optimizer is not None else None
    return Suspect(
        module=None,
        message=f"{kind.__name__} changes the learning rate of an optimizer, but got a "
        f"{type(found.get('optimizer')).__name__}",
        arithmetic=f"{kind.__name__}(optimizer, ...)",
        candidates=(propose(edit or Advice(title=title, code=code)),),
        weight=STRONG,
        raised_in=kind.__name__,
    )
