import ast
import re
from collections.abc import Iterator

import torch

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_assigned_value, get_path, list_frames
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import read_failing_line

_LOOP = """
  model = nn.Linear(8, 2)
  def run(model):
      model(torch.randn(4, 8))
-     device = "xpu"
+     device = "xpu" if torch.xpu.is_available() else "cpu"
      model.to(device)
"""
_FORWARD = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
-         return self.fc(x) + torch.zeros(2, device="xpu")
+         return self.fc(x) + torch.zeros(2, device="xpu" if torch.xpu.is_available() else "cpu")
  model, args = Net(), (torch.randn(4, 8),)
"""
EXAMPLES = (
    Example(_LOOP, repair="'xpu' if torch.xpu.is_available() else 'cpu'", is_tried=False),
    Example(
        _FORWARD, blames="", repair="'xpu' if torch.xpu.is_available() else 'cpu'", on_meta=False
    ),
)


@cause("CP0K2", "device-unavailable", EXAMPLES, stage=("forward", "around"), prior=1095)
def device_unavailable(crash: Crash) -> Suspects:
    """The code asks for a GPU, and torch finds none.

    Why it happens: the machine has no GPU or no driver, or this torch was built for the CPU alone.
    What to do: choose the device by what is there, once, and move the model and each batch to it.
    Known exceptions: CUDA_VISIBLE_DEVICES may hide the GPUs from the process.
    Source: torch.cuda.is_available.
    """
    frames = list_frames(crash.error)
    last = frames[-1] if frames else None
    found = re.search(r"/torch/(cuda|xpu|mtia)/__init__\.py$", get_path(last)) if last else None
    if last is None or found is None or last.f_code.co_name != "_lazy_init":
        return
    kind = found[1]
    is_built = kind != "cuda" or torch.version.cuda is not None
    why = "torch finds none" if is_built else "this torch is built without CUDA"
    chosen = f"'{kind}' if torch.{kind}.is_available() else 'cpu'"
    method = find_failing_method(crash) if crash.stage == "forward" else None
    edits = []
    for node, text in list(_list_places(crash, kind, chosen))[:1]:
        written = replace_expression(crash.error, node, text)
        edits.append(
            replace_node(method, node, text)
            if method is not None
            else Advice(title=f"write {text} instead of {ast.unparse(node)}", written=written)
        )
    general = Advice(title=f"choose the device by what is there: device = {chosen}", code=chosen)
    yield blame(
        crash.owner if crash.stage == "forward" else None,
        f"the code asks for the device {kind!r}, but {why}",
        *(propose(edit, weight=STRONG) for edit in (edits or [general]) if edit is not None),
        arithmetic=f"torch.{kind}.is_available() is False",
    )


def _list_places(crash: Crash, kind: str, chosen: str) -> Iterator[tuple[ast.expr, str]]:
    """The texts "cuda" and the calls x.cuda() that the failing line reads, with what goes there."""
    line = read_failing_line(crash)
    names = (n.id for n in line.nodes if isinstance(n, ast.Name))
    made = [find_assigned_value(crash.error, name) for name in names]
    nodes = [*line.nodes, *(n for value in made if value is not None for n in ast.walk(value))]
    for node in nodes:
        if isinstance(node, ast.Constant) and str(node.value).partition(":")[0] == kind:
            yield node, chosen
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == kind:
            owner = ast.unparse(node.func).rpartition(".")[0]
            yield node, f"{owner}.to({chosen})"
