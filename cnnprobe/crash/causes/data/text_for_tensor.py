import ast
from collections.abc import Iterator
from typing import Any

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.values import FailingLine, read_failing_line
from cnnprobe.operations import find_function

_PROGRAM = """
  class Samples(torch.utils.data.Dataset):
      classes = ["cat", "dog"]
      def __len__(self):
          return 4
      def __getitem__(self, i):
-         return torch.randn(3), self.classes[i % 2]
+         return torch.randn(3), self.classes.index(self.classes[i % 2])
  model = nn.Linear(3, 2)
  def run(model):
      for x, labels in torch.utils.data.DataLoader(Samples(), batch_size=2):
          F.cross_entropy(model(x), labels.to(x.device))
"""
EXAMPLE = Example(_PROGRAM, repair="give each class name a number", is_tried=False)


@cause("CP0G2", "text-for-tensor", EXAMPLE, stage="loss", family="not-a-tensor", prior=890)
def text_for_tensor(crash: Crash) -> Suspects:
    """A text, or a list of texts, is used as a tensor.

    Why it happens: the data set returns the name of a class. The DataLoader leaves text as it is,
    so that a batch of names is a tuple of str.
    What to do: return the number of the class: classes.index(name).
    Known exceptions: none.
    Source: PyTorch, torch.utils.data.default_collate.
    """
    if not isinstance(crash.error, AttributeError | TypeError | ValueError):
        return
    line = read_failing_line(crash)
    for node, value in _list_texts(line):
        kind = (
            "a str" if isinstance(value, str) else f"a {type(value).__name__} of {len(value)} str"
        )
        title = "give each class name a number in the Dataset: classes.index(name)"
        yield blame(
            None,
            f"{ast.unparse(node)} is {kind}, not a tensor",
            propose(Advice(title=title, code="classes.index(name)")),
            arithmetic=repr(value)[:60],
        )
        return


def _list_texts(line: FailingLine) -> Iterator[tuple[ast.expr, Any]]:
    """What is text among the owners of a tensor's methods, and the arguments of torch's makers."""
    for node in line.nodes:
        if isinstance(node, ast.Attribute) and find_function(node.attr) is not None:
            parts: list[ast.expr] = [node.value]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch."):
            parts = node.args[:1]
        else:
            continue
        for part in parts:
            value = line.evaluate(part)
            if type(value).__module__ == "numpy" and str(getattr(value, "dtype", "")).startswith(
                "<U"
            ):
                value = value.tolist()  # an array of texts
            texts = value if isinstance(value, tuple | list) and value else [value]
            if all(isinstance(text, str) for text in texts):
                yield part, value
