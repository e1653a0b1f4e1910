import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, cause, propose
from cnnprobe.crash.edits.method import add_return, change_method, drop_commas
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.losses import FailingLoss, list_losses, suspect_loss
from cnnprobe.crash.facts.methods import find_method
from cnnprobe.crash.facts.nothing import find_none_argument
from cnnprobe.crash.facts.source import find_one_tuples, get_forward, returns_nothing
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate
from cnnprobe.recorder.inventory import class_of

_MOST_ENTRIES = 4
_NUMBER = "give each class name a number, and make a tensor of the numbers"
_MAIN = re.compile(r"^\W*(logits?|out|output|outputs|pred\w*|scores?)\W*$")

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body, self.aux, self.head = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)
      def forward(self, x):
          h = self.body(x).relu()
          return {"aux": self.aux(h), "logits": self.head(h)}
  model = Net()
  def run(model):
      labels = torch.tensor([0, 1, 2, 3, 1])
-     F.cross_entropy(model(torch.randn(5, 6)), labels).backward()
+     F.cross_entropy(model(torch.randn(5, 6))["logits"], labels).backward()
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="pass output['logits'] to the loss")
_UNRETURNED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
      def forward(self, x):
          x = self.body(x).relu()
          x = self.head(x)
+         return x
  model = Net()
  def run(model):
      F.cross_entropy(model(torch.randn(5, 6)), torch.tensor([0, 1, 2, 3, 1]))
"""
UNRETURNED = Example(_UNRETURNED, blames="", repair="end the forward with a return: return x")
_UNCALLED = """
  model = nn.Linear(6, 4)
  def run(model):
      output = model(torch.randn(5, 6))
-     F.cross_entropy(model, torch.tensor([0, 1, 2, 3, 1]))
+     F.cross_entropy(output, torch.tensor([0, 1, 2, 3, 1]))
"""
UNCALLED = Example(_UNCALLED, repair="pass what it returns: model(x)", is_tried=False)


@cause(
    "CP079",
    "loss-given-no-tensor",
    (EXAMPLE, UNRETURNED, UNCALLED),
    stage="loss",
    family="not-a-tensor",
    prior=790,
)
def loss_given_no_tensor(crash: Crash) -> Suspects:
    """A loss got a tuple, a dict, a list or None where it expects a tensor.

    Why it happens: the model returns several things, or its forward ends in a comma or without
    return; or the targets are a list.
    What to do: pass the entry that holds the output; make the targets a tensor.
    Known exceptions: a loss of your own may take a dict or a tuple.
    Source: torch.nn.CrossEntropyLoss, "Shape".
    """
    for found in list_losses(crash):
        if found.compared or found.name == "ctc_loss":
            continue
        if not isinstance(found.input, Tensor):
            yield _suspect_output(crash, found)
        elif not isinstance(found.target, Tensor) and found.names[1] and not found.is_own:
            yield _suspect_targets(crash, found)


def _suspect_output(crash: Crash, found: FailingLoss) -> Suspect:
    value = found.input
    shown = "None" if value is None else _describe_type(value)
    comma = _find_comma(crash)
    candidates = [_pass(found, path) for path, _ in _list_entries(value)]
    blamed, why = "", ""
    if comma is not None:
        blamed, line = comma
        why = f": the trailing comma at line {line} of the forward of {quote(blamed)} makes a tuple"
        method = find_method(crash.modules[blamed], blamed)
        title = f"drop the trailing comma at line {line}"
        drop = change_method(method, title, drop_commas) if method is not None else None
        candidates = [propose(drop, weight=STRONG)] if drop is not None else candidates
    elif value is None and crash.model is not None and returns_nothing(get_forward(crash.model)):
        why = ": its forward has no return"
        method = find_method(crash.model, "")
        end = add_return(method, "end the forward with a return") if method is not None else None
        candidates = [propose(end, weight=STRONG)] if end is not None else candidates
    message = f"{found.shown} got {shown} instead of a tensor as the model's output{why}"
    arithmetic = "" if value is None else "it holds " + _describe(value)
    if isinstance(value, nn.Module):
        message = f"{found.shown} got the {class_of(value).__name__} itself, not its output"
        call = Advice(title="call the model, and pass what it returns: model(x)")
        return suspect_loss(found, message, [propose(call)])
    if type(value).__module__ == "torch.return_types":
        give = Advice(
            title=f"give the loss what torch.{type(value).__name__} was given: the scores"
        )
        candidates = [*candidates, propose(give)]
    return suspect_loss(
        found, message, candidates[:_MOST_ENTRIES], module=blamed, arithmetic=arithmetic
    )


def _find_comma(crash: Crash) -> tuple[str, int] | None:
    """The first of the user's modules whose forward makes a tuple of one, with the line."""
    for fqn, module in crash.modules.items():
        is_users = not class_of(module).__module__.startswith("torch.")
        node = next(find_one_tuples(get_forward(module)), None) if is_users else None
        if node is not None:
            return fqn, node.lineno
    return None


def _list_entries(value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a model returned, each with how it is reached."""
    items: Any = ()
    if isinstance(value, Mapping):
        items = ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", None)
        items = ((f".{names[i]}" if names else f"[{i}]", v) for i, v in enumerate(value))
    elif hasattr(value, "__dict__"):
        items = ((f".{name}", item) for name, item in vars(value).items())
    return ((path, item) for path, item in items if isinstance(item, Tensor))


def _pass(found: FailingLoss, path: str) -> Candidate:
    code = f"output{path}"
    weight = STRONG if _MAIN.search(path) else USUAL
    return propose(found.give(code, title=f"pass {code} to the loss"), weight=weight)


def _describe(value: Any) -> str:
    entries = [f"{path} {tuple(t.shape)}" for path, t in _list_entries(value)]
    return ", ".join(entries[:_MOST_ENTRIES]) or f"{len(tree_leaves(value))} values"


def _describe_type(value: Any) -> str:
    is_plain = isinstance(value, list | tuple) and not isinstance(next(iter(value), None), Tensor)
    first = next(iter(value), None) if is_plain else None
    kind = type(value).__name__
    if type(value).__module__ == "torch.return_types":
        return f"the values and indices of torch.{kind}"
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}" + (
        f" of {type(first).__name__}" if first is not None else ""
    )


def _suspect_targets(crash: Crash, found: FailingLoss) -> Suspect:
    targets = found.target
    origin = find_none_argument(crash) if targets is None else None
    if origin is not None:
        message = f"the targets of {found.shown} are None: {origin.reason}"
        return suspect_loss(found, message, [propose(origin.edit)] if origin.edit else [])
    kind = "None" if targets is None else f"{_describe_type(targets)}, not a tensor"
    code = "torch.as_tensor(targets)" + (".to(output.device)" if found.input.is_cuda else "")
    message = f"the targets of {found.shown} are {kind}"
    advice = (_NUMBER,) if "str" in kind else ()
    return suspect_loss(
        found, message, [propose(found.give(code))] if targets is not None else [], advice=advice
    )
