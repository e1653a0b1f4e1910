import ast
import difflib
import inspect
from typing import Any

from cnnprobe.crash.cause import POSSIBLE, STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_keyword
from cnnprobe.crash.facts.frames import list_calls, read_names

_FIRST = """
  model = nn.Linear(8, 2)
  def run(model):
-     torch.optim.Adam(model.parameters(), learning_rate=0.1)
+     torch.optim.Adam(model.parameters(), lr=0.1)
"""
_SECOND = """
  model = nn.Linear(8, 2)
  def run(model):
      model(torch.randn(4, 8)).sum().backward()
-     nn.utils.clip_grad_norm_(model.parameters())
+     nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""
EXAMPLES = (
    Example(_FIRST, repair="write lr= instead of learning_rate=", is_tried=False),
    Example(_SECOND, repair="pass max_norm", is_tried=False),
)
_SYNONYMS = {"learning_rate": "lr", "wd": "weight_decay", "beta": "betas", "workers": "num_workers"}


@cause(
    "CP0G7",
    "unknown-argument",
    EXAMPLES,
    stage=("forward", "loss", "step"),
    family="call-signature",
    prior=700,
)
def unknown_argument(crash: Crash) -> Suspects:
    """A function got an argument that it does not have, or lacks one that it needs.

    Why it happens: an option has another name, or is of another version of the library.
    What to do: compare the call with the signature.
    Known exceptions: a function that takes **kwargs hands them on.
    Source: Python, inspect.signature.
    """
    if not isinstance(crash.error, TypeError):
        return
    for call in list_calls(crash.error):
        called = _find_called(call.func, read_names(crash.error))
        if (found := _compare(called, call) if called is not None else None) is None:
            continue
        unknown, missing, names = found
        shown = ast.unparse(call.func)
        what = [f"has no argument {name!r}" for name in unknown[:1]]
        what += [f"was called without {', '.join(map(repr, missing))}"] if missing else []
        title, written = f"pass {', '.join(missing)} to {shown}", None
        if unknown:
            near = _find_near(unknown[0], names)
            title = f"write {near}= instead of {unknown[0]}=" if near else f"drop {unknown[0]}="
            written = replace_keyword(crash.error, call, unknown[0], near)
        yield blame(
            crash.owner if crash.stage == "forward" else None,
            f"{shown} {' and '.join(what)}",
            propose(Advice(title=title, written=written)),
            arithmetic=f"{shown}({', '.join(names)})",
            weight=STRONG if unknown or missing else POSSIBLE,
            raised_in=shown,
        )
        return


def _find_called(node: ast.expr, names: dict[str, Any]) -> Any:
    """What a call calls, through attributes of modules and classes; None where it is not known."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = _find_called(node.value, names) if isinstance(node, ast.Attribute) else None
    is_static = inspect.ismodule(owner) or inspect.isclass(owner)
    return (
        getattr(owner, node.attr, None) if is_static and isinstance(node, ast.Attribute) else None
    )


def _compare(called: Any, call: ast.Call) -> tuple[list[str], list[str], list[str]] | None:
    """Keywords that are not known, arguments that lack, and the names of all; None: they fit."""
    given = [keyword.arg for keyword in call.keywords]
    is_plain = None not in given and not any(isinstance(a, ast.Starred) for a in call.args)
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):
        return None
    if not is_plain or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    by_position = [n for n, p in parameters.items() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    filled = {*by_position[: len(call.args)], *given}
    needed = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    unknown = [name for name in given if name is not None and name not in parameters]
    missing = [name for name in needed if name not in filled]
    return (unknown, missing, list(parameters)) if unknown or missing else None


def _find_near(name: str, names: list[str]) -> str:
    if _SYNONYMS.get(name) in names:
        return _SYNONYMS[name]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), "")
