"""A library function that was called with arguments it does not take."""

import ast
import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_keyword
from cnnprobe.crash.facts.frames import list_calls, read_names
from cnnprobe.crash.suspect import POSSIBLE, STRONG, Suspect, propose

EXAMPLES = (
    Example(
        """
        model = nn.Linear(8, 2)


        def run(model):
            torch.optim.Adam(model.parameters(), learning_rate=0.1)
        """,
        old="learning_rate=0.1",
        new="lr=0.1",
        blames=None,
        repair="write lr= instead of learning_rate=",
        is_tried=False,
    ),
    Example(
        """
        model = nn.Linear(8, 2)


        def run(model):
            model(torch.randn(4, 8)).sum().backward()
            nn.utils.clip_grad_norm_(model.parameters())
        """,
        old="(model.parameters())",
        new="(model.parameters(), 1.0)",
        blames=None,
        repair="pass max_norm",
        is_tried=False,
    ),
)
_SYNONYMS = {"learning_rate": "lr", "wd": "weight_decay", "beta": "betas", "workers": "num_workers"}


@cause(
    code="CP0G7",
    name="unknown-argument",
    stage=("loss", "step"),
    family="call-signature",
    prior=700,
    examples=EXAMPLES,
)
def unknown_argument(crash: Crash) -> Iterator[Suspect]:
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
        found = _compare(called, call) if called is not None else None
        if found is None:
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
        yield Suspect(
            module=None,
            message=f"{shown} {' and '.join(what)}",
            arithmetic=f"{shown}({', '.join(names)})",
            candidates=(propose(Advice(title=title, written=written)),),
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
