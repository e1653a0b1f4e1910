import ast
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import list_frames
from cnnprobe.crash.facts.values import FailingLine, read_attribute, read_failing_line

_CLASS = """
  model = nn.Linear(8, 2)
  def run(model):
-     optimizer = torch.optim.Adam
+     optimizer = torch.optim.Adam(model.parameters())
      optimizer.zero_grad()
"""
_TEXT = """
  model = nn.Linear(8, 2)
  def run(model):
      rate = "1e-3"
-     torch.optim.SGD(model.parameters(), lr=rate)
+     torch.optim.SGD(model.parameters(), lr=float(rate))
"""
_FACTOR = """
  model = nn.Linear(8, 2)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
-     torch.optim.lr_scheduler.LambdaLR(optimizer, 0.95)
+     torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.95**epoch)
"""
_RESUMED = """
  model = nn.Linear(8, 2)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
-     torch.optim.lr_scheduler.StepLR(optimizer, 3, last_epoch=5)
+     torch.optim.lr_scheduler.StepLR(optimizer, 3)
"""
EXAMPLES = (
    Example(_CLASS, repair="make one: optimizer = torch.optim.Adam(", is_tried=False),
    Example(_TEXT, repair="write lr=float(rate)", is_tried=False),
    Example(_FACTOR, repair="write lambda epoch: 0.95 ** epoch", is_tried=False),
    Example(_RESUMED, repair="leave out last_epoch", is_tried=False),
)


@cause("CP0M1", "optimizer-arguments", EXAMPLES, stage="around", prior=1006)
def optimizer_arguments(crash: Crash) -> Suspects:
    """An optimizer or a scheduler was made of what it does not take.

    Why it happens: a learning rate read from a file or a command line is a text, or negative; the
    class stands in the place of an object; LambdaLR takes a function of the epoch; last_epoch is
    for an optimizer whose state was loaded.
    What to do: float(rate); construct the optimizer with model.parameters(); give LambdaLR a
    function; leave out last_epoch, and load the state of the scheduler.
    Known exceptions: none.
    Source: torch.optim, "How to adjust learning rate".
    """
    line = read_failing_line(crash)
    found = _judge_class(crash, line) or _judge_rate(crash, line) or _judge_scheduler(crash, line)
    if found is not None:
        yield found


def _judge_class(crash: Crash, line: FailingLine) -> Suspect | None:
    """A method that is called on the class itself."""
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        kind: Any = read_attribute(owner, line.names) if owner is not None else None
        is_kind = isinstance(kind, type) and issubclass(kind, Optimizer | LRScheduler)
        if is_kind and owner is not None and isinstance(crash.error, TypeError):
            name = ast.unparse(owner)
            given = "model.parameters(), lr=..." if issubclass(kind, Optimizer) else "optimizer"
            code = f"{name} = torch.optim.{kind.__name__}({given})"
            message = f"{name} is the class {kind.__name__}, not an object of it"
            return blame(None, message, f"make one: {code}", arithmetic=ast.unparse(call))
    return None


def _judge_rate(crash: Crash, line: FailingLine) -> Suspect | None:
    """A learning rate that is a text, or negative."""
    for frame in list_frames(crash.error):
        owner = frame.f_locals.get("self")
        rate: Any = frame.f_locals.get("lr")
        if not isinstance(owner, Optimizer) or frame.f_code.co_name != "__init__":
            continue
        is_text = isinstance(rate, str)
        if not is_text and not (isinstance(rate, int | float) and rate < 0):
            return None
        kind = type(owner).__name__
        message = f"{kind} expects a learning rate of at least 0, but got {rate!r}"
        if not is_text:
            return blame(None, message, f"write lr={-float(rate)!r}", arithmetic=f"lr={rate!r}")
        node = _find_keyword(line, "lr")
        code = f"float({ast.unparse(node)})" if node is not None else f"{float(rate)!r}"
        written = replace_expression(crash.error, node, code) if node is not None else None
        edit = Advice(title=f"write lr={code}", code=code, written=written)
        return blame(None, f"{message}, a text", propose(edit), arithmetic=f"lr={rate!r}")
    return None


def _find_keyword(line: FailingLine, name: str) -> ast.expr | None:
    calls = (n for n in line.nodes if isinstance(n, ast.Call))
    return next((k.value for call in calls for k in call.keywords if k.arg == name), None)


def _judge_scheduler(crash: Crash, line: FailingLine) -> Suspect | None:
    """A scheduler that got a number for a function, or an epoch to go on from."""
    made = [
        frame.f_locals
        for frame in list_frames(crash.error)
        if frame.f_code.co_name == "__init__"
        and isinstance(frame.f_locals.get("self"), LRScheduler)
    ]
    if not made:
        return None
    owner: Any = made[0]["self"]
    kind, given = type(owner).__name__, getattr(owner, "lr_lambdas", [])
    for factor in (one for one in given if isinstance(one, int | float)):
        node = next(
            (n for n in line.nodes if isinstance(n, ast.Constant) and n.value == factor), None
        )
        code = f"lambda epoch: {factor} ** epoch"
        written = replace_expression(crash.error, node, code) if node is not None else None
        edit = Advice(title=f"write {code}", code=code, written=written)
        message = f"{kind} expects a function of the epoch, but got the number {factor}"
        return blame(None, message, propose(edit), arithmetic=f"lr_lambda={factor}")
    last = made[0].get("last_epoch", -1)
    groups = getattr(made[0].get("optimizer"), "param_groups", [])
    if last == -1 or all("initial_lr" in group for group in groups):
        return None
    return blame(
        None,
        f"{kind} is to go on from epoch {last}, but its optimizer never had a scheduler: it keeps "
        "no initial_lr",
        "leave out last_epoch, and call scheduler.load_state_dict() with what was saved",
        arithmetic=f"last_epoch={last}",
    )
