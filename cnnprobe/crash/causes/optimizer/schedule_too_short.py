import ast
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_frames, parse_function, read_frame, read_names

_MOST_STEPS = 100_000  # that are tried

_PROGRAM = """
  from torch.utils.data import DataLoader, TensorDataset
  model = nn.Linear(4, 2)
  def run(model):
      loader = DataLoader(TensorDataset(torch.randn(10, 4)), batch_size=4)
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      scheduler = torch.optim.lr_scheduler.OneCycleLR(
-         optimizer, max_lr=0.1, epochs=2, steps_per_epoch=10 // 4
+         optimizer, max_lr=0.1, epochs=2, steps_per_epoch=len(loader)
      )
      for epoch in range(2):
          for (x,) in loader:
              model(x).sum().backward()
              optimizer.step()
              scheduler.step()
"""
EXAMPLE = Example(_PROGRAM, repair="write steps_per_epoch=len(loader)")


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The loops around the failing line."""

    name: str  # of the loader
    loader: Any
    epochs: int


@cause("CP0F1", "schedule-too-short", EXAMPLE, stage="step", prior=765)
def schedule_too_short(crash: Crash) -> Suspects:
    """A learning-rate schedule was built for fewer steps than the loop takes.

    Why it happens: OneCycleLR knows its number of steps from the start. The last batch of an
    epoch, or a step of each batch where epochs were counted, makes more of them.
    What to do: total_steps is the number of scheduler.step() calls: epochs * len(loader).
    Known exceptions: other schedulers go on for any number of steps.
    Source: PyTorch, torch.optim.lr_scheduler.OneCycleLR.
    """
    values = read_frame(crash.error, "torch/optim/lr_scheduler.py", "get_lr") or {}
    scheduler = values.get("self")
    total = getattr(scheduler, "total_steps", None)
    if not isinstance(scheduler, LRScheduler) or not isinstance(total, int):
        return
    if scheduler.last_epoch < total:
        return
    kind, loop = type(scheduler).__name__, _find_loop(crash)
    taken = loop.epochs * len(loop.loader) if loop is not None else 0
    message = f"{kind} was built for {total} steps, but scheduler.step() is called more often"
    if loop is None or taken <= total:
        advice = ("set total_steps to the number of scheduler.step() calls in the whole training",)
        yield blame(None, message, advice=advice, raised_in=f"{kind}.step")
        return
    yield blame(
        None,
        f"{kind} was built for {total} steps, but the loop takes {taken}: {loop.name!r} "
        f"gives {len(loop.loader)} batches in each of {loop.epochs} epochs",
        propose(_write_length(crash, scheduler, loop)),
        arithmetic=f"{loop.epochs} * {len(loop.loader)} = {taken}, not {total}"
        + _describe_loader(loop.loader),
        raised_in=f"{kind}.step",
    )


def _describe_loader(loader: Any) -> str:
    size = getattr(loader, "batch_size", None)
    if not isinstance(loader, DataLoader) or size is None:
        return ""
    count, left = len(loader.dataset), len(loader.dataset) % size  # type: ignore[arg-type]
    last = f", the last batch of {left}" if left and not loader.drop_last else ""
    return f"; {count} samples in batches of {size}{last}"


def _find_loop(crash: Crash) -> Loop | None:
    """The loop over batches that the failing line stands in, and the number of its epochs."""
    values, frames = read_names(crash.error), find_frames(crash.error)
    line, tree = (frames[-1].lineno or 0 if frames else 0), parse_function(crash.error)
    name, epochs = "", 1
    loops = [n for n in ast.walk(tree or ast.Module([], [])) if isinstance(n, ast.For)]
    for node in loops:
        if not node.lineno <= line <= (node.end_lineno or 0):
            continue
        count = _count_range(node.iter, values)
        match node.iter:
            case ast.Name(id=found) | ast.Call(args=[ast.Name(id=found), *_]) if count is None:
                name = found
            case _ if count is None:
                return None
            case _:
                epochs *= count
    loader = values.get(name)
    is_sized = isinstance(loader, DataLoader | list)
    return Loop(name=name, loader=loader, epochs=epochs) if is_sized else None


def _count_range(node: ast.expr, values: dict[str, Any]) -> int | None:
    """How many numbers a range gives, where its ends are computed from numbers alone."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func) != "range":
        return None
    parts = [part for argument in node.args for part in ast.walk(argument)]
    names = {part.id: values.get(part.id) for part in parts if isinstance(part, ast.Name)}
    plain = ast.Name | ast.Constant | ast.BinOp | ast.operator | ast.expr_context
    if not all(isinstance(v, int) for v in names.values()) or not all(
        isinstance(part, plain) for part in parts
    ):
        return 0  # it is a range, of a number that is not known
    return len(eval(ast.unparse(node), {"range": range, **names}))  # noqa: S307 - numbers alone


def _write_length(crash: Crash, scheduler: Any, loop: Loop) -> Check:
    """The schedule with the number of steps that the loop takes."""
    taken = loop.epochs * len(loop.loader)
    option, value = "total_steps", f"{loop.epochs} * len({loop.name})"
    node = None
    for call in ast.walk(parse_function(crash.error) or ast.Module([], [])):
        for keyword in call.keywords if isinstance(call, ast.Call) else ():
            if keyword.arg in ("steps_per_epoch", "total_steps"):
                node, option = keyword.value, keyword.arg
    if option == "steps_per_epoch":
        value = f"len({loop.name})"

    def check() -> str:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        other = type(scheduler)(optimizer, max_lr=0.1, total_steps=taken)
        for _ in range(min(taken, _MOST_STEPS)):
            optimizer.step()
            other.step()
        return f"{taken} steps pass with total_steps={taken}"

    return Check(
        title=f"write {option}={value}",
        code=f"{option}={value}",
        check=check,
        written=replace_expression(crash.error, node, value) if node is not None else None,
    )
