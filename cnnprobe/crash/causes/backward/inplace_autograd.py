from typing import Any

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import list_alike
from cnnprobe.crash.edits.calls import rewrite_call, spell_augmented
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange
from cnnprobe.crash.edits.layers import Reconfigure
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.places import find_called
from cnnprobe.crash.facts.saved import (
    SavedTensor,
    describe_keeper,
    find_changed_parameter,
    find_maker,
    find_saved,
)
from cnnprobe.crash.facts.words import operation, quote, read_line, shorten
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Candidates
from cnnprobe.operations import is_writing, resolve_name, select
from cnnprobe.records.trace import ModuleCall

_MOST_NAMED = 4  # layers in the title of a repair
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc1 = nn.Linear(6, 8)
          self.fc2 = nn.Linear(8, 4)
      def forward(self, x):
          x = torch.sigmoid(self.fc1(x))
-         x += 1
+         x = x + 1
          return self.fc2(x)
  model = Net()
  def run(model):
      F.cross_entropy(model(torch.randn(5, 6)), torch.tensor([0, 1, 2, 3, 1])).backward()
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write x = x + 1 instead of x += 1")

_BLOCKS = """
  class Block(nn.Module):
      def __init__(self, count):
          super().__init__()
          self.fc = nn.Linear(count, count)
-         self.activation = nn.ELU(inplace=True)
+         self.activation = nn.ELU(inplace=False)
      def forward(self, x):
          return x * self.activation(self.fc(x).sigmoid())
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body = nn.Sequential(Block(6), Block(6), Block(6))
      def forward(self, x):
          return self.body(x)
  model = Net()
  def run(model):
      F.cross_entropy(model(torch.randn(5, 6)), torch.tensor([0, 1, 2, 3, 1])).backward()
"""
BLOCKS = Example(
    _BLOCKS,
    blames="body.2.activation",
    repair="set inplace=False in 'body.0.activation', 'body.1.activation', 'body.2.activation'",
)
_FILLED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(6, 4)
      def forward(self, x):
          x = torch.exp(self.fc(x))
-         x[x > 1] = 1.0
+         x = x.masked_fill(x > 1, 1.0)
          return x
  model = Net()
  def run(model):
      model(torch.randn(5, 6)).mean().backward()
"""
FILLED = Example(_FILLED, blames="", repair="gives before it is written to")


@cause("CP082", "inplace-autograd", (EXAMPLE, BLOCKS, FILLED), stage="backward", prior=860)
def inplace_autograd(crash: Crash) -> Suspects:
    """A tensor that an operation saved for its backward was overwritten in place.

    Why it happens: autograd saves tensors during the forward. `x += y`, `relu_()`, `inplace=True`
    and `x[i] = y` change them afterwards, so that the gradient would be wrong.
    What to do: use the form that makes a new tensor, or clone the tensor before it is written to.
    Known exceptions: none; an operation that saves its output (ReLU) lets its input be overwritten.
    Source: PyTorch, "Autograd mechanics", in-place correctness checks.
    """
    for saved in find_saved(crash).modified[:1]:
        if find_changed_parameter(crash, saved) is None:
            yield _suspect_writer(crash, saved)


def _suspect_writer(crash: Crash, saved: SavedTensor) -> Suspect:
    maker = find_maker(crash, saved.node)
    keeper = describe_keeper(crash, saved.node)
    if (writer := _find_writer(crash, maker)) is None:
        return blame(
            None if maker is None else crash.find_module_above(maker[0]),
            f"a tensor that {keeper} saved for its backward was overwritten in place later",
            "use the out-of-place form of the operation that writes to it, or clone() it first",
            arithmetic=f"{saved.node.name()}{saved.name} has another version than when it was "
            "saved",
        )
    at, call = writer
    edits = [edit for edit in (_avoid_writing(crash, call),) if edit is not None]
    candidates = [propose(edit, weight=STRONG) for edit in edits]
    if call.fqn is not None:
        candidates += _avoid_all(crash, call.fqn)
    if resolve_name(operation(call)) in select(effect="fills"):
        title = f"clone the tensor before writing to it at {shorten(call.source)}: x = x.clone()"
        candidates += [propose(_clone_saved(crash, maker[1]))] if maker is not None else []
        candidates.append(propose(Advice(title=title, code="x = x.clone()")))
    return blame(
        call.fqn if call.fqn is not None else crash.find_module_above(call.parent),
        f"{crash.describe_call(call)} overwrites in place a tensor that {keeper} "
        "saved for its backward",
        *candidates,
        arithmetic=f"saved by {saved.node.name()}, overwritten by call {at} ({call.kind})",
        raised_in=f"the backward of {keeper}",
    )


def _clone_saved(crash: Crash, call: ModuleCall) -> Edit:
    """What the saving function gives is cloned, so that the clone is written to."""

    def written() -> list[TextChange]:
        file, found = find_called(call.source, call.kind.rpartition(".")[2])
        end = file.span(found)[1]
        return [TextChange(file.path, end, end, ".clone()")]

    return rewrite_call(
        crash,
        call,
        lambda func, args, kwargs: func(*args, **kwargs).clone(),
        title=f"clone what {crash.describe_call(call)} gives before it is written to",
        code=f"{operation(call)}(...).clone()",
        written=written,
    )


def _find_writer(
    crash: Crash, maker: tuple[int, ModuleCall] | None
) -> tuple[int, ModuleCall] | None:
    """The first call after the saving one that writes to what it saved, or to a slice of that."""
    start = maker[0] if maker is not None else -1
    calls = list(enumerate(crash.trace.calls))[start + 1 :]
    kept: set[Any] = set()
    if maker is not None:
        kept = {start} | {t.source for t in (*maker[1].inputs, *maker[1].outputs)}
    views, of_views = set(kept), select(trait="view")
    for i, call in calls:
        is_view = call.fqn is None and resolve_name(operation(call)) in of_views
        if is_view and any(t.source in views for t in call.inputs):
            views.add(i)
    writers = [(i, call) for i, call in calls if call.inputs and _writes(crash, call)]
    exact = [pair for pair in writers if pair[1].inputs[0].source in views - {None}]
    unknown = [pair for pair in writers if pair[1].inputs[0].source is None and None in kept]
    return next(iter(exact or unknown or writers), None)


def _writes(crash: Crash, call: ModuleCall) -> bool:
    if call.fqn is None:
        return is_writing(call.kind) or call.arguments.get("inplace") is True
    return bool(getattr(crash.modules.get(call.fqn), "inplace", False))


def _avoid_all(crash: Crash, fqn: str) -> Candidates:
    """The same in every block of the class, or in all such layers: each of them overwrites."""
    kind = type(crash.modules[fqn])
    every = [
        n for n, m in crash.modules.items() if type(m) is kind and getattr(m, "inplace", False)
    ]
    alike = list_alike(crash, fqn)
    groups = (([n for n in every if n in alike], USUAL), (every, POSSIBLE))
    for names, weight in groups:
        if len(names) > 1:
            edits = tuple(_avoid_in(name) for name in names)
            shown = ", ".join(map(quote, names[:_MOST_NAMED])) + ", ..." * (
                len(names) > _MOST_NAMED
            )
            yield Candidate(edits=edits, weight=weight, summary=f"set inplace=False in {shown}")


def _avoid_in(fqn: str) -> Reconfigure:
    title = f"set inplace=False in {quote(fqn)}"
    return Reconfigure(title=title, code="inplace=False", module=fqn, changes={"inplace": False})


def _avoid_writing(crash: Crash, call: ModuleCall) -> Edit | None:
    """The same call without writing."""
    if call.fqn is not None:
        return _avoid_in(call.fqn)
    name, place = operation(call), shorten(call.source)
    symbol, plain, respell = _SYMBOLS.get(resolve_name(name), ""), name.rstrip("_"), ""
    if symbol and f"{symbol}=" in read_line(call.source):
        general = f"x {symbol}= y", f"x = x {symbol} y"
        old, code = spell_augmented(call.source) or general
        title, respell = f"write {code} instead of {old} at {place}", "{x} = {x} + {rest}"
    elif name.endswith("_") and not name.endswith("__"):
        code = f"x = x.{plain}(...)"
        title = f"use {plain} instead of {name} at {place}: {code}"
    elif call.arguments.get("inplace") is True:
        code, title = "inplace=False", f"use inplace=False at {place}"
    else:
        return None
    return rewrite_call(
        crash,
        call,
        lambda func, args, kwargs: func(args[0].clone(), *args[1:], **kwargs),
        title=title,
        code=code,
        respell=respell,
    )
