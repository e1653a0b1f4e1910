import ast
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_missing
from cnnprobe.crash.facts.values import read_failing_line

# NumPy's methods, and torch's for the same. Source: the pages of numpy.ndarray and torch.Tensor.
_OF_NUMPY = {
    "astype": "to(torch.float32)", "copy": "clone()", "fill": "fill_(value)",
    "tobytes": "numpy().tobytes()",
}  # fmt: skip
# Attributes of torchvision's data sets that were renamed. Source: torchvision 0.2.2, release notes.
_RENAMED = {
    "train_labels": "targets", "test_labels": "targets", "labels": "targets",
    "train_data": "data", "test_data": "data", "imgs": "samples",
}  # fmt: skip
_ARRAY = """
  import numpy as np
  model = nn.Linear(4, 2)
  def run(model):
      x = np.zeros((3, 4), "float32")
-     return model(x.unsqueeze(0))
+     return model(torch.from_numpy(x).unsqueeze(0))
"""
_NUMPY = """
  model = nn.Linear(4, 2)
  def run(model):
      output = model(torch.randn(3, 4))
-     return output.astype("float64")
+     return output.to(torch.float64)
"""
_INNER = """
  model = nn.DataParallel(nn.Linear(4, 2))
  def run(model):
-     return model.in_features
+     return model.module.in_features
"""
_ENTRY = """
  model = nn.Linear(4, 2)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      made = {"optimizer": optimizer, "monitor": "loss"}
-     made.step()
+     made["optimizer"].step()
"""
EXAMPLES = (
    Example(_ARRAY, repair="write torch.from_numpy(x).unsqueeze", is_tried=False),
    Example(_NUMPY, repair="write output.to(", is_tried=False),
    Example(_INNER, repair="write model.module.in_features", is_tried=False),
    Example(_ENTRY, repair="write made['optimizer'].step", is_tried=False),
)


@cause(
    "CP0M7",
    "attribute-of-another",
    EXAMPLES,
    stage="around",
    family="missing-attribute",
    prior=1091,
)
def attribute_of_another(crash: Crash) -> Suspects:
    """An attribute is asked of an object that does not have it, and something near it does.

    Why it happens: a NumPy array is no tensor, and has other methods; nn.DataParallel and
    DistributedDataParallel keep the model at .module; a dict holds the object that is meant; data
    sets of torchvision have renamed their attributes.
    What to do: torch.from_numpy(x); x.to(torch.float32) for x.astype; model.module.fc;
    config["scheduler"].step().
    Known exceptions: none.
    Source: torch.from_numpy; torch.nn.DataParallel; torchvision.datasets.
    """
    subject, name = find_missing(crash.error)
    line = read_failing_line(crash)
    asked = (n for n in line.nodes if isinstance(n, ast.Attribute) and n.attr == name)
    node = next(asked, None)
    if node is None or subject is None or not name:
        return
    owner = ast.unparse(node.value)
    if (found := _judge(subject, name, owner)) is None:
        return
    message, code = found
    yield _explain(crash, node, message, code)


def _judge(subject: Any, name: str, owner: str) -> tuple[str, str] | None:
    """What the object is, and what to write in the place of the attribute."""
    kind = type(subject).__name__
    if kind == "ndarray" and hasattr(Tensor, name):
        return f"{owner} is a NumPy array, not a tensor", f"torch.from_numpy({owner}).{name}"
    if isinstance(subject, Tensor) and name in _OF_NUMPY:
        return f"{owner} is a tensor, and .{name} is NumPy's", f"{owner}.{_OF_NUMPY[name]}"
    inner = getattr(subject, "module", None) if isinstance(subject, nn.Module) else None
    if isinstance(inner, nn.Module) and hasattr(inner, name):
        return f"{owner} is a {kind}, which keeps the model at .module", f"{owner}.module.{name}"
    if isinstance(subject, dict):
        keys = [key for key, value in subject.items() if hasattr(value, name)]
        if len(keys) == 1:
            return f"{owner} is a dict, and its entry {keys[0]!r} has .{name}", (
                f"{owner}[{keys[0]!r}].{name}"
            )
    if new := _RENAMED.get(name):
        held = getattr(subject, "__dict__", {})
        if new in held:
            return f"{kind} has no {name!r}; torchvision calls it {new!r}", f"{owner}.{new}"
    return None


def _explain(crash: Crash, node: ast.Attribute, message: str, code: str) -> Suspect:
    is_call = code.endswith(")")  # another call, whose arguments are not known
    written = None if is_call else replace_expression(crash.error, node, code)
    title = f"write {code} instead of {ast.unparse(node)}"
    return blame(None, message, propose(Advice(title=title, code=code, written=written)))
