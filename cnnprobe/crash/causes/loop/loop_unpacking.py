import ast
from typing import Any

from torch import Tensor
from torch.utils.data import TensorDataset

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_assignment, find_frames
from cnnprobe.crash.facts.members import read_expression
from cnnprobe.crash.facts.trees import list_nodes, parse_file
from cnnprobe.crash.facts.values import FailingLine, read_failing_line
from cnnprobe.crash.facts.words import count_of

_LOOP = """
  rows = torch.utils.data.TensorDataset(torch.randn(6, 4))
  model = nn.Linear(4, 2)
  def run(model):
-     for x, y in torch.utils.data.DataLoader(rows, batch_size=2):
+     for (x,) in torch.utils.data.DataLoader(rows, batch_size=2):
          model(x)
"""
_NUMBER = """
  model = nn.Linear(4, 2)
  def run(model):
      batch = model(torch.randn(3, 4)).mean()
-     x, y = batch
+     x = batch
      return x
"""
EXAMPLES = (
    Example(_LOOP, repair="write (x,) for one part", is_tried=False),
    Example(_NUMBER, repair="batch is one number", is_tried=False),
)


@cause("CP0M8", "loop-unpacking", EXAMPLES, stage="around", family="unpacking-count", prior=867)
def loop_unpacking(crash: Crash) -> Suspects:
    """A loop or an assignment unpacks what it gets into another number of names.

    Why it happens: the data set returns fewer or more parts than the loop has names; a number
    such as a loss has no parts.
    What to do: write one name for each part: for x, y in loader, or for (x,) in loader.
    Known exceptions: none.
    Source: torch.utils.data.TensorDataset gives a tuple, also of one tensor.
    """
    if not isinstance(crash.error, ValueError | TypeError):
        return
    line = read_failing_line(crash)
    assigned = find_assignment(crash.error)
    if assigned is not None and isinstance(assigned.targets[0], ast.Tuple):
        value = read_expression(line, assigned.value)
        if isinstance(value, Tensor) and value.dim() == 0:
            name = ast.unparse(assigned.value)
            title = f"{name} is one number: take the batch itself, or give it one name"
            message = f"{name} is a single number without a dim, and has no parts to unpack"
            yield blame(None, message, title)
        return
    yield from _judge_loop(crash, line)


def _judge_loop(crash: Crash, line: FailingLine) -> Suspects:
    """The loop over a loader, which is made there, on whose line it raised."""
    frames = find_frames(crash.error)
    tree = parse_file(frames[-1].filename) if frames else None
    number = frames[-1].lineno if frames else 0
    for node in list_nodes(tree) if tree is not None else ():
        if not isinstance(node, ast.For) or node.lineno != number:
            continue
        target = node.target
        batch = _read_batch(line, node.iter)
        if not isinstance(target, ast.Tuple) or not isinstance(batch, list | tuple):
            continue
        wanted, given = len(target.elts), len(batch)
        if wanted == given:
            continue
        names = [ast.unparse(part) for part in target.elts[:given]]
        code = f"({names[0]},)" if given == 1 else ", ".join(names)
        title = f"write {code} for {'one part' if given == 1 else 'its parts'}"
        if given > wanted:
            code, title = "", f"write {given} names, or let the data set return {wanted} parts"
        written = replace_expression(crash.error, target, code) if code else None
        yield blame(
            None,
            f"the loader gives {count_of(given, 'part')} for each batch, but "
            f"{count_of(wanted, 'name')} unpack them",
            propose(Advice(title=title, code=code, written=written)),
            arithmetic=f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}",
        )
        return


def _read_batch(line: FailingLine, iterable: ast.expr) -> Any:
    """What a loader that is made in the loop itself gives: the first sample."""
    if not isinstance(iterable, ast.Call) or not iterable.args:
        return None  # see loop-elements
    rows = read_expression(line, iterable.args[0])
    return rows[0] if isinstance(rows, TensorDataset) and len(rows) else None
