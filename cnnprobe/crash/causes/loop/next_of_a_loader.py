import ast

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import read_attribute, read_failing_line

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
      loader = torch.utils.data.DataLoader(torch.randn(6, 8), batch_size=3)
-     return model(next(loader))
+     return model(next(iter(loader)))
"""
EXAMPLE = Example(_PROGRAM, repair="write next(iter(loader))", is_tried=False)


@cause("CP0J3", "next-of-a-loader", EXAMPLE, stage="around", family="call-signature", prior=831)
def next_of_a_loader(crash: Crash) -> Suspects:
    """next() is called on an iterable that is not an iterator, such as a DataLoader.

    Why it happens: a DataLoader or a list gives an iterator with iter(), and next() takes that.
    What to do: next(iter(loader)); in a loop keep the iterator, or it starts anew each time.
    Known exceptions: none.
    Source: "Iterator Types" in the Python library reference.
    """
    line = read_failing_line(crash)
    for node in line.nodes if isinstance(crash.error, TypeError) else ():
        is_next = isinstance(node, ast.Call) and ast.unparse(node.func) == "next"
        if not isinstance(node, ast.Call) or not is_next or not node.args:
            continue
        value, name = read_attribute(node.args[0], line.names), ast.unparse(node.args[0])
        if not hasattr(value, "__iter__") or hasattr(value, "__next__"):
            continue
        text = f"next(iter({name}))"
        written = replace_expression(crash.error, node.args[0], f"iter({name})")
        title = f"write {text}; in a loop, make the iterator once before it"
        yield blame(
            None,
            f"{name} is a {type(value).__name__}, which is iterable but not an iterator",
            propose(Advice(title=title, code=text, written=written)),
            arithmetic=ast.unparse(node),
        )
        return
