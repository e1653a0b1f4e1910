import ast
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.facts.loading import StateLoading, read_loading, resize_layers, unwrap_state
from cnnprobe.crash.facts.optimizers import find_saved_module, make_for
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Candidates
from cnnprobe.recorder.inventory import class_of

_MOST_NAMED = 4
_OTHER_HEAD = """
  class Net(nn.Module):
      def __init__(self, classes):
          super().__init__()
          self.body = nn.Linear(8, 16)
          self.fc = nn.Linear(16, classes)
      def forward(self, x):
          return self.fc(self.body(x))
- model = Net(5)
+ model = Net(100)
  def run(model):
      model.load_state_dict(Net(100).state_dict())
"""
OTHER_HEAD = Example(_OTHER_HEAD, blames="fc", repair="out_features=100 in 'fc'")
_PREFIX = """
  model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2))
  def run(model):
-     state = nn.DataParallel(model).state_dict()
+     state = nn.DataParallel(model).module.state_dict()
      model.load_state_dict(state)
"""
PREFIX = Example(_PREFIX, repair="n.removeprefix('module.')")


_NESTED = """
  model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2))
  def run(model):
      checkpoint = {"epoch": 3, "model": model.state_dict()}
-     model.load_state_dict(checkpoint)
+     model.load_state_dict(checkpoint["model"])
"""
NESTED = Example(_NESTED, repair="load what stands under 'model'")
_OPTIMIZER = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body = nn.Linear(8, 16)
          self.fc = nn.Linear(16, 2)
      def forward(self, x):
          return self.fc(self.body(x))
  model = Net()
  def run(model):
      saved = torch.optim.Adam(model.parameters()).state_dict()
-     optimizer = torch.optim.Adam(model.fc.parameters())
+     optimizer = torch.optim.Adam(model.parameters())
      optimizer.load_state_dict(saved)
"""
OPTIMIZER = Example(_OPTIMIZER, repair="make optimizer for model.parameters()")
_FROZEN = """
  model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2))
  def run(model):
      first = torch.optim.SGD(model[1].parameters(), lr=0.1, momentum=0.9)
      model(torch.ones(1, 8)).sum().backward()
      first.step()
-     both = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
+     both = torch.optim.SGD(model[1].parameters(), lr=0.1, momentum=0.9)
      both.load_state_dict(first.state_dict())
"""
FROZEN = Example(_FROZEN, repair="make both for model.get_submodule('1').parameters()")


@cause(
    "CP069",
    "state-mismatch",
    (OTHER_HEAD, PREFIX, NESTED, OPTIMIZER, FROZEN),
    stage="around",
    prior=900,
)
def state_mismatch(crash: Crash) -> Suspects:
    """A state_dict does not fit the model or the optimizer that it is loaded into.

    Why it happens: it was saved from a model with other classes or widths; from a wrapper, which
    puts a prefix before each name; or it stands inside of a checkpoint with other things.
    What to do: build the model as it was, rename the entries, or load the part that is meant.
    Known exceptions: strict=False forgives missing and surplus names, and no other shapes.
    Source: torch.nn.Module.load_state_dict, torch.optim.Optimizer.load_state_dict.
    """
    if (found := read_loading(crash.error)) is None:
        yield from _judge_optimizer(crash)
        return
    model, given = found
    state, reasons, steps = unwrap_state(given, model)
    if state is None:
        yield _refuse(crash, model, given)
        return
    loading = StateLoading(model, state)
    if loading.renaming is not None:
        steps.append(f"rename its entries: {loading.renaming.write(state)}")
        how = "lack" if loading.renaming.adds else "have"
        reasons.append(f"its names {how} the prefix {loading.renaming.prefix!r}")
    renamed = loading.rename()
    yield _explain(crash, renamed, [*reasons, *_list_differences(renamed)], steps)


def _refuse(crash: Crash, model: nn.Module, given: Any) -> Suspect:
    """No state of a model."""
    kind = f"a {type(given).__name__}"
    edit: Edit = Advice(title="load what model.state_dict() gave when it was saved")
    if isinstance(given, Mapping):
        kind = f"a dict with {_list_names(list(map(str, given)))}"
        is_optimizers = {"state", "param_groups"} <= set(given)
        kind = "the state of an optimizer" if is_optimizers else kind
    elif isinstance(given, str | os.PathLike):
        kind, edit = f"the path {os.fspath(given)!r}", _read_path(crash, model, given)
    elif inspect.ismethod(given) and given.__name__ == "state_dict":
        kind, edit = "the method state_dict", _call_method(crash, model, given)
    return blame(
        None,
        f"{class_of(model).__name__} got {kind} instead of a state_dict: names with their tensors",
        edit,
        raised_in="load_state_dict",
    )


def _read_path(crash: Crash, model: nn.Module, given: "str | os.PathLike[str]") -> Edit:
    """The file that the path names, read first."""
    code, written = _wrap_argument(crash, "torch.load({x})")

    def check() -> str:
        state = torch.load(given, map_location="cpu", weights_only=True)
        return "every entry then fits" if StateLoading(model, state).loads() else ""

    return Check(title=f"read the file first: {code}", code=code, written=written, check=check)


def _call_method(crash: Crash, model: nn.Module, given: Any) -> Edit:
    """The method called, where its parentheses are missing."""
    code, written = _wrap_argument(crash, "{x}()")

    def check() -> str:
        return "every entry then fits" if StateLoading(model, given()).loads() else ""

    return Check(title=f"call it: {code}", code=code, written=written, check=check)


def _wrap_argument(crash: Crash, code: str) -> tuple[str, Callable[[], list[TextChange]] | None]:
    """The argument of load_state_dict in other words, and the change of the file."""
    match next(iter(read_failing_line(crash).nodes), None):
        case ast.Call(args=[argument, *_]):
            text = code.format(x=ast.unparse(argument))
            return text, replace_expression(crash.error, argument, text)
    return code.format(x="state"), None


def _list_names(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_MOST_NAMED])) + (", ..." if len(names) > _MOST_NAMED else "")


def _explain(crash: Crash, renamed: StateLoading, reasons: list[str], steps: list[str]) -> Suspect:
    model, own = renamed.model, renamed.own
    fqn = next((name for name, module in crash.modules.items() if module is model), None)
    module = None
    if renamed.resized and fqn is not None:
        module = ".".join(filter(None, [fqn, renamed.resized[0].rpartition(".")[0]]))
    kind = class_of(model).__name__
    return blame(
        module,
        f"the state_dict does not fit {kind}: {'; '.join(reasons)}",
        *_mend(renamed, steps),
        arithmetic=f"{len(own)} entries here, {len(renamed.state)} there, "
        f"{len(renamed.resized)} of another shape",
        raised_in="load_state_dict",
    )


def _list_differences(renamed: StateLoading) -> Iterator[str]:
    for name in renamed.resized[:_MOST_NAMED]:
        there, here = tuple(renamed.state[name].shape), tuple(renamed.own[name].shape)
        yield f"{name} is {there} there and {here} here"
    for names, said in ((renamed.missing, "it lacks"), (renamed.surplus, "the model lacks")):
        if names:
            count = "1 name" if len(names) == 1 else f"{len(names)} names"
            yield f"{said} {count} ({_list_names(names)})"


def _mend(loading: StateLoading, steps: list[str]) -> Candidates:
    """As it was built when the state was saved; else what fits, where that is most of it."""
    total, fits = len(loading.own), len(loading.fitting)
    if not loading.resized and not loading.missing and not loading.surplus:
        yield _check(steps, "every entry then fits", loading.loads)
        return
    if loading.resized:
        yield from _rebuild(loading, steps)
    if 2 * fits < total:
        return
    said = f"{fits} of {total} entries are loaded then"
    partly = StateLoading(loading.model, loading.fitting)
    parts = list(dict.fromkeys(repr(name.rpartition(".")[0]) for name in loading.resized))
    kept = f"{', '.join(parts[:_MOST_NAMED])} keep{'s' * (len(parts) == 1)} fresh values"
    title = f"leave out what is of another size, and pass strict=False: {kept}"
    if not parts:
        title = "pass strict=False, if what is missing is to keep its fresh values"
    yield _check([*steps, title], said, lambda: partly.loads(strict=False), weight=USUAL)


def _check(
    steps: list[str], said: str, loads: Callable[[], bool], *, weight: int = STRONG
) -> Candidate:
    title = ", and ".join(steps)
    return propose(Check(title=title, check=lambda: said if loads() else ""), weight=weight)


def _rebuild(loading: StateLoading, steps: list[str]) -> Candidates:
    """The layers in the sizes that the state has for them."""
    if not (edits := resize_layers(loading)):
        return
    said = " and ".join(edit.title for edit in edits)
    title = f"build the model as it was when the state was saved, with {said}"
    if len(edits) == 1:
        title += "; put another layer in its place after loading"
    strict = not loading.missing and not loading.surplus
    fits = "every entry then fits" if strict else "every shape then fits"
    more = [] if strict else ["pass strict=False"]
    yield _check([*steps, title, *more], fits, lambda: loading.loads(*edits, strict=strict))


def _judge_optimizer(crash: Crash) -> Suspects:
    """The state of an optimizer with other parameters, or no state of one."""
    found = read_frame(crash.error, "torch/optim/optimizer.py", "load_state_dict") or {}
    optimizer, state = found.get("self"), found.get("state_dict")
    if not isinstance(optimizer, Optimizer):
        return
    kind, edits = type(optimizer).__name__, list[Check]()
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    message = f"{kind} got something that is not the state of an optimizer: it has no param_groups"
    advice = "load what optimizer.state_dict() gave when it was saved"
    if isinstance(state, Mapping) and "param_groups" in state:
        if (saved := [len(group["params"]) for group in state["param_groups"]]) == sizes:
            return
        message = f"{kind} holds {_count_groups(sizes)}, but the state is of {_count_groups(saved)}"
        advice = "make it for the parameters that it had when it was saved, or start it afresh"
        if (fqn := find_saved_module(crash, optimizer, state)) is not None:
            message += f", as many as {quote(fqn)} has"
            edits.append(make_for(crash, optimizer, state, fqn))
            advice = "or start it afresh, without the state that was saved"
    yield blame(None, message, *edits, advice, raised_in="load_state_dict")


def _count_groups(sizes: list[int]) -> str:
    groups = "1 group" if len(sizes) == 1 else f"{len(sizes)} groups"
    return f"{' + '.join(map(str, sizes))} parameters in {groups}"
