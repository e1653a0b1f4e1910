import ast
import dis
import types

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.calls import DetachKept
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import add_first_statement
from cnnprobe.crash.facts.frames import list_names
from cnnprobe.crash.facts.saved import find_carried, find_keepers, find_saved, write_detached
from cnnprobe.crash.facts.source import get_forward
from cnnprobe.crash.facts.words import quote

_FIRST = """
  model = nn.LSTM(6, 4)
  def run(model):
      state = None
      for _ in range(2):
          output, state = model(torch.randn(3, 5, 6), state)
          output.pow(2).mean().backward()
+         state = tuple(part.detach() for part in state)
"""
_SECOND = """
  model = nn.Linear(6, 4)
  def run(model):
      total = 0
      for _ in range(2):
          loss = model(torch.randn(5, 6)).pow(2).mean()
-         total += loss
+         total += loss.item()
-         total.backward()
+         loss.backward()
"""
_THIRD = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.cell = nn.RNNCell(6, 4)
          self.state = torch.zeros(5, 4)
      def forward(self, x):
-         self.state = self.cell(x, self.state)
+         self.state = self.cell(x, self.state.detach())
          return self.state
  model = Net()
  def run(model):
      for _ in range(2):
          model(torch.randn(5, 6)).pow(2).mean().backward()
"""
_FOURTH = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.scale = nn.Parameter(torch.ones(4)).pow(2)
+         self.scale = nn.Parameter(torch.ones(4).pow(2))
      def forward(self, x):
          return x * self.scale
  model = Net()
  def run(model):
      for _ in range(2):
          model(torch.randn(5, 4)).pow(2).mean().backward()
"""
EXAMPLES = (
    Example(_FIRST, repair="state = tuple(part.detach() for part in state)", is_tried=False),
    Example(_SECOND, repair="call loss.backward() in each step", is_tried=False),
    Example(_THIRD, blames="", repair="self.state = self.state.detach()"),
    Example(_FOURTH, blames="", repair="self.scale = nn.Parameter(...)", is_tried=False),
)


@cause("CP085", "state-keeps-graph", EXAMPLES, stage="backward", family="backward-twice", prior=840)
def kept_state(crash: Crash) -> Suspects:
    """A module keeps a tensor with the graph of an earlier step, which is freed.

    Why it happens: a hidden state, a memory or a running value is kept from step to step with its
    graph. The next backward goes on into the step before.
    What to do: detach it when it is kept. An LSTM's state is a tuple of two: detach both. What was
    computed of a parameter in __init__ is to be a parameter itself: nn.Parameter(...) comes last.
    Known exceptions: truncated backpropagation through several steps keeps the graph on purpose,
    and calls backward once for all of them.
    Source: PyTorch, "Word-level language modeling" example, repackage_hidden.
    """
    saved = find_saved(crash)
    if saved.modified or not saved.freed or saved.broke_off:
        return
    gone = f"{len(saved.freed)} saved tensors are gone, first that of {saved.freed[0].node.name()}"
    suspects = [*_blame_modules(crash, gone), *_blame_loop(crash, gone)]
    yield from suspects[:1]


def _blame_modules(crash: Crash, gone: str) -> Suspects:
    for fqn, name, value in find_keepers(crash):
        code = f"self.{name} = {write_detached(f'self.{name}', value)}"
        forward = getattr(get_forward(crash.modules[fqn]), "__code__", None)
        if forward is not None and not _is_stored(crash.modules[fqn], name):
            yield _blame_constructor(fqn, name, gone)
            continue
        edit = DetachKept(
            title=f"detach it before it is used again: {code} first in the forward",
            code=code,
            module=fqn,
            name=name,
            written=None if forward is None else add_first_statement(forward, code),
        )
        message = (
            f"the attribute '{name}' of {quote(fqn)} keeps the graph of an earlier step, "
            "whose tensors are freed"
        )
        yield blame(fqn, message, propose(edit), arithmetic=gone)


def _is_stored(module: object, name: str) -> bool:
    """Whether a method other than the constructor assigns an attribute."""
    kinds = [vars(kind).values() for kind in type(module).__mro__]
    methods = [v for values in kinds for v in values if isinstance(v, types.FunctionType)]
    return any(
        i.opname == "STORE_ATTR" and i.argval == name
        for method in methods
        if method.__name__ not in ("__init__", "__setattr__")
        for i in dis.get_instructions(method)
    )


def _blame_constructor(fqn: str, name: str, gone: str) -> Suspect:
    """A tensor that was computed of a parameter once, before all steps."""
    code = f"self.{name} = nn.Parameter(...)"
    title = (
        f"make it a parameter, {code}, with all that is done to it inside of the brackets; what is "
        "computed of another parameter belongs in the forward"
    )
    message = (
        f"the attribute '{name}' of {quote(fqn)} is no parameter: it was computed of one before "
        "the first step, and backward has freed that graph"
    )
    return blame(fqn, message, propose(Advice(title=title, code=code)), arithmetic=gone)


def _blame_loop(crash: Crash, gone: str) -> Suspects:
    """A state, or a sum of losses, that the loop carries from step to step."""
    for name, value, node in find_carried(crash):
        code = f"{name} = {write_detached(name, value)}"
        title = f"detach it before the next step: {code}"
        if isinstance(node, ast.AugAssign) and name in list_names(crash.error):
            loss = ast.unparse(node.value)
            code = f"{name} += {loss}.item()"
            title = f"call {loss}.backward() in each step, and sum numbers alone: {code}"
        message = (
            f"{name!r}, which line {getattr(node, 'lineno', 0)} carries from step to step, "
            "keeps the graph of an earlier step, whose tensors are freed"
        )
        yield blame(None, message, propose(Advice(title=title, code=code)), arithmetic=gone)
