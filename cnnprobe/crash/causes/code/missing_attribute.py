import ast
import difflib
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from cnnprobe.crash.cause import (
    STRONG,
    USUAL,
    Crash,
    Example,
    Suspect,
    Suspects,
    blame,
    cause,
    propose,
)
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.edits.layers import rebuild
from cnnprobe.crash.edits.method import ChangeMethod, change_method
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_missing
from cnnprobe.crash.facts.loading import is_state
from cnnprobe.crash.facts.methods import Method, find_class, find_failing_method, open_method
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.crash.suspect import Candidate, Candidates
from cnnprobe.recorder.inventory import class_of

_MOST_NAMES = 12
_HEADS = ("fc", "classifier", "head", "heads", "last_linear")
_OF_LINEAR = ("in_features", "out_features")
_SETTINGS = ("num_features", "num_channels", "num_parameters")
_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc1 = nn.Linear(4, 4)
          self.fc2 = nn.Linear(4, 2)
      def forward(self, x):
-         return self.fc_2(F.relu(self.fc1(x)))
+         return self.fc2(F.relu(self.fc1(x)))
  model, args = Net(), (torch.randn(3, 4),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write self.fc2 instead of self.fc_2")
_UNUSED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body = nn.Linear(4, 4)
          self.head = nn.Linear(4, 2)
      def forward(self, x):
-         return self.classifier(F.relu(self.body(x)))
+         return self.head(F.relu(self.body(x)))
  model, args = Net(), (torch.randn(3, 4),)
"""
UNUSED = Example(_UNUSED, blames="", repair="write self.head instead of self.classifier")

_TWICE = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv1 = nn.Conv2d(3, 4, 3)
          self.conv2 = nn.Conv2d(4, 8, 3)
          self.norm1 = nn.BatchNorm2d(4)
+         self.norm2 = nn.BatchNorm2d(8)
      def forward(self, x):
          x = F.relu(self.norm1(self.conv1(x)))
          return F.relu(self.norm2(self.conv2(x)))
  model, args = Net(), (torch.randn(2, 3, 9, 9),)
"""
TWICE = Example(_TWICE, blames="", repair="self.norm2 = nn.BatchNorm2d(8)")
_LOOP = """
  model = nn.Linear(4, 2)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      model(torch.randn(3, 4)).sum().backward()
      optimizer.step()
-     optimizer.zerograd()
+     optimizer.zero_grad()
"""
LOOP = Example(_LOOP, repair="write optimizer.zero_grad", is_tried=False)
_DATA = """
  class Rows(torch.utils.data.Dataset):
      def __init__(self):
          self.rows = torch.randn(4, 3)
      def __len__(self):
          return 4
      def __getitem__(self, i):
-         return self.row[i]
+         return self.rows[i]
  model = nn.Linear(3, 2)
  def run(model):
      for x in torch.utils.data.DataLoader(Rows(), batch_size=2):
          model(x)
"""
DATA = Example(_DATA, repair="write self.rows", is_tried=False)
_HEAD = """
  model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(), nn.Linear(4, 2)))
  def run(model):
-     return model[1].in_features
+     return model[1][1].in_features
"""
HEAD = Example(_HEAD, repair="write model[1][1].in_features", is_tried=False)
_CASE = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 2)
      def forward(self, x):
-         return nn.Relu()(self.fc(x))
+         return nn.ReLU()(self.fc(x))
  model, args = Net(), (torch.randn(3, 4),)
"""
CASE = Example(_CASE, blames="", repair="write ReLU instead of Relu")
_LOOP_KINDS = {
    Optimizer: "the optimizer",
    LRScheduler: "the scheduler",
    GradScaler: "the scaler",
    DataLoader: "the loader",
    Dataset: "the data set",
}


@cause(
    "CP043",
    "missing-attribute",
    (EXAMPLE, UNUSED, TWICE, CASE, LOOP, DATA, HEAD),
    stage=("forward", "around"),
    prior=1090,
)
def missing_attribute(crash: Crash) -> Suspects:
    """The code asks a module, a tensor, an optimizer, a data set or torch for a name that it does
    not have.

    Why it happens: the name is misspelt, or the layer has another name in __init__. A layer that
    __init__ makes and nobody uses is then the one that is meant.
    What to do: use one name in __init__ and in forward.
    Known exceptions: none.
    Source: torch.nn.Module.__getattr__ raises AttributeError for what is not registered.
    """
    subject, name = find_missing(crash.error)
    if is_state(subject) and name and hasattr(nn.Module, name):
        yield _blame_state(crash, subject, name)
        return
    is_known = isinstance(subject, (nn.Module, Tensor, types.ModuleType, *_LOOP_KINDS))
    if not is_known or not name or hasattr(type(subject), name):  # a property that raised
        return
    if crash.stage != "forward":
        yield _blame_loop(crash, subject, name)
        return
    method = find_failing_method(crash)
    near = _list_near(name, subject, method)
    prefix = "self." if isinstance(subject, nn.Module) else ""
    edits: list[Edit | None] = [_rename(method, name, new, prefix) for new in near if method]
    known = _list_registered(subject)
    yield blame(
        method.fqn if method is not None else crash.owner,
        f"{_describe(crash, subject)} has no attribute {name!r}"
        + (f"; it has {near[0]!r}" if near else ""),
        *(propose(e, weight=STRONG if len(edits) == 1 else USUAL) for e in edits if e is not None),
        *(() if near or method is None else _define(subject, method, name)),
        arithmetic=f"registered: {', '.join(known[:_MOST_NAMES]) or 'nothing'}"
        if isinstance(subject, nn.Module)
        else "",
        advice=tuple(edit.title for edit in edits if edit is not None and not prefix),
    )


def _blame_state(crash: Crash, state: Mapping[str, Any], name: str) -> Suspect:
    """What is asked of the saved values of a model, as of the model itself."""
    asked = (n for n in read_failing_line(crash).nodes if isinstance(n, ast.Attribute))
    shown = next((ast.unparse(n.value) for n in asked if n.attr == name), "state")
    return blame(
        None,
        f"{shown} is a state_dict of {len(state)} tensors, not a model: it has no {name!r}",
        f"load it into a model: model = ...; model.load_state_dict({shown})",
    )


def _blame_loop(crash: Crash, subject: Any, name: str) -> Suspect:
    """A name that the loop, the loss or the data set asks for."""
    near = next(iter(_list_near(name, subject, None)), "")
    asked = (n for n in read_failing_line(crash).nodes if isinstance(n, ast.Attribute))
    node = next((n for n in asked if n.attr == name), None)
    edits: list[Candidate] = []
    if near and node is not None:
        text = f"{ast.unparse(node.value)}.{near}"
        written = replace_expression(crash.error, node, text)
        title = f"write {text} instead of {ast.unparse(node)}"
        edits = [propose(Advice(title=title, code=text, written=written))]
    elif node is not None and (meant := _find_last(subject, name)):
        title = f"write {ast.unparse(node.value)}{meant}"
        edits = [propose(Advice(title=title, code=meant))]
    return blame(
        None,
        f"{_describe(crash, subject)} has no attribute {name!r}"
        + (f"; it has {near!r}" if near else ""),
        *edits,
        arithmetic=f"asked for as {ast.unparse(node)}" if node is not None else "",
        weight=STRONG if near else USUAL,
    )


def _find_last(subject: Any, name: str) -> str:
    """How the last Linear is reached from a model whose head has another name: .classifier[6]."""
    layers = subject.named_modules() if isinstance(subject, nn.Module) else ()
    linear = [fqn for fqn, layer in layers if isinstance(layer, nn.Linear)]
    if not linear or name not in (*_HEADS, *_OF_LINEAR):
        return ""
    parts = linear[-1].split(".") + ([name] if name in _OF_LINEAR else [])
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts if part)


def _define(subject: Any, method: Method, name: str) -> Candidates:
    """A layer like that of the same name with another number, for what it is called with."""
    stem = name.rstrip("0123456789")
    alike = [n for n in getattr(subject, "_modules", {}) if n.rstrip("0123456789") == stem != n]
    if not alike or stem == name:
        return
    like = subject._modules[alike[-1]]
    width = _count_channels(subject, method, name)
    setting = next((s for s in _SETTINGS if hasattr(like, s)), "")
    changes = {setting: width} if width is not None and setting else {}
    kind = class_of(like).__name__
    if not changes or not hasattr(nn, kind):
        return
    code = f"self.{name} = nn.{kind}({width})"
    yield propose(
        SetAttribute(
            title=f"define it in __init__: {code}",
            code=code,
            module=method.fqn,
            name=name,
            value=lambda _module: rebuild(like, changes),
        )
    )


def _count_channels(subject: nn.Module, method: Method, name: str) -> int | None:
    """The channels of what the missing layer is called with: self.name(self.conv(x))."""
    for call in ast.walk(open_method(method.function.__code__)[1]):
        if not isinstance(call, ast.Call):
            continue
        given = call.args[0] if call.args else None
        is_it = isinstance(call.func, ast.Attribute) and call.func.attr == name
        if (
            not is_it
            or not isinstance(given, ast.Call)
            or not isinstance(given.func, ast.Attribute)
        ):
            continue
        maker = subject._modules.get(given.func.attr)
        found = getattr(maker, "out_channels", getattr(maker, "out_features", None))
        return found if isinstance(found, int) else None
    return None


def _describe(crash: Crash, subject: Any) -> str:
    if isinstance(subject, Tensor):
        return f"a tensor {tuple(subject.shape)}"
    if isinstance(subject, types.ModuleType):
        return subject.__name__
    for kind, words in _LOOP_KINDS.items():
        if isinstance(subject, kind):
            return f"{words} ({type(subject).__name__})"
    fqn = next((name for name, module in crash.modules.items() if module is subject), crash.owner)
    return crash.describe_module(fqn)


def _list_registered(subject: Any) -> list[str]:
    registries = ("_modules", "_parameters", "_buffers")
    return [name for key in registries for name in getattr(subject, key, {})]


def _fold(name: str) -> str:
    """A name without its case and underscores: Relu is ReLU, zerograd is zero_grad."""
    return name.casefold().replace("_", "")


def _list_near(name: str, subject: Any, method: Method | None) -> list[str]:
    """What may be meant, the likeliest first."""
    if not isinstance(subject, nn.Module):
        public = [other for other in dir(subject) if not other.startswith("_")]
        same = [other for other in public if _fold(other) == _fold(name)]
        return same[:2] or difflib.get_close_matches(name, public, n=2, cutoff=0.75)
    known = _list_registered(subject)
    stem = name.rstrip("0123456789")  # fc1 is no slip for fc2
    unused = _list_unused([n for n in known if n.rstrip("0123456789") != stem or not stem], method)
    below = [fqn for fqn, _ in subject.named_modules() if fqn.endswith(f".{name}")]
    alike = [n for n in known if re.sub(r"\D", "", n) == re.sub(r"\D", "", name)]  # no fc1 for fc2
    return (
        difflib.get_close_matches(name, unused, n=1, cutoff=0.6)
        or difflib.get_close_matches(name, alike, n=1, cutoff=0.6)
        or (below if len(below) == 1 else [])
        or unused
    )


def _list_unused(known: list[str], method: Method | None) -> list[str]:
    """What __init__ registers and no other method of the class reads."""
    try:
        file, node = open_method(method.function.__code__)  # type: ignore[union-attr]
    except (AttributeError, UnknownPlaceError):
        return []
    owner = find_class(file.tree, node)
    methods = [n for n in (owner.body if owner is not None else ()) if _is_method(n)]
    read = {n.attr for one in methods for n in ast.walk(one) if isinstance(n, ast.Attribute)}
    return [name for name in known if name not in read]


def _is_method(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name != "__init__"


def _rename(method: Method, old: str, new: str, prefix: str) -> ChangeMethod | None:
    def change(file: File, node: ast.FunctionDef) -> Iterator[TextChange]:
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and part.attr == old:
                yield file.replace(part, f"{file.source(part.value)}.{new}")

    return change_method(method, f"write {prefix}{new} instead of {prefix}{old}", change, code=new)
