import ast
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_missing, list_backward_frames, parse_function
from cnnprobe.crash.facts.values import FailingLine, read_failing_line
from cnnprobe.crash.facts.words import count_of

_ENUMERATED = """
  model = nn.Linear(8, 2)
  def run(model):
      loader = [[torch.randn(4, 8), torch.randn(4, 2)]]
-     for x, y in enumerate(loader):
+     for i, (x, y) in enumerate(loader):
          y = y.float()
          F.mse_loss(model(x), y).backward()
"""
_COLLATED = """
  model = nn.Linear(8, 2)
  def run(model):
      x, y = torch.randn(4, 8), tuple(torch.randn(4, 2))
-     F.mse_loss(model(x), y.to("cpu")).backward()
+     F.mse_loss(model(x), torch.stack(y).to("cpu")).backward()
"""
EXAMPLES = (
    Example(_ENUMERATED, repair="write for i, (x, y) in enumerate(loader)"),
    Example(_COLLATED, repair="write torch.stack(y).to"),
)


@cause("CP0K9", "container-for-tensor", EXAMPLES, stage="around", prior=866)
def container_for_tensor(crash: Crash) -> Suspects:
    """A list or tuple of tensors is asked for what only a tensor has, such as .to or .size.

    Why it happens: enumerate gives an index and the whole batch; a collate_fn keeps the samples
    of a batch apart; a model returns several outputs.
    What to do: unpack the batch, stack the samples, or take the one tensor that is meant.
    Known exceptions: none.
    Source: PyTorch, torch.utils.data, "collate_fn".
    """
    subject, name = find_missing(crash.error)
    if type(subject) not in (list, tuple) or not hasattr(Tensor, name):
        return
    if name == "backward":  # see number-for-loss
        return
    if list_backward_frames(crash.error):  # a hook's own cause tells more
        return
    line = read_failing_line(crash)
    node = _find_asked(line, subject, name)
    if node is not None and subject and all(isinstance(part, dict) for part in subject):
        yield _blame_dicts(node, subject)
        return
    if node is None or not subject or not any(isinstance(part, Tensor) for part in subject):
        return
    text, kind = ast.unparse(node.value), type(subject).__name__
    loop = _find_enumerate(crash, line, node)
    edits = _propose_parts(crash, node, subject)
    message = f"{text} is a {kind} of {count_of(len(subject), 'part')}; only a tensor has .{name}"
    if loop is not None:
        edits = [_unpack(crash, *loop, subject)]
        message += f": enumerate gives an index, and the whole batch as {text}"
    held = ", ".join(f"[{i}] {_describe(part)}" for i, part in enumerate(subject[:4]))
    arithmetic = f"it holds {held}" + (", ..." if len(subject) > 4 else "")
    yield blame(None, message, *(propose(edit) for edit in edits), arithmetic=arithmetic)


def _blame_dicts(node: ast.Attribute, subject: Any) -> Suspect:
    """A list of dicts, as a detector takes its targets."""
    text = ast.unparse(node.value)
    code = f"[{{key: value.{node.attr}(...) for key, value in one.items()}} for one in {text}]"
    return blame(
        None,
        f"{text} is a {type(subject).__name__} of {count_of(len(subject), 'dict')}; only a tensor "
        f"has .{node.attr}",
        f"write {code}",
        arithmetic=f"each holds {', '.join(map(repr, list(subject[0])[:4]))}",
    )


def _find_asked(line: FailingLine, subject: Any, name: str) -> ast.Attribute | None:
    """The place in the line where the name is asked of the container."""
    for node in line.nodes:
        if not isinstance(node, ast.Attribute) or node.attr != name:
            continue
        if line.evaluate(node.value) is subject:
            return node
    return None


def _find_enumerate(
    crash: Crash, line: FailingLine, node: ast.Attribute
) -> tuple[ast.Call, ast.Tuple] | None:
    """The loop whose index took the first name, so that the whole batch has the second."""
    text = ast.unparse(node.value)
    for loop in ast.walk(parse_function(crash.error) or ast.Pass()):
        if not isinstance(loop, ast.For) or not isinstance(loop.target, ast.Tuple):
            continue
        names, batch, call = loop.target.elts, line.evaluate(node.value), loop.iter
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "enumerate":
            continue
        holds = loop.lineno <= node.lineno <= (loop.end_lineno or 0)
        if holds and len(names) == len(batch) and ast.unparse(names[-1]) == text:
            return call, loop.target
    return None


def _unpack(crash: Crash, call: ast.Call, target: ast.Tuple, batch: Any) -> Edit:
    """Take the index and the parts of the batch apart."""
    names = ", ".join(ast.unparse(name) for name in target.elts)
    written = f"for i, ({names}) in {ast.unparse(call)}"
    return Check(
        title=f"write {written}",
        code=f"{written}:",
        check=lambda: f"{names} are then {', '.join(map(_describe, batch))}",
        written=replace_expression(crash.error, target, f"i, ({names})"),
    )


def _propose_parts(crash: Crash, node: ast.Attribute, parts: Any) -> list[Edit]:
    """Stack parts of one shape; of others, say which can be taken."""
    text = ast.unparse(node.value)
    shapes = {tuple(part.shape) if isinstance(part, Tensor) else None for part in parts}
    if len(shapes) > 1 or None in shapes:
        title = f"take the tensor that is meant, as {text}[0], or each in turn"
        return [Advice(title=title)]
    return [
        Check(
            title=f"write torch.stack({text}).{node.attr}",
            code=f"torch.stack({text}).{node.attr}",
            check=lambda: f"the stack is {tuple(torch.stack(list(parts)).shape)}",
            written=replace_expression(crash.error, node.value, f"torch.stack({text})"),
        )
    ]


def _describe(part: Any) -> str:
    return str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__
